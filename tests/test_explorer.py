"""The pairs of the page of sliders, in small: files that can be read again, verdicts that go both ways."""

import json

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal

import pyro_vaes as pv
from pyro_vaes.data import Dataset
from pyro_vaes.errors import InputError
from pyro_vaes.experiments import explorer
from pyro_vaes.experiments.explorer_figures import decoded

SMALL = {
    "steps": 3, "hidden": [8], "latent_dim": 2, "test": 40, "faces": 3, "samples": 20, "warmup": 10, "depth": 3,
    "draws": 40, "kept": 7,
}  # fmt: skip


def load(name, *, root=None, split="train", limit=None):
    rows, seed = (60, 0) if split == "train" else (40, 1)
    shape = (28, 20) if name == "frey" else (28, 28)
    x = torch.rand(rows, shape[0] * shape[1], generator=torch.Generator().manual_seed(seed)).square()
    x = (255 * x).round() / 255
    return Dataset(name, x[:limit], shape, torch.arange(rows)[:limit] % 10)


@pytest.fixture
def made(monkeypatch, in_this_process, tmp_path):
    monkeypatch.setattr(explorer, "load", load)
    monkeypatch.setattr(explorer, "HELD_OUT", 20)
    monkeypatch.setitem(explorer.SCALES, "quick", {**explorer.SCALES["quick"], **SMALL})
    return json.loads(explorer.reproduce(tmp_path, "quick", tmp_path).read_text()), tmp_path


@pytest.mark.slow
def test_what_is_written_can_be_read_again(made):
    result, folder = made
    assert [len(result["models"][name]["images"]) for name in explorer.SETS] == [10, 3]
    for name, model in result["models"].items():
        tensors = explorer.unpacked(model, (folder / model["file"]).read_bytes())
        again = decoded(tensors, tensors["probe codes"], model["activation"])
        assert np.abs(again - tensors["probe images"]).max() < 1e-6
        assert tensors["draws"].shape == (len(model["images"]), 7, 2) and tensors["images"].dtype == np.uint8
        x, z = torch.tensor(tensors["images"][0] / 255), torch.tensor(tensors["probe codes"].astype(float))
        mean = torch.tensor(again)
        p = Bernoulli(mean) if name == "digits" else Normal(mean, model["sd"])
        joint = p.log_prob(x).sum(1) + Normal(0.0, 1.0).log_prob(z).sum(1)
        assert joint.numpy() == pytest.approx(tensors["probe log joint"], rel=1e-4, abs=1e-3)
        assert tensors["probe codes"][3] == pytest.approx(model["images"][0]["guide mean"], abs=1e-6)
        assert (folder / f"explorer.quick.{name}.png").is_file()
    assert explorer.table(result).count("\n") == 5 and not (folder / "explorer.quick.cells").exists()


def test_missing_data_are_named(tmp_path):
    with pytest.raises(InputError, match=r"mnist|MNIST"):
        explorer.reproduce(tmp_path, "quick", tmp_path)


def test_agreement_is_judged_both_ways():
    """The same chains beside a guide that has their moments, and others that have not."""
    pair = pv.l2_vae(4, 2, (3,))
    chains = pv.nuts(pair, torch.rand(1, 4), samples=250, warmup=100, depth=4)
    of = lambda mean, sd: explorer.summary(0, mean, sd, chains)["verdict"]  # noqa: E731
    assert of(chains.mean, chains.sd) == "good"
    assert of(chains.mean + chains.sd, chains.sd) == "bad"
    assert of(chains.mean, 2 * chains.sd) == "bad"
    one = torch.tensor([[0.9, 0.0]], dtype=torch.float64)
    assert of(chains.mean + one * chains.sd, chains.sd) == "caution"
    apart = chains.states.clone()
    apart[0] += 5
    from pyro_vaes.analysis.nuts import summarised

    stuck = summarised(chains.target, apart)
    assert explorer.summary(0, chains.mean, chains.sd, stuck)["verdict"] == "no reference"


def test_bytes_stand_last():
    with pytest.raises(ValueError, match="put bytes last"):
        explorer.packed({"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(2)})
