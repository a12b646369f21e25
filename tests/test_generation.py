"""The experiment on new digits: small, on digits of its own, from the first cell to the table."""

import json

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.experiments import generation
from pyro_vaes.experiments.generation_claims import verdicts

SMALL = {"limit": 600, "pool": 1, "hidden": [16], "latent_dim": 3, "samples": 120, "draws": 300, "steps": 10} | {
    "warm-up": 5, "more": 4, "seeds": [0, 1],
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, in_this_process):
    """The 8 x 8 digits in the place of MNIST, computed in this process."""

    def load(name, *, root=None, split="train", limit=None):
        data = pv.load("digits")
        rows = slice(limit) if split == "train" else slice(1500, 1500 + limit)
        return pv.Dataset("digits", data.x[rows], data.shape, data.y[rows])

    monkeypatch.setattr("pyro_vaes.experiments.judged.load", load)
    monkeypatch.setitem(generation.SCALES, "quick", {**generation.SCALES["quick"], **SMALL})
    generation.data.cache_clear(), generation.judge.cache_clear()
    yield
    generation.data.cache_clear(), generation.judge.cache_clear()


def test_from_cells_to_table(small, tmp_path):
    path = generation.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert len(result["features"]) == 64
    assert {len(v["variance"]) for by in result["codes"].values() for v in by.values()} == {2}
    assert len(result["verdicts"]) == 18
    lines = generation.table(result).splitlines()
    assert len(lines) == 2 + 1 + 2 + 2 * len(generation.WAYS)
    figures = {p.name.split(".")[2] for p in tmp_path.glob("*.png")}
    assert figures == {"samples", "diversity", "codes", "moments"}


def test_pairs_go_on_from_the_same_start(small):
    x = generation.data("quick", "")[0].x
    settings = generation.SCALES["quick"] | {"more": 1, "lr": 1e-12, "schedule": "constant"}
    pairs = generation.trained_pairs(x, 0, settings)
    # With no rate to speak of, what goes on is what was there: the iC-VAE with and without recycling.
    for a, b in zip(pairs["iC"].parameters(), pairs["RiC"].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert pairs["RiC"].objective.passes == 5
    x1 = generation.recycled(pairs["iC"], x[:4], 5, 0)
    assert x1.shape == x[:4].shape and not torch.equal(x1, x[:4])


def test_pooled_images_keep_the_balance_of_whole_ones(small, monkeypatch):
    """The l2-VAE's KL counts 1 / pool^2: of pooled digits a whole one would leave no code in use."""
    from pyro_vaes.experiments.training import trained

    seen = {}

    def spy(name, x, *, seed, arguments, **plan):
        seen[name] = arguments.get("beta"), plan["schedules"]["beta"].end
        return trained(name, x, seed=seed, arguments=arguments, **plan)

    monkeypatch.setattr(generation, "trained", spy)
    x = generation.data("quick", "")[0].x
    generation.trained_pairs(x, 0, generation.SCALES["quick"] | {"pool": 2})
    assert seen == {"l2_vae": (0.25, 0.25), "indexed_ic_vae": (None, 1.0)}


def test_histogram_by_hand():
    found = generation.histogram(torch.tensor([[0.0], [0.2]]), torch.tensor([[0.1]]))
    assert found["mean"] == pytest.approx(0.1) and sum(found["counts"]) == 2


def result_with(frechet, variance):
    """A result in which every measure is the same but those named: way -> Frechet distance, name -> variances."""
    ways = {w: {"frechet distance": [frechet.get(w, 20.0) + s for s in (0, 0.1)],
                "total variation": [0.1, 0.1], "histogram": [{"mean": 2.0}] * 2} for w in generation.WAYS}  # fmt: skip
    codes = {n: {"mean": [[0.0]] * 2, "variance": [[variance.get(n, 1.0)]] * 2, "quantile error": [[0.1]] * 2}
             for n in ("iC", "RiC", "RiC, M = 5")}  # fmt: skip
    real = {"total variation": 0.1, "histogram": {"mean": 1.5}}
    both = {"clean": ways, "dirty": ways}
    return {"real": real, "samples": both, "codes": {"clean": codes, "dirty": codes},
            "median image": {"clean": 30.0, "dirty": 30.0}}  # fmt: skip


def test_verdicts_follow_the_measures():
    def said(result):
        return {v["claim"]: v["verdict"] for v in verdicts(result)}

    held = said(result_with({"RiC(5, 20)": 5.0}, {"iC": 2.0}))
    assert held["dirty: RiC(5, 20) is the closest to clean digits of the five"] == "held"
    assert held["clean: its variances are nearer to 1"] == "held"
    assert held["clean: samples of RiC(5, 1) are no copies (as far from the data as new digits are)"] == "held"
    failed = said(result_with({"RiC(5, 20)": 50.0}, {"RiC": 2.0}))
    assert failed["dirty: RiC(5, 20) is the closest to clean digits of the five"] == "did not hold"
    assert failed["clean: its variances are nearer to 1"] == "did not hold"
    assert np.all([v["seeds"] == 2 for v in verdicts(result_with({}, {}))])
