"""The load: when streams should begin, how many users there are, and what they ask for."""
