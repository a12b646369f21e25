"""Binarisations by name: what each does, what it is invariant to, and files that lie."""

import json
import math

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.data import Dataset, binarise, binarised
from pyro_vaes.data.augment import augmentation


@pytest.fixture
def grey():
    torch.manual_seed(0)
    x = torch.rand(30, 784)
    return Dataset("mnist", torch.where(x < 0.4, torch.zeros(()), torch.where(x > 0.9, torch.ones(()), x)), (28, 28))


def test_what_each_rule_does(grey):
    half, inverted = binarised(grey, "threshold05"), binarised(grey, "threshold0_inverted")
    assert torch.equal(half.x, (grey.x > 0.5).float()) and half.note == "1[x > 0.5]"
    assert torch.equal(inverted.x, (grey.x == 0).float()) and half.shape == (28, 28)
    assert binarised(grey, "gray").x is grey.x
    assert torch.equal(binarised(grey, 0.7).x, (grey.x > 0.7).float())
    pixels = Dataset("bytes", (grey.x * 255).to(torch.uint8), (28, 28))
    assert torch.equal(binarised(pixels, "threshold0_inverted").x, (pixels.x == 0).float())
    assert set(binarised(pixels, "static").x.unique().tolist()) == {0.0, 1.0}


def test_the_report_taken_literally_blanks_every_digit():
    """Zero what is above zero, and nothing is left: every digit is the same empty picture."""
    digits = pv.load("digits")
    literal = torch.where(digits.x > 0, torch.zeros(()), digits.x)
    assert literal.abs().max() == 0
    assert len(binarised(digits, "threshold0_inverted").x.unique(dim=0)) > 1700


def best_bernoulli(x):
    """-log p of the best factorised Bernoulli: the entropies of the pixels' own means, in closed form."""
    p = x.double().mean(0)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum().item()


def test_inversion_is_neutral_and_the_threshold_is_not():
    """Zeros for ones turn every Bernoulli(p) into Bernoulli(1 - p); another threshold is another data set."""
    digits = pv.load("digits")
    ink, paper = (digits.x > 0).float(), binarised(digits, "threshold0_inverted").x
    assert torch.equal(paper, 1 - ink)
    assert best_bernoulli(paper) == pytest.approx(best_bernoulli(ink), abs=1e-10)
    half = binarised(digits, "threshold05").x
    assert (half != ink).float().mean() > 0.1
    assert abs(best_bernoulli(half) - best_bernoulli(ink)) > 0.05
    # A network whose last layer is negated says of the inverted data exactly what it said of the others.
    torch.manual_seed(0)
    pair = pv.vae(64, 2, (5,))
    logits = pair.model.decoder[-2](torch.randn(9, 5))
    x = ink[:9]
    one = torch.distributions.Bernoulli(logits=logits).log_prob(x)
    torch.testing.assert_close(one, torch.distributions.Bernoulli(logits=-logits).log_prob(1 - x))


def test_static_draws_are_those_of_their_seed(grey):
    one, same, other = (binarised(grey, "static", seed=s) for s in (3, 3, 4))
    assert torch.equal(one.x, same.x) and not torch.equal(one.x, other.x)
    assert "our own draw from seed 3" in one.note and "not the file of Larochelle" in one.note
    assert (one.x[grey.x == 0] == 0).all() and (one.x[grey.x == 1] == 1).all()
    half = binarised(Dataset("mine", torch.full((200, 50), 0.3), (50,)), "static")
    assert half.x.mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 10_000))
    state = torch.get_rng_state()
    binarised(grey, "static")
    assert torch.equal(state, torch.get_rng_state())


def test_dynamic_is_the_augmentation_and_no_data_set(grey):
    assert augmentation("dynamic") == augmentation("binarise")
    with pytest.raises(pv.InputError, match="drawn anew at every step"):
        binarised(grey, "dynamic")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [("statik", 0.5, "did you mean 'static'"), (float("nan"), 0.5, "binarise is nan"), (None, 0.5, "binarise"),
     ("static", 1.5, r"1.5 at row 2, column 3"), ("threshold05", -1.0, "-1 at row 2"), ("static", math.nan, "nan")],
)  # fmt: skip
def test_bad_rules_and_values_are_refused(kind, value, message, grey):
    x = grey.x.clone()
    x[2, 3] = value
    with pytest.raises(pv.InputError, match=message):
        binarised(Dataset("mine", x, (28, 28)), kind)


@pytest.fixture
def files(tmp_path, monkeypatch, grey):
    """Small files in the layout of Larochelle's, of 20, 10 and 5 images."""
    monkeypatch.setattr(binarise, "ROWS", {"train": 20, "valid": 10, "test": 5})
    (tmp_path / "BinaryMNIST").mkdir()
    x = binarised(grey, "static", seed=9).x.int().numpy()
    for part, rows in {"train": x[:20], "valid": x[20:], "test": x[:5]}.items():
        np.savetxt(tmp_path / "BinaryMNIST" / f"binarized_mnist_{part}.amat", rows, fmt="%d")
    return tmp_path


def test_the_fixed_files_are_read(files, grey):
    x = binarised(grey, "static", seed=9).x
    found = binarised(grey, "static", root=files)
    assert torch.equal(found.x, x) and found.note == "static: the file of Larochelle & Murray (2011)"
    few = binarised(Dataset("mnist", grey.x[:7], (28, 28)), "static", root=files)
    assert torch.equal(few.x, x[:7])
    test = binarised(Dataset("mnist", grey.x[:5], (28, 28)), "static", root=files, split="test")
    assert torch.equal(test.x, x[:5])
    assert "our own draw" in binarised(Dataset("mine", grey.x, (28, 28)), "static", root=files).note
    (files / "BinaryMNIST" / "binarized_mnist_valid.amat").unlink()
    assert "which is not there" in binarised(grey, "static", root=files).note
    labelled = Dataset("mnist", grey.x[:20], (28, 28), torch.arange(20))
    assert binarised(labelled, "static", root=files).y is not None
    shuffled = Dataset("mnist", grey.x[:20].flip(0), (28, 28), torch.arange(20))
    assert binarised(shuffled, "static", root=files).y is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("truncated", "20 has 391 values"), ("line missing", "has 19 lines: it must have 20"), ("2", "line 4 holds '2'"),
     ("nan", "line 4 holds 'nan'"), ("text", "line 4 has 3 values"), ("wide", "line 4 has 785 values"),
     ("1.0", "line 4 holds '1.0'"), ("bytes", "lines: it must have 20|values"), ("empty", "has 0 lines"),
     ("huge", "too many for")],
)  # fmt: skip
def test_files_that_lie_are_refused(spoil, message, files, grey):
    path = files / "BinaryMNIST" / "binarized_mnist_train.amat"
    lines = path.read_text().splitlines()
    word = lines[3].split()
    if spoil in ("2", "nan", "1.0"):
        lines[3] = " ".join([*word[:100], spoil, *word[101:]])
    lines[3] = {"text": "not a number", "wide": lines[3] + " 1"}.get(spoil, lines[3])
    if spoil == "truncated":
        lines[-1] = lines[-1][:781]
    if spoil == "line missing":
        lines.pop()
    path.write_text("\n".join(lines) + "\n")
    if spoil in ("bytes", "empty", "huge"):
        path.write_bytes({"bytes": b"\x80\x04\x95c__builtin__\n" * 20, "empty": b"", "huge": b"0 " * 10**5}[spoil])
    with pytest.raises(pv.InputError, match=message):
        binarised(Dataset("mnist", grey.x[:20], (28, 28)), "static", root=files)


COMMON = ["fit", "vae", "--limit", "40", "--steps", "2", "--hidden", "[5]", "--latent_dim", "2", "--device", "cpu"]


@pytest.mark.parametrize("kind", ["dynamic", "static", "threshold05", "threshold0_inverted", "0.4"])
def test_the_command_line_takes_the_names(kind, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*COMMON, "--binarise", kind, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["augment"] == ("dynamic" if kind == "dynamic" else None)
    assert config["data"]["binarise"] == (0.4 if kind == "0.4" else kind)
    assert main(["fit", "--resume", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    said = capsys.readouterr().out
    assert ("binarised: " in said) == (kind != "0.4")
    if kind in ("dynamic", "static"):
        assert "static: our own draw from seed 0" in said
    assert main(["detect", str(out), "digits"]) == 0


def test_an_evaluation_sees_the_data_of_the_training_once(tmp_path):
    """Inverting twice would give the ink again: the bound must be that of the data that were trained on."""
    out = tmp_path / "run"
    assert main([*COMMON, "--binarise", "threshold0_inverted", "--out", str(out)]) == 0
    assert main(["evaluate", str(out)]) == 0
    from pyro_vaes.inference.posterior import bound

    x = binarised(pv.load("digits", limit=40), "threshold0_inverted").x
    pair = pv.Run.open(out).pair()
    found = json.loads((out / "evaluation.json").read_text())["bound (nats per datum)"]
    assert found == pytest.approx(bound(pair, x)) and found != pytest.approx(bound(pair, 1 - x))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--binarise", "statik"], "unknown binarisation 'statik': did you mean 'static'? known: dynamic"),
     (["--binarise", "nan"], "unknown binarisation 'nan'"),
     (["--binarise", "dynamic", "--augment", "impulse:0.1"], "in one way only"),
     (["--binarise", "static", "--augment", "binarise"], "choose one"),
     (["--binarise", "gray", "--augment", "dynamic"], "choose one"), (["--binarise", "gray"], "0 or 1")],
)  # fmt: skip
def test_contradictions_are_refused(options, message, tmp_path, capsys):
    assert main([*COMMON, *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_gray_with_a_gaussian_is_the_data_as_they_are(tmp_path):
    command = ["l2_vae" if word == "vae" else word for word in COMMON]
    assert main([*command, "--binarise", "gray", "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("augment", ["binarise", None])
def test_run_folders_from_before_the_names_open(augment, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--augment", "binarise"] if augment else ["--binarise", "0.5"]
    assert main([*COMMON, *options, "--out", str(out)]) == 0
    assert main(["evaluate", str(out)]) == 0
    assert ("our own draw" in capsys.readouterr().out) == (augment is not None)
