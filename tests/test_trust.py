"""Reading a run never executes code merely because the run folder names it."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import COMMANDS, main
from pyro_vaes.inference.trust import consenting

CODE = """
import pathlib
import pyro_vaes as pv
pathlib.Path({mark!r}).write_text("x")
def my_pair(data_dim: int, latent_dim: int = 2):
    return pv.l2_vae(data_dim, latent_dim, (5,))
def other(data_dim: int, latent_dim: int = 2):
    return pv.l2_vae(data_dim, latent_dim, (5,))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a run that the command line has trained."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "x.npy", np.random.default_rng(0).random((12, 6), dtype=np.float32))
    (folder / "mine.py").write_text(CODE.format(mark=str(folder / "ran")))
    words = ["--data", f"{folder}/x.npy", "--steps", "2", "--out", f"{folder}/run"]
    assert main(["fit", f"{folder}/mine.py:my_pair", *words]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """The same run of one's own pair, as if trained here, and an account that knows it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copy(trained / "x.npy", "x.npy")
    Path("mine.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    config = json.loads((trained / "run/config.json").read_text())
    pv.Run.create("run", {**config, "target": f"{tmp_path}/mine.py:my_pair"})
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        shutil.copy(trained / "run" / name, f"run/{name}")
    return tmp_path


def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


def refused(capsys, *words, why="this account has not trained with in this way"):
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and why in said and "add --trust" in said and "mine.py" in said
    assert not Path("ran").exists(), "the code ran"


def test_the_account_that_trained_it_reads_it_on(trained, tmp_path):
    assert main(["sample", f"{trained}/run", "--draws", "2"]) == 0
    assert main(["fit", "--resume", f"{trained}/run"]) == 0
    (trained / "ran").unlink()
    shutil.copytree(trained / "run", tmp_path / "moved")
    assert pv.Run.open(tmp_path / "moved").pair().name == "l2_vae"
    assert (trained / "ran").exists()


WORDS = {
    "clean": ["x.npy", "o.npz"], "detect": ["x.npy"], "impute": ["x.npy"],
}  # fmt: skip
READING = [name for name in COMMANDS if "run" in COMMANDS[name].__annotations__]


@pytest.mark.parametrize("name", READING)
def test_every_command_refuses_a_run_from_elsewhere_and_says_what_to_type(name, here, monkeypatch, capsys):
    elsewhere(monkeypatch, here)
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    refused(capsys, name, "run", *WORDS.get(name, []))
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


def test_consent_is_given_once(here, monkeypatch, capsys):
    elsewhere(monkeypatch, here)
    refused(capsys, "fit", "--resume", "run")
    assert main(["fit", "--resume", "run", "--trust"]) == 0
    Path("ran").unlink()
    assert main(["evaluate", "run"]) == 0
    assert Path("ran").exists()


def test_a_start_is_a_run_like_any_other(here, monkeypatch, capsys):
    elsewhere(monkeypatch, here)
    words = ["fit", "l2_vae", "--latent_dim=2", "--hidden=[5]", "--data=x.npy", "--steps=2", "--out=b", "--start=run"]
    refused(capsys, *words)
    assert not Path("b").exists()
    assert main([*words, "--trust"]) == 0
    # Who has consented to the first run has not consented to what that one starts from.
    config = json.loads(Path("b/config.json").read_text())
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "third"))
    Path("ran").unlink()
    assert config["start"] == "run"
    refused(capsys, "resume", "b")


def test_changed_code_is_told_and_asked_about_again(here, capsys):
    with open("mine.py", "a") as file:
        file.write("# another line\n")
    refused(capsys, "sample", "run", why="has changed since the run was trained")
    assert main(["sample", "run", "--draws=2", "--trust"]) == 0
    assert main(["sample", "run", "--draws=2"]) == 0


def edit(**changes):
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, **changes}))


def test_a_config_is_no_witness(here, monkeypatch, capsys):
    """Another function of a known file, other arguments, a hash that is right: none of them is consent."""
    edit(target=f"{here}/mine.py:other")
    refused(capsys, "sample", "run")
    edit(target=f"{here}/mine.py:my_pair", arguments={"latent_dim": 3})
    refused(capsys, "sample", "run")
    edit(arguments={"latent_dim": 2}, trust=True, trusted=True)
    elsewhere(monkeypatch, here)
    refused(capsys, "sample", "run")
    (here / "run" / "mine.py").write_text(CODE.format(mark=str(here / "ran")))
    edit(target="run/mine.py:my_pair", code=None)
    refused(capsys, "sample", "run")


def test_the_current_folder_is_no_witness(here, monkeypatch, capsys):
    (here / "pyro-vaes").mkdir()
    shutil.copy(here / "state/pyro-vaes/trusted", here / "pyro-vaes/trusted")
    monkeypatch.setenv("XDG_STATE_HOME", ".")
    monkeypatch.setenv("HOME", "")
    refused(capsys, "sample", "run")
    assert main(["sample", "run", "--draws=2", "--trust"]) == 0
    Path("ran").unlink()
    refused(capsys, "sample", "run")


def test_a_home_that_cannot_be_written_asks_each_time(here, monkeypatch, capsys):
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    assert main(["sample", "run", "--draws=2", "--trust"]) == 0
    Path("ran").unlink()
    refused(capsys, "sample", "run")


def test_from_python(here, monkeypatch):
    elsewhere(monkeypatch, here)
    run = pv.Run.open("run")
    with pytest.raises(pv.InputError, match=r"trust=True"):
        run.pair()
    given = run.pair(lambda data_dim, latent_dim: pv.l2_vae(data_dim, latent_dim, (5,)))
    assert not Path("ran").exists()
    found = pv.Run.open("run", trust=True).pair()
    for one, other in zip(given.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


def test_consent_ends_with_the_command(here, monkeypatch):
    elsewhere(monkeypatch, here)
    with consenting(True):
        pass
    with pytest.raises(pv.InputError, match="add --trust"):
        pv.Run.open("run").pair()


def test_the_ledger_is_the_accounts_own(here):
    ledger = here / "state/pyro-vaes/trusted"
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert len(ledger.read_text().splitlines()) == 1
    ledger.write_bytes(b"\xff\xfe not lines\n" + ledger.read_bytes() + b"cut sho")
    assert pv.Run.open("run").pair()


def test_what_is_read_is_what_runs(here):
    """A compiled file in __pycache__ that claims to be of the same source is not taken for it."""
    import importlib.util
    import py_compile

    (here / "evil.py").write_text("import pathlib\npathlib.Path('evil').write_text('x')\n")
    cache = Path(importlib.util.cache_from_source(str(here / "mine.py")))
    cache.parent.mkdir(exist_ok=True)
    size, when = (here / "mine.py").stat().st_size, (here / "mine.py").stat().st_mtime
    (here / "evil.py").write_text((here / "evil.py").read_text().ljust(size, "#"))
    os.utime(here / "evil.py", (when, when))
    py_compile.compile(str(here / "evil.py"), cfile=str(cache), doraise=True)
    pv.Run.open("run").pair()
    assert not (here / "evil").exists()


def test_a_variant_needs_no_consent(here, monkeypatch):
    words = ["fit", "l2_vae", "--data=x.npy", "--steps=2", "--out=plain", "--hidden=[5]"]
    assert main(words) == 0
    elsewhere(monkeypatch, here)
    assert main(["sample", "plain", "--draws=2"]) == 0
    assert not (here / "another").exists()
