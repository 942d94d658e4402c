"""The four answers: does it hold, how many does it carry, where does it saturate, which one is better."""
