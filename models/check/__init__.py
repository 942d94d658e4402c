"""`charstream check`: what one looks at before, while and after a network is trained, each with a verdict."""
