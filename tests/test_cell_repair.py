"""The experiment on dirty tables: its parts by hand, and all of it in small."""

import json

import pytest
import torch

from pyro_vaes.data.tabular import NOISES, corrupt_cells
from pyro_vaes.experiments import cell_repair
from pyro_vaes.experiments.cell_repair import TRAINED, cell, dirty_table, measured, settings_of, together
from pyro_vaes.experiments.training import trained

torch.set_num_threads(1)


@pytest.fixture
def small(monkeypatch):
    """Two steps, two seeds, one table and three settings, in this process."""
    monkeypatch.setattr(
        "pyro_vaes.experiments.cells.side_by_side",
        lambda cell, settings, *, done, **_: [done(s, cell(*s)) for s in settings],
    )
    monkeypatch.setattr("pyro_vaes.experiments.cells._gpu", lambda: False)
    scale = {"sets": ["wine", "california"], "crossed": False, "steps": 2, "seeds": [0, 1]}
    monkeypatch.setitem(cell_repair.SCALES, "quick", scale)
    monkeypatch.setitem(cell_repair.SHARED, "shares", [0.1, 0.5])
    monkeypatch.setitem(cell_repair.SHARED, "noises", ["gaussian", "mixture"])
    monkeypatch.setitem(cell_repair.SHARED, "hidden", [4])


@pytest.mark.slow
def test_end_to_end_in_small(small, tmp_path):
    path = cell_repair.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert result["settings"]["sets"] == ["wine"]  # there is no California housing to find
    assert result["settings"]["steps"] == 2 and result["settings"]["seeds"] == [0, 1]
    assert result["seconds"] > 0
    assert len(result["rows"]) == 9 * 3  # methods x (two shares of Gaussian noise, one of the mixture)
    for row in result["rows"]:
        assert len(row["row ap"]) == 2
        assert ("smse" in row) == (row["method"] != "forest")
    assert len(result["verdicts"]) == 9 and all(v["seeds"] == 2 for v in result["verdicts"])
    assert sum(b[2] for b in result["reliability"]["wine"]["rvae"]) == 178 * 13 * 4
    drawn = {p.name for p in tmp_path.glob("*.png")}
    assert drawn == {f"cell-repair.quick.{n}-wine.png" for n in ("ap", "smse", "reliability")}
    assert cell_repair.table(result).count("\n") == 1 + 9
    assert not list(tmp_path.glob("*.cells"))


def test_scales_have_every_noise_and_share():
    quick, paper = settings_of("quick", ["wine", "cancer"]), settings_of("paper", ["wine"])
    assert len(quick) == 9 * 2 * 8 and len(set(quick)) == len(quick)
    assert len(paper) == 9 * 1 * 20
    assert {s[2] for s in quick} == set(NOISES) == {s[2] for s in paper}


def test_a_dirty_table_is_standardised_by_itself():
    truth, x, mask = dirty_table("wine", "gaussian", 0.2, 0, "")
    assert mask.any(1).sum() == 36 and set(mask.sum(1).tolist()) == {0, 3}
    assert torch.equal(x[~mask], truth[~mask])
    torch.testing.assert_close(x.quantile(0.5, dim=0), torch.zeros(13), rtol=0, atol=1e-5)
    spread = x.quantile(0.75, dim=0) - x.quantile(0.25, dim=0)
    torch.testing.assert_close(spread, torch.full((13,), 1.349), rtol=1e-4, atol=1e-4)


def test_an_oracle_is_perfect_and_chance_is_chance():
    truth, x, mask = dirty_table("cancer", "laplace", 0.5, 1, "")
    oracle = measured(torch.where(mask, -20.0, -1e-9).double(), truth, truth, x, mask)
    assert [oracle[k] for k in ("cell ap", "cell auc", "row ap", "row auc")] == [1.0] * 4
    assert oracle["smse"] == oracle["raw smse"] == oracle["damage"] == 0.0
    assert oracle["ece"] < 1e-6 and oracle["brier skill"] > 0.999
    g = torch.Generator().manual_seed(0)
    chance = measured(torch.rand(x.shape, generator=g).double().log(), x, truth, x, mask)
    assert abs(chance["cell auc"] - 0.5) < 0.03 and abs(chance["cell ap"] - 0.1) < 0.02
    assert chance["smse"] == chance["raw smse"] == chance["unrepaired"] > 5


def test_only_what_is_thought_dirty_is_replaced():
    truth = torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    x, mask = truth.clone(), torch.zeros(3, 2).bool()
    x[0, 0], mask[0, 0] = 9.0, True
    x[1, 1], mask[1, 1] = 9.0, True
    log_clean = torch.full((3, 2), -0.01).double()
    log_clean[0, 0] = log_clean[2, 1] = -5.0  # one found, one missed, one false alarm
    found = measured(log_clean, torch.ones(3, 2), truth, x, mask)
    variance = 8 / 9
    assert found["smse"] == pytest.approx((1 / variance + 49 / variance) / 2)
    assert found["damage"] == pytest.approx((0 + (1 / 2) / variance) / 2)
    assert found["raw damage"] == pytest.approx(1 / variance)


@pytest.mark.parametrize("method", ["rvae", "t_vae", "median"])
def test_cells_together_are_the_cells_alone(method, small):
    settings = [(method, "wine", "gaussian", 0.1), (method, "wine", "mixture", 0.5)]
    for setting, found in zip(settings, together(settings, scale="quick", root=""), strict=True):
        alone = cell(*setting, scale="quick", root="")
        assert len(found) == len(alone) == 2 and alone[0] != alone[1]
        for one, other in zip(alone, found, strict=True):
            one.pop("bins"), other.pop("bins")
            assert other == pytest.approx(one, rel=1e-3, abs=1e-3)


def test_a_cell_of_replicas_is_each_of_its_trainings(small):
    found = cell("rvae", "wine", "gaussian", 0.5, scale="quick", root="")[1]
    truth, x, mask = dirty_table("wine", "gaussian", 0.5, 1, "")
    pair = trained("rvae", x, arguments={"latent_dim": 6, "hidden": [4], "minimum": 0.22}, seed=1, steps=2, lr=0.005)
    alone = measured(*cell_repair.judged(pair, x, 1), truth, x, mask)
    assert found["cell ap"] == pytest.approx(alone["cell ap"], abs=1e-3)
    assert found["raw smse"] == pytest.approx(alone["raw smse"], rel=1e-3)


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_takes_real_data(method):
    _, x, _ = dirty_table("wine", "gaussian", 0.1, 0, "")
    arguments = {"latent_dim": 3, "hidden": [8], **TRAINED[method]}
    assert trained(method, x, arguments=arguments, steps=2).range is None


@pytest.mark.slow
def test_a_mixture_per_cell_finds_gross_errors_of_a_line():
    """In small what the experiment is about: correlated columns, few steps, and a clear gain over a plain VAE."""
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(300, 2, generator=g) @ torch.randn(2, 8, generator=g) + 0.1 * torch.randn(300, 8, generator=g)
    dirty = corrupt_cells(clean / clean.std(0), "gaussian", 0.2)
    found = {}
    for name in ("rvae", "l2_vae"):
        arguments = {"latent_dim": 2, "hidden": [16], **TRAINED[name]}
        pair = trained(name, dirty.x, arguments=arguments, steps=400, lr=0.01, engine="graph")
        found[name] = measured(*cell_repair.judged(pair, dirty.x, 0), clean / clean.std(0), dirty.x, dirty.mask)
    assert found["rvae"]["cell ap"] > found["l2_vae"]["cell ap"] + 0.05
    assert found["rvae"]["smse"] < 0.5 * found["l2_vae"]["smse"]
