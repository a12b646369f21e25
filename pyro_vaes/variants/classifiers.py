"""Variants for few labels whose classifier is the discriminator: autoencoders as the generators of its fakes."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.guides.amortised import AmortisedDelta, AmortisedNormal
from pyro_vaes.inference.classifier_gan import ClassifierGAN
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.conv import ConvClassifier, ConvDecoder, ConvEncoder, image_shape
from pyro_vaes.nn.mlp import check_sizes
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.nn.two_heads import TwoHeads
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS

#: What Shang et al. (2017), H, weigh the divergence and the generator's loss with, on their scale.
ALPHA, BETA = 1e-4, 1e-3


def ae_classifier(
    data_dim: int,
    latent_dim: int = 64,
    hidden: Sequence[int] = (32, 64),
    condition_dim: int = 10,
    shape: Sequence[int] | None = None,
    filters: Sequence[int] = (32, 64),
    layers: int = 1,
    sd: float = 0.1,
    weight: float | None = None,
    classifier_weight: float = 1.0,
    rate: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), sd^2 I), convolutions | q: Delta(z - f(x)) | ClassifierGAN of ELBO(beta=0) |
    S2 4.5; Denton et al. 2016, without their patches.

    A deterministic autoencoder as generator; the rest is as for ``vae_classifier``.

    >>> ae_classifier(data_dim=4).objective.objective
    ELBO(beta=0.0)
    """
    image = _image(data_dim, latent_dim, hidden, shape)
    guide = AmortisedDelta(ConvClassifier(image, hidden, latent_dim))
    generator = Pair(_model(image, latent_dim, hidden, sd), guide, ELBO(0.0), range=PIXELS, name="ae_classifier")
    return _classified(generator, image, condition_dim, filters, layers, sd, weight, classifier_weight, rate)


def vae_classifier(
    data_dim: int,
    latent_dim: int = 64,
    hidden: Sequence[int] = (32, 64),
    condition_dim: int = 10,
    shape: Sequence[int] | None = None,
    filters: Sequence[int] = (32, 64),
    layers: int = 1,
    sd: float = 0.1,
    weight: float | None = None,
    classifier_weight: float = 1.0,
    rate: float = 1.0,
    beta: float | None = None,
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), sd^2 I), convolutions | q: N(mu_z(x), sigma_z(x)^2) | ClassifierGAN of the ELBO |
    S2 4.5.

    Data with a label and without one, ``condition_dim`` classes: y of :func:`~pyro_vaes.inference.fit.fit` is a label
    each, -1 where there is none. p and q know nothing of labels (a draw of a class is a draw of any); they are read by
    the discriminator of the *objective*, whose second head is the classifier that
    :func:`~pyro_vaes.inference.classify.classify` asks: :class:`~pyro_vaes.nn.two_heads.TwoHeads` with ``filters`` and
    ``layers``. ``hidden``: filters of the generator. ``weight``, ``classifier_weight``, ``rate``: see
    :class:`~pyro_vaes.inference.classifier_gan.ClassifierGAN`. None as ``weight`` and ``beta`` is S2's 1e-3 and 1e-4
    on the scale of nats: times C H W / (8 sd^2).

    >>> vae_classifier(data_dim=16, filters=(4,)).objective
    ClassifierGAN(ELBO(beta=0.02), TwoHeads((1, 4, 4), (4,), 10, 1), weight=0.2)
    """
    image = _image(data_dim, latent_dim, hidden, shape)
    elbo = ELBO(in_nats(ALPHA, data_dim, sd) if beta is None else beta)
    guide = AmortisedNormal(ConvEncoder(image, hidden, latent_dim))
    generator = Pair(_model(image, latent_dim, hidden, sd), guide, elbo, range=PIXELS, name="vae_classifier")
    return _classified(generator, image, condition_dim, filters, layers, sd, weight, classifier_weight, rate)


def in_nats(weight: float, data_dim: int, sd: float) -> float:
    """Bring a weight beside the squared error, averaged over pixels in [-1, 1], to nats of N(mu, sd^2) in [0, 1].

    >>> in_nats(1e-3, 16, 0.1)
    0.2
    """
    # Rounded, so that an objective says it in few digits.
    return float(f"{weight * data_dim / (8 * number('sd', sd, 1e-12) ** 2):.6g}")


def _image(data_dim: int, latent_dim: int, hidden: Sequence[int], shape: Sequence[int] | None) -> tuple[int, int, int]:
    check_sizes(data_dim, latent_dim, hidden)
    if not hidden:
        raise InputError("hidden is empty: it must hold the filters of at least one convolution")
    return image_shape(shape, data_dim)


def _model(image: tuple[int, int, int], latent_dim: int, hidden: Sequence[int], sd: float) -> LatentGaussian:
    decoder = nn.Sequential(ConvDecoder(latent_dim, hidden, image), nn.Sigmoid())
    return LatentGaussian(StandardPrior(latent_dim), decoder, FixedScale(sd))


def _classified(
    generator: Pair,
    image: tuple[int, int, int],
    condition_dim: int,
    filters: Sequence[int],
    layers: int,
    sd: float,
    weight: float | None,
    classifier_weight: float,
    rate: float,
) -> Pair:
    """The same p and q, with a discriminator that classifies around the objective."""
    c = whole("condition_dim", condition_dim, low=2, high=10**6)
    weight = in_nats(BETA, generator.data_dim, sd) if weight is None else weight
    objective = ClassifierGAN(generator.objective, TwoHeads(image, filters, c, layers), weight, classifier_weight, rate)
    return Pair(
        generator.model, generator.guide, objective, range=generator.range, condition_dim=c, partial=True,
        name=generator.name,
    )  # fmt: skip
