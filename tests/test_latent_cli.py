"""The command latent end to end, and the figures it is made of."""

import json
import math

import pytest
import torch
from test_contract import batch, condition, make

from pyro_vaes.cli import main
from pyro_vaes.commands.latent import drawn, measured, said
from pyro_vaes.commands.samples import judged
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation import latent_plots
from pyro_vaes.evaluation.aggregated import aggregated
from pyro_vaes.evaluation.report import png

SMALL = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "3", "--limit", "60"]
FIGURES = {"qq", "moments", "spectrum", "pruning", "scatter", "traversals"}


def fitted(folder, variant, *options):
    assert main(["fit", variant, "--out", str(folder), *options]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "t", "t_vae", "--corrupt", "impulse:0.2", *SMALL)


def test_latent_writes_numbers_and_figures(run, tmp_path, capsys):
    assert main(["latent", run, "--draws", "500", "--rows", "50"]) == 0
    out = capsys.readouterr().out
    assert "t_vae: site z, 3 dimensions; 500 draws of the aggregated posterior of 50 data" in out
    assert out.count("\n") < 24
    folder = tmp_path.__class__(run)
    assert {p.name for p in folder.glob("latent-*.png")} == {f"latent-{name}.png" for name in FIGURES}
    found = json.loads((folder / "latent.json").read_text())
    assert sorted(found["used"] + found["pruned"]) == [1, 2, 3]
    assert len(found["moments"]["kurtosis"]) == len(found["singular values of the covariance"]) == 3
    assert found["standard errors of the moments"]["mean"] == pytest.approx(math.sqrt(1 / 500 + 1 / 50))
    assert list(found["mmd^2"]) == ["N(0, I)"]


@pytest.mark.parametrize(
    ("name", "site", "known", "figures"),
    [
        ("ladder_vae", "z_2", 1, None),
        ("ladder_vae", "z_1", 2, None),
        ("cvae", "z", 1, FIGURES),
        # One dimension is no scatter plot.
        ("memoriser", "z", 1, FIGURES - {"scatter"}),
        ("vamp_vae", "z", 2, None),
    ],
)
def test_hierarchies_conditions_and_other_priors(name, site, known, figures):
    pair, x, y = make(name), batch(name), condition(name)
    found = aggregated(pair, x, y, site=site, draws=200)
    numbers = measured(pair, found, y, 0)
    assert numbers == measured(pair, found, y, 0)
    assert len(numbers["mmd^2"]) == known and len(said(numbers)) < 14
    assert figures is None or set(drawn(pair, found, x, y, torch.arange(10), (2, 4), "t")) == figures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "u"], "unknown site 'u'"),
        (["--draws", "1"], "draws is 1"),
        (["--rows", "1"], "rows is 1"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_bad_arguments_end_in_one_line(run, options, message, capsys):
    assert main(["latent", run, *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_a_pair_without_a_code_is_told_so(tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from pyro_vaes.variants.conditional import direct_output\n\n\n"
        "def make(data_dim: int, condition_dim: int = 10):\n"
        "    return direct_output(data_dim, condition_dim, (4,))\n"
    )
    run = fitted(
        tmp_path / "run", f"{tmp_path / 'own.py'}:make", "--steps", "2", "--limit", "50", "--binarise", "threshold05"
    )
    assert main(["latent", run]) == 2
    assert "direct_output has no code of real numbers" in capsys.readouterr().err


# --- the figures -------------------------------------------------------------------------------------------------


def draws():
    g = torch.Generator().manual_seed(0)
    return {"near": torch.randn(300, 4, generator=g), "far": 1 + 2 * torch.randn(300, 2, generator=g)}


def test_a_scatter_shows_the_two_dimensions_of_largest_variance_and_the_circles():
    z = draws()
    z["near"][:, [1, 3]] *= 3
    labels = {"near": torch.arange(300) % 3}
    figure = latent_plots.scatter(z, labels=labels, title="t")
    near, far = figure.axes
    assert (near.get_xlabel(), near.get_ylabel()) == ("entry 2 of z", "entry 4 of z")
    colours = near.collections[0].get_facecolors()
    assert len(colours) == 300 and len({tuple(c) for c in colours}) == 3 and (colours[0] == colours[3]).all()
    assert len(far.collections[0].get_facecolors()) == 1
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["0", "1", "2"]
    radii = [float(line.get_xdata()[0]) for line in near.lines]
    inside = [(torch.randn(100_000, 2).norm(dim=1) < r).float().mean().item() for r in radii]
    assert inside == pytest.approx([0.5, 0.9, 0.99], abs=0.01)
    assert png(figure)
    with pytest.raises(InputError, match="one dimension"):
        latent_plots.scatter({"a": torch.randn(9, 1)})


def test_figures_show_what_they_are_given():
    z = draws()
    lines = latent_plots.spectra(z).axes[0].lines
    assert [len(line.get_xdata()) for line in lines[1:]] == [4, 2]
    # A code of lower dimension than its space is seen on a logarithmic axis only.
    flat = torch.cat([z["near"], z["near"]], 1)
    assert latent_plots.spectra({"flat": flat}).axes[0].get_yscale() == "log"
    variances = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    ax = latent_plots.pruning({"a": variances}, used={"a": torch.tensor([True, False])}).axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["used: 1 of 2", "pruned: 1 of 2"]
    assert max(p.get_height() for p in ax.patches) == 50
    figure = latent_plots.neighbour_histograms({"data": torch.rand(40), "samples": torch.rand(9)}, reference="data")
    assert [len(ax.lines) for ax in figure.axes] == [1, 2]
    assert png(latent_plots.qq(z)) and png(latent_plots.moment_panels(z, data=50, title="t"))
    with pytest.raises(InputError, match="nothing to draw"):
        latent_plots.qq({})
    with pytest.raises(InputError, match="reference 'x'"):
        latent_plots.neighbour_histograms({"data": torch.rand(4)}, reference="x")


# --- evaluate --samples ------------------------------------------------------------------------------------------


def test_evaluate_judges_samples_against_clean_data_of_the_run(run, tmp_path, capsys):
    assert main(["evaluate", run, "--samples", "20"]) == 0
    found = json.loads((tmp_path.__class__(run) / "evaluation.json").read_text())
    assert {"20 samples: frechet distance", "20 data: coverage", "20 samples: density"} <= set(found)
    assert len(found["features: sha256 of a classifier of these data"]) == 64
    # Three steps make no digits.
    assert found["20 samples: frechet distance"] > found["20 data: frechet distance"]
    assert "20 samples: recall: " in capsys.readouterr().out
    assert "FID" not in " ".join(found)


def test_samples_under_labels_have_those_of_the_data(monkeypatch):
    pair, x = make("cvae"), batch("cvae", rows=60)
    labels = torch.arange(60) % 3
    asked = []
    monkeypatch.setattr("pyro_vaes.inference.posterior.sample", lambda *a, **k: asked.append(a) or batch("cvae", 20))
    found = judged(pair, x, labels, (2, 4), 20)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(asked[0][2], labels[order[:20]])
    assert found == judged(pair, x, labels, (2, 4), 20) and judged(pair, x, labels, (2, 4), 0) == {}


@pytest.mark.parametrize(
    ("samples", "message"), [("5", "from 10 to 30"), ("31", "from 10 to 30"), ("-1", "samples is -1")]
)
def test_too_few_or_many_samples_are_refused(run, samples, message, capsys):
    assert main(["evaluate", run, "--samples", samples]) == 2
    assert message in capsys.readouterr().err


def test_samples_of_data_without_labels_are_refused(tmp_path, capsys):
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 4, 4), dtype=np.float32))
    run = fitted(tmp_path / "run", "l2_vae", "--data", str(tmp_path / "x.npy"), *SMALL[:4], "--steps", "2")
    assert main(["evaluate", run, "--samples", "10"]) == 2
    assert "has no labels" in capsys.readouterr().err
