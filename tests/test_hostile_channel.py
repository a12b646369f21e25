"""Bad input to the channel family, its adversarial forms, its priors and its views."""

import json

import numpy as np
import pytest
import torch
from small import loaded

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.errors import InputError

GAN = {"hidden": (4,), "discriminator_filters": (3,), "discriminator_hidden": 4}
FEW = {"steps": 1, "batch_size": 4, "progress": False, "engine": "eager"}


@pytest.fixture(scope="module")
def crvae():
    return pv.crvae(64, latent_dim=32, hidden=(4,), blocks=2, units=3)


@pytest.mark.parametrize("fakes", [["both"], {"both"}, None])
def test_fakes_are_one_word(fakes):
    with pytest.raises(InputError, match="unknown fakes"):
        pv.vae_gan(64, fakes=fakes, **GAN)


@pytest.mark.parametrize("name", ["conv_vae", "vae_gan", "ae_classifier", "vae_classifier"])
@pytest.mark.parametrize(("sd", "said"), [(1e200, "at most 1e6"), (1e-200, "at least 1e-06"), (0, "at least 1e-06")])
def test_a_scale_has_a_square(name, sd, said):
    with pytest.raises(InputError, match=f"^sd is .*{said}"):
        getattr(pv, name)(64, hidden=(4,), sd=sd)


def test_labels_may_be_bytes():
    pair = pv.vae_classifier(64, 2, hidden=(4,), filters=(3,), condition_dim=300)
    x, y = torch.rand(4, 64), torch.tensor([0, 255, 7, 44], dtype=torch.uint8)
    from pyro_vaes.inference.guard import check_condition

    assert check_condition(pair, x, y).argmax(1).tolist() == y.tolist()
    assert check_condition(pair, x, y.long()).equal(check_condition(pair, x, y))


def test_a_prior_of_one_code_is_refused_before_training():
    pair = pv.empirical_cvae(64, 16, hidden=(4,))
    before = [p.clone() for p in pair.parameters()]
    with pytest.raises(InputError, match="there is 1 datum: empirical_cvae needs at least 2"):
        pv.fit(pair, torch.ones(1, 64), **FEW)
    assert all(map(torch.equal, before, pair.parameters()))
    assert pv.fit(pv.empirical_cvae(64, 16, hidden=(4,), draws=2), torch.ones(1, 64), **FEW).step == 1


def test_the_prior_of_another_site_is_not_swapped():
    # Both codes of a two-stage VAE have two entries; N(0, I) is of u.
    with pytest.raises(InputError, match="no site 'z' of its prior"):
        pv.with_empirical_prior(pv.two_stage_vae(64, 2, hidden=(4,)), torch.rand(5, 64))


@pytest.mark.parametrize(
    ("mask", "more", "said"),
    [
        (torch.eye(64)[0].to_sparse(), {}, "mask is sparse"),
        (torch.eye(64)[0], {"noise": "yes"}, "noise is 'yes'"),
    ],
)
def test_a_completion_refuses(crvae, mask, more, said):
    with pytest.raises(InputError, match=said):
        pv.complete(crvae, torch.ones(2, 64), mask, **more)


@pytest.mark.parametrize("shape", ["88", 8, (8.0, 8.0), (-8, -8), (64,)])
def test_effects_refuse_a_shape(crvae, shape):
    with pytest.raises(InputError, match=r"^shape is .*with 64 entries"):
        pv.block_effects(crvae, 2, shape=shape)


def test_views_refuse_no_codes(crvae):
    with pytest.raises(InputError, match="x is empty"):
        pv.evolve(crvae, x={name: torch.zeros(0, 16) for name in ("z_1", "z_2")})


def test_a_prior_that_is_fitted_later_starts_anew():
    plain, empirical = pv.cvae_conv(64, 32, hidden=(4,)), pv.empirical_cvae(64, 32, hidden=(4,))
    pv.warm_start(empirical, plain)
    x = (torch.rand(30, 64) > 0.5).float()
    assert torch.equal(empirical.guide.encoder.loc[0].weight, plain.guide.encoder.loc[0].weight)
    pv.fit_prior(empirical, x)
    again, back = pv.empirical_cvae(64, 32, hidden=(4,)), pv.cvae_conv(64, 32, hidden=(4,))
    pv.warm_start(again, empirical)
    pv.warm_start(back, empirical)
    assert not again.model.prior.loc.any() and not back.model.prior.loc.any()
    assert empirical.model.prior.loc.any()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "judged"
    few = ["--steps", "1", "--limit", "40", "--device", "cpu", "--engine", "eager", "--out", str(folder)]
    assert main(["fit", "vae_classifier", "--hidden", "[2]", "--latent_dim", "2", "--filters", "[2]", *few]) == 0
    return folder


def test_views_of_a_generator_beside_a_classifier_know_no_labels(judged, capsys):
    assert main(["interpolate", str(judged), "--rows", "0,1,2,3", "--steps", "2"]) == 0
    pair, x = pv.Run.open(judged).pair(), pv.load("digits", limit=4).x
    found = loaded(judged / "interpolate.npz")["images"]
    assert np.array_equal(found.reshape(2, 2, 64), pv.interpolate(pair, x, 2).numpy())
    assert main(["interpolate", str(judged), "--steps", "2"]) == 0
    assert np.array_equal(loaded(judged / "interpolate.npz")["images"], found)
    capsys.readouterr()
    assert main(["resample", str(judged), "--label", "3"]) == 2
    assert "draws no image by its label" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "said"), [("great", "unknown path"), ("spherical", "that is of one block")])
def test_a_path_is_of_one_block(judged, path, said, capsys):
    assert main(["interpolate", str(judged), "--path", path]) == 2
    assert said in capsys.readouterr().err


def test_a_weight_is_said_as_it_is():
    assert "weight=12345678.9, threshold=0.1234567)" in repr(
        pv.vae_gan(64, weight=12345678.9, threshold=0.1234567, **GAN).objective
    )
    assert repr(pv.vae_gan(64, **GAN).objective).endswith("weight=8)")


def test_fit_knows_the_shape_of_its_images(tmp_path, capsys):
    """A code on a grid needs it; another one than the images' is refused, since its rows would be cut elsewhere."""
    x = np.random.default_rng(0).random((20, 3, 8, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    words = ["--data", str(tmp_path / "x.npy"), "--steps", "2", "--batch_size", "5", "--hidden", "[4]", "--sd", "0.1"]
    words += ["--latent_dim", "16", "--out"]
    assert main(["fit", "conv_vae", *words, str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]["shape"] == [3, 8, 4]
    capsys.readouterr()
    assert main(["fit", "conv_vae", "--shape", "[8,4,3]", *words, str(tmp_path / "other")]) == 2
    assert "the images are [3, 8, 4]" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_generator_beside_a_classifier_draws_no_image_by_its_label(tmp_path, capsys):
    small = ["--hidden", "[4]", "--latent_dim", "16", "--filters", "[4]", "--steps", "2", "--limit", "50"]
    run = str(tmp_path / "run")
    assert main(["fit", "vae_classifier", "--labels", "20", "--out", run, *small]) == 0
    capsys.readouterr()
    assert main(["sample", run, "--draws", "3", "--label", "7", "--output", str(tmp_path / "s.npy")]) == 2
    assert "draws no image by its label" in capsys.readouterr().err
    assert main(["sample", run, "--draws", "3", "--output", str(tmp_path / "s.npy")]) == 0
