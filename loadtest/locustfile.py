"""The users of the load test: each streams one text after the other, with a prompt and a seed of its own.

    locust -f loadtest/locustfile.py --headless -u 4 -r 4 -t 5s --host 127.0.0.1:50051

This is a closed loop: a user asks for its next text when it has the last one, so a slow server is asked less often.
The figures say how a number of simultaneous streams fares, not how a rate of arrivals does.
"""

import itertools

from locust import task

from loadtest.plumbing import StreamUser


class ClosedLoopUser(StreamUser):
    """A user whose prompts and seeds are the same in every run, and differ from text to text and user to user."""

    def on_start(self) -> None:
        self.texts = itertools.count()

    @task
    def stream_text(self) -> None:
        text, prompts = next(self.texts), self.scenario.prompt
        stream = self.client.stream(
            prompts[(self.number + text) % len(prompts)],
            model=self.scenario.model,
            max_chars=self.scenario.max_chars,
            temperature=self.scenario.temperature,
            seed=self.number << 32 | text,
            resume=False,  # failures are to be counted, not repaired
        )
        self.measure(stream)
