"""Prints a text as it comes, by LangChain: python stream_langchain.py [http://HOST:PORT] [PROMPT]."""

import os
import sys

from langchain_openai import OpenAI

address, prompt = (*sys.argv[1:], *("http://127.0.0.1:8080", "ROMEO:")[len(sys.argv) - 1 :])[:2]

model = OpenAI(
    base_url=f"{address}/v1",
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
    model="",
    max_tokens=200,
    seed=1,
    temperature=1,
)
for text in model.stream(prompt):
    print(text, end="", flush=True)
print()
