"""What a user of the load test does: one text after the other, each with a prompt and a seed of its own.

    locust -f loadtest/locustfile.py --headless -u 4 -r 4 -t 5s --host 127.0.0.1:50051

This is a closed loop: a user asks for its next text when it has the last one, so a slow server is asked less often.
The figures say how a number of simultaneous streams fares, not how a rate of arrivals does.
"""

import itertools

from locust import task

from loadtest.plumbing import StreamUser


class Reader(StreamUser):
    """The same prompts and seeds in every run, different ones for every user and text."""

    def on_start(self) -> None:
        self.texts = itertools.count()

    @task
    def read(self) -> None:
        text, prompts = next(self.texts), self.scenario.prompt
        stream = self.client.stream(
            prompts[(self.number + text) % len(prompts)],
            model=self.scenario.model,
            max_chars=self.scenario.max_chars,
            temperature=self.scenario.temperature,
            seed=self.number << 32 | text,
            resume=False,  # a failure shall be seen, not made good
        )
        self.measure(stream)
