"""The command posterior end to end, and the figures it is made of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import batch, condition, make

import pyro_vaes as pv
from pyro_vaes.analysis import posterior_plots as plots
from pyro_vaes.analysis.latents import latents
from pyro_vaes.cli import main
from pyro_vaes.commands.posterior import drawn
from pyro_vaes.evaluation.report import png

SMALL = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "3", "--limit", "60"]
FIGURES = {"forest", "prior", "pairs", "replicas", "ppc", "khat", "khat-images", "loo"}
OPTIONS = ["--draws", "30", "--rows", "40", "--replicates", "3", "--entries", "2", "--batch_size", "16"]


def fitted(folder, variant, *options):
    assert main(["fit", variant, "--out", str(folder), *options]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "t", "t_vae", "--corrupt", "impulse:0.2", *SMALL)


def test_posterior_writes_the_file_and_figures(run, capsys):
    assert main(["posterior", run, *OPTIONS]) == 0
    out, folder = capsys.readouterr().out, Path(run)
    assert "t_vae: 40 data of digits, 30 draws of the guide each" in out
    assert f'az.from_netcdf("{folder / "posterior.nc"}")' in out and 'var_names=["z"]' in out
    assert {p.stem for p in folder.glob("posterior-*.png")} == {f"posterior-{name}" for name in FIGURES}
    tree = pv.open_posterior(folder / "posterior.nc")
    assert tree["posterior"]["z"].shape == (1, 30, 40, 3)
    assert tree["observed_data"]["x"].dims == ("datum", "row", "column")
    dirty = tree["constant_data"]["dirty"].values
    assert 0 < dirty.mean() < 0.5 and tree["constant_data"]["label"].shape == (40,)
    found = json.loads((folder / "posterior.json").read_text())
    khat = tree["sample_stats"]["khat"].values
    assert found["k-hat"]["rows above 0.7"] == np.flatnonzero(khat > 0.7).tolist()
    assert found["LOO by datum"]["elpd"] == pytest.approx(tree["sample_stats"]["elpd"].values.sum())
    assert found["LOO by entry"]["data"] == 2 and set(found["replica above its datum"]) == set(plots.statistics((8, 8)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "missing"),
    [
        ("ic_vae", (2, 4), {"loo"}),
        ("autoencoder", (8,), {"loo", "khat", "khat-images", "replicas"}),
        ("m2_vae", (2, 4), set()),
        ("memoriser", (1, 2, 4), set()),
        ("crvae", (1, 8), set()),
    ],
)
def test_figures_of_other_pairs(name, shape, missing):
    pair, x, y = make(name), batch(name, 6), condition(name, 6)
    tree = pv.to_datatree(pair, x, y, draws=30, replicates=2, shape=shape)
    stats = {n: v.values for n, v in tree["sample_stats"].data_vars.items() if v.dims == ("datum",)}
    figures, numbers = drawn(tree, tree.isel(datum=slice(3)), stats, None, shape, "t")
    assert set(figures) == FIGURES - missing
    assert name not in ("m2_vae", "autoencoder") or all(png(figure)[1:4] == b"PNG" for figure in figures.values())
    assert 0 <= numbers["used"] <= numbers["latents"]


def test_latents_are_the_most_used_first():
    """Activity by hand, on draws that are all mean; and a class is no latent."""
    tree = pv.to_datatree(make("m2_vae"), batch("m2_vae", 6), condition("m2_vae", 6), draws=50)
    found = latents(tree)
    assert len(found.names) == 3 and all(name.startswith("z[") for name in found.names)
    z = torch.as_tensor(tree["posterior"]["z"].values[0])
    activity = z.mean(0).var(0) - z.var(0).mean(0) / 50
    order = activity.argsort(descending=True)
    np.testing.assert_allclose(found.activity, activity[order], rtol=1e-4, atol=1e-6)
    assert found.names == [f"z[{i}]" for i in order] and found.prior.shape == (20, 6, 3)


def test_hardest_and_ppc_say_what_they_show():
    pair = make("vae")
    tree = pv.to_datatree(pair, batch("vae", 4), draws=30, replicates=2)
    figure = plots.hardest(tree.isel(datum=[2, 0]), (1, 4), (2, 4), title="t")
    assert "row 2" in figure.axes[0].get_title() and "above 0.7 for 1 of 4" in figure.get_suptitle()
    observed = np.zeros((5, 4))
    made = np.ones((3, 5, 4)) + np.arange(4)
    figure = plots.predictive(observed, made, (2, 2), title="t")
    assert "100 %" in figure.axes[0].get_title(loc="left")
    # Binary images: the largest entry is 1 throughout, and no panel.
    binary = np.tile([0.0, 1, 1, 0], (3, 5, 1))
    binary[0, 0] = [1, 0, 0, 0]
    assert len(plots.predictive(binary[1], binary, (2, 2), title="t").axes) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--draws", "0"], "draws is 0"),
        (["--rows", "1"], "rows is 1"),
        (["--entries", "-1"], "entries is -1"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_bad_arguments_end_in_one_line(run, options, message, capsys):
    assert main(["posterior", run, *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
