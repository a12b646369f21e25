"""The experiment on few labels: small, on digits of its own, from the first cell to the table."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.experiments import weak_labels as experiment

SMALL = {
    "hidden": [16], "latent_dim": 3, "filters": [4], "labels": {"cnn": [100], "mlp": [100]}, "labelled steps": 80,
    "start steps": 20, "steps": 10, "style steps": 20, "lr": 1e-2, "seeds": [0, 1],
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, in_this_process):
    """The 8 x 8 digits in the place of MNIST, computed in this process."""

    def load(name, *, root=None, split="train"):
        data = pv.load("digits")
        rows = slice(1300) if split == "train" else slice(1300, None)
        return pv.Dataset("digits", data.x[rows], data.shape, data.y[rows])

    monkeypatch.setattr(experiment, "load", load)
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **SMALL})


def test_from_cells_to_table(small, tmp_path):
    path = experiment.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert {arm: {n: len(v) for n, v in found.items()} for arm, found in result["accuracy"].items()} == {
        arm: {"100": 2} for arm in experiment.ARMS
    }  # fmt: skip
    values = [v for found in result["accuracy"].values() for vs in found.values() for v in vs]
    assert all(15 < v <= 100 for v in values)  # ten classes: chance is 10
    assert sum(result["accuracy"]["mlp alone"]["100"]) / 2 > 60
    assert len(result["verdicts"]) == 4 and all(v["per"] == "label draws" for v in result["verdicts"])
    assert len(result["styles"]) == 110 and {len(text) for text in result["styles"]} == {64}
    lines = experiment.table(result).splitlines()
    assert len(lines) == 2 + 4 + 4 and "93.19" in lines[6]
    assert {p.name for p in tmp_path.glob("*.png")} == {
        f"weak-labels.quick.{kind}.png" for kind in ("accuracy", "styles")
    }
    assert not (tmp_path / "weak-labels.quick.cells").exists()


def test_the_start_leaves_the_classifier_as_it_is_and_teaches_the_rest():
    torch.manual_seed(0)
    pair = pv.m2_vae(16, 10, 3, (6,), classifier="cnn", filters=(3,))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    x = (torch.rand(40, 16) > 0.5).float()
    experiment.start(pair, x, torch.arange(40) % 10, {"start steps": 3, "lr": 1e-3}, seed=0)
    changed = {name for name, tensor in pair.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any("classifier" in name for name in changed)
    assert any("decoder" in name for name in changed) and any("encoder" in name for name in changed)


def test_a_style_goes_to_every_class():
    torch.manual_seed(0)
    pair = pv.m2_vae(16, 10, 3, (6,))
    x = (torch.rand(4, 16) > 0.5).float()
    found = experiment.transferred(pair, x)
    assert found.shape == (4, 11, 16) and torch.equal(found[:, 0], x)
    y = torch.eye(10)[pv.classify(pair, x).argmax(1)]
    z = pair.guide.encoder(x, y)[0]
    wanted = torch.sigmoid(pair.model.decoder(torch.cat([z[2], torch.eye(10)[7]])))
    torch.testing.assert_close(found[2, 8], wanted.detach())
    # Text keeps sixteen greys.
    assert (experiment._unpacked(experiment._packed(found[2, 8])) - found[2, 8]).abs().max() <= 0.5 / 15 + 1e-6


def test_labelled_rows_are_repeated_to_their_share():
    y = pv.few_labels(torch.arange(6000) % 10, 100)
    rows = experiment.repeated(y, 0.1)
    assert 0.095 < len(rows) / (len(rows) + len(y)) < 0.105
    assert (y[rows] >= 0).all() and rows.bincount().max() == rows.bincount()[rows].min()
    assert len(experiment.repeated(torch.zeros(10, dtype=torch.long), 0.1)) == 10
