"""Limits that several rooms share."""

__all__ = ["BURST_SECONDS", "LENT_CHARS", "LONGEST_REPEAT", "LONGEST_STOP"]

# The most characters of a stop string; a later request may complete one that began that far back.
LONGEST_STOP = 256
# The most characters of a repetition at which a text ends: a resume token holds as many.
LONGEST_REPEAT = 4096
# Where characters have to be earned, each text is lent this many; a stop string may hold back half of them.
LENT_CHARS = 2 * LONGEST_STOP
# An identity that paused may have this many seconds' worth of characters at once.
BURST_SECONDS = 1.0
