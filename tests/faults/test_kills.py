"""The short form of ``python -m tests.faults``: SIGKILL at random moments, for two minutes."""

import time

import pytest

from .harness import SUBJECTS, Harness


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_as_undisturbed_ones():
    lines = []
    tally = Harness(kills=8, seed=7, until=time.monotonic() + 120, say=lines.append, subjects=SUBJECTS).run()
    assert not tally.bad, "\n".join([*lines, *tally.bad])
    assert tally.kills.total() > 0
    assert tally.survived == tally.kills.total()
