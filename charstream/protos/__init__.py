"""The generated messages for the client, whatever else is called protos where that runs."""

from charstream.parts import load_part

load_part("protos")
