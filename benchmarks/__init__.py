"""Benchmarks: what a training step, an epoch and an import cost, beside others. Run `python -m benchmarks --help`."""

import os

# OpenMP's own default is what most users have; threads that sleep (PASSIVE) make every torch row half as slow again.
# On a machine that does something else besides, they make the difference between a slow row and a hopeless one.
WAIT_POLICY = os.environ.get("OMP_WAIT_POLICY") or "default"
