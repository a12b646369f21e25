"""Images that look real: the channel family beside a discriminator (Shang et al. 2017, 4.2)."""

from collections.abc import Sequence

from pyro_vaes.errors import InputError, number
from pyro_vaes.inference.vae_gan import VAEGAN
from pyro_vaes.nn.conv import image_shape
from pyro_vaes.nn.discriminator import ImageDiscriminator
from pyro_vaes.pair import Pair
from pyro_vaes.variants.channel import conv_vae, crvae

BETA_D = 0.01  # of the paper, for faces


def vae_gan(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    sd: float = 0.1,
    weight: float | None = None,
    fakes: str = "both",
    threshold: float = 0.9,
    discriminator_filters: Sequence[int] | None = None,
    discriminator_hidden: int = 512,
    rate: float = 1.0,
    beta: float = 1.0,
) -> Pair:
    """p, q: those of ``conv_vae`` | ELBO + weight GAN loss of the model's images | S2 4.2, Eq. S3;
    Larsen et al. 2016.

    Pixels in [0, 1]. ``weight``: of the generator's loss, in nats; by default the paper's beta_D = .01 in its units,
    .01 channels height width / (8 sd^2). ``fakes``: ``posterior``, ``prior`` or ``both``. ``threshold``: the
    discriminator skips a step in which it tells more than this share right. ``rate``: its learning rate as a multiple
    of the others'. ``discriminator_filters``: of its stages, by default 32, 64, 128, 128 or as many as the image has
    room for. Other arguments: see ``conv_vae``, :class:`~pyro_vaes.inference.vae_gan.VAEGAN` and
    :class:`~pyro_vaes.nn.discriminator.ImageDiscriminator`.

    >>> vae_gan(data_dim=64, hidden=(8,), discriminator_filters=(4,), discriminator_hidden=6).objective
    VAEGAN(discriminator=ImageDiscriminator((1, 8, 8), filters=(4,), hidden=6), weight=8)
    """
    pair = conv_vae(data_dim, latent_dim, hidden, shape, _pixels(sd), beta)
    D = _discriminator(data_dim, shape, discriminator_filters, discriminator_hidden)
    pair.objective = VAEGAN(beta, D, _weight(weight, data_dim, sd), fakes, threshold, rate=rate)
    pair.name = "vae_gan"
    return pair


def crvae_gan(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    blocks: int = 8,
    recurrence: str = "both",
    mean: str = "conv",
    units: int | None = None,
    preset: str = "paper",
    sd: float = 0.1,
    weight: float | None = None,
    fakes: str = "both",
    threshold: float = 0.9,
    discriminator_filters: Sequence[int] | None = None,
    discriminator_hidden: int = 512,
    rate: float = 1.0,
    beta: float | Sequence[float] = 1.0,
) -> Pair:
    """p, q: those of ``crvae`` | ELBO + weight GAN loss of the model's images | S2 4.2, Eq. 4; Shang et al. 2017.

    Pixels in [0, 1]. ``beta``: one weight of the KL, or one for each block: the paper lets its alpha fall "over time"
    from .0003 to .0002, which the authors' code reads as the first three of eight blocks and the other five. The
    objective's arguments: see ``vae_gan``; the others: see ``crvae``.

    >>> crvae_gan(data_dim=64, latent_dim=64, hidden=(8,), blocks=2, discriminator_hidden=6, beta=[1.5, 1]).name
    'crvae_gan'
    """
    pair = crvae(data_dim, latent_dim, hidden, shape, blocks, recurrence, mean, units, preset, 1, _pixels(sd), beta)
    D = _discriminator(data_dim, shape, discriminator_filters, discriminator_hidden)
    weights = {f"z_{t}": b for t, b in enumerate(beta, 1)} if isinstance(beta, Sequence) else beta
    pair.objective = VAEGAN(weights, D, _weight(weight, data_dim, sd), fakes, threshold, rate=rate)
    pair.name = "crvae_gan"
    return pair


def _discriminator(
    data_dim: int, shape: Sequence[int] | None, filters: Sequence[int] | None, hidden: int
) -> ImageDiscriminator:
    return ImageDiscriminator(image_shape(shape, data_dim), filters, hidden)


def _pixels(sd: object) -> float:
    if sd is None:
        raise InputError("sd is None: a discriminator tells probabilities from data that are 0 or 1 at a glance")
    return number("sd", sd, open_low=True)


def _weight(weight: float | None, data_dim: int, sd: float) -> float:
    """Lambda in nats; by default the paper's."""
    return BETA_D * data_dim / (8 * sd**2) if weight is None else number("weight", weight)
