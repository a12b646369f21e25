"""Marks that repeat: exact in number, place and value; and the experiment on them, in small."""

import json

import pytest
import torch

from pyro_vaes.data import Corrupted, Dataset, load
from pyro_vaes.data.systematic import MARKS, WAYS, scattered, systematic
from pyro_vaes.errors import InputError
from pyro_vaes.experiments import systematic_errors as experiment
from pyro_vaes.experiments.systematic_errors import LABELS, REMEDIES, repaired


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("way", WAYS)
def test_marks_are_exact_in_number_and_size(kind, way):
    x = torch.rand(80, 14 * 10)
    before = x.clone()
    dirty = WAYS[way](x, kind, 0.15, (14, 10), generator=seeded())
    assert torch.equal(x, before)
    assert torch.equal(dirty.x[~dirty.mask], x[~dirty.mask])
    marked = dirty.mask.any(1)
    assert marked.sum() == 12
    assert (dirty.mask[marked].sum(1) == MARKS[kind](14, 10).sum()).all()
    again = WAYS[way](x, kind, 0.15, (14, 10), generator=seeded())
    assert torch.equal(dirty.x, again.x)
    assert not torch.equal(dirty.mask, WAYS[way](x, kind, 0.15, (14, 10), generator=seeded(1)).mask)


@pytest.mark.parametrize("kind", ["patch", "line"])
def test_systematic_marks_repeat_and_random_ones_do_not(kind):
    x = torch.full((100, 196), 0.5)
    same = systematic(x, kind, 0.4, (14, 14), value=0.9, generator=seeded())
    marked = same.mask.any(1)
    assert len(same.x[marked].unique(dim=0)) == 1
    assert same.x[same.mask].unique().tolist() == pytest.approx([0.9])
    each = scattered(x, kind, 0.4, (14, 14), generator=seeded())
    rows = each.x[each.mask.any(1)]
    assert len(rows.unique(dim=0)) == 40
    # One value per image, spread over [0, 1].
    values = torch.stack([x[mask].unique() for x, mask in zip(each.x, each.mask, strict=True) if mask.any()])
    assert values.shape == (40, 1) and values.std() == pytest.approx(12**-0.5, rel=0.3)
    assert len(each.mask[each.mask.any(1)].unique(dim=0)) > 5


def test_a_logo_moves_a_little_and_never_over_the_edge():
    for shape in ((4, 4), (8, 8), (28, 20)):
        size = shape[0] * shape[1]
        dirty = systematic(torch.zeros(300, size), "logo", 1.0, shape, generator=seeded())
        forms = dirty.mask.unique(dim=0)
        most = max(1, round(min(shape) / 14))
        assert len(forms) == (2 * most + 1) ** 2
        mark = MARKS["logo"](*shape)
        for form in forms.view(-1, *shape):
            moved = form.nonzero() - mark.nonzero()
            assert len(moved.unique(dim=0)) == 1 and moved.abs().max() <= most


def test_bytes_and_colour():
    x = torch.zeros(10, 3 * 64, dtype=torch.uint8)
    dirty = systematic(x, "patch", 0.5, (3, 8, 8), generator=seeded())
    assert dirty.x.dtype == torch.uint8 and dirty.x.max() == 255
    channels = dirty.mask.view(10, 3, 64)
    assert torch.equal(channels[:, 0], channels[:, 2])
    assert scattered(x, "patch", 0.5, (3, 8, 8), generator=seeded()).x.dtype == torch.uint8


def test_no_marks_and_all():
    x = torch.rand(9, 64)
    for way in WAYS.values():
        assert torch.equal(way(x, "logo", 0.0, (8, 8), generator=seeded()).x, x)
        assert way(x, "logo", 1.0, (8, 8), generator=seeded()).mask.any(1).all()


@pytest.mark.parametrize(
    ("kind", "fraction", "shape"), [("spot", 0.1, (8, 8)), ("patch", 1.1, (8, 8)), ("patch", 0.1, (8, 9)),
                                    ("patch", 0.1, (64,)), ("line", 0.1, (2, 32))]
)  # fmt: skip
def test_bad_input_is_refused(kind, fraction, shape):
    for way in WAYS.values():
        with pytest.raises(InputError):
            way(torch.rand(5, 64), kind, fraction, shape, generator=seeded())


def test_repaired_by_hand():
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, :2] = True
    truth = torch.zeros(2, 5)
    dirty = Corrupted(mask * torch.tensor(1.0), mask)
    assert repaired(truth, truth, dirty) == 1
    assert repaired(dirty.x, truth, dirty) == 0
    half = truth.clone()
    half[0, 0] = 1
    # One of two cells, and what happens to clean ones does not count.
    half[1] = 7
    assert repaired(half, truth, dirty) == 0.5
    assert repaired(2 * dirty.x, truth, dirty) == -3


@pytest.fixture
def small(monkeypatch):
    """The experiment on a few of scikit-learn's digits, with next to no training."""
    digits = load("digits", limit=60)
    settings = {
        **experiment.SCALES["quick"], "subjects": ["faces, logo"], "pool": 1, "steps": 2, "hidden": [6],
        "latent_dim": 5, "seeds": [0, 1],
    }  # fmt: skip
    monkeypatch.setitem(experiment.SCALES, "quick", settings)
    monkeypatch.setattr(experiment, "load", lambda name, **_: Dataset(name, digits.x, digits.shape))
    monkeypatch.setattr(
        "pyro_vaes.experiments.cells.side_by_side",
        lambda cell, settings, done, **_: [done(setting, cell(*setting)) for setting in settings],
    )
    monkeypatch.setattr("pyro_vaes.experiments.cells._gpu", lambda: False)


@pytest.mark.slow
def test_the_experiment_end_to_end_in_small(small, tmp_path):
    result = json.loads(experiment.reproduce(tmp_path, "quick", tmp_path).read_text())
    pictures = ("json", "repaired.png", "auc.png", "rows-faces-logo.png")
    assert {p.name for p in tmp_path.iterdir()} == {f"systematic-errors.quick.{n}" for n in pictures}
    measures = result["measures"]["faces, logo"]
    for method in LABELS:
        for way in WAYS:
            assert [len(values["AUC"]) for values in measures[method][way]] == [2, 2, 2]
    assert min(measures["rpca"]["random"][1]["repaired"]) > 0.2
    assert set(result["remedies"]["faces, logo"]) == set(REMEDIES)
    assert {v["verdict"] for v in result["verdicts"]} <= {"held", "did not hold", "not tested"}
    assert sum(v["verdict"] == "not tested" for v in result["verdicts"]) == 1
    methods, remedies = (part.splitlines()[2:] for part in experiment.table(result).split("\n\n"))
    assert len(methods) == len(LABELS) and len(remedies) == 1 + len(REMEDIES)


def test_the_mean_image_repairs_what_the_share_says(small, tmp_path):
    """A mark of value 1 where images are 0 is left with its share's square: 1 - share^2 repaired."""
    truth = Dataset("zeros", torch.zeros(100, 64), (8, 8))
    dirty = experiment.soiled(truth, "digits", "systematic", 25, 0)
    value = experiment._measured(truth, dirty, dirty.x.mean(0).expand_as(dirty.x))
    assert value["measures"]["repaired"] == pytest.approx(1 - 0.25**2)
    assert value["measures"]["AUC"] == 1


def test_an_oracle_and_a_copy_are_told_apart(small):
    truth = experiment.data("digits", "quick", "")
    for way in WAYS:
        dirty = experiment.soiled(truth, "digits", way, 25, 0)
        assert dirty.mask.any(1).sum() == round(0.25 * len(truth.x))
        oracle = experiment._measured(truth, dirty, truth.x)["measures"]
        assert oracle["repaired"] == oracle["AUC"] == 1 and oracle["mse"] == oracle["damage"] == 0
        copy = experiment._measured(truth, dirty, dirty.x)["measures"]
        assert copy["repaired"] == 0 and copy["AUC"] == 0.5


@pytest.mark.parametrize("method", ["t_vae", "t-VAE, k = 4"])
def test_replicas_are_the_cells_one_by_one(small, method):
    members = [(method, "digits", "systematic", 25, 0), (method, "digits", "random", 5, 1)]
    at = {"scale": "quick", "root": ""}
    for member, value in zip(members, experiment.together(members, **at, engine="graph"), strict=True):
        assert value["measures"] == pytest.approx(experiment.cell(*member, **at)["measures"], rel=1e-3)


def test_where_repair_ends():
    shares = [5, 15, 25, 35, 45]
    by_share = [{"repaired": [1.0 - share / 50] * 2} for share in shares]
    result = {"shares": shares, "measures": {"digits": {"rpca": {"systematic": by_share}}}}
    assert experiment.reproduced_from(result, "digits", "rpca") == 35
    for values in by_share:
        values["repaired"] = [0.9, 0.9]
    assert experiment.reproduced_from(result, "digits", "rpca") is None
