"""The experiment on few labels with generators: small, on digits, from the first cell to the table and figure."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.experiments import semi_supervised as experiment
from pyro_vaes.experiments.training import untrained

SMALL = {
    "side": 8, "images": 1300, "labels": 200, "test": 400, "seeds": [0, 1], "latent_dim": 32, "hidden": [4],
    "blocks": 2, "units": 4, "filters": [8], "steps": 30, "lr": 5e-3, "crvae lr": 1e-2,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, in_this_process):
    """The 8 x 8 digits in the place of all data, computed in this process."""
    asked = []

    def load(name, *, root=None, split="train", limit=None):
        asked.append((name, split))
        data = pv.load("digits")
        rows = {"test": slice(1300, 1700), "fold1": slice(100, 200)}.get(split, slice(1300))
        y = None if split == "unlabeled" else data.y[rows][:limit]
        return pv.Dataset("digits", data.x[rows][:limit], data.shape, y)

    monkeypatch.setattr(experiment, "load", load)
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **SMALL})
    return asked


def test_from_cells_to_table(small, tmp_path):
    result = json.loads(experiment.reproduce(tmp_path, "quick", tmp_path).read_text())
    for arm in experiment.ARMS:
        accuracy = result["measured"][arm]["accuracy"]
        assert len(accuracy) == 2 and all(20 < value <= 100 for value in accuracy), arm  # chance is 10
    for arm in set(experiment.ARMS) - {experiment.ALONE}:
        assert all(0 < value < 0.5 for value in result["measured"][arm]["error"])
        assert all(0 <= value <= 100 for value in result["measured"][arm]["told apart"])
    assert len(result["verdicts"]) == 5 and all(v["per"] == "label draws" for v in result["verdicts"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "semi-supervised.quick.json", "semi-supervised.quick.accuracy.png",
    }  # fmt: skip
    assert {name for name, _ in small} == {"cifar10"}
    # Published accuracies are those of other data.
    text = experiment.table(result) + json.dumps(result)
    assert "published" not in text and "75.86" not in text and "STL" not in text and "stand-in" in text


def test_published_accuracies_are_beside_those_on_their_own_data():
    values = {"accuracy": [70.0, 71.0]}
    settings = experiment.SCALES["paper"]
    result = {"settings": settings, "measured": dict.fromkeys(experiment.ARMS, values)}
    lines = experiment.table(result | {"published": experiment.PUBLISHED}).splitlines()
    assert len(lines) == 2 + 4 + 6 and all("published, STL-10" in line for line in lines[6:])
    assert settings["data"] == "stl10" and len(settings["seeds"]) == 10


def test_without_stl10_the_paper_s_scale_is_refused(tmp_path):
    with pytest.raises(pv.InputError, match="stl10 is missing"):
        experiment.reproduce(tmp_path / "out", "paper", tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_fold_of_stl10_is_its_own_and_beside_all_images_without_a_label(small):
    plan = {**experiment.SCALES["quick"], "data": "stl10", "images": None, "test": None}
    images = experiment.images_of(1, plan, "")
    digits = pv.load("digits")
    assert len(images.x) == 1400 and (images.y[:1300] == -1).all()
    assert torch.equal(images.y[1300:], digits.y[100:200])
    torch.testing.assert_close(images.x[1300:], digits.x[100:200])
    assert small == [("stl10", "unlabeled"), ("stl10", "test"), ("stl10", "fold1")]


def test_the_discriminator_learns_at_one_rate_whatever_the_generator(small):
    plan = experiment.SCALES["quick"]
    images = experiment.images_of(0, plan, "")
    assert (images.y >= 0).sum() == 200
    for arm in experiment.ARMS:
        pair = untrained(*experiment.generator(arm, images, plan), 0)
        factor = pair.objective.rate_factors["network"]
        assert experiment.rate(arm, plan) * factor == pytest.approx(plan["lr"]), arm
        # alpha and beta of the paper, for 64 pixels and sd 0.1.
        beta, weight = pair.objective.objective._given, pair.objective.weight.item()
        assert weight == pytest.approx(1e-3 * 64 / 0.08) and beta == (0 if arm == "ae" else pytest.approx(0.08)), arm


def test_images_are_reduced_by_averaging():
    x = torch.rand(3, 2 * 6 * 6)
    found, shape = experiment.reduced(x, (2, 6, 6), 4)
    assert shape == (2, 4, 4) and found.shape == (3, 32)
    # Of 6 pixels to 4: each is the mean of two of three neighbours, in both directions.
    corner = x.reshape(3, 2, 6, 6)[:, :, :2, :2].mean((2, 3))
    torch.testing.assert_close(found.reshape(3, 2, 4, 4)[:, :, 0, 0], corner)
    assert experiment.reduced((x * 255).to(torch.uint8), (2, 6, 6), 4)[0].max() <= 1
