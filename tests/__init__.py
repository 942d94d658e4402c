"""Tests. Their processes share the cores, and their models are tiny: a second thread of torch would only wait."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in what the tests start

gc.disable()  # until all is imported: tests/conftest.py and tests/forked.py go on with it
