"""The linear variants: an affine decoder, whose optimum is known or bounded."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import number, unknown
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import check_sizes
from pyro_vaes.nn.scales import LearnedScale, NetworkScale
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import encoder_guide

SCALES = ("gamma", "diagonal")


def affine_vae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] = (512, 256),
    scale: str = "gamma",
    minimum: float = 1e-3,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ N(W z + b, gamma I) or N(W z + b, diag sigma(z)^2) | q: N(mu_z(x), sigma_z(x)^2) | ELBO |
    S3 III; Dai et al. 2018; Lucas et al. 2019.

    ``scale="gamma"`` learns one number: the optimum is probabilistic PCA (Tipping & Bishop 1999), gamma the mean of the
    discarded eigenvalues, and the bound is tight, for a linear encoder can be the posterior. ``scale="diagonal"`` lets
    a network of the decoder's widths say where a datum is uncertain; with capacity enough the optimum is that of robust
    PCA. ``latent_dim`` is d by default: the bound prunes what it does not need. Data are real. Departs from S3: the
    standard deviation stays above ``minimum``, in units of x, because the density is unbounded without it.

    >>> affine_vae(data_dim=4, latent_dim=2).model.decoder
    Linear(in_features=2, out_features=4, bias=True)
    """
    latent_dim = data_dim if latent_dim is None else latent_dim
    check_sizes(data_dim, latent_dim, hidden)
    if scale not in SCALES:
        raise unknown("scale", str(scale), SCALES)
    noise = (
        LearnedScale(1, start=max(0.3, 2 * number("minimum", minimum, 1e-6)), minimum=minimum)
        if scale == "gamma"
        else NetworkScale(latent_dim, hidden, data_dim, minimum)
    )
    model = LatentGaussian(StandardPrior(latent_dim), nn.Linear(latent_dim, data_dim), noise)
    return Pair(model, encoder_guide(data_dim, hidden, latent_dim), ELBO(beta), name="affine_vae")
