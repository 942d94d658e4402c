"""Prints a text as it comes, by OpenAI's client: python stream_openai.py [http://HOST:PORT] [PROMPT]."""

import os
import sys

from openai import OpenAI

address, prompt = (*sys.argv[1:], *("http://127.0.0.1:8080", "ROMEO:")[len(sys.argv) - 1 :])[:2]

with OpenAI(base_url=f"{address}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
    # The empty name means the server's default. A token is a character.
    for chunk in client.completions.create(model="", prompt=prompt, max_tokens=200, seed=1, stream=True):
        print(chunk.choices[0].text, end="", flush=True)
print()
