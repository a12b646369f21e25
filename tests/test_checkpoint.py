"""Checkpoints: whole or not at all, and nothing in them is ever run."""

import pickle
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.state import load_state


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "bytes": torch.arange(5, dtype=torch.uint8), "scalar": torch.tensor(2.5)}
    values = {"step": 3, "lr": 0.1, "names": ["x", "z"]}
    checkpoint.save(tmp_path / "c", tensors, values)
    again, found = checkpoint.load(tmp_path / "c")
    assert found == values
    for name, tensor in tensors.items():
        assert torch.equal(tensor, again[name])
        assert tensor.dtype == again[name].dtype


def spoiled(kind, good):
    """Files that are no checkpoint."""
    if kind == "pickle":
        return pickle.dumps(Bomb())
    if kind == "someone else's":
        return safetensors.torch.save({"a": torch.ones(2)})
    if kind == "values no json":
        return safetensors.torch.save({"a": torch.ones(2)}, {"format": checkpoint.FORMAT, "values": "{"})
    if kind == "values missing":
        return safetensors.torch.save({"a": torch.ones(2)}, {"format": checkpoint.FORMAT})
    if kind == "header too long":
        return (2**62).to_bytes(8, "little") + good[8:]
    if kind == "empty":
        return b""
    return good[: int(kind)]


@pytest.mark.parametrize(
    "kind",
    ["pickle", "someone else's", "values no json", "values missing", "header too long", "empty", "4", "9", "60", "200"],
)
def test_bad_files_are_refused(kind, tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {"a": torch.ones(40)}, {"step": 1})
    path.write_bytes(spoiled(kind, path.read_bytes()))
    with pytest.raises(pv.InputError, match="c "):
        checkpoint.load(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {"a": torch.ones(4)}, {"step": 1})
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(pv.InputError):
            checkpoint.load(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(pv.InputError, match="no checkpoint"):
            checkpoint.load(path)


def test_a_pair_of_another_shape_is_refused(tmp_path):
    small, large = pv.l2_vae(8, 2, (6,)), pv.l2_vae(8, 3, (6,))
    path = tmp_path / "c"
    checkpoint.save(path, {f"pair.{n}": p for n, p in small.named_parameters()}, {})
    with pytest.raises(pv.InputError, match=r"of shape \(6, 2\), but l2_vae needs \(6, 3\)"):
        load_state(large, checkpoint.load(path)[0], path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": 2})
    assert checkpoint.load(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_kill_during_save(tmp_path):
    """A process that does nothing but save is killed at odd moments: what is there is always whole."""
    path = tmp_path / "c"
    script = f"""
import torch
from pyro_vaes.inference import checkpoint
step = 0
while True:
    step += 1
    checkpoint.save({str(path)!r}, {{"a": torch.full((100_000,), float(step))}}, {{"step": step}})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(20):
            time.sleep(0.013)
            tensors, values = checkpoint.load(path)
            assert (tensors["a"] == values["step"]).all()
    finally:
        process.kill()
        process.wait()
    tensors, values = checkpoint.load(path)
    assert (tensors["a"] == values["step"]).all()
