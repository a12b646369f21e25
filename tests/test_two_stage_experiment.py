"""The experiment on two stages: small, on digits of its own, from the first cell to the tables."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.experiments import judged
from pyro_vaes.experiments import two_stage as experiment
from pyro_vaes.experiments.two_stage_claims import LABELS, TWO, Found, claims, table

SMALL = {
    "pool": 1, "latent_dims": [2, 3], "judged": 3, "flat_from": 2, "samples": 90, "hidden": [6], "second_hidden": [5],
    "discriminator_hidden": [5], "steps": 2, "second_steps": 3, "seeds": [0, 1],
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, in_this_process):
    """The 8 x 8 digits in the place of MNIST; there is no Fashion-MNIST."""
    digits = pv.load("digits")

    def load(name, *, split="train", **_):
        if name != "mnist":
            raise pv.InputError(f"{name} is missing")
        rows = slice(300) if split == "train" else slice(300, 390)
        return pv.Dataset(name, digits.x[rows], digits.shape, digits.y[rows])

    for place in (judged, experiment):
        monkeypatch.setattr(place, "load", load)
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **SMALL})
    yield
    experiment.data.cache_clear(), experiment.judge.cache_clear()


def test_from_cells_to_tables(small, tmp_path):
    result = json.loads(experiment.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert set(result["sets"]) == {"mnist"}
    found = result["sets"]["mnist"]
    assert set(found["measures"]) == set(LABELS)
    for by in found["measures"].values():
        assert all(len(by[k]["samples"]) == len(by[k]["mmd"]) == 2 for k in ("2", "3"))
    assert {len(values) for method in found["spectrum"].values() for values in method} == {3}
    # One training: the same reconstructions, other samples.
    two, one = (found["measures"][name]["3"] for name in (TWO, "gamma_vae"))
    assert two["reconstructions"] == one["reconstructions"] and two["samples"] != one["samples"]
    assert {p.name for p in tmp_path.iterdir()} == {"two-stage.quick.json"} | {
        f"two-stage.quick.mnist.{n}.png" for n in ("distances", "spectrum", "samples")
    }
    count = len(claims(result["settings"]))
    kinds = [v["verdict"] for v in result["verdicts"]]
    assert len(kinds) == count + 2 and kinds[count:] == ["not tested"] * 2
    text = table(result)
    assert "| VAE, cross-entropy | not trained | 1.32 |" in text and "| WAE-MMD |" in text
    assert text.count("FID") == 1


@pytest.mark.parametrize(
    ("training", "arguments"),
    [("l2_vae", {"beta": 0.25}), ("wae_mmd", {"weight": 1.25}), ("wae_gan", {"weight": 1.25}), ("autoencoder", {})],
)
def test_pooled_images_keep_the_balance_of_whole_ones(small, monkeypatch, training, arguments):
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], "pool": 2})
    seen = {}

    def spy(name, x, *, arguments, **_):
        seen.update(arguments)
        return pv.autoencoder(x.shape[1], 3, (6,))

    monkeypatch.setattr(experiment, "trained", spy)
    experiment.cell(training, "mnist", 3, 0, scale="quick", root="")
    assert {name: seen[name] for name in ("beta", "weight") if name in seen} == arguments


def test_weights_are_those_of_the_variants():
    for name, (setting, value) in experiment.WEIGHED.items():
        assert getattr(getattr(pv, name)(4).objective, setting) == value


def test_claims_follow_the_numbers():
    """A two-stage VAE as the source has it, and then one that is no better than its first stage."""
    settings = {"judged": 8, "latent_dims": [2, 8, 32], "flat_from": 8}

    def measures(rising, mmd):
        return {
            str(k): {"samples": [10.0 * rising**i, 11.0 * rising**i], "reconstructions": [1.0, 1.1],
                     "mmd": [mmd, mmd + 0.01], "mmd of u": [0.0, 0.001]}
            for i, k in enumerate(settings["latent_dims"])
        }  # fmt: skip

    of = {name: measures(3.0, 0.5) for name in LABELS} | {TWO: measures(1.01, 0.0)}
    found = {claim: gains(Found(of, 1.0, settings)).min() > 0 for claim, _, gains in claims(settings)}
    held = [claim for claim in found if "two-stage VAE" in claim or "criterion A" in claim]
    assert len(held) == 13 and all(found[claim] for claim in held)
    of[TWO] = measures(3.0, 0.5)
    found = {claim: gains(Found(of, 1.0, settings)).min() > 0 for claim, _, gains in claims(settings)}
    assert not any(found[claim] for claim in held if "criterion A" not in claim)


def test_the_gap_of_the_prior_itself_is_none():
    from pyro_vaes.experiments.two_stage import _gap, _spectrum

    a, b = torch.randn(2, 1500, 3, generator=torch.Generator().manual_seed(0))
    assert abs(_gap(a, b)["mmd"]) < 0.01 and _gap(a, b)["gap"] < 0.02 and _gap(3 * a, b)["gap"] > 1
    assert _spectrum(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])) == pytest.approx(
        [8 / 3, 2 / 3], abs=1e-4
    )
