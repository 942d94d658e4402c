"""Training: texts, the model, runs, checkpoints."""

import os

# Before torch comes: its threads shall sleep, not spin, while they wait for one another. Spinning gains a little on an
# idle machine, and where anything else runs on the same two cores it makes a step up to 25 times slower (measured).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
