"""Training: texts, the model, runs, checkpoints."""

import os

# Before torch comes: its threads spin for some tens of microseconds while they wait for one another, then sleep. With
# sleep alone two of them are slower than one for small models; spinning on and on makes a step up to 25 times slower
# where anything else runs on the same cores (docs/decisions.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
