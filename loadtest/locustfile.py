"""The users of the load test. What they do is chosen by flags: `charstream loadtest --help` explains each.

    locust -f loadtest/locustfile.py --headless -u 4 -r 4 -t 5s --host 127.0.0.1:50051

By default this is a closed loop: a user asks for its next text when it has the last one, so a slow server is asked less
often. `--scenario open --rate 20` begins texts by the clock instead.
"""

from charstream.parts import prefer_own_parts

prefer_own_parts()  # Locust puts the working folder first in sys.path, which may have a loadtest.py of its own.

from loadtest.plumbing import StreamUser  # noqa: E402


class TextUser(StreamUser):
    """A user whose calls are the same in every run, and differ from text to text and from user to user."""
