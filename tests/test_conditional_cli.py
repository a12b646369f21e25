"""The commands with conditional variants: labels and quadrants, from fit to sample."""

import json
import signal

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.data.quadrants import quadrants
from pyro_vaes.inference.fit import fit
from pyro_vaes.inference.posterior import bound

SMALL = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "20", "--limit", "120", "--binarise", "0.5"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cvae"
    assert main(["fit", "cvae", "--data", "digits", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "halves"
    words = ["fit", "structured_cvae", "--condition", "quadrants:2", "--corrupt", "impulse:0.1", "--out", str(folder)]
    assert main([*words, *SMALL]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digits(limit=None):
    data = pv.load("digits", limit=limit)
    return (data.x > 0.5).float(), data.y


def refused(words, capsys):
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("pyro-vaes: ")
    return err


def test_a_run_with_labels_opens_again(labelled):
    config = json.loads((labelled / "config.json").read_text())
    assert config["condition"] is None and config["arguments"]["classes"] == 10
    assert (labelled / "cleaned.png").exists()
    assert pv.Run.open(labelled).pair().condition_dim == 10


def test_the_labels_of_the_data_are_what_is_trained_on(labelled):
    """The run's parameters are those of the same fit from Python."""
    x, y = digits(120)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = pv.cvae(64, latent_dim=3, hidden=(12,))
    pv.fit(pair, x, y, steps=20, batch_size=128, lr=1e-3, progress=False)
    for one, other in zip(pair.parameters(), pv.Run.open(labelled).pair().parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_clean_sample_and_evaluate_with_labels(labelled, here, capsys):
    pair = pv.Run.open(labelled).pair()
    assert main(["clean", str(labelled), "digits", "o.npy", "--draws", "2"]) == 0
    assert np.allclose(np.load("o.npy").reshape(1797, 64), pv.clean(pair, *digits(), draws=2).mean, atol=1e-6)
    assert main(["sample", str(labelled), "--output", "s.npy", "--draws", "6", "--label", "3"]) == 0
    assert np.allclose(np.load("s.npy").reshape(6, 64), pv.sample(pair, 6, 3))
    assert main(["sample", str(labelled), "--output", "t.npy", "--draws", "12"]) == 0
    assert np.allclose(np.load("t.npy").reshape(12, 64), pv.sample(pair, 12, torch.arange(12) % 10))
    assert main(["evaluate", str(labelled), "--likelihood", "50", "--rows", "20"]) == 0
    found = json.loads((labelled / "evaluation.json").read_text())
    assert found["bound (nats per datum)"] == pytest.approx(bound(pair, *digits(120)))
    assert found["log p(x | y) (nats per datum)"] > found["bound (nats per datum)"] - 5
    assert "detect is for pairs that take none" in refused(["detect", str(labelled), "digits"], capsys)


def test_resume_goes_on_with_the_labels(labelled, here, monkeypatch):
    def stopped(*given, **options):
        stop = lambda step: signal.raise_signal(signal.SIGINT) if step == 7 else None  # noqa: E731
        return fit(*given, **options, on_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vaes.inference.fit.fit", stopped)
        assert main(["fit", "cvae", "--out", "part", *SMALL]) == 130
    assert main(["fit", "--resume", "part"]) == 0
    one, other = (pv.Run.open(name).pair().state_dict() for name in (labelled, "part"))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_replicas_with_labels(here):
    assert main(["fit", "cvae", "--out", "both", "--replicas", "2", *SMALL, "--engine", "eager"]) == 0
    assert main(["sample", "both/replica-1", "--label", "9"]) == 0


def test_quadrants_from_fit_to_sample(halves, here):
    config = json.loads((halves / "config.json").read_text())
    assert config["condition"] == "quadrants:2"
    assert (config["data_dim"], config["arguments"]["condition_dim"], config["shape"]) == (32, 32, [32])
    pair = pv.Run.open(halves).pair()
    assert main(["sample", str(halves), "--output", "s.npy", "--draws", "5"]) == 0
    found = np.load("s.npy")
    assert found.shape == (5, 8, 8) and (here / "s.npy.png").exists()
    dirty = pv.corrupt(pv.load("digits", limit=120).x, "impulse:0.1", shape=(8, 8), seed=0).x
    seen = (dirty > 0.5).float().reshape(-1, 8, 8)[:5, :, :4]
    assert np.array_equal(found[:, :, :4], seen)
    assert main(["evaluate", str(halves)]) == 0
    figures = json.loads((halves / "evaluation.json").read_text())
    assert 0 < figures["mse of the cleaned data"] < 1 and "outlier entries: AUC" in figures
    assert main(["clean", str(halves), "digits", "o.npz", "--draws", "2"]) == 0
    x, _ = digits()
    parts = quadrants(pv.Dataset("digits", x, (8, 8)), 2)
    assert np.allclose(np.load("o.npz")["mean"], pv.clean(pair, parts.x, parts.y, draws=2).mean, atol=1e-6)


def test_what_does_not_fit_is_refused_before_any_work(labelled, halves, here, capsys):
    np.save("plain.npy", np.zeros((5, 8, 8), dtype=np.float32))
    np.save("odd.npy", np.zeros((5, 3, 3), dtype=np.float32))
    cvae = ["fit", "cvae", "--out", "r", "--steps", "2", "--binarise", "0.5"]
    for words, message in [
        ([*cvae, "--data", "plain.npy"], "plain.npy has no labels, which cvae takes as its condition"),
        ([*cvae, "--classes", "5"], "labels of cvae are whole, 0 to 4"),
        ([*cvae, "--condition", "halves"], "it must be labels, or quadrants:N"),
        ([*cvae, "--condition", "quadrants:4"], "with N = 1, 2 or 3"),
        ([*cvae, "--condition", "quadrants:2"], "for 1797 data: it must be their labels, or of shape (1797, 10)"),
        ([*cvae, "--condition", "quadrants:1", "--data", "odd.npy"], "even sides"),
        ([*cvae, "--condition", "quadrants:1", "--augment", "impulse:0.1"], "would draw the predicted pixels anew"),
        ([*cvae, "--condition", "quadrants:1", "--binarise", "dynamic"], "binarise=threshold05"),
        (["fit", "vae", "--out", "r", "--binarise", "0.5", "--condition", "labels"], "vae takes none"),
        (["sample", str(labelled), "--label", "10"], "labels of cvae are whole, 0 to 9"),
        (["sample", str(labelled), "--label", "-1"], "at least 0"),
        (["sample", str(halves), "--label", "1"], "was not trained with labels"),
        (["sample", str(halves), "--draws", "121"], "has 120 images to complete"),
        (["clean", str(labelled), "plain.npy", "o.npz"], "plain.npy has no labels"),
    ]:
        assert message in refused(words, capsys), words
        assert not (here / "r").exists()


def test_folders_of_before_open_as_they_did(here):
    """A run of before conditions has no word of them in its config."""
    assert main(["fit", "vae", "--out", "old", *SMALL]) == 0
    config = json.loads((here / "old/config.json").read_text())
    del config["condition"]
    (here / "old/config.json").write_text(json.dumps(config))
    assert main(["sample", "old"]) == 0
    assert main(["evaluate", "old"]) == 0
