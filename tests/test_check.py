"""check(pair, data): every test runs or says why not, and what follows from the verdicts is what they say."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from test_contract import SMALL, batch, condition, make

import pyro_vaes as pv
from pyro_vaes.analysis.check import TESTS, USES, Budget, Checked, check
from pyro_vaes.errors import InputError
from pyro_vaes.finding import Finding

check_module = importlib.import_module("pyro_vaes.analysis.check")
SMALLEST = Budget(rows=4, nuts=0, draws=30, simulations=20, samples=20, warmup=10)


def found(*verdicts, **more):
    return Checked("mine", 9, tuple(Finding(test, "?", verdict, "so") for test, verdict in verdicts), {}, **more)


def test_the_worst_verdict_decides_and_what_did_not_run_does_not():
    uses = found(("SBC", "good"), ("VSBC", "caution"), ("PSIS", "not tested")).uses()
    assert uses["the same, for data that the model draws"] == ("with care", ["VSBC"])
    assert uses["codes and functions of them under importance weights"] == ("not known", [])
    assert found(("SBC", "bad"), ("VSBC", "bad")).uses()["the same, for data that the model draws"] == (
        "no",
        ["SBC", "VSBC"],
    )


def test_what_was_not_tested_is_no_plain_yes():
    """Without a mask nobody knows how good the probability of being an outlier is."""
    use = "which entries are outliers, and how likely"
    assert found(("outliers", "good")).uses()[use] == ("with care", ["not tested: outlier probability"])
    assert found(("outliers", "good"), ("outlier probability", "good")).uses()[use][0] == "yes"
    assert found(("outliers", "bad")).uses()[use] == ("no", ["outliers"])


@pytest.mark.parametrize(("nuts", "answer"), [("good", "yes"), ("bad", "with care"), ("not tested", "yes")])
def test_chains_that_disagree_cast_a_doubt_on_weights(nuts, answer):
    uses = found(("PSIS", "good"), ("NUTS", nuts)).uses()
    assert uses["codes and functions of them under importance weights"][0] == uses["log p(x)"][0] == answer


def test_chains_are_of_data_from_all_over(monkeypatch):
    """Of 40 data in order, rows 0, 13, 26 and 39; of these, the first and the last."""
    seen = []

    def compare(pair, x, y, **arguments):
        seen.append(x)
        raise InputError("enough")

    monkeypatch.setattr(check_module, "compare", compare)
    x = batch("l2_vae", 40)
    check(make("l2_vae"), x, budget=replace(SMALLEST, nuts=2))
    assert torch.equal(seen[0], x[[0, 39]].to(seen[0]))


def test_imputations_are_held_against_what_was_hidden():
    """A model that knows nothing samples its posterior well, and its imputations are worth nothing."""
    pair, x = make("l2_vae"), batch("l2_vae", 12)
    with torch.no_grad():
        for p in pair.model.decoder.parameters():  # mu(z) is one dark image, whatever z is
            p.fill_(0.0 if p.ndim > 1 else -10.0)
    (finding,) = (f for f in check(pair, x, budget=SMALLEST).findings if f.test == "imputation")
    assert finding.verdict == "caution" and finding.said.endswith("the model does not help")
    assert finding.numbers["rms"] > finding.numbers["rms of column means"] > 0


def test_no_density_no_likelihood():
    assert found(("PSIS", "good"), normalised=False).uses()["log p(x)"] == ("no", ["p is no density"])
    assert found(("PSIS", "good")).uses()["log p(x)"] == ("yes", ["PSIS"])


def test_it_fits_on_a_screen():
    pair, x = make("gaussian_vae"), batch("gaussian_vae", 6)
    text = str(check(pair, x, budget=SMALLEST))
    assert max(map(len, text.splitlines())) <= 110
    assert len(text.splitlines()) <= 50
    assert all(use in text for use in USES)


@pytest.mark.slow
def test_an_exact_guide_is_trusted_and_a_narrow_one_is_not():
    """The linear-Gaussian pair whose guide is the posterior, and the same with a third of its width."""
    from test_sbc import pair_with

    budget = Budget(rows=8, nuts=2, draws=200, simulations=200, samples=80, warmup=80)
    for width, answer in ((1.0, {"yes"}), (0.3, {"no", "with care"})):
        pair = pair_with(scale=width)
        uses = check(pair, pv.sample(pair, 8, noise=True), budget=budget).uses()
        for use in list(USES)[:3]:
            assert uses[use][0] in answer, (width, use, uses[use])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name):
    pair, x, y = make(name), batch(name, 8), condition(name, 8)
    budget = Budget(rows=6, nuts=2, draws=50, simulations=40, samples=20, warmup=10)
    before, state = torch.get_rng_state(), {n: p.clone() for n, p in pair.state_dict().items()}
    result = check(pair, x, y, budget=budget)
    assert set(result.seconds) == set(TESTS)
    assert result.findings
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[n], p) for n, p in pair.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 3}, "budget is 3: it must be a Budget"),
        ({"mask": torch.ones(6, 8)}, "mask must be a bool tensor of shape"),
        ({"x": torch.rand(1, 8)}, "x holds one datum"),
        ({"x": torch.rand(6, 9)}, "x has 9 entries per datum"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input(arguments, message):
    arguments = {"x": batch("gaussian_vae", 6), **arguments}
    with pytest.raises(InputError, match=message):
        check(make("gaussian_vae"), arguments.pop("x"), **arguments)


@pytest.mark.parametrize("bad", [{"rows": 1}, {"draws": 3}, {"hidden": 0.0}, {"hidden": True}, {"nuts": -1}])
def test_bad_budgets(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Budget(**bad)


def test_the_command(tmp_path, capsys):
    from pyro_vaes.cli import main

    run = str(tmp_path / "run")
    words = ["--data", "digits", "--limit", "40", "--steps", "3", "--hidden", "[8]", "--latent_dim", "2"]
    assert main(["fit", "t_vae", *words, "--corrupt", "impulse:0.2", "--out", run, "--engine", "eager"]) == 0
    assert main(["check", run, "--rows", "4", "--nuts", "0", "--draws", "30", "--simulations", "20"]) == 0
    said = capsys.readouterr().out
    assert "What can be trusted" in said
    content = json.loads((tmp_path / "run" / "check.json").read_text())
    assert {f["test"] for f in content["findings"]} >= {"PSIS", "SBC", "outlier probability", "imputation"}
    assert (tmp_path / "run" / "check.png").stat().st_size > 10_000
    assert (tmp_path / "run" / "check.txt").read_text().strip() in said
    assert main(["check", run, "--rows", "1"]) == 2
    assert "rows is 1" in capsys.readouterr().err


def test_arviz_is_not_imported_for_nothing():
    code = "import sys, pyro_vaes, pyro_vaes.cli; print('arviz' in sys.modules, 'xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2
