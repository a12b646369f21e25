"""Measures of samples, by hand; and the experiment on dirty training data, in small."""

import json
import math

import numpy as np
import pytest
import torch

from pyro_vaes.data import Dataset
from pyro_vaes.data.pool import pooled
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.generation import (
    Judge,
    effective_classes,
    frechet_distance,
    hidden_activations,
    nearest_distance,
    total_variation,
)
from pyro_vaes.experiments import robust_generation
from pyro_vaes.experiments.robust_generation import DIRT, LABELS, photographs, soiled, verdicts


def gaussian(n, mean, root, seed=0):
    """Rows whose sample mean and covariance are exactly those asked for: mean, root root'."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.as_tensor(x @ np.asarray(root).T + mean)


def test_frechet_distance_of_known_gaussians():
    # Diagonal covariances commute: |m|^2 + sum (s - t)^2.
    a = gaussian(200, [0.0, 0.0], np.diag([1.0, 2.0]))
    b = gaussian(300, [3.0, -1.0], np.diag([4.0, 0.5]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 9 + 2.25)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_where_covariances_do_not_commute():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    roots = rng.normal(size=(2, 3, 3))
    a, b = gaussian(50, np.zeros(3), roots[0]), gaussian(50, np.ones(3), roots[1], seed=3)
    s, t = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    assert frechet_distance(a, b) == pytest.approx(3 + np.trace(s + t - 2 * sqrtm(s @ t).real))


def test_frechet_distance_is_nothing_for_the_same_set_even_if_singular():
    x = torch.rand(40, 3)
    assert frechet_distance(x, x[torch.randperm(40)]) == pytest.approx(0, abs=1e-6)
    flat = torch.cat([x, x, torch.ones(40, 1)], 1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(flat, flat + 1) == pytest.approx(7, rel=1e-4)


def test_nearest_distance_sees_copies_and_leaves_the_point_itself_out():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    assert nearest_distance(x, x) == 0
    assert nearest_distance(x) == pytest.approx(5 / 3)
    assert nearest_distance(x[:1], x[1:]) == 5


def test_effective_classes_by_hand():
    assert effective_classes(list(range(10))) == pytest.approx(10)
    assert effective_classes([4] * 7) == 1
    assert effective_classes([0, 0, 0, 1]) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_total_variation_rises_with_noise_and_falls_with_blur():
    board = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert total_variation(board, (2, 2)) == 1
    assert total_variation(torch.full((3, 12), 0.4), (3, 2, 2)) == 0
    # Four steps down a ramp of 0, 1/3, 2/3, 1, none across.
    ramp = torch.linspace(0, 1, 4)[:, None].expand(4, 2).reshape(1, -1)
    assert total_variation(ramp, (4, 2)) == pytest.approx(6 / 3 / (6 + 4))


def test_activations_are_the_classifiers_own():
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    model = MLPClassifier((7, 5), early_stopping=True, random_state=0, max_iter=500).fit(x / 16, y)
    h = hidden_activations(model, torch.as_tensor(x / 16)).numpy()
    logits = h @ model.coefs_[-1] + model.intercepts_[-1]
    assert (logits.argmax(1) == model.predict(x / 16)).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: frechet_distance(torch.zeros(3, 2), torch.zeros(3, 4)),
        lambda: frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2)),
        lambda: frechet_distance(torch.tensor([[0.0], [math.nan]]), torch.zeros(3, 1)),
        lambda: nearest_distance(torch.zeros(1, 2)),
        lambda: effective_classes([]),
        lambda: total_variation(torch.zeros(2, 6), (2, 2)),
        lambda: pooled(Dataset("odd", torch.zeros(2, 9), (3, 3)), 2),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()


@pytest.fixture(scope="module")
def digits():
    from pyro_vaes.data import load

    return load("digits")


def test_the_judge_tells_digits_from_noise_and_from_one_digit(digits):
    judge = Judge(digits.x[:1200], digits.y[:1200], digits.x[1200:], digits.shape, hidden=[32])
    real = judge.real
    assert real["classes"] > 9
    noise, alike = judge(torch.rand(597, 64)), judge(digits.x[:1].expand(597, -1))
    for bad in (noise, alike):
        assert bad["frechet distance"] > 5 * real["frechet distance"]
    assert noise["total variation"] > 1.2 * real["total variation"]
    assert noise["distance to data"] > real["distance to data"]
    # A copy is found as one, and so are samples that are all alike.
    assert alike["classes"] == 1 and alike["distance to data"] == alike["distance between samples"] == 0


def test_dirt_is_what_it_is_called(digits):
    assert torch.equal(soiled(digits, "clean", 0), digits.x)
    changed = (soiled(digits, "40 %", 0) != digits.x).float().mean()
    assert abs(changed - 0.4) < 0.01
    strange = soiled(digits, "photos", 0)
    assert int((strange != digits.x).any(1).sum()) == round(0.1 * 1797)
    photos = photographs(9, (8, 8), seed=0)
    assert photos.min() >= 0 and photos.max() <= 1 and photos.std(1).mean() > 0.02
    assert torch.equal(photos, photographs(9, (8, 8), seed=0))
    assert not torch.equal(photos, photographs(9, (8, 8), seed=1))


@pytest.fixture
def small(monkeypatch, digits):
    """The experiment on scikit-learn's digits, with next to no training."""
    settings = {**robust_generation.SCALES["quick"], "steps": 2, "hidden": [6], "samples": 60, "seeds": [0, 1]}
    monkeypatch.setitem(robust_generation.SCALES, "quick", settings)
    parts = {"train": slice(0, 600), "test": slice(600, 660)}

    def load(name, *, split="train", **_):
        return Dataset(name, digits.x[parts[split]], digits.shape, digits.y[parts[split]])

    monkeypatch.setattr("pyro_vaes.experiments.judged.load", load)
    monkeypatch.setattr(
        "pyro_vaes.experiments.cells.side_by_side",
        lambda cell, settings, done, **_: [done(setting, cell(*setting)) for setting in settings],
    )
    monkeypatch.setattr("pyro_vaes.experiments.cells._gpu", lambda: False)
    yield
    robust_generation.data.cache_clear(), robust_generation.judge.cache_clear()


def test_the_experiment_end_to_end_in_small(small, tmp_path):
    result = json.loads(robust_generation.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert {p.name for p in tmp_path.iterdir()} == {
        f"robust-generation.quick.{n}" for n in ("json", "frechet.png", "samples.png")
    }
    assert all(len(result["measures"][n][d]["frechet distance"]) == 2 for n in LABELS for d in DIRT)
    assert result["real"]["frechet distance"] > 0
    assert robust_generation.table(result).count("\n") == 2 + (1 + len(LABELS)) * len(DIRT)


def test_replicas_are_the_cells_one_by_one(small, tmp_path):
    members = [("ic_vae", "40 %", 0), ("ic_vae", "photos", 1)]
    at = {"scale": "quick", "root": str(tmp_path)}
    for member, value in zip(members, robust_generation.together(members, **at, engine="graph"), strict=True):
        alone = robust_generation.cell(*member, **at)
        assert value["measures"] == pytest.approx(alone["measures"], rel=1e-3)


def test_verdicts_follow_the_numbers():
    good = {"frechet distance": [1.0, 1.1], "total variation": [0.1, 0.1], "distance to data": [2.0, 2.1]}
    bad = {"frechet distance": [9.0, 9.1], "total variation": [0.0, 0.01], "distance to data": [2.0, 2.1]}
    measures = {
        name: {d: bad if name in ("l2_vae", "gamma_vae") and d != "clean" else good for d in DIRT} for name in LABELS
    }
    result = {
        "real": {"total variation": 0.1, "distance to data": 1.0},
        "median image": {d: [5.0, 5.0] for d in DIRT},
        "measures": measures,
    }
    found = {v["claim"]: v["verdict"] for v in verdicts(result)}
    assert found["l2-VAE: 40 % noise in training spoils the samples (Frechet distance)"] == "held"
    assert found["t-VAE: 40 % noise in training spoils the samples (Frechet distance)"] == "did not hold"
    assert sum(1 for v in found.values() if v == "not tested") == 2
    assert all(found[c] == "held" for c in found if "closer to" in c)
