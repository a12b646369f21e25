"""Variants for few labels whose classifier is the discriminator: autoencoders as the generators of its fakes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pyro_vaes.errors import whole
from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.inference.classifier_gan import ClassifierGAN
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.nn.conv import image_shape
from pyro_vaes.nn.mlp import check_sizes
from pyro_vaes.nn.two_heads import TwoHeads
from pyro_vaes.pair import Pair
from pyro_vaes.variants.channel import conv_vae, crvae, pixel_sd

#: What Shang et al. (2017), H, weigh the divergence and the generator's loss with, on their scale.
ALPHA, BETA = 1e-4, 1e-3


def ae_classifier(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    condition_dim: int = 10,
    shape: Sequence[int] | None = None,
    filters: Sequence[int] = (64, 128, 256),
    layers: int = 1,
    sd: float = 0.1,
    weight: float | None = None,
    classifier_weight: float = 1.0,
    rate: float = 1.0,
) -> Pair:
    """p: that of ``conv_vae``, x ~ N(mu(z), sd^2) | q: Delta(z - f(x)) | ClassifierGAN of the reconstruction |
    S2 4.5; Denton et al. 2016, without their patches.

    A deterministic autoencoder as generator: no divergence. Arguments: see ``vae_classifier``.

    >>> ae_classifier(data_dim=16, hidden=(3,)).objective.objective
    ELBO(beta=0.0)
    """
    pixel_sd(sd)
    vae = conv_vae(data_dim, latent_dim, hidden, shape, sd)
    encoder: Any = vae.guide.encoder
    # The mean's way through the encoder, by itself: a layer for a scale would never learn.
    point = nn.Sequential(nn.Unflatten(-1, encoder.shape), encoder.trunk, encoder.loc)
    generator = Pair(vae.model, AmortisedDelta(point), ELBO(0.0), range=vae.range, name="ae_classifier")
    return _classified(generator, condition_dim, shape, filters, layers, sd, weight, classifier_weight, rate)


def vae_classifier(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    condition_dim: int = 10,
    shape: Sequence[int] | None = None,
    filters: Sequence[int] = (64, 128, 256),
    layers: int = 1,
    sd: float = 0.1,
    weight: float | None = None,
    classifier_weight: float = 1.0,
    rate: float = 1.0,
    beta: float | None = None,
) -> Pair:
    """p: that of ``conv_vae``, x ~ N(mu(z), sd^2) | q: its | ClassifierGAN of the ELBO | S2 4.5.

    Data with a label and without one, ``condition_dim`` classes: y of :func:`~pyro_vaes.inference.fit.fit` is a label
    each, -1 where there is none. p and q know nothing of labels (a draw of a class is a draw of any); they are read by
    the discriminator of the *objective*, whose second head is the classifier that
    :func:`~pyro_vaes.inference.classify.classify` asks: :class:`~pyro_vaes.nn.two_heads.TwoHeads` with ``filters`` and
    ``layers``. ``latent_dim``, ``hidden`` and ``shape``: the generator's, as for ``conv_vae``. ``weight``,
    ``classifier_weight``, ``rate``: see :class:`~pyro_vaes.inference.classifier_gan.ClassifierGAN`. None as ``weight``
    and ``beta`` is S2's 1e-3 and 1e-4 on the scale of nats: times channels height width / (8 sd^2).

    >>> vae_classifier(data_dim=16, hidden=(3,), filters=(4,)).objective
    ClassifierGAN(ELBO(beta=0.02), TwoHeads((1, 4, 4), (4,), 10, 1), weight=0.2)
    """
    beta = in_nats(ALPHA, data_dim, sd) if beta is None else beta
    generator = conv_vae(data_dim, latent_dim, hidden, shape, sd, beta)
    generator.name = "vae_classifier"
    return _classified(generator, condition_dim, shape, filters, layers, sd, weight, classifier_weight, rate)


def crvae_classifier(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    condition_dim: int = 10,
    shape: Sequence[int] | None = None,
    blocks: int = 8,
    units: int | None = None,
    filters: Sequence[int] = (64, 128, 256),
    layers: int = 1,
    sd: float = 0.1,
    weight: float | None = None,
    classifier_weight: float = 1.0,
    rate: float = 1.0,
    beta: float | Sequence[float] | None = None,
) -> Pair:
    """p: that of ``crvae``, x ~ N(mu(u), sd^2) | q: its | ClassifierGAN of the ELBO | S2 4.5.

    Arguments: see ``vae_classifier``; ``blocks``, ``units`` and a list as ``beta``: see ``crvae``. The paper's rate for
    p and q is 0.002; give ``rate`` so that the discriminator keeps its own.

    >>> crvae_classifier(data_dim=16, latent_dim=8, hidden=(3,), blocks=2).name
    'crvae_classifier'
    """
    weights = in_nats(ALPHA, data_dim, sd) if beta is None else beta
    generator = crvae(data_dim, latent_dim, hidden, shape, blocks, units=units, sd=sd, beta=weights)
    generator.name = "crvae_classifier"
    return _classified(generator, condition_dim, shape, filters, layers, sd, weight, classifier_weight, rate)


def in_nats(weight: float, data_dim: int, sd: float) -> float:
    """Bring a weight beside the squared error, averaged over pixels in [-1, 1], to nats of N(mu, sd^2) in [0, 1].

    >>> in_nats(1e-3, 16, 0.1)
    0.2
    """
    whole("data_dim", data_dim)
    # Rounded, so that an objective says it in few digits.
    return float(f"{weight * data_dim / (8 * pixel_sd(sd) ** 2):.6g}")


def _classified(
    generator: Pair,
    condition_dim: int,
    shape: Sequence[int] | None,
    filters: Sequence[int],
    layers: int,
    sd: float,
    weight: float | None,
    classifier_weight: float,
    rate: float,
) -> Pair:
    """The same p and q, with a discriminator that classifies around the objective."""
    c, d = whole("condition_dim", condition_dim, low=2, high=10**6), generator.data_dim
    check_sizes(d, layers, filters, "filters")
    network = TwoHeads(image_shape(shape, d), filters, c, layers)
    weight = in_nats(BETA, d, sd) if weight is None else weight
    objective = ClassifierGAN(generator.objective, network, weight, classifier_weight, rate)
    return Pair(
        generator.model, generator.guide, objective, range=generator.range, condition_dim=c, partial=True,
        name=generator.name,
    )  # fmt: skip
