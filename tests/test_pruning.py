"""The experiment on pruned entries: small, on digits of its own, from the first cell to the table."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.experiments import pruning

SMALL = {"limit": 300, "pool": 1, "hidden": [16], "latent_dim": 3, "moved": 4, "steps": 10, "seeds": [0, 1]}


@pytest.fixture
def small(monkeypatch, in_this_process):
    def load(name, *, root=None, limit=None):
        data = pv.load("digits")
        return pv.Dataset("digits", data.x[:limit], data.shape, data.y[:limit])

    monkeypatch.setattr(pruning, "load", load)
    monkeypatch.setitem(pruning.SCALES, "quick", {**pruning.SCALES["quick"], **SMALL})


def test_from_cells_to_table(small, tmp_path):
    path = pruning.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert [len(e["variance"]) for e in result["entries"]] == [3, 3]
    assert all(sum(counts) == 3 * 300 for counts in result["histogram"])
    assert len(result["verdicts"]) == 3
    assert len(pruning.table(result).splitlines()) == 5
    assert [p.name for p in tmp_path.glob("*.png")] == ["pruning.quick.heaps.png"]


def test_an_entry_that_the_decoder_does_not_read_moves_nothing():
    pair = pv.l2_vae(4, 2, (), real=True)
    with torch.no_grad():
        pair.model.decoder[0].weight[:, 1] = 0
        pair.model.decoder[0].weight[:, 0] = 0.5
    x = torch.rand(3, 4)
    assert pruning.change(pair, x, 1) == 0
    assert pruning.change(pair, x, 0) == pytest.approx(2.0)  # 0.5 from -2 to 2


def test_one_heap_is_no_two_heaps():
    one = {"variance": [0.01, 0.02], "change": [0.5, 0.6]}
    assert [v["verdict"] for v in pruning.verdicts({"entries": [one, one]})] == [
        "did not hold", "not tested", "not tested",
    ]  # fmt: skip
    unclear = {"variance": [0.01, 0.7, 0.99], "change": [0.5, 0.3, 0.2]}
    assert [v["verdict"] for v in pruning.verdicts({"entries": [unclear, unclear]})] == [
        "did not hold", "did not hold", "held",
    ]  # fmt: skip
