"""SIGTERM, as a scheduler sends it: the run is saved and ends, wherever it comes."""

import os
import signal

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import checkpoint, kept
from pyro_vaes.inference.kept import CHECKPOINT

from .subjects import different, left

FIT = [
    *(
        "fit",
        "empirical_cvae",
        "--limit",
        "60",
        "--binarise",
        "threshold05",
        "--steps",
        "20",
        "--checkpoint_every",
        "8",
    ),
    *("--latent_dim", "16", "--hidden", "[4]", "--engine", "eager", "--batch_size", "20"),
]


def term(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def hit(monkeypatch, where, times=1, at=1):
    """Send SIGTERM when a function is called for the ``at``-th time, before it does its work."""
    home, _, name = where.rpartition(".")
    module = __import__(home, fromlist=["x"])
    real, calls = getattr(module, name), []

    def run(*given, **options):
        calls.append(1)
        if len(calls) == at:
            for _ in range(times):
                term()
        return real(*given, **options)

    monkeypatch.setattr(module, name, run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*FIT, "--out", str(out)]) == 0
    return left(out)


# Where it comes, and what is there of it afterwards: the step of the newest checkpoint.
PLACES = {
    "reading data": ("pyro_vaes.commands.training.read_data", 1, 1, None),
    "the first config": ("pyro_vaes.inference.checkpoint.write_atomically", 1, 1, None),
    "a save": ("pyro_vaes.inference.kept.save", 1, 1, 8),
    "twice in a save": ("pyro_vaes.inference.kept.save", 2, 2, 8),
    "finish": ("pyro_vaes.inference.fit.finish", 1, 1, 20),
    "the codes' prior": ("pyro_vaes.inference.empirical._place", 1, 1, 20),
    "a figure": ("pyro_vaes.commands.training.write_figure", 1, 1, 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_it_ends_with_143_and_goes_on(place, whole, tmp_path, capsys, monkeypatch):
    where, times, at, step = PLACES[place]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        hit(patch, where, times, at)
        assert main([*FIT, "--out", str(out)]) == 143
    said = capsys.readouterr()
    assert "Traceback" not in said.err and ("stopped" in said.err or "go on with" in said.out)
    assert not list(out.rglob(".*"))
    if step is None:
        assert not kept.exists(out)
    else:
        assert checkpoint.load(out / CHECKPOINT)[1]["step"] == step
    begun = (out / "config.json").exists()
    assert main(["fit", "--resume", str(out)] if begun else [*FIT, "--out", str(out)]) == 0
    assert not different(whole, left(out))
    capsys.readouterr()


def test_a_finish_that_is_stopped_is_taken_back(data, monkeypatch):
    """In Python the pair is what training has left, and the history says what happened."""
    torch.manual_seed(0)
    pair = pv.l2_vae(data_dim=8, latent_dim=2, hidden=(6,))

    def half(pair, parts, seed):
        with torch.no_grad():
            for tensor in (*pair.parameters(), *pair.buffers()):
                tensor.zero_()
        term()

    monkeypatch.setattr(type(pair.objective), "finish", lambda self, *given: half(*given), raising=False)
    history = pv.fit(pair, data, steps=3, progress=False)
    assert (history.step, history.interrupted) == (3, signal.SIGTERM)
    assert any(bool((p != 0).any()) for p in pair.parameters())
