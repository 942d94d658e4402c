"""Write the most probable text, step by step: python sequence.py PROMPT --model NAME [--chars N] [--host HOST:PORT]"""

import argparse
import os
import secrets
import sys

import numpy as np
import tritonclient.grpc as triton


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--host", default="127.0.0.1:50051")
    parser.add_argument("--model", required=True)
    parser.add_argument("--chars", type=int, default=80)
    parser.add_argument("--tls-ca")
    given = parser.parse_args()
    token = os.environ.get("CHARSTREAM_TOKEN")
    if token and not given.tls_ca:
        parser.error("a token is shown over TLS only: --tls-ca FILE")
    headers = {"authorization": f"Bearer {token}"} if token else {}

    client = triton.InferenceServerClient(given.host, ssl=bool(given.tls_ca), root_certificates=given.tls_ca)
    model = f"{given.model}.step"
    parameters = client.get_model_config(model, headers=headers).config.parameters
    vocabulary = parameters["vocabulary"].string_value
    name = secrets.token_hex(8)  # of the sequence: nobody else of the same identity should have it
    headers["charstream-sequence"] = name  # so a proxy in front of several replicas sends all its steps to the same one

    def step(char: str, **place: bool) -> str:
        """Read a character; return the most probable one after it."""
        number = triton.InferInput("token", [1], "INT64")
        number.set_data_from_numpy(np.array([vocabulary.index(char)]))
        result = client.infer(model, [number], sequence_id=name, headers=headers, **place)
        return vocabulary[int(result.as_numpy("logits")[0].argmax())]

    unknown = [char for char in given.prompt if char not in vocabulary]
    if unknown:
        sys.exit(f"sequence: the model does not know {unknown[0]!r}")
    following = step(parameters["start_text"].string_value, sequence_start=True)
    for char in given.prompt:
        following = step(char)
    for number in range(given.chars):
        print(following, end="", flush=True)
        following = step(following, sequence_end=number == given.chars - 1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
