"""What to train: a look at the text, a few seconds of the machine, and the project's own runs."""
