"""Samples that do not belong: the baselines against their definitions, and the two experiments in small."""

import itertools
import json

import numpy as np
import pytest
import torch

from pyro_vaes.data import Dataset
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.drae import Discriminative, drae, split
from pyro_vaes.evaluation.metrics import f1
from pyro_vaes.evaluation.one_class import isolation_forest, one_class_svm
from pyro_vaes.evaluation.strangers import best_f1, judged
from pyro_vaes.evaluation.threshold import detect
from pyro_vaes.evaluation.uocl import labels, on_sphere, uocl
from pyro_vaes.experiments import concept_images, outlier_images
from pyro_vaes.experiments.image_features import gradients, pca64
from pyro_vaes.inference.fit import fit

TEN = torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 2.0, 0.1, 2.2, 0.2, 1.9])


def cluster(seed: int = 0, inliers: int = 80, outliers: int = 20):
    """A tight cluster, and outliers scattered far around it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.randn(inliers, 5, generator=g), 8 * torch.randn(outliers, 5, generator=g)])
    return x, torch.arange(inliers + outliers) >= inliers


# How well were they found?


def test_judgement_of_ten_scores_by_hand():
    """The threshold flags 5, 7 and 9; the strangers are 5, 7 and 0."""
    stranger = torch.zeros(10, dtype=torch.bool)
    stranger[[0, 5, 7]] = True
    found = judged(TEN, stranger)
    assert found["flagged"] == 3
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 3))  # 2 true, 3 flagged, 3 strangers
    assert found["inlier f1"] == pytest.approx(2 * 6 / (7 + 7))  # 6 true, 7 kept, 7 inliers
    assert found["own f1"] == found["f1"]
    # Two or three flagged: 2 * 2 / (2 + 3) is the best that any threshold does.
    assert found["oracle f1"] == pytest.approx(0.8)
    nothing = judged(TEN, stranger, flagged=torch.zeros(10, dtype=torch.bool))
    assert nothing["own f1"] == 0
    assert nothing["own inlier f1"] == pytest.approx(concept_images.flag_nothing(30))
    assert nothing["f1"] == found["f1"]


def test_oracle_threshold_is_the_best_of_all():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        score, stranger = torch.rand(30, generator=g).mul(8).round(), torch.rand(30, generator=g) < 0.3
        stranger[0] = True
        expected = max(f1(score >= t, stranger) for t in score.unique())
        assert best_f1(score, stranger) == pytest.approx(expected)


def test_perfect_scores_get_one_and_noise_gets_chance():
    x, stranger = cluster()
    found = judged(stranger.double() + 0.01 * x[:, 0], stranger)
    for key in ("f1", "inlier f1", "own f1", "own inlier f1", "oracle f1", "average precision", "auc"):
        assert found[key] == pytest.approx(1, abs=1e-12), key
    noise = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    many = torch.arange(20000) % 10 == 0
    found = judged(noise, many)
    assert found["auc"] == pytest.approx(0.5, abs=0.02)
    assert found["average precision"] == pytest.approx(0.1, abs=0.02)
    # Uniform scores are cut in the middle: 2 * 0.05 / (0.5 + 0.1).
    assert found["f1"] == pytest.approx(1 / 6, abs=0.01)


# UOCL


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
def test_uocl_labels_are_the_best_of_all_labellings(margin):
    rng = np.random.default_rng(0)
    for _ in range(5):
        f = rng.normal(size=8)

        def fit_of(outlier, f=f):
            plus = len(f) - sum(outlier)
            high, low = np.sqrt((8 - plus) / plus), -np.sqrt(plus / (8 - plus))
            target = np.where(outlier, low, high)
            return ((f - target) ** 2).sum() - 2 * margin * f[~np.array(outlier)].mean()

        every = [y for y in itertools.product([False, True], repeat=8) if 0 < sum(y) < 8]
        assert fit_of(labels(f, margin)[0]) == pytest.approx(min(map(fit_of, every)))


def test_uocl_without_a_margin_cuts_where_the_threshold_does():
    f = np.random.default_rng(1).normal(size=200)
    assert np.array_equal(labels(f, 0.0)[0], detect(torch.tensor(-f)).numpy())


def test_nothing_on_the_sphere_is_lower():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    quadratic, b = root @ root.T, rng.normal(size=6)
    values, vectors = np.linalg.eigh(quadratic)
    for vector in (b, 1e-3 * b, 1e3 * b, vectors[:, 3]):  # the last has nothing of the lowest direction
        best = on_sphere(values, vectors, vector)
        assert np.linalg.norm(best) == pytest.approx(1)
        others = rng.normal(size=(6, 20000))
        others = np.concatenate([others, best[:, None] + 0.01 * others], 1)
        others /= np.linalg.norm(others, axis=0)
        cost = (others * (quadratic @ others)).sum(0) - 2 * vector @ others
        assert best @ quadratic @ best - 2 * vector @ best <= cost.min() + 1e-9


def test_uocl_finds_scattered_strangers_and_its_objective_falls():
    for outliers in (20, 60):
        x, stranger = cluster(outliers=outliers)
        found = uocl(x)
        assert f1(found.outlier, stranger) > 0.8
        assert found.score[stranger].mean() > found.score[~stranger].mean()
        assert all(b <= a + 1e-9 * abs(a) for a, b in itertools.pairwise(found.objective))


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.ones(9, 2), {}, "all rows of x are the same"),
        (torch.rand(2, 2), {}, "at least 3"),
        (torch.rand(9, 2), {"margin": -1.0}, "margin"),
        (torch.rand(9, 2), {"rounds": 0}, "rounds"),
    ],
)
def test_uocl_refuses(x, arguments, message):
    with pytest.raises(InputError, match=message):
        uocl(x, **arguments)


# DRAE


def brute_force(error):
    """The objective's two parts, from their definition, over all thresholds."""
    found = []
    for t in error.unique()[:-1]:
        parts = [error[error <= t], error[error > t]]
        within = sum(float((p - p.mean()).square().sum()) for p in parts)
        found.append((within / float((error - error.mean()).square().sum()), float(parts[0].mean())))
    return min(found)


@pytest.mark.parametrize("seed", range(5))
def test_drae_objective_is_its_definition(seed):
    torch.manual_seed(seed)
    pair = drae(6, 2, (5,), weight=0.7).double()
    x = torch.rand(12, 6, dtype=torch.float64)
    loss = pair(x)
    encoder, decoder = pair.guide.encoder, pair.model.decoder
    ratio, mean = brute_force((x - decoder(encoder(x))).square().sum(1).detach())
    assert loss.terms["x"].item() == pytest.approx(mean)
    assert loss.terms["ratio"].item() == pytest.approx(0.7 * ratio)
    assert loss.total.item() == pytest.approx(mean + 0.7 * ratio)
    assert loss.bound.item() == -loss.total.item()


def test_drae_gradient_leaves_strangers_to_the_ratio():
    error = TEN.clone().requires_grad_()
    mean, ratio = split(error)
    (gradient,) = torch.autograd.grad(mean, error, retain_graph=True)
    assert gradient.tolist() == pytest.approx([1 / 7 if e < 1 else 0 for e in TEN.tolist()])
    assert torch.autograd.grad(ratio, error)[0].abs().min() > 0
    double = TEN.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: split(e)[1], double)
    mean, ratio = split(torch.ones(4, requires_grad=True))
    assert (mean.item(), ratio.item()) == (1.0, 0.0)


def test_drae_trains_like_any_pair():
    x, stranger = cluster()
    pair = drae(5, 1, (8,), output=torch.nn.Identity)
    assert Discriminative(0.0)(pair.model, pair.guide, x).terms["ratio"] == 0
    history = fit(pair, x, steps=60, lr=1e-2, progress=False)
    assert history.step == 60
    score = outlier_images.METHODS["drae"].score(pair, x)
    assert judged(score, stranger)["auc"] > 0.95
    with pytest.raises(InputError, match="weight"):
        Discriminative(-1.0)


# scikit-learn's


def test_one_class_baselines_rank_scattered_strangers_first():
    x, stranger = cluster()
    for found in (isolation_forest(x), one_class_svm(x)):
        assert judged(found.score, stranger, found.outlier)["average precision"] > 0.8
        # Its own decision is a cut of its score.
        assert found.score[found.outlier].min() >= found.score[~found.outlier].max()
    assert torch.equal(isolation_forest(x, 3).score, isolation_forest(x, 3).score)
    with pytest.raises(InputError, match="nu"):
        one_class_svm(x, nu=1.5)
    with pytest.raises(InputError, match="one row"):
        isolation_forest(x[:1])


# The experiments


@pytest.fixture
def alone(monkeypatch):
    """No pool of processes."""

    def serial(cell, settings, *, desc, steps, done):
        for setting in settings:
            done(setting, cell(*setting))

    monkeypatch.setattr("pyro_vaes.experiments.cells.side_by_side", serial)
    monkeypatch.setattr("pyro_vaes.experiments.cells._gpu", lambda: False)


@pytest.fixture
def digits(monkeypatch):
    """A hundred and twenty images of 28 x 28: bright ones are fours, dark ones are not; the last ten come too late."""
    g = torch.Generator().manual_seed(0)
    y = torch.where(torch.arange(120) % 2 == 0, 4, torch.arange(120) % 10)
    x = torch.rand(120, 784, generator=g) * torch.where(y == 4, 1.0, 0.1)[:, None]
    monkeypatch.setattr(outlier_images, "_digits", lambda root: Dataset("mnist", x, (28, 28), y))
    monkeypatch.setattr(outlier_images, "FIRST", 110)
    monkeypatch.setattr(outlier_images, "STRANGERS", 7)
    monkeypatch.setitem(outlier_images.SHAPE, "hidden", [8])
    monkeypatch.setitem(outlier_images.SCALES, "quick", {"steps": 2, "seeds": [0, 1]})


@pytest.fixture
def concepts(monkeypatch):
    g = torch.Generator().manual_seed(0)
    images = Dataset("cifar10", torch.rand(200, 3072, generator=g), (3, 32, 32), torch.arange(200) % 10)
    monkeypatch.setattr(concept_images, "_images", lambda root, split: images)
    monkeypatch.setattr(concept_images, "CONCEPTS", (0, 1))
    scale = {"steps": 2, "seeds": [0], "shares": [10, 50], "images": 20, "split": "test"}
    monkeypatch.setitem(concept_images.SCALES, "quick", scale)


def test_a_draw_has_all_fours_and_other_strangers_each_time(digits):
    x, stranger = outlier_images.draw(0, "nowhere")
    assert (len(x), int(stranger.sum())) == (55 + 7, 7)
    assert bool((x[stranger].amax(1) <= 0.1).all()) and bool((x[~stranger].amax(1) > 0.5).all())
    again, other = outlier_images.draw(0, "nowhere")[0], outlier_images.draw(1, "nowhere")[0]
    assert torch.equal(x, again) and not torch.equal(x, other)


@pytest.mark.slow
def test_fours_end_to_end_in_small(digits, alone, tmp_path):
    path = outlier_images.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert [row["method"] for row in result["rows"]] == list(outlier_images.METHODS)
    rows = result["rows"]
    for row in rows:
        assert all(len(values) == 2 for key, values in row.items() if key != "method")
        assert all(o >= f - 1e-12 for f, o in zip(row["f1"], row["oracle f1"], strict=True))
    assert all(v["seeds"] == 2 for v in result["verdicts"])
    assert outlier_images.table(result).count("\n| ") == 2 + len(outlier_images.METHODS)
    assert all(("second f1" in row) == (row["method"] not in ("one_class_svm", "isolation_forest")) for row in rows)
    names = {f"outlier-images.quick.{n}" for n in ("json", "scores.png", "strangest.png")}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_fours_by_an_oracle_and_by_chance(digits, monkeypatch):
    """A method is one line of the table: train, score."""
    from pyro_vaes.experiments.stranger_methods import Method

    oracle = Method("oracle", train=lambda x, seed, steps: None, score=lambda _, x: -x.mean(1))
    monkeypatch.setitem(outlier_images.METHODS, "oracle", oracle)
    found = outlier_images.cell("oracle", 0, scale="quick", root="")["judged"]
    assert [found[key] for key in ("f1", "oracle f1", "average precision")] == pytest.approx([1, 1, 1])


def test_frames_say_who_is_a_stranger(digits):
    x, stranger = outlier_images.draw(0, "nowhere")
    order = torch.cat([stranger.nonzero().flatten(), (~stranger).nonzero().flatten()])
    framed = outlier_images.framed(x, stranger, order).reshape(-1, 3, 32, 32)
    red = framed[:, 0, 0, 0] > framed[:, 1, 0, 0]
    assert red.tolist() == [True] * 7 + [False] * 13
    assert torch.equal(framed[0, 1, 2:-2, 2:-2].flatten(), x[order[0]])


@pytest.mark.parametrize("name", ["t_vae", "drae", "isolation_forest"])
def test_fours_trained_as_replicas_are_those_trained_alone(name, digits):
    plan = {"scale": "quick", "root": ""}
    extra = {"device": "cpu", "engine": "graph"} if outlier_images.METHODS[name].network else {}
    together = outlier_images.together([(name, 0), (name, 1)], **plan, **extra)
    for seed, found in enumerate(together):
        expected = outlier_images.cell(name, seed, **plan)
        assert found["judged"] == pytest.approx(expected["judged"], rel=1e-3)
        if seed == 0:
            assert found["scores"] == pytest.approx(expected["scores"], rel=1e-3)


def test_concepts_end_to_end_in_small(concepts, alone, tmp_path):
    path = concept_images.reproduce(tmp_path, "quick", tmp_path, features={"mean": _coarse})
    result = json.loads(path.read_text())
    assert len(result["rows"]) == len(concept_images.METHODS) * 2
    assert all(len(row["f1"]) == 2 for row in result["rows"])
    assert concept_images.table(result).count("\n") == 2 + len(concept_images.METHODS)
    assert all(v["seeds"] == 2 for v in result["verdicts"])
    names = {f"outlier-concepts.quick.{n}" for n in ("json", "mean.png")}
    assert {p.name for p in tmp_path.iterdir()} == names


def _coarse(x):
    return pca64(x.reshape(-1, 12, 256).mean(2))


def test_a_set_has_the_share_of_strangers_that_it_says(concepts):
    for share, expected in ((10, 2), (50, 10)):
        x, stranger = concept_images.draw(share, 3, 0, scale="quick", root="")
        assert (tuple(x.shape), int(stranger.sum())) == ((20, 3072), expected)
        assert len(x.unique(dim=0)) == 20


def test_concepts_trained_as_replicas_are_those_trained_alone(concepts):
    plan = {"scale": "quick", "root": "", "features": {"mean": _coarse}}
    for name in ("affine_ic_vae", "affine_l2_vae"):
        settings = [(name, "mean", 50, c, 0) for c in (0, 1)]
        together = concept_images.together(settings, **plan, device="cpu", engine="graph")
        for setting, found in zip(settings, together, strict=True):
            assert found == pytest.approx(concept_images.cell(*setting, **plan), rel=1e-3)


def test_gradients_see_edges_and_not_brightness():
    vertical = torch.zeros(3, 32, 32)
    vertical[..., 16:] = 1
    rows = torch.stack([vertical, 0.5 * vertical, vertical.mT]).flatten(1)
    one, half, turned = gradients(rows)
    assert torch.allclose(one, half)
    middle = one.reshape(9, 7, 7)[:, 3, 3]
    assert middle.tolist() == pytest.approx([1] + [0] * 8)
    assert turned.reshape(9, 7, 7)[:, 3, 3].argmax() == 4  # a quarter turn is four and a half of nine bins


def test_drae_trains_through_a_last_batch_of_one_row():
    pair = drae(4, 2, (5,))
    fit(pair, torch.rand(13, 4), batch_size=12, steps=3, progress=False)
    assert all(p.isfinite().all() for p in pair.parameters())
