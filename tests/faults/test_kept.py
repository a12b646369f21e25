"""Damaged checkpoints: found by their checksum, and the one before stands in."""

import json
import os
import signal

import pytest
import safetensors.torch
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import checkpoint, kept
from pyro_vaes.inference.kept import CHECKPOINT, PREVIOUS
from pyro_vaes.inference.track import METRICS

OPTIONS = {"steps": 20, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}


def make(seed=0):
    torch.manual_seed(seed)
    return pv.ic_vae(data_dim=8, latent_dim=2, hidden=(6,))


def content(folder):
    tensors, values = checkpoint.load(folder / CHECKPOINT)
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {n: t.tolist() for n, t in tensors.items()}, values, [{**row, "seconds": 0} for row in rows]


def cut(data, folder, at=11):
    """A run that was ended by a signal: checkpoints of steps ``at`` and 8."""

    def stop(step):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    pv.fit(make(), data, **OPTIONS, out=folder, on_step=stop)
    assert [checkpoint.load(folder / name)[1]["step"] for name in (CHECKPOINT, PREVIOUS)] == [at, 8]


def flipped(path, bit):
    found = bytearray(path.read_bytes())
    found[bit // 8] ^= 1 << bit % 8
    path.write_bytes(found)


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    path = tmp_path / "c"
    tensors = {"a": torch.arange(4.0), "b": torch.tensor([True])}
    checkpoint.save(path, tensors, {"step": 1})
    good, refused = path.read_bytes(), 0
    for bit in range(8 * len(good)):
        path.write_bytes(good)
        flipped(path, bit)
        try:
            again, values = checkpoint.load(path)
        except pv.InputError:
            refused += 1
            continue
        # Blanks that fill up the header may change.
        assert values == {"step": 1}
        assert {n: (t.dtype, t.tolist()) for n, t in again.items()} == {
            n: (t.dtype, t.tolist()) for n, t in tensors.items()
        }
    assert refused > 7.5 * len(good)


def test_a_file_of_an_earlier_version_has_no_checksum(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(
        safetensors.torch.save({"a": torch.ones(2)}, {"format": checkpoint.FORMAT, "values": '{"step": 1}'})
    )
    assert checkpoint.load(path)[1] == {"step": 1}


def spoil(path, how):
    size = path.stat().st_size
    if how == "truncated":
        os.truncate(path, size // 2)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "gone":
        path.unlink()
    else:  # a bit of a parameter: a finite number all the same
        flipped(path, 8 * (size - 10) + 3)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "gone"])
def test_a_damaged_checkpoint_falls_back_and_ends_the_same(how, data, tmp_path):
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "whole")
    cut(data, tmp_path / "cut")
    spoil(tmp_path / "cut" / CHECKPOINT, how)
    with pytest.warns(pv.FaultWarning, match=r"the one before it, of step 8, takes its place"):
        history = pv.fit(make(5), data, **OPTIONS, out=tmp_path / "cut", resume=True)
    assert history.step == 20
    assert content(tmp_path / "whole") == content(tmp_path / "cut")
    # What was damaged has not become the previous one.
    assert checkpoint.load(tmp_path / "cut" / PREVIOUS)[1]["step"] == 16


def test_two_damaged_checkpoints_are_refused(data, tmp_path):
    cut(data, tmp_path)
    for name in (CHECKPOINT, PREVIOUS):
        spoil(tmp_path / name, "truncated")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(pv.InputError, match=r"truncated.*nor is the one before it whole: .*previous"):
        pv.fit(make(), data, **OPTIONS, out=tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_run_is_no_damaged_one(data, tmp_path):
    """It is whole: to fall back would hide that the wrong thing is asked for."""
    cut(data, tmp_path)
    with pytest.raises(pv.InputError, match=r"lr was 0\.001, is 0\.5"):
        pv.fit(make(), data, **OPTIONS, lr=0.5, out=tmp_path, resume=True)


@pytest.mark.parametrize("call", ["link", "replace"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_at_no_moment_is_there_no_whole_checkpoint(call, at, tmp_path, monkeypatch):
    """Stopped before each of its three calls to the file system, a save leaves the old one or the new one."""
    kept.save(tmp_path, {"a": torch.ones(2)}, {"step": 1})
    kept.save(tmp_path, {"a": torch.ones(2)}, {"step": 2})
    calls, real = [], {name: getattr(os, name) for name in ("link", "replace")}

    class Killed(BaseException):
        pass

    def counted(name):
        def run(*given):
            calls.append(name)
            if calls.count(call) == at and name == call:
                raise Killed
            return real[name](*given)

        return run

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    try:
        kept.save(tmp_path, {"a": torch.ones(2)}, {"step": 3})
    except Killed:
        assert checkpoint.load(tmp_path / CHECKPOINT)[1]["step"] == 2
    else:
        assert at > {"link": 1, "replace": 2}[call]
        assert checkpoint.load(tmp_path / CHECKPOINT)[1]["step"] == 3
        assert checkpoint.load(tmp_path / PREVIOUS)[1]["step"] == 2


def test_without_hard_links_the_previous_one_is_there(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    for step in range(3):
        kept.save(tmp_path, {"a": torch.ones(2)}, {"step": step})
    assert [checkpoint.load(tmp_path / name)[1]["step"] for name in (CHECKPOINT, PREVIOUS)] == [2, 1]
    assert sorted(os.listdir(tmp_path)) == [PREVIOUS, CHECKPOINT]


def test_replicas_cut_off_between_two_saves_go_on_from_the_common_step(data, tmp_path):
    def stop(step):
        if step == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    options = {**OPTIONS, "engine": "eager"}
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path / "whole")
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path / "cut", on_step=stop)
    last = tmp_path / "cut" / "replica-1"
    os.replace(last / PREVIOUS, last / CHECKPOINT)  # as if killed before it was saved at step 11
    with pytest.warns(pv.FaultWarning, match="all go on from step 8"):
        pv.fit([make(r + 5) for r in range(2)], data, **options, out=tmp_path / "cut", resume=True)
    for name in ("replica-0", "replica-1"):
        assert content(tmp_path / "whole" / name) == content(tmp_path / "cut" / name)


def test_replicas_cut_off_within_the_first_save_begin_anew(data, tmp_path):
    options = {**OPTIONS, "steps": 3, "engine": "eager"}
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path / "whole")
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path / "cut")
    (tmp_path / "cut" / "replica-1" / CHECKPOINT).unlink()
    with pytest.warns(pv.FaultWarning, match="some replicas have no checkpoint yet"):
        pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path / "cut", resume=True)
    for name in ("replica-0", "replica-1"):
        assert content(tmp_path / "whole" / name) == content(tmp_path / "cut" / name)


@pytest.fixture
def run(tmp_path, capsys):
    """A run folder of the command line, with two checkpoints."""
    out = str(tmp_path / "run")
    small = ["--limit", "40", "--steps", "4", "--checkpoint_every", "2", "--hidden", "[4]", "--batch_size", "20"]
    assert main(["fit", "l2_vae", *small, "--engine", "eager", "--out", out]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_commands_that_read_fall_back_and_say_so_in_one_line(run, capsys):
    spoil(run / CHECKPOINT, "truncated")
    assert main(["sample", str(run), "--draws", "5"]) == 0
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith(f"pyro-vaes: {run / CHECKPOINT} is not a readable checkpoint")
    assert said.endswith("the one before it, of step 2, takes its place")
    # Reading has changed nothing; training again mends it.
    assert (run / PREVIOUS).exists()
    assert main(["fit", "--resume", str(run)]) == 0
    assert "takes its place" in capsys.readouterr().err
    assert checkpoint.load(run / CHECKPOINT)[1]["step"] == 4


def test_both_damaged_is_one_line_and_exit_2(run, capsys):
    for name in (CHECKPOINT, PREVIOUS):
        spoil(run / name, "truncated")
    for command in (["sample", str(run)], ["fit", "--resume", str(run)]):
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in said if line.startswith("pyro-vaes:")]) == 1 and "nor is the one" in said[-1]
