"""Print a text as it comes: python stream.py PROMPT [--model NAME] [--seed N] [--max-chars N] [--host HOST:PORT]"""

import argparse
import os
import queue
import sys

import numpy as np
import tritonclient.grpc as triton


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--host", default="127.0.0.1:50051")
    parser.add_argument("--model", default="")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--max-chars", type=int, default=256)
    parser.add_argument("--tls-ca")
    given = parser.parse_args()
    token = os.environ.get("CHARSTREAM_TOKEN")
    if token and not given.tls_ca:
        parser.error("a token is shown over TLS only: --tls-ca FILE")

    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([given.prompt.encode()], np.object_))
    # Every field may be a tensor or, as here, a parameter. Seeds of more than 63 bits are for the tensor.
    options = {"max_chars": given.max_chars} | ({} if given.seed is None else {"seed": given.seed})
    answers = queue.Queue()
    client = triton.InferenceServerClient(given.host, ssl=bool(given.tls_ca), root_certificates=given.tls_ca)
    headers = {"authorization": f"Bearer {token}"} if token else None
    client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
    is_whole = False
    try:
        client.async_stream_infer(given.model, [text], parameters=options)
        while not is_whole:
            result, error = answers.get()
            if error:
                sys.exit(f"stream: {error.message()}")
            is_whole = result.get_response().parameters["triton_final_response"].bool_param
            print(result.as_numpy("text_output")[0].decode(), end="", flush=True)
        reason, seed = result.as_numpy("finish_reason")[0].decode(), int(result.as_numpy("seed")[0])
        print(f"\n{reason} after {result.as_numpy('generated_chars')[0]} characters, seed {seed}", file=sys.stderr)
    finally:
        client.stop_stream(cancel_requests=not is_whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
