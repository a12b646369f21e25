"""The course report's bound on Frey faces: its split, its verdicts, its cells, at a smoke size."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pyro_vaes.errors import InputError
from pyro_vaes.experiments import frey_bound
from pyro_vaes.inference.guard import Diverged

PLAN = {"pick epochs": 1, "epochs": 2, "seeds": [0, 1]}


@pytest.fixture
def root(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (560, 130), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": pixels})
    return tmp_path


def rows(report, softplus):
    return [
        {"head": head, "latent": latent, "negative bound": [value, value + 0.1, value - 0.1], "lr": [0.1], "sigma": [1]}
        for head, values in (("course_report", report), ("softplus", softplus))
        for latent, value in zip(frey_bound.LATENT, values, strict=True)
    ]


def test_verdicts_can_go_both_ways():
    theirs = list(frey_bound.PUBLISHED.values())
    assert [v["verdict"] for v in frey_bound.verdicts(rows([v - 1 for v in theirs], [-900] * 4))] == ["held"] * 4
    flat = frey_bound.verdicts(rows([250.0] * 4, [250, 260, 250, 250]))
    assert [v["verdict"] for v in flat] == ["did not hold"] * 4


def test_nobody_trains_on_what_is_held_out():
    x = torch.arange(1965.0)[:, None]
    train, held_out = frey_bound.split(x, 3)
    assert sorted([*train.flatten().tolist(), *held_out.flatten().tolist()]) == x.flatten().tolist()
    assert not torch.equal(held_out, frey_bound.split(x, 4)[1]) and torch.equal(held_out, frey_bound.split(x, 3)[1])


def test_rates_are_picked_on_a_part_of_the_training_faces(monkeypatch):
    """The best on the validation part is taken; one that diverges later gives way to the next."""
    seen, train = [], torch.arange(200.0)[:, None]

    def trained(name, x, *, lr, **options):
        seen.append((lr, len(x)))
        assert options["optimiser"] == "adagrad" and options["schedule"] == "constant"
        if lr == 0.1 or (lr == 0.02 and len(x) == 200):
            raise Diverged("no")
        return lr

    monkeypatch.setattr(frey_bound, "trained", trained)
    monkeypatch.setattr(frey_bound, "bound", lambda pair, x: pair if len(x) == 20 else None)
    assert frey_bound.fitted(train, {}, 0, PLAN) == (0.01, 0.01)
    assert seen == [(0.1, 180), (0.01, 180), (0.02, 180), (0.02, 200), (0.01, 200)]
    monkeypatch.setattr(frey_bound, "RATES", (0.1,))
    with pytest.raises(InputError, match="diverges at every rate"):
        frey_bound.fitted(train, {}, 0, PLAN)


def test_a_smoke_size_of_the_whole(root, tmp_path, monkeypatch, in_this_process):
    monkeypatch.setattr(frey_bound, "LATENT", (2, 5))
    monkeypatch.setattr(frey_bound, "PUBLISHED", {2: 236.67, 5: 241.69})
    monkeypatch.setitem(frey_bound.SCALES, "quick", PLAN)
    path = frey_bound.reproduce(tmp_path / "out", "quick", root)
    names = {"frey-bound.quick.json", "frey-bound.quick.curve.png", "frey-bound.quick.faces.png"}
    assert names == {file.name for file in path.parent.iterdir()}
    import json

    result = json.loads(path.read_text())
    report = [v for row in result["rows"] if row["head"] == "course_report" for v in row["negative bound"]]
    assert len(report) == 4 and min(report) > frey_bound.SMALLEST
    table = frey_bound.table(result)
    assert table.count("\n") == 5 and "236.67" in table and "234.61" in table
