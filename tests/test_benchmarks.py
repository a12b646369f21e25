"""The benchmarks measure the same thing under every name, and say what they left out. No time is tested."""

import json
from pathlib import Path

import pytest

from pyro_vaes.cli import main

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "results").glob("bench-*.json"))


def test_the_hand_written_networks_are_the_pairs():
    from benchmarks.architectures import ARCHITECTURES, agree

    worst = agree()
    assert set(worst) == set(ARCHITECTURES)
    assert max(worst.values()) < 1e-10


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_results_hold_repetitions_and_reasons(path):
    result = json.loads(path.read_text())
    assert result["settings"]["repetitions"] >= 5
    for column in result.get("architectures", {}).values():
        for row in column["rows"].values():
            assert len(row["ratios"]) == result["settings"]["repetitions"]
            assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert all(reason for reason in column["absent"].values())
    assert path.with_suffix("").with_suffix("").name in ("bench-steps", "bench-epochs", "bench-scaling", "bench-ranks")


def test_bench_refuses_what_it_does_not_know(capfd):
    assert main(["bench", "--only", "nonsense"]) != 0
    assert "none of a, b, c, d" in capfd.readouterr().err
