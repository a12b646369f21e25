"""One file, two ArviZ: it opens in a plain session, and both majors read the same tables from it."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_contract import batch, make

import pyro_vaes as pv

SCRIPT = Path(__file__).with_name("arviz_tables.py")
# Names a Python >= 3.12 with ArviZ >= 1; it needs no torch and no pyro-vaes.
VARIABLE = "PYRO_VAES_ARVIZ1"


def tables(python, path, timeout=300):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, SCRIPT, path], capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("arviz") / "posterior.nc"
    # In float64: the two majors cut a tail with ties at its end in different places.
    pair, x = make("crvae").double(), batch("crvae", 6).double()
    return pv.write_posterior(found, pair, x, draws=120, replicates=3, shape=(2, 4))


@pytest.fixture(scope="module")
def ours(path):
    return tables(sys.executable, path)


def arviz_1():
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with ArviZ 1")
    code = "import arviz; assert int(arviz.__version__.split('.')[0]) >= 1"
    if subprocess.run([python, "-c", code], capture_output=True).returncode:
        pytest.skip(f"{VARIABLE}={python} has no ArviZ 1")
    return python


def reads_hdf5(python):
    codes = ("import h5netcdf, h5py", "import netCDF4")
    return any(not subprocess.run([python, "-c", code], capture_output=True).returncode for code in codes)


def assert_same(one, other):
    assert one["version"].split(".")[0] != other["version"].split(".")[0]
    assert one["entries"] == other["entries"]
    for name in ("mean", "sd", "elpd", "p", "elpd_i", "pareto_k", "khat", "stored khat", "elpd of a datum"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_plain_session_reads_what_we_wrote(path, ours):
    """Another process, without torch or this package, and the numbers that are in the tree."""
    tree = pv.open_posterior(path)
    first = tree["posterior"]["z"].isel(datum=0)
    np.testing.assert_allclose(ours["mean"], first.mean(("chain", "draw")).values.ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["sd"], first.std(("chain", "draw"), ddof=1).values.ravel(), rtol=1e-5)
    assert ours["entries"][:3] == ["z[0, 1, 0]", "z[0, 1, 1]", "z[0, 2, 0]"]  # datum, block, entry
    assert ours["khat"] == pytest.approx(tree["sample_stats"]["khat"].values.tolist())


def test_the_bridge(path):
    tree = pv.open_posterior(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, again = pv.to_arviz(path), pv.to_arviz(tree)
    for group in tree.children:
        assert tree[group].to_dataset().equals(found[group] if isinstance(found[group], type(tree[group].to_dataset()))
                                               else found[group].to_dataset())  # fmt: skip
        assert set(again[group].data_vars) == set(tree[group].data_vars)
    with pytest.raises(pv.InputError, match="posterior is a int"):
        pv.to_arviz(3)
    with pytest.raises(pv.InputError, match="no posterior at"):
        pv.to_arviz(path.with_name("nothing.nc"))


def test_the_second_arviz_gives_the_same_tables(path, ours, tmp_path):
    """From the same numbers; where its Python lacks HDF5, handed over as netCDF-3, group by group."""
    python, handed = arviz_1(), path
    if not reads_hdf5(python):
        handed = tmp_path / "groups"
        handed.mkdir()
        for name, group in pv.open_posterior(path).children.items():
            group.to_dataset().to_netcdf(handed / f"{name}.nc", engine="scipy", format="NETCDF3_64BIT")
    assert_same(ours, tables(python, handed))


def test_the_second_arviz_opens_the_file_itself(path, ours):
    python = arviz_1()
    if not reads_hdf5(python):
        pytest.skip(f"{python} has neither h5py nor netCDF4, without which no Python reads a netCDF-4 file")
    assert_same(ours, tables(python, path))


def newer_python():
    """A Python from 3.12 on: of the system, or of pyenv."""
    named = [shutil.which(f"python3.{minor}") for minor in (12, 13, 14)]
    kept = sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))
    for python in [*named, *kept]:
        code = "import sys, venv; assert sys.version_info >= (3, 12)"
        if python and not subprocess.run([python, "-c", code], capture_output=True).returncode:
            return str(python)
    pytest.skip("no Python from 3.12 on was found, which ArviZ 1 needs")


@pytest.mark.slow
def test_a_fresh_environment_with_the_second_arviz_opens_the_file(path, ours, tmp_path):
    python = newer_python()
    subprocess.run([python, "-m", "venv", tmp_path / "az"], check=True, capture_output=True, timeout=300)
    own = str(tmp_path / "az" / "bin" / "python")
    wanted = ["arviz>=1", "h5netcdf", "h5py", "matplotlib<3.11"]
    done = subprocess.run([own, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.skip(f"pip could not install {' '.join(wanted)}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    assert_same(ours, tables(own, path))
