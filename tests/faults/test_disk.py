"""A full disk: one clear line, the last checkpoint whole, and the run goes on once there is room."""

import errno
import io
import os
import subprocess
import sys

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.kept import CHECKPOINT
from pyro_vaes.inference.track import METRICS

from .subjects import different, left

OPTIONS = {"steps": 20, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}
SMALL = ["--limit", "40", "--steps", "40", "--checkpoint_every", "5", "--batch_size", "20", "--engine", "eager"]


def make():
    torch.manual_seed(0)
    return pv.ic_vae(data_dim=8, latent_dim=2, hidden=(6,))


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_during_a_save(data, tmp_path, monkeypatch):
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "whole")
    synced, sync = [], os.fsync

    def fsync(file):
        synced.append(file)
        full() if len(synced) > 3 else sync(file)  # the metrics' start, two saves, and then no more

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=r"No space left on device; the checkpoint in .* is from before it") as caught:
            pv.fit(make(), data, **OPTIONS, out=tmp_path / "cut")
    assert caught.value.filename == str(tmp_path / "cut" / CHECKPOINT)
    assert checkpoint.load(tmp_path / "cut" / CHECKPOINT)[1]["step"] == 8
    assert not list((tmp_path / "cut").glob(".*"))
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "cut", resume=True)
    assert not different(left(tmp_path / "whole"), left(tmp_path / "cut"))


def test_full_while_metrics_are_written(data, tmp_path, monkeypatch):
    """The disk takes half a line, and then nothing."""
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "whole")
    room = [1000]

    class Small(io.FileIO):
        def write(self, line):
            if not room[0]:
                full()
            taken = min(room[0], len(line))
            room[0] -= taken
            return super().write(line[:taken])

    def opened(path, mode="r", *given, **options):
        return Small(path, "a") if str(path).endswith(METRICS) and mode == "ab" else open(path, mode, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vaes.inference.track.open", opened, raising=False)
        with pytest.raises(OSError, match="No space left") as caught:
            pv.fit(make(), data, **OPTIONS, out=tmp_path / "cut")
    assert caught.value.filename == str(tmp_path / "cut" / METRICS)
    assert not (tmp_path / "cut" / METRICS).read_bytes().endswith(b"\n")
    assert checkpoint.load(tmp_path / "cut" / CHECKPOINT)[1]["step"] in (4, 8)
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "cut", resume=True)
    assert not different(left(tmp_path / "whole"), left(tmp_path / "cut"))


def test_the_command_line_says_it_in_one_line(tmp_path, capsys, monkeypatch):
    synced, sync = [], os.fsync

    def fsync(file):
        synced.append(file)
        full() if len(synced) > 4 else sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(["fit", "l2_vae", *SMALL, "--out", str(tmp_path / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyro-vaes:")]
    assert len(said) == 1 and f"{tmp_path / 'run' / CHECKPOINT}: No space left on device; the checkpoint" in said[0]


@pytest.fixture
def tiny(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("only root can mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_file_system_that_is_really_full(tiny, tmp_path):
    """A checkpoint of 60 kB finds room once, then twice; what else is there takes the room for a third."""

    def fit(*arguments):
        command = [sys.executable, "-m", "pyro_vaes.cli", "fit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    options = [*SMALL, "--hidden", "[32]", "--latent_dim", "4"]
    assert fit("l2_vae", *options, "--out", str(tmp_path / "whole")).returncode == 0
    (tiny / "ballast").write_bytes(bytes(50_000))
    found = fit("l2_vae", *options, "--out", str(tiny / "run"))
    said = [line for line in found.stderr.splitlines() if "pyro-vaes:" in line]
    assert found.returncode == 2 and len(said) == 1 and "No space left on device" in said[0], found.stderr
    step = checkpoint.load(tiny / "run" / CHECKPOINT)[1]["step"]
    assert 0 < step < 40
    # Still full: refused, and nothing is lost.
    again = fit("--resume", str(tiny / "run"))
    assert again.returncode == 2 and "No space left" in again.stderr
    assert checkpoint.load(tiny / "run" / CHECKPOINT)[1]["step"] >= step
    (tiny / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny)], check=True)
    assert fit("--resume", str(tiny / "run")).returncode == 0
    whole, cut = left(tmp_path / "whole"), left(tiny / "run")
    assert not [name for name in different(whole, cut) if name != "config.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_before_anything_is_written(tmp_path, monkeypatch, data):
    """The lock file itself finds no room."""
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(pv.InputError, match="cannot be written to: No space left on device"):
        pv.fit(make(), data, **OPTIONS, out=tmp_path / "run")
