"""Benchmarks: what a training step, an epoch and an import cost, beside others. Run `python -m benchmarks --help`."""

import os

# Before torch is imported. OpenMP's threads sleep while they wait, so that those of one process take nothing from the
# process measured next. `OMP_WAIT_POLICY= python -m benchmarks` leaves OpenMP at its own default, as most users do.
WAIT_POLICY = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") or "default"
if WAIT_POLICY == "default":
    del os.environ["OMP_WAIT_POLICY"]
