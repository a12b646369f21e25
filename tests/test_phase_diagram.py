"""The manifold with outliers, and the experiment on it, small."""

import json

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.data.manifold import contaminated
from pyro_vaes.experiments import phase_diagram as experiment

SMALL = {
    "rows": 60, "entries": 8, "ratios": [0.05], "dimensions": {"linear": [1], "curved": [1]},
    "hidden": [8], "steps": 20, "batch_size": 30, "seeds": [0, 1],
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_the_problem_is_what_it_says(kind):
    clean, dirty, mask = contaminated(4000, 20, 2, 0.3, kind=kind, magnitude=5.0, generator=seeded())
    assert clean.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert mask.float().mean().item() == pytest.approx(0.3, abs=0.01)
    moved = dirty - clean
    assert (moved[~mask] == 0).all()
    assert moved[mask].abs().max() <= 5 and moved[mask].std().item() == pytest.approx(5 / 3**0.5, rel=0.03)
    # A plane has two singular values, a curved sheet many more.
    values = torch.linalg.svdvals(clean.double())
    assert (values > 1e-5 * values[0]).sum() == (2 if kind == "linear" else 20)
    again = contaminated(4000, 20, 2, 0.1, kind=kind, magnitude=5.0, generator=seeded())
    assert torch.equal(again.clean, clean) and (again.mask <= mask).all()


def test_the_curved_manifold_has_the_dimension_it_is_given():
    """Neighbours along the one code are neighbours in space: the rows, in the order of a curve, take short steps."""
    clean = contaminated(4000, 20, 1, 0.0, kind="curved", generator=seeded()).clean
    nearest = torch.cdist(clean, clean).fill_diagonal_(torch.inf).min(1).values
    assert nearest.median() < 0.02 * clean.norm(dim=1).mean()


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"rank": 9}, "at most d"), ({"ratio": 1.5}, "between 0 and 1"), ({"kind": "curve"}, "did you mean 'curved'"),
     ({"n": 0}, "n is 0"), ({"magnitude": 0.0}, "magnitude")],
)  # fmt: skip
def test_bad_problems_are_refused(bad, message):
    with pytest.raises(pv.InputError, match=message):
        contaminated(**{"n": 10, "d": 8, "rank": 2, "ratio": 0.1, "generator": seeded(), **bad})


def test_from_cells_to_table(monkeypatch, in_this_process, tmp_path):
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **SMALL})
    path = experiment.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert np.shape(result["errors"]["curved"]["ic_vae"]) == (1, 1, 2)
    assert max(result["errors"]["linear"]["convex"][0][0]) < 0.1
    assert len(result["verdicts"]) == 12
    lines = experiment.table(result).splitlines()
    assert len(lines) == 10 and lines[2].startswith("| linear | convex RPCA | ")
    assert [p.name for p in tmp_path.glob("*.png")] == ["phase-diagram.quick.maps.png"]


def test_claims_by_hand():
    """Two ratios of one dimension, two seeds: convex recovers 1, 1; the VAE 2, 1; the induced one 0, 1."""
    errors = {"linear": {
        "convex": [[[0.01, 0.01], [0.5, 0.5]]], "induced_ae": [[[0.2, 0.2], [0.3, 0.01]]],
        "sigma_vae": [[[0.5, 0.5], [0.5, 0.5]]], "ic_vae": [[[0.05, 0.05], [0.05, 0.2]]],
    }}  # fmt: skip
    contains, more, than_induced = experiment.verdicts(errors)[3:]
    assert contains["gain"] == pytest.approx(0.05) and contains["seeds"] == 2
    assert contains["verdict"] == "did not hold"  # two of two may still be one half
    assert more["gain"] == pytest.approx(0.25) and more["verdict"] == "did not hold"
    assert than_induced["gain"] == pytest.approx((1.0 + 0.0) / 2)
    assert experiment.verdicts(errors)[0]["gain"] == pytest.approx(-0.95)
    errors["linear"]["convex"] = [[[0.5, 0.5], [0.5, 0.5]]]
    assert experiment.verdicts(errors)[3]["verdict"] == "not tested"
