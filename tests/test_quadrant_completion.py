"""The experiment on quadrants: small, on digits of its own, from the first cell to the table."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.data.quadrants import quadrants
from pyro_vaes.experiments import quadrants as experiment
from pyro_vaes.inference.posterior import bound

SMALL = {"hidden": [16], "latent_dim": 3, "steps": 40, "measured": 50, "samples": 20, "seeds": [0, 1]}


@pytest.fixture
def small(monkeypatch, in_this_process):
    """The 8 x 8 digits in the place of MNIST, computed in this process."""

    def load(name, *, root=None, split="train"):
        data = pv.load("digits")
        rows = slice(1500) if split == "train" else slice(1500, None)
        return pv.Dataset("digits", data.x[rows], data.shape, data.y[rows])

    monkeypatch.setattr(experiment, "load", load)
    monkeypatch.setattr(experiment, "SHOWN", 3)
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **SMALL})


@pytest.mark.slow
def test_from_cells_to_table(small, tmp_path):
    path = experiment.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert result["settings"]["binarised"] == "threshold05"
    assert {name: len(v["2"]) for name, v in result["nll"].items()} == {
        "importance": 2, "monte carlo": 2, "direct": 2, "nearest": 1,
    }  # fmt: skip
    assert all(v > 0 for values in result["nll"].values() for vs in values.values() for v in vs)
    assert len(result["verdicts"]) == 5
    lines = experiment.table(result).splitlines()
    assert len(lines) == 6 and lines[2].startswith("| CVAE, importance sampling | ")
    assert {p.name for p in tmp_path.glob("*.png")} == {f"quadrant-completion.quick.seen-{o}.png" for o in (1, 2, 3)}
    assert not (tmp_path / "quadrant-completion.quick.cells").exists()


def test_cells_are_alike_together_and_alone(small):
    both = experiment.together([("direct_output", 2, s) for s in (0, 1)], "quick", "")
    alone = experiment.cell("direct_output", 2, 1, "quick", "")
    assert both[1]["direct"] == pytest.approx(alone["direct"], abs=1e-3)
    assert both[0]["direct"] != both[1]["direct"]


def test_the_estimates_are_closer_than_the_bound(small):
    found = experiment.cell("structured_cvae", 1, 0, "quick", "")
    assert found["importance"] < found["bound"]
    assert len(found["shown"]) == experiment.COMPLETIONS


def test_what_is_exact_is_the_binary_cross_entropy(small):
    test = experiment._test(1, SMALL, "")
    pair = experiment.trained_each(
        experiment.direct_output, [test.x], y=[test.y], arguments=[{"condition_dim": 16, "hidden": (5,)}], seeds=[0],
        steps=3,
    )[0]  # fmt: skip
    p = torch.sigmoid(pair.model.decoder(test.y))
    by_hand = (test.x * p.log() + (1 - test.x) * (1 - p).log()).sum(1).mean()
    assert bound(pair, test.x, test.y) == pytest.approx(by_hand.item(), rel=1e-5)


def test_nearest_digits_by_hand():
    """Three training images, two of which have the seen pixel of the test image."""
    train = quadrants(pv.Dataset("mine", torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]), (2, 2)))
    test = quadrants(pv.Dataset("mine", torch.tensor([[1.0, 0, 1, 1]]), (2, 2)))
    p = torch.tensor([3 / 4, 1 - 2 / 4, 1 / 4])  # of what is there: top left, top right, bottom right
    assert experiment.nearest(train, test, neighbours=2) == pytest.approx(-p.log().sum().item())
