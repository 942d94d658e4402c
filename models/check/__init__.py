"""`charstream check`: checks before, during and after the training of a network, each with a verdict."""
