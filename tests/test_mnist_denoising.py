"""The experiment on MNIST, on generated digits and in small."""

import json
import struct

import numpy as np
import pytest
import torch

from pyro_vaes.data import load
from pyro_vaes.experiments import mnist_denoising
from pyro_vaes.experiments.mnist_denoising import LABELS, RUNS


@pytest.fixture
def root(tmp_path, monkeypatch, in_this_process):
    """A hundred digits made of four strokes, networks of one small layer; no pool of processes."""
    generator = np.random.default_rng(0)
    strokes = (generator.random((4, 784)) < 0.2) * 255
    images = (generator.dirichlet(np.ones(4), 100) @ strokes).astype(np.uint8)
    folder = tmp_path / "data/MNIST/raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 100, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 100) + bytes(100))
    small = {"steps": 3, "more": 2, "hidden": [8], "measured": 50, "seeds": [0, 1]}
    for scale in ("quick", "paper"):
        monkeypatch.setitem(mnist_denoising.SCALES, scale, {**mnist_denoising.SCALES[scale], **small})

    return tmp_path / "data"


@pytest.mark.slow
def test_the_experiment_end_to_end_in_small(root, tmp_path):
    path = mnist_denoising.reproduce(tmp_path / "out", "quick", root)
    result = json.loads(path.read_text())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"mnist-denoising.quick.{n}" for n in ("json", "rows.png", "bars.png")
    }
    assert set(result["mse"]) == set(result["auc"]) == set(LABELS)
    assert all(len(values) == 2 for values in result["mse"].values())
    assert all(0 <= v <= 1 for values in result["auc"].values() for v in values)
    assert result["settings"]["measured"] == 50 and result["settings"]["images"] == 100
    text = mnist_denoising.table(result)
    assert text.count("\n") == 2 + len(LABELS)
    assert "| RPCA |" in text and "first 50 of 100 |" in next(t for t in text.splitlines() if t.startswith("| RPCA"))
    assert len(result["verdicts"]) == 6


@pytest.mark.parametrize("scale", ["quick", "paper"])
@pytest.mark.parametrize("run", ["lc_vae", "indexed_ic_vae"])
def test_seeds_trained_together_are_those_trained_alone(run, scale, root):
    together = mnist_denoising.together([(run, 0), (run, 1)], scale, str(root))
    for seed, value in enumerate(together):
        alone = mnist_denoising.cell(run, seed, scale, str(root))
        assert set(alone) == ({"indexed_ic_vae", "ric_vae"} if run == "indexed_ic_vae" else {run})
        for name in alone:
            assert value[name]["mse"] == pytest.approx(alone[name]["mse"], rel=1e-4)
            assert value[name]["auc"] == pytest.approx(alone[name]["auc"], rel=1e-2)


def test_the_noise_is_as_the_protocol_says(root):
    digits = load("mnist", root=root)
    dirty = mnist_denoising._dirty(digits, 0)
    assert torch.equal(dirty.x[~dirty.mask], digits.x[~dirty.mask])
    assert dirty.mask.float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert not torch.equal(dirty.mask, mnist_denoising._dirty(digits, 1).mask)


def test_every_method_belongs_to_a_run():
    assert set(RUNS) | {"ric_vae"} == set(LABELS)


def test_a_rival_that_is_better_shows_as_a_loss():
    errors = {name: [0.1, 0.11] for name in LABELS} | {"lc_vae": [0.05, 0.06]}
    found = {v["claim"]: v for v in mnist_denoising.verdicts(errors)}
    lost = found["iC-VAE beats LC-VAE (share of the error that is gone)"]
    assert lost["verdict"] == "did not hold" and lost["gain"] < -0.5
