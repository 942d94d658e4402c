"""The users of the load test: each streams one text after the other, with a prompt and a seed of its own.

    locust -f loadtest/locustfile.py --headless -u 4 -r 4 -t 5s --host 127.0.0.1:50051

This is a closed loop: a user asks for its next text when it has the last one, so a slow server is asked less often.
The figures say how a number of simultaneous streams fares, not how a rate of arrivals does.
"""

import itertools

from locust import task

from loadtest.plumbing import StreamUser
from loadtest.settings import request_options


class ClosedLoopUser(StreamUser):
    """A user whose prompts and seeds are the same in every run, and differ from text to text and user to user."""

    def on_start(self) -> None:
        self.texts = itertools.count()

    @task
    def stream_text(self) -> None:
        text, prompts = next(self.texts), self.prompts
        prompt, seed = prompts[(self.number + text) % len(prompts)], self.number << 32 | text
        self.measure(self.client.stream(prompt, seed=seed, **request_options(self.scenario)))
