"""Run folders and the files in them that nobody should give: by hand, one case each."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import pyro_vaes as pv
from pyro_vaes.cli import LONGEST, main


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch owned",))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    np.save(folder / "x.npy", np.random.default_rng(0).random((12, 4, 4), dtype=np.float32))
    words = ["--data", f"{folder}/x.npy", "--steps=2", "--latent_dim=2", "--hidden=[4]", "--out", f"{folder}/run"]
    assert main(["fit", "l2_vae", *words]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "x.npy", "x.npy")
    return tmp_path


def refused(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("pyro-vaes: ") and said.count("\n") == 1 and len(said) < 2 * LONGEST
    return said


def edit(**changes):
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, **changes}))


def test_an_error_is_short_and_cannot_colour_the_terminal(here, capsys):
    edit(target="\x1b[31m\u202ered\a" * 9000)
    said = refused(capsys, "sample", "run")
    assert "\x1b" not in said and "\a" not in said and "\u202e" not in said


def test_a_folder_without_a_name_is_not_the_current_one(here, capsys):
    for words in (["fit", "l2_vae", "--data=x.npy", "--steps=2"], ["demo"], ["reproduce", "ppca"], ["bench"]):
        before = sorted(here.rglob("*"))
        if words[0] == "reproduce":
            from pyro_vaes.experiments import EXPERIMENTS

            words = ["reproduce", next(iter(EXPERIMENTS))]
        assert "out is ''" in refused(capsys, *words, "--out=")
        assert sorted(here.rglob("*")) == before


def test_counts_that_no_memory_holds_are_refused(here, capsys, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1500)  # 2 MB
    assert "take about" in refused(capsys, "check", "run", "--nuts=0", "--draws=100000")
    assert "take about" in refused(capsys, "impute", "run", "x.npy", "--mask=right", "--samples=100000")
    assert "take about" in refused(capsys, "impute", "run", "x.npy", "--mask=right", "--draws=100000")


def test_a_config_starts_no_thousand_processes(here, capsys):
    edit(devices=10**6)
    assert "devices is 1000000" in refused(capsys, "resume", "run")
    assert "timeout" in refused(capsys, "resume", "run", "--devices=2", "--timeout=1e300")


def test_folders_that_are_called_like_replicas(here):
    for name in ("replica-x", "replica-²", "replica-"):
        (here / "run" / name).mkdir()
    assert main(["resume", "run"]) == 0


def test_a_pickle_is_no_posterior(here):
    for content in (pickle.dumps(Bomb()), b"CDF\x01", b"\x89HDF\r\n\x1a\n" + b"\0" * 99):
        (here / "posterior.nc").write_bytes(content)
        with pytest.raises(pv.InputError, match="not a readable netCDF file"):
            pv.open_posterior("posterior.nc")
    assert not (here / "owned").exists()


def test_attributes_and_links_of_a_posterior_run_nothing(here):
    """A pickled attribute stays bytes, a link to a file elsewhere is refused or not followed."""
    import h5py

    pair, x = pv.Run.open("run").pair(), pv.load("x.npy").x
    pv.write_posterior("a.nc", pair, x, draws=5, replicates=2)
    with h5py.File("a.nc", "a") as file:
        file.attrs["__reduce__"] = np.void(pickle.dumps(Bomb()))
        file["posterior"].attrs["class_path"] = "os.system"
    assert "posterior" in pv.open_posterior("a.nc").children
    with h5py.File("secret.h5", "w") as file:
        file["x"] = np.arange(3.0)
    with h5py.File("a.nc", "a") as file:
        file["posterior"]["z2"] = h5py.ExternalLink("secret.h5", "x")
        file["posterior"]["z3"] = h5py.ExternalLink("/nowhere.h5", "x")
    with contextlib.suppress(pv.InputError):
        pv.open_posterior("a.nc")
    assert not (here / "owned").exists()


def test_an_array_bomb_is_refused_by_its_header(here, capsys):
    """A .npy of 128 bytes that says it holds 10^15 numbers."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
    Path("bomb.npy").write_bytes(file.getvalue())
    assert "bomb.npy" in refused(capsys, "clean", "run", "bomb.npy", "o.npz")
    refused(capsys, "complete", "run", "--hide=bomb.npy")


def test_options_twice_take_the_last(here):
    assert main(["sample", "run", "--draws=5", "--draws=3", "--output=s.npy"]) == 0
    assert len(np.load("s.npy")) == 3


def test_a_link_where_something_is_written_is_replaced_and_not_followed(here):
    (here / "mine").write_text("precious")
    for name in ("samples.npy", "samples.npy.png", "evaluation.json"):
        (here / "run" / name).symlink_to(here / "mine")
    assert main(["sample", "run", "--draws=3"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert (here / "mine").read_text() == "precious"


def test_a_name_that_the_terminal_cannot_show(here, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["sample", "run", "--draws=3", "--output=\udc80é.npy"]) == 0
    sys.stdout.flush()
    assert b"\\udc80\\xe9.npy" in raw.getvalue()


def test_too_little_memory_as_the_allocator_says_it(here, capsys, monkeypatch):
    from pyro_vaes.cli import COMMANDS

    def fail(run: str):
        """Fail."""
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes.")

    monkeypatch.setitem(COMMANDS, "check", fail)
    assert "out of memory" in refused(capsys, "check", "x")


def test_every_test_that_the_page_names_exists():
    folder = Path(__file__).parent
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (folder.parent / "docs/hostile.md").read_text())
    assert len(named) > 25
    for file, name in named:
        assert f"def {name}(" in (folder / file).read_text(), f"{file} has no {name}"
