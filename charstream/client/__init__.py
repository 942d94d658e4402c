"""The Python client: `from charstream.client import Client`, whatever else is called client where that runs."""

from charstream.parts import load_part

load_part("client")
