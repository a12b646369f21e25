"""Four guides audited, in small: cells, claims that can go both ways, table and figures."""

import json

import numpy as np
import pytest
import torch

from pyro_vaes.data import Dataset
from pyro_vaes.experiments import guide_audit


def load(name, *, root=None, split="train", limit=None):
    rows, seed = (130, 0) if split == "train" else (40, 1)
    shape = (28, 20) if name == "frey" else (28, 28)
    x = torch.rand(rows, shape[0] * shape[1], generator=torch.Generator().manual_seed(seed)).square()
    return Dataset(name, x[:limit], shape, None)


@pytest.mark.slow
def test_the_rows_in_small(monkeypatch, in_this_process, tmp_path):
    monkeypatch.setattr(guide_audit, "load", load)
    monkeypatch.setattr(guide_audit, "HELD_OUT", 10)
    small = {
        "steps": 2, "data": 6, "audited": 2, "draws": 40, "samples": 20, "warmup": 10, "depth": 3, "hidden": [8],
        "latent_dim": 2, "filters": [4, 4], "seeds": [0, 1], "slow seeds": {"crvae": [0]}, "ic_vae chains": {},
    }  # fmt: skip
    monkeypatch.setitem(guide_audit.SCALES, "quick", {**guide_audit.SCALES["quick"], **small})
    result = json.loads(guide_audit.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert [(row["data"], row["row"]) for row in result["rows"]] == [
        (name, row) for name in guide_audit.SETS for row in guide_audit.ROWS
    ]
    for row in result["rows"]:
        for seed in row["seeds"]:
            assert len(seed["k-hat of all"]) == 6 and len(seed["bias_by_entry"]) == len(seed["corrected"]) == 2
    assert guide_audit.table(result).count("\n") == 3 + len(result["rows"])
    assert {v["verdict"] for v in result["verdicts"]} <= {"held", "did not hold", "not tested"}
    for figure in ("gaps", "errors"):
        assert (tmp_path / f"guide-audit.quick.{figure}.png").is_file()


def seed(bias=0.3, corrected=0.1, width=-0.5, khat=0.2, approximation=0.5, amortisation=1.0, mixed=True, sure=True):
    return {
        "log_z_khat": [0.1 if sure else 0.9],
        "bias_by_entry": [[bias, -bias]], "corrected": [[corrected, -corrected]], "log2_width_by_entry": [[width] * 2],
        "k-hat of all": [khat], "approximation": [approximation], "amortisation": [amortisation], "mixed": [mixed],
    }  # fmt: skip


def judged(**rows):
    """Verdicts of made-up rows, by claim; what is not named is as usual, with some spread over seeds."""

    def of(row):
        spread = np.linspace(-0.01, 0.01, 5)
        usual = seed(**rows.get(row, {}))
        return [{**usual, "amortisation": [usual["amortisation"][0] + e]} for e in spread]

    found = [{"data": name, "row": row, "seeds": of(row)} for name in guide_audit.SETS for row in guide_audit.ROWS]
    return {v["claim"]: v["verdict"] for v in guide_audit.verdicts(found)}


def test_claims_go_both_ways():
    claim = "MNIST: the VAE loses more by amortisation than by its family"
    assert judged()[claim] == "held"
    assert judged(vae={"approximation": 2.0})[claim] == "did not hold"
    claim = "Frey: the VAE's guide is narrower than the posterior"
    assert judged()[claim] == "held" and judged(vae={"width": 0.5})[claim] == "did not hold"
    claim = "Frey: the IWAE's guide is less narrow than the VAE's"
    assert judged(iwae={"width": -0.1})[claim] == "held" and judged(iwae={"width": -0.9})[claim] == "did not hold"
    claim = "MNIST: more data have k-hat above 0.7 under the iC-VAE's guide than under the VAE's"
    assert judged(ic_vae={"khat": 0.9})[claim] == "held" and judged(vae={"khat": 0.9})[claim] == "did not hold"
    claim = "MNIST: crvae: smoothed weights bring the guide's mean nearer to that of NUTS"
    assert judged()[claim] == "held" and judged(crvae={"corrected": 0.5})[claim] == "did not hold"


def test_without_a_reference_there_is_no_verdict():
    assert judged(vae={"mixed": False})["Frey: the VAE's guide is narrower than the posterior"] == "not tested"


def test_gaps_without_a_log_z_are_not_judged():
    of = judged(vae={"sure": False})
    assert of["MNIST: the VAE loses more by amortisation than by its family"] == "not tested"
    assert of["MNIST: the IWAE's guide lies further below log p(x) than the VAE's"] == "not tested"


def test_pairs_are_set_side_by_side_on_the_same_data():
    """Two data; the second, which only one of the pairs has a reference for, would turn the sign."""
    one, other = seed(width=-0.5, amortisation=1.0), seed(width=-0.1, amortisation=2.0)

    def both(row, **more):
        return {key: value + row[key] for key, value in seed(**more).items()}

    rows = {
        "vae": both(one, width=5.0, amortisation=9.0, mixed=False, sure=False),
        "iwae": both(other, width=-5.0, amortisation=-9.0),
    }
    found = [
        {"data": name, "row": row, "seeds": [rows.get(row, rows["vae"])] * 5}
        for name in guide_audit.SETS
        for row in guide_audit.ROWS
    ]
    of = {v["claim"]: v for v in guide_audit.verdicts(found)}
    assert of["Frey: the IWAE's guide is less narrow than the VAE's"]["gain"] == pytest.approx(0.4)
    assert of["Frey: the IWAE's guide lies further below log p(x) than the VAE's"]["gain"] == pytest.approx(1.0)
