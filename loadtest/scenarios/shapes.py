"""How many users there are at which time of a run. No Locust."""

from typing import Literal

__all__ = ["Shape", "user_count"]

Shape = Literal["ramp", "spike"]
STEPS = 10  # of a ramp
CALM = 4  # before and after a spike there is one of this many users


def user_count(shape: Shape, users: int, seconds: float, at: float) -> int:
    """Return the number of users at a time: a ramp has ten equal steps up to `users`; a spike a quarter of them, all in
    the middle third, and a quarter again."""
    if shape == "ramp":
        step = min(STEPS, int(at / seconds * STEPS) + 1)
        return max(1, round(users * step / STEPS))
    return users if seconds / 3 <= at < seconds * 2 / 3 else max(1, users // CALM)
