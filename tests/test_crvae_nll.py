"""The likelihoods of the channel-recurrent family, in small: cells, claims that can go both ways, the table."""

import json

import numpy as np
import pytest
import torch

from pyro_vaes.data import Dataset
from pyro_vaes.experiments import crvae_nll, likelihoods


def load(name, *, root=None, split="train", limit=None):
    rows, seed = (130, 0) if split == "train" else (40, 1)
    x = torch.rand(rows, 64, generator=torch.Generator().manual_seed(seed)).square()
    return Dataset(name, x[:limit], (8, 8), (torch.arange(rows) % 10)[:limit])


def test_the_rows_in_small(monkeypatch, in_this_process, tmp_path):
    for module in (crvae_nll, likelihoods):
        monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(crvae_nll, "TRAIN", 100)
    plan = {
        "steps": 2, "batch_size": 20, "hidden": [4], "latent_dim": 128, "units": 5, "particles": 3, "test": 10,
        "samples": 30, "lrs": [1e-3, 2e-3], "seeds": [0, 1],
    }  # fmt: skip
    monkeypatch.setitem(crvae_nll.SCALES, "quick", plan)
    result = json.loads(crvae_nll.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert [(row["row"], row["beta"]) for row in result["rows"]] == crvae_nll.rows_of("quick")
    for row in result["rows"]:
        assert len(row["nll"]) == 2 and all(n < -e + 1 for n, e in zip(row["nll"], row["elbo"], strict=True))
    assert {v["verdict"] for v in result["verdicts"]} <= {"held", "did not hold", "not tested"}
    table = crvae_nll.table(result)
    assert table.count("\n") == 3 + len(result["rows"]) and "80.84" in table and "--recurrence both" in table
    assert (tmp_path / "crvae-nll.quick.likelihood.png").is_file()


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "held"), (9.0, "did not hold")])
def test_claims_can_go_both_ways(shift, expected):
    """The published column holds its own claims; turned around, it holds none of them."""
    noise = np.array([-0.01, 0.0, 0.01])
    sign = 1 if not shift else -1
    rows = [
        {"row": name, "beta": beta, "published": value, "nll": list(shift * 20 + sign * value + noise)}
        for name, beta in crvae_nll.rows_of("paper")
        for value in [crvae_nll.ROWS[name][2] - (0.05 if beta != 1 else 0)]
    ]
    order = [v["verdict"] for v in crvae_nll.verdicts(rows, 10_000) if "at or below" not in v["claim"]]
    assert set(order) == {expected}
    values = [v["verdict"] for v in crvae_nll.verdicts(rows, 100) if "at or below" in v["claim"]]
    assert set(values) == {"not tested"}


def test_quick_is_no_row_short_of_the_main_table():
    for scale in ("quick", "paper"):
        assert {name for name, beta in crvae_nll.rows_of(scale) if beta == 1} == set(crvae_nll.ROWS)
        assert any(beta != 1 for _, beta in crvae_nll.rows_of(scale))
