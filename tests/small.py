"""Small arguments for every variant, where the common ones do not do; and arrays of a file."""

import numpy as np

# Their data are 0 or 1.
BINARY = {"vae", "iwae", "iwae_2", "ladder_vae", "skip_vae", "cnn_vae", "beta_vae", "dvae"} | {
    "planar_vae", "iaf_vae", "spline_vae", "mixture_vae", "vamp_vae", "cvae", "structured_cvae", "m2_vae",
    "conv_vae", "cvae_conv", "bcvae", "crvae", "empirical_cvae",
}  # fmt: skip
IMPORTANCE = {"iwae", "iwae_2"}


def sizes(name, data_dim, latent_dim, hidden):
    """Give the arguments of a small pair."""
    arguments = {"data_dim": data_dim, "latent_dim": latent_dim, "hidden": hidden}
    grid = {"shape": (1, data_dim), "hidden": (6, 4), "latent_dim": 4}  # two cells of a code of two channels
    adversarial = {"discriminator_filters": (3,), "discriminator_hidden": 5, "sd": 0.125}
    judged = grid | {"filters": (4,), "sd": 0.5}
    own = {
        "iwae": {"particles": 4},
        "iwae_2": {"middle": 4, "middle_hidden": (5,), "particles": 4},
        "cnn_vae": {"shape": (1, data_dim)},
        "memoriser": {"latent_dim": 1},
        "wae_gan": {"discriminator_hidden": (5, 4)},
        "conv_vae": grid | {"latent_dim": latent_dim},
        "cvae_conv": grid,
        "empirical_cvae": grid,
        "bcvae": grid | {"blocks": 2},
        "crvae": grid | {"blocks": 2, "units": 5},
        "vae_gan": grid | {"latent_dim": latent_dim} | adversarial,
        "crvae_gan": grid | {"blocks": 2, "units": 5} | adversarial,
        "ae_classifier": judged | {"latent_dim": latent_dim},
        "vae_classifier": judged | {"latent_dim": latent_dim},
        "crvae_classifier": judged | {"blocks": 2, "units": 5},
        "two_stage_vae": {"second_hidden": (5, 4)},
    }
    return arguments | own.get(name, {})


def loaded(path):
    """The arrays of an .npz file, which is closed again."""
    with np.load(path) as arrays:
        return dict(arrays)
