"""One process at a time writes a run folder; a folder that cannot be written to is refused before work starts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference.lock import LOCK, held
from pyro_vaes.inference.stages import fit_stages

OPTIONS = {"steps": 3, "batch_size": 7, "progress": False}
HOLDER = """
import sys, time
from pyro_vaes.inference.lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def make():
    torch.manual_seed(0)
    return pv.ic_vae(data_dim=8, latent_dim=2, hidden=(6,))


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder, until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_until_the_first_is_dead(holder, data, tmp_path, capsys):
    folder = tmp_path / "run"
    who = f"in use by process {holder.pid} on {socket.gethostname()}"
    for resume in (False, True):
        with pytest.raises(pv.InputError, match=who):
            pv.fit(make(), data, **OPTIONS, out=folder, resume=resume)
    assert main(["fit", "l2_vae", "--limit", "20", "--steps", "1", "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert who in said and "Traceback" not in said
    (folder / "config.json").write_text("{}")
    assert main(["fit", "l2_vae", "--limit", "20", "--steps", "1", "--out", str(folder)]) == 2
    assert f"already holds a run, {who}" in capsys.readouterr().err
    (folder / "config.json").unlink()
    # Stale files belong to the one that holds the folder, as long as it does.
    temporary = folder / ".checkpoint.safetensors.ab_12xyz"
    temporary.write_bytes(b"half")
    with pytest.raises(pv.InputError, match=who):
        pv.fit(make(), data, **OPTIONS, out=folder)
    assert temporary.exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (folder / LOCK).exists()
    assert pv.fit(make(), data, **OPTIONS, out=folder).step == 3
    assert sorted(os.listdir(folder)) == ["checkpoint.safetensors", "metrics.jsonl"]


@pytest.mark.slow
def test_several_ranks_are_refused_together(holder, tmp_path):
    """And none of them takes the refusal of the first for its death."""
    folder = tmp_path / "run"
    given = ["--limit=40", "--steps=1", "--batch_size=10", "--device=cpu", "--devices=2", f"--out={folder}"]
    command = [sys.executable, "-m", "pyro_vaes.cli", "fit", "l2_vae", *given]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    said = ended.stderr.splitlines()
    assert said and all(f"in use by process {holder.pid} on" in line for line in said), said


def test_replicas_and_stages_hold_their_folders(data, tmp_path):
    refused = []

    def try_it(folder):
        try:
            with held(folder):
                pass
        except pv.InputError as error:
            refused.append(str(error))

    def look(step):
        names = ["replica-0", "replica-1"] if (tmp_path / "replicas").exists() else [".", "stage-1"]
        base = tmp_path / ("replicas" if (tmp_path / "replicas").exists() else "stages")
        if step == 1:
            for name in names:
                thread = threading.Thread(target=try_it, args=(base / name,))
                thread.start(), thread.join()

    pair = pv.two_stage_vae(data_dim=8, latent_dim=2, hidden=(5,), second_hidden=(5,))
    fit_stages(pair, data, steps=[1, 1], progress=False, out=tmp_path / "stages", on_step=look)
    assert len(refused) >= 2 and all("another thread" in one for one in refused)
    refused.clear()
    pv.fit([make(), make()], data, **OPTIONS, out=tmp_path / "replicas", on_step=look)
    assert len(refused) == 2
    assert not list(tmp_path.rglob(LOCK))


def test_a_lock_is_taken_twice_by_its_own_thread_and_removed_once(tmp_path):
    with held(tmp_path / "a" / "b"):
        with held(tmp_path / "a" / "b", None):
            pass
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert not (tmp_path / "a").exists()  # nothing was written into what it made


def test_a_forked_child_holds_nothing(tmp_path):
    with held(tmp_path):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                with held(tmp_path):
                    os.write(writer, b"taken")
            except pv.InputError:
                os.write(writer, b"refused")
            os._exit(0)
        os.close(writer)
        assert os.read(reader, 100) == b"refused"
        os.waitpid(child, 0)
        os.close(reader)


def test_a_fork_that_lives_on_does_not_keep_the_lock(tmp_path):
    """As a worker that outlives its parent, killed by SIGKILL, may."""
    script = """
import os, sys, time
from pyro_vaes.inference.lock import held
with held(sys.argv[1]):
    child = os.fork()
    if not child:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        with held(tmp_path):
            assert os.kill(child, 0) is None
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_only_our_own_leftovers_are_cleared_away(tmp_path):
    ours = [".checkpoint.safetensors.abcd_123", ".metrics.jsonl.abcdefgh", ".config.json.00000000",
            ".checkpoint.previous.safetensors.0123abcd", ".training-stage-2.png.abcdefgh"]  # fmt: skip
    others = [".checkpoint.safetensors.ABC", ".evaluation.json.abcdefgh", ".notes", "checkpoint.safetensors.abcdefgh"]
    for name in [*ours, *others]:
        (tmp_path / name).write_bytes(b"x")
    with held(tmp_path):
        assert sorted(os.listdir(tmp_path)) == sorted([*others, LOCK])


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_lock_that_is_no_file_is_refused(what, data, tmp_path):
    (tmp_path / LOCK).mkdir() if what == "folder" else (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pv.InputError, match="cannot be written to"):
        pv.fit(make(), data, **OPTIONS, out=tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_said(data, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("pyro_vaes.inference.lock.fcntl.flock", none)
    with pytest.warns(pv.FaultWarning, match="cannot be locked"):
        assert pv.fit(make(), data, **OPTIONS, out=tmp_path / "run").step == 3


@pytest.fixture
def read_only(tmp_path):
    """A folder on a file system that cannot be written to: permissions do not stop root."""
    folder = tmp_path / "run"
    folder.mkdir()
    bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode == 0
    if bound:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    else:
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("nothing is read-only for this user")
    yield folder
    subprocess.run(["umount", str(folder)], check=True) if bound else folder.chmod(0o700)


def test_a_read_only_folder_is_refused_before_any_work(read_only, data, capsys):
    steps = []
    for out in (read_only, read_only / "new"):
        with pytest.raises(pv.InputError, match=r"cannot be (written to|made): "):
            pv.fit(make(), data, **OPTIONS, out=out, on_step=steps.append)
    assert not steps
    assert main(["fit", "l2_vae", "--limit", "20", "--steps", "1", "--out", str(read_only)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_reading_does_not_wait_for_a_training(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["fit", "l2_vae", "--limit", "20", "--steps", "2", "--engine", "eager", "--out", out]) == 0
    process = subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    try:
        began = time.monotonic()
        assert main(["sample", out, "--draws", "4"]) == 0
        assert pv.Run.open(out).pair().name == "l2_vae"
        assert time.monotonic() - began < 60
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    capsys.readouterr()
