"""The load test."""

from charstream.parts import prefer_own_parts

# Locust puts the working folder first in sys.path, which may have a client.py of its own.
prefer_own_parts()
