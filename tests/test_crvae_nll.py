"""The likelihoods of the channel-recurrent family, in small: cells, claims that can go both ways, the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vaes.data import Dataset
from pyro_vaes.experiments import crvae_nll


def load(name, *, root=None, split="train", limit=None):
    rows, seed = (130, 0) if split == "train" else (40, 1)
    x = torch.rand(rows, 256, generator=torch.Generator().manual_seed(seed)).square()
    return Dataset(name, x[:limit], (16, 16), (torch.arange(rows) % 10)[:limit])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(crvae_nll, "load", load)
    monkeypatch.setattr(crvae_nll, "TRAIN", 100)
    plan = {
        "steps": 2, "batch_size": 20, "hidden": [4], "latent_dim": 128, "units": 5, "particles": 3, "test": 10,
        "samples": 30, "annealed": 2, "lrs": [1e-3, 2e-3], "seeds": [0, 1], "blocks": 4, "pool": 2,
    }  # fmt: skip
    monkeypatch.setitem(crvae_nll.SCALES, "quick", plan)
    return monkeypatch


@pytest.mark.slow
def test_the_rows_in_small(small, in_this_process, tmp_path):
    result = json.loads(crvae_nll.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert [(row["row"], row["beta"]) for row in result["rows"]] == crvae_nll.rows_of("quick")
    for row in result["rows"]:
        assert len(row["nll"]) == 2 and all(n < -e + 1 for n, e in zip(row["nll"], row["elbo"], strict=True))
        assert [len(one) for one in row["each"]] == [10, 10]
        assert np.mean(row["each"][0]) == pytest.approx(-row["nll"][0])
    assert {v["verdict"] for v in result["verdicts"]} <= {"held", "did not hold", "not tested"}
    table = crvae_nll.table(result)
    assert table.count("\n") == 3 + len(result["rows"]) and "80.84" in table
    assert (tmp_path / "crvae-nll.quick.likelihood.png").is_file()


def test_digits_that_validate_are_none_that_train(small):
    valid = crvae_nll.digits(crvae_nll.SCALES["quick"], Path("nowhere"), "train")
    test = crvae_nll.digits(crvae_nll.SCALES["quick"], Path("nowhere"), "test")
    assert valid.x.shape == (30, 64) and test.x.shape == (10, 64) and "draw" in test.note
    assert set(valid.x.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("turned", [False, True])
def test_claims_can_go_both_ways(turned):
    """The published column holds its own claims; turned around, it holds none of them."""
    noise, own = np.array([-0.01, 0.0, 0.01]), {"bcVAE, dense mean": 82.1, "crVAE, both, repo": 80.8}
    rows = []
    for name, beta in crvae_nll.rows_of("paper"):
        value = crvae_nll.ROWS[name][2] or own[name]
        nll = list((200 - value if turned else value - 0.05) + noise)
        rows.append(
            {"row": name, "beta": beta, "published": crvae_nll.ROWS[name][2] if beta == 1 else None, "nll": nll}
        )
    found = crvae_nll.verdicts(rows, "paper")
    assert {v["verdict"] for v in found} == {"did not hold" if turned else "held"}
    values = [v["verdict"] for v in crvae_nll.verdicts(rows, "quick") if "at or below" in v["claim"]]
    assert set(values) == {"not tested"} and len(values) == 7


def test_quick_is_no_row_short_of_the_main_table():
    for scale in ("quick", "paper"):
        assert {name for name, beta in crvae_nll.rows_of(scale) if beta == 1} == set(crvae_nll.ROWS)
        assert any(beta != 1 for _, beta in crvae_nll.rows_of(scale))
