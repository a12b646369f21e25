"""The command complete end to end, its regions, its masks and its figure."""

import json

import numpy as np
import pytest
import torch
from small import loaded

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.data.hidden import REGIONS, hiding, read_mask
from pyro_vaes.evaluation.completion_plots import HIDDEN, completions

FAST = ["--steps", "5", "--restarts", "2", "--samples", "40", "--draws", "3", "--count", "3"]


def fitted(folder, variant, *options):
    sizes = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "3"]
    assert main(["fit", variant, "--out", str(folder), *sizes, *options]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "g", "gaussian_vae", "--limit", "60")


@pytest.mark.parametrize("method", ["optimise", "importance"])
def test_complete_writes_images_numbers_and_a_figure(run, tmp_path, capsys, method):
    assert main(["complete", run, "--hide", "right", "--method", method, *FAST]) == 0
    out = capsys.readouterr().out
    assert "gaussian_vae: 3 data of digits, 32 entries hidden of each (right)" in out
    folder = tmp_path.__class__(run)
    arrays = loaded(folder / "completion.npz")
    found = json.loads((folder / "completion.json").read_text())
    assert found["rows"] == [0, 30, 59] and (folder / "completion.png").is_file()
    truth = pv.load("digits", limit=60).x[[0, 30, 59]].reshape(3, 8, 8).numpy()
    assert np.array_equal(arrays["truth"], truth) and not arrays["seen"][..., 4:].any()
    assert np.array_equal(arrays["completion"][..., :4], truth[..., :4])
    assert arrays["draws"].shape == ((1 if method == "optimise" else 3), 3, 8, 8)
    own = ((arrays["completion"] - truth)[..., 4:].astype(float) ** 2).mean((1, 2))
    assert found["mse of the hidden entries"] == pytest.approx(own.tolist(), rel=1e-5)
    assert found["energy"] <= found["energy at the start"]
    assert ("ess" in found) == ("k-hat" in found) == (method == "importance")


def test_chains_report_r_hat_and_a_mask_of_ones_own(run, tmp_path, capsys):
    mask = np.ones((2, 8, 8))
    mask[0, 2:4], mask[1, :, 5:] = 0, 0
    np.save(tmp_path / "m.npy", mask)
    options = ["--method", "nuts", "--count", "2", "--samples", "8", "--draws", "2", "--steps", "3"]
    options += ["--restarts", "1", "--chains", "2", "--warmup", "4"]
    assert main(["complete", run, "--hide", str(tmp_path / "m.npy"), *options]) == 0
    found = json.loads((tmp_path.__class__(run) / "completion.json").read_text())
    assert len(found["R-hat"]) == 2 and found["hidden entries"] == [16, 24]


def test_what_was_made_dirty_is_measured_against_what_was_clean(tmp_path):
    run = fitted(tmp_path / "t", "t_vae", "--limit", "40", "--corrupt", "impulse:0.4")
    assert main(["complete", run, "--hide", "top", *FAST]) == 0
    arrays = loaded(tmp_path / "t" / "completion.npz")
    clean = pv.load("digits", limit=40).x[arrays["rows"]].reshape(3, 8, 8).numpy()
    assert np.array_equal(arrays["truth"], clean)
    assert not np.array_equal(arrays["completion"][:, 4:], clean[:, 4:])  # seen pixels are the dirty ones


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hide", "nose"], "unknown region 'nose'"),
        (["--hide", "gone.npy"], "there is no such file"),
        (["--hide", "{}/shape.npy"], "does not fit data of shape (8, 8)"),
        (["--hide", "{}/grey.npy"], "nothing else"),
        (["--hide", "{}/ones.npy"], "hides nothing"),
        (["--hide", "{}/zeros.npy"], "hides all of row 0"),
        (["--hide", "{}/text.npy"], "cannot be read"),
        (["--hide", "{}/object.npy"], "cannot be read"),
        (["--count", "0"], "count is 0"),
        (["--count", "61"], "count is 61: digits has 60 data"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--tau", "1"], "has no discriminator"),
        (["--gamma", "-1"], "gamma is -1"),
        (["--split", "none"], "no split 'none'"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_bad_arguments_end_in_one_line(run, tmp_path, options, message, capsys):
    np.save(tmp_path / "shape.npy", np.ones((4, 4)))
    np.save(tmp_path / "grey.npy", np.full((8, 8), 0.5))
    np.save(tmp_path / "ones.npy", np.ones(64))
    np.save(tmp_path / "zeros.npy", np.zeros(64))
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    assert main(["complete", run, *[o.format(tmp_path) for o in options]]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_a_table_has_no_right_half_but_may_have_a_mask(tmp_path, capsys):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    run = fitted(tmp_path / "run", "gaussian_vae", "--data", str(tmp_path / "table.npy"))
    assert main(["complete", run]) == 2
    assert "have no right: images" in capsys.readouterr().err
    np.save(tmp_path / "m.npy", np.array([1, 1, 0, 1, 0, 1]))
    assert main(["complete", run, "--hide", str(tmp_path / "m.npy"), *FAST]) == 0
    assert not (tmp_path / "run" / "completion.png").exists()


def test_regions_hide_what_they_say_in_all_channels(tmp_path):
    shares = {name: 1 - hiding(name, (64, 64)).mean().item() for name in REGIONS}
    assert [shares[n] for n in ("right", "left", "top", "bottom", "centre")] == [0.5, 0.5, 0.5, 0.5, 0.25]
    assert 0.1 < shares["mouth"] < shares["eyes"] < 0.25
    grey, colour = hiding("eyes", (28, 20)), hiding("eyes", (3, 28, 20)).reshape(3, -1)
    assert all(torch.equal(channel, grey) for channel in colour)
    np.save(tmp_path / "m.npy", grey.reshape(28, 20).numpy())
    assert torch.equal(read_mask(str(tmp_path / "m.npy"), (3, 28, 20), 5).reshape(3, -1), colour)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_the_figure_paints_what_is_hidden_and_shows_what_it_is_given(shape):
    d = int(np.prod(shape))
    x, mask = torch.rand(2, d), hiding("right", shape)
    figure = completions(torch.where(mask.bool(), x, torch.nan), x, mask, shape, truth=x, draws=x.repeat(6, 1, 1),
                         sd=torch.rand(2, d), title="t")  # fmt: skip
    titles = [ax.get_title() for ax in figure.axes[:8]]
    assert titles == ["truth", "seen", "completion", "draw 1", "draw 2", "draw 3", "draw 4", "posterior sd"]
    painted = figure.axes[1].images[0].get_array()
    assert np.allclose(painted[:, 3:], HIDDEN) and not np.allclose(painted[:, :3], HIDDEN)
    assert figure.axes[7].images[0].get_array().shape == (4, 6)
    with pytest.raises(pv.InputError, match="as many"):
        completions(x, x[:1], mask, shape)
