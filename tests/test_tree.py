"""A posterior on paper: what is in it for every variant, and that a file of it is the tree itself."""

import json
import os
import tracemalloc

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray
from test_complete import IMPROPER, POINTS, linear_pair
from test_contract import SMALL, batch, condition, latent, make

import pyro_vaes as pv
from pyro_vaes.analysis import netcdf
from pyro_vaes.analysis.batches import batches
from pyro_vaes.analysis.plan import planned
from pyro_vaes.analysis.replicate import drawable
from pyro_vaes.analysis.target import look, target
from pyro_vaes.inference.densities import quietly
from pyro_vaes.models.sparse_outlier import SparseOutlier

BLOCKS = {"bcvae", "crvae", "crvae_gan", "crvae_classifier"}
# One of each kind: the two ways share all but the last step, and a file takes a second.
WRITTEN = {"ic_vae", "crvae", "m2_vae", "autoencoder"}
SETTINGS = {"draws": 30, "replicates": 3, "shape": (2, 4), "seed": 1, "batch_size": 2, "chunk": 20}
IMAGE = {"chain": 1, "draw": 3, "datum": 3, "row": 2, "column": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name, tmp_path):
    """Groups, dimensions and what was left out; the file is the tree, and so is the file that xarray writes of it."""
    pair, x, y = make(name), batch(name, 3), condition(name, 3)
    tree = pv.to_datatree(pair, x, y, labels=torch.tensor([2, 0, -1]), **SETTINGS)
    sites, left_out = look(pair, x, y), json.loads(tree.attrs["left_out"])
    posterior = tree["posterior"]
    if name in BLOCKS:
        assert dict(posterior["z"].sizes) == {"chain": 1, "draw": 30, "datum": 3, "block": 2, "z_dim": 2}
        assert posterior["block"].values.tolist() == [1, 2] and set(posterior.data_vars) == {"z"}
    else:
        for site, shape in sites.code.items():
            assert posterior[site].dims == ("chain", "draw", "datum", *[f"{site}_dim"] * len(shape))
    wide = {n for n, width in latent(name).items() if width == 8 and n in ("s", "w")}
    for group in ("posterior_predictive", "prior_predictive"):
        images = tree[group].data_vars
        assert set(images) == {"x", "mu"} | (wide if group == "posterior_predictive" else set())
        assert all(dict(v.sizes) == IMAGE and np.isfinite(v.values).all() for v in images.values())
    assert set(tree["prior"].data_vars) == set(posterior.data_vars) | wide
    stats = tree["sample_stats"]
    assert stats["log_weight"].shape == (1, 30, 3) and stats["khat"].shape == stats["ess"].shape == (3,)
    assert np.isnan(stats["log_weight"]).all() == np.isnan(stats["ess"]).all() == (name in POINTS | {"induced_ae"})
    assert ("log_likelihood" in tree) == (name not in IMPROPER) == ("log_likelihood" not in left_out)
    assert ("elpd" in stats) == (sites.normalised and not sites.point_mass)
    assert (name in POINTS | {"induced_ae"}) == ("sample_stats.log_weight, khat, ess" in left_out)
    assert np.array_equal(tree["observed_data"]["x"].values.reshape(3, 8), x.numpy())
    assert tree["constant_data"]["label"].values.tolist() == [2, 0, -1]
    assert ("condition" in tree["constant_data"]) == (y is not None)
    assert "NOT a Markov chain" in tree.attrs["sampling"] and tree.attrs["pair"] == name
    if name in WRITTEN:
        ours = pv.write_posterior(tmp_path / "a.nc", pair, x, y, labels=torch.tensor([2, 0, -1]), **SETTINGS)
        xarray.testing.assert_identical(pv.open_posterior(ours), tree)


def test_the_file_is_what_xarray_would_write(tmp_path):
    pair, x = make("t_vae"), batch("t_vae", 5)
    given = {"mask": torch.ones(8), "dirty": (x > 0.5), "labels": torch.arange(5), **SETTINGS}
    tree = pv.to_datatree(pair, x, **given)
    tree.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    pv.write_posterior(tmp_path / "ours.nc", pair, x, **given)
    with (pv.open_posterior(tmp_path / "ours.nc", lazy=True) as ours,
          pv.open_posterior(tmp_path / "theirs.nc", lazy=True) as theirs):  # fmt: skip
        xarray.testing.assert_identical(ours, theirs)
        for group in theirs.children:
            for name, variable in theirs[group].variables.items():
                mine = ours[group][name].encoding
                assert mine["dtype"] == variable.encoding["dtype"]
                assert str(mine.get("_FillValue")) == str(variable.encoding.get("_FillValue"))
    assert tree["constant_data"]["dirty"].values.sum() == int((x > 0.5).sum())
    assert tree["constant_data"]["mask"].values.all()


def test_the_numbers_are_the_target_s():
    """A second way to the same draws: the target itself, seeded where the tree says it is."""
    pair, x = make("ic_vae"), batch("ic_vae", 4)
    tree = pv.to_datatree(pair, x, draws=30, replicates=5, shape=None, seed=7, batch_size=2, chunk=100)
    with quietly(pair):
        drawn = target(pair, x[2:]).draw(30, (7, 2, 0))
    late = tree.isel(datum=slice(2, 4))
    assert np.array_equal(late["posterior"]["z"].values[0], drawn.values["z"].numpy())
    assert np.array_equal(late["sample_stats"]["log_weight"].values[0], drawn.log_weights.numpy())
    assert np.array_equal(late["posterior_predictive"]["mu"].values[0], drawn.mean[:5].numpy())
    s = late["posterior_predictive"]["s"].values[0]
    np.testing.assert_allclose(s, (x[2:] - drawn.mean[:5]).numpy(), atol=1e-6)
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "datum", "entry")


@pytest.mark.parametrize("name", ["ic_vae", "affine_ic_vae", "indexed_ic_vae", "t_vae", "rvae"])
def test_replicas_know_nothing_of_the_datum_s_own_outliers(name):
    """With the datum's own s, w or covariance a dirty entry would come back dirty: the check would be vacuous."""
    pair, x = make(name), batch(name, 3)
    dirty = x.clone()
    dirty[:, 0] = 1.0 if pair.range else 50.0
    tree = pv.to_datatree(pair, dirty, draws=40, replicates=40)
    images = tree["posterior_predictive"]
    residual = (images["x"] - images["mu"]).values[0]
    own = (torch.as_tensor(images["mu"].values[0]) - dirty).numpy()
    # Correlation over draws and data of the new residual with the datum's own.
    together = np.corrcoef(np.sign(residual).ravel(), np.sign(own).ravel())[0, 1]
    assert abs(together) < 0.15
    assert not np.isclose(images["x"].values[0], dirty.numpy(), atol=1e-3).mean() > 0.05


def test_replicas_of_the_linear_model_have_its_variance():
    """x_rep given x is N(W m + b, W V W' + sd^2 I) for the exact guide N(m, V), and its clean mean lacks sd^2."""
    pair = linear_pair(blind=True)
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    tree = pv.to_datatree(pair, x, draws=4000, replicates=4000, batch_size=1, chunk=4000)
    w, b = pair.model.decoder.weight.data, pair.model.decoder.bias.data
    v = (torch.eye(2) + w.T @ w / 0.25).inverse()
    m = (x - b) @ w / 0.25 @ v
    for name, noise in (("mu", 0.0), ("x", 0.25)):
        found = torch.as_tensor(tree["posterior_predictive"][name].values[0])
        expected = (w @ v @ w.T).diagonal() + noise
        torch.testing.assert_close(found.var(0), expected.expand(2, -1), rtol=0.12, atol=1e-3)
        torch.testing.assert_close(found.mean(0), m @ w.T + b, rtol=0.02, atol=0.04)
    # The guide is the posterior: its weights are constant, k-hat is 0, and every draw counts.
    assert tree["sample_stats"]["khat"].values.tolist() == [0, 0]
    np.testing.assert_allclose(tree["sample_stats"]["ess"], 4000)
    cov = w @ w.T + 0.25 * torch.eye(8)
    exact = dist.MultivariateNormal(b, cov).log_prob(x)
    np.testing.assert_allclose(tree["sample_stats"]["elpd"], exact)


def test_what_cannot_be_drawn_is_left_out_and_said():
    """An outlier of infinite width: no replica, no prior; all else is there."""
    ic = make("ic_vae")
    model = SparseOutlier(ic.model.prior, ic.model.decoder, ic.model.floor, width=float("inf"))
    pair, x = pv.Pair(model, ic.guide, name="improper"), batch("ic_vae", 3)
    assert all("cannot be drawn" in why for why in drawable(pair, x, None, look(pair, x)))
    tree = pv.to_datatree(pair, x, **SETTINGS)
    assert set(tree.children) == {"posterior", "posterior_predictive", "sample_stats", "observed_data"}
    assert set(tree["posterior_predictive"].data_vars) == {"mu", "s"}
    left_out = json.loads(tree.attrs["left_out"])
    assert set(left_out) == {"posterior_predictive.x", "prior, prior_predictive", "log_likelihood"}
    assert "improper and cannot be drawn" in left_out["prior, prior_predictive"]


def test_a_hierarchy_of_equal_widths_is_no_set_of_blocks():
    pair = pv.iwae_2(8, 3, (5,), middle=3, middle_hidden=(5,), particles=2)
    tree = pv.to_datatree(pair, batch("vae", 2), draws=2)
    assert set(tree["posterior"].data_vars) == {"z_1", "z_2"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """Four times the data, and the same peak; no array that is handed on holds more than a batch."""
    pair = make("t_vae")
    x = torch.rand(400, 8, generator=torch.Generator().manual_seed(0))
    settings = {
        "draws": 24,
        "replicates": 24,
        "batch_size": 50,
        "chunk": 24,
    }  # too few for a k-hat, which takes its time
    peaks = []
    for rows in (50, 100, 400):  # the first warms up
        tracemalloc.start()
        pv.write_posterior(tmp_path / "posterior.nc", pair, x[:rows], **settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = sum(v.nbytes for g in pv.open_posterior(tmp_path / "posterior.nc").children.values()
                for v in g.data_vars.values())  # fmt: skip
    assert peaks[2] - peaks[1] < 0.02 * whole, (peaks, whole)
    plan = planned(pair, x[:120], None, shape=None, labels=None, mask=None, dirty=None, seed=0, **settings)
    seen = []
    for rows, found in batches(plan):
        seen.append((rows.start, rows.stop))
        for group, name, variable in netcdf.every(plan):
            assert found[group][name].shape[variable.dims.index("datum")] == rows.stop - rows.start <= 50
    assert seen == [(0, 50), (50, 100), (100, 120)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_stopped_leaves_what_was_there(tmp_path, monkeypatch, error):
    pair, x, path = make("vae"), batch("vae", 6), tmp_path / "posterior.nc"
    path.write_text("the old one")

    def stopped(plan, progress, ranks=None):
        for i, found in enumerate(batches(plan, progress)):
            if i == 1:
                raise error
            yield found

    monkeypatch.setattr(netcdf, "batches", stopped)
    with pytest.raises(error):
        pv.write_posterior(path, pair, x, **SETTINGS)
    assert path.read_text() == "the old one" and os.listdir(tmp_path) == ["posterior.nc"]
    monkeypatch.undo()
    pv.write_posterior(path, pair, x, **SETTINGS)
    assert pv.open_posterior(path)["posterior"]["z"].shape == (1, 30, 6, 3) and os.listdir(tmp_path) == ["posterior.nc"]


def test_a_pair_is_left_as_it_was_and_seeds_decide():
    pair, x = make("ladder_vae"), batch("ladder_vae", 4)  # with batch norm
    pair.train(), pair.model.eval()
    modes, state = [m.training for m in pair.modules()], {n: v.clone() for n, v in pair.state_dict().items()}
    random = torch.random.get_rng_state()
    first = pv.to_datatree(pair, x, **SETTINGS)
    assert modes == [m.training for m in pair.modules()] and torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(state[n], v) for n, v in pair.state_dict().items())
    xarray.testing.assert_identical(first, pv.to_datatree(pair, x, **SETTINGS))
    other = pv.to_datatree(pair, x, **{**SETTINGS, "seed": 2})
    assert not np.array_equal(first["posterior"]["z_1"], other["posterior"]["z_1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws is 0"),
        ({"replicates": 1.5}, "replicates is 1.5"),
        ({"shape": (3, 3)}, r"shape is \(3, 3\): it must be \(H, W\) or \(C, H, W\) with 8 entries"),
        ({"labels": torch.zeros(3)}, "labels are"),
        ({"mask": torch.rand(4, 8)}, "mask holds other values"),
        ({"dirty": torch.ones(3, 8)}, r"dirty is \(3, 8\)"),
        ({"seed": -1}, "seed is -1"),
        ({"x": torch.rand(4, 7)}, "x has 7 entries"),
        ({"y": torch.zeros(4)}, "takes no condition"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message, tmp_path):
    arguments = {"x": torch.rand(4, 8), "draws": 5, **change}
    for call in (pv.to_datatree, lambda *a, **b: pv.write_posterior(tmp_path / "a.nc", *a, **b)):
        with pytest.raises(pv.InputError, match=message) as error:
            call(make("gaussian_vae"), **arguments)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(pv.InputError, match="folder that exists"):
        pv.write_posterior(tmp_path / "no" / "a.nc", make("vae"), batch("vae"))
    (tmp_path / "text.nc").write_text("no netCDF")
    with pytest.raises(pv.InputError, match="not a readable netCDF file"):
        pv.open_posterior(tmp_path / "text.nc")
