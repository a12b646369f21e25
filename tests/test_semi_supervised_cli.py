"""The commands with a variant that takes few labels: fit, resume, clean, sample, evaluate."""

import json

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.commands.labels import seen_labels

SMALL = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "20", "--limit", "300", "--binarise", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "m2"
    words = ["fit", "m2_vae", "--data", "digits", "--labels", "40", "--seed", "3", "--out", str(folder)]
    assert main([*words, *SMALL]) == 0
    return folder


def test_the_labels_that_are_kept_are_in_the_config_and_come_from_the_seed(run):
    folder = pv.Run.open(run)
    assert folder.config["labels"] == 40
    data = pv.load("digits", limit=300)
    kept = pv.few_labels(data.y, 40, seed=3)
    assert torch.equal(seen_labels(folder, folder.pair(), data.y, None), kept)
    assert (seen_labels(folder, folder.pair(), data.y, "test") == -1).all()
    whole = pv.load("digits").y
    same_split = seen_labels(folder, folder.pair(), whole, folder.config["data"]["split"])
    assert torch.equal(same_split[:300], kept) and (same_split[300:] == -1).all()
    torch.manual_seed(3)
    pair = pv.m2_vae(64, latent_dim=3, hidden=(12,))
    pv.fit(pair, (data.x > 0.5).float(), kept, steps=20, batch_size=128, seed=3, progress=False)
    for one, other in zip(pair.parameters(), folder.pair().parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_evaluate_says_how_often_the_guess_is_right_where_the_label_was_hidden(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    found = json.loads((run / "evaluation.json").read_text())["accuracy of q(y | x), 260 data with unseen labels"]
    data, pair = pv.load("digits", limit=300), pv.Run.open(run).pair()
    hidden = pv.few_labels(data.y, 40, seed=3) < 0
    right = pv.classify(pair, (data.x > 0.5).float()).argmax(1) == data.y
    assert found == pytest.approx(right[hidden].float().mean().item())
    assert "accuracy of q(y | x)" in capsys.readouterr().out


def test_clean_detect_sample_and_resume(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["clean", str(run), "digits", "o.npy", "--draws", "2"]) == 0
    assert main(["sample", str(run), "--output", "s.npy", "--draws", "6", "--label", "3"]) == 0
    assert main(["detect", str(run), "digits"]) == 0
    assert main(["fit", "--resume", str(run)]) == 0
    for words, message in (
        (["fit", "vae", "--labels", "40", *SMALL], "takes no data without a label"),
        (["fit", "m2_vae", "--labels", "4", *SMALL], "count is 4"),
        (["fit", "m2_vae", "--labels", "900", *SMALL], "count is 900"),
    ):
        capsys.readouterr()
        assert main([*words, "--out", "never"]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "never").exists()


def test_data_without_labels_can_be_trained_on(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", (np.random.default_rng(0).random((30, 8)) > 0.5).astype("float32"))
    assert main(["fit", "m2_vae", "--data", "x.npy", "--hidden", "[4]", "--steps", "2", "--out", "r"]) == 0
    assert main(["evaluate", "r"]) == 0
    assert "accuracy" not in (tmp_path / "r" / "evaluation.json").read_text()
