"""Generators: variants whose codes, taken together, are to be distributed like the prior."""

from collections.abc import Sequence

from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.inference.wae import WAE
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Discriminator, PointEncoder, check_sizes
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS, decoder_of


def wae_mmd(
    data_dim: int,
    latent_dim: int = 8,
    hidden: Sequence[int] = (512, 256),
    weight: float = 5.0,
    kernel: str = "imq",
    real: bool = False,
) -> Pair:
    """p: that of ``l2_vae`` | q: Delta(z - f(x)) | WAE: squared error / 2 + weight MMD^2 of codes and prior |
    Tolstikhin et al. 2018; S3 IV.

    ``weight`` and ``kernel``: see :class:`~pyro_vaes.inference.wae.WAE`. A batch needs two rows at least.

    >>> wae_mmd(data_dim=4).objective
    WAE('mmd', weight=5)
    """
    check_sizes(data_dim, latent_dim, hidden)
    return Pair(
        *_deterministic(data_dim, latent_dim, hidden, real), WAE("mmd", weight, kernel),
        range=None if real else PIXELS, name="wae_mmd",
    )  # fmt: skip


def wae_gan(
    data_dim: int,
    latent_dim: int = 8,
    hidden: Sequence[int] = (512, 256),
    weight: float = 5.0,
    discriminator_hidden: Sequence[int] = (128, 128),
    rate: float = 0.5,
    real: bool = False,
) -> Pair:
    """p: that of ``l2_vae`` | q: Delta(z - f(x)) | WAE: squared error / 2 + weight GAN loss of codes and prior |
    Tolstikhin et al. 2018; S3 IV.

    The discriminator is the objective's; its learning rate is ``rate`` times the others', and Adam's beta_1 0.5
    unless ``fit`` is told another, as in the authors' settings for MNIST. ``discriminator_hidden`` are its widths; the
    source's are four of 512, which on small data win against the encoder, whose codes then collapse.

    >>> wae_gan(data_dim=4, discriminator_hidden=(6,)).objective
    WAE('gan', weight=5, discriminator=Discriminator(8, (6,)))
    """
    check_sizes(data_dim, latent_dim, hidden)
    check_sizes(data_dim, latent_dim, discriminator_hidden, "discriminator_hidden")
    discriminator = Discriminator(latent_dim, discriminator_hidden)
    return Pair(
        *_deterministic(data_dim, latent_dim, hidden, real),
        WAE("gan", weight, discriminator=discriminator, rate=rate),
        range=None if real else PIXELS, name="wae_gan",
    )  # fmt: skip


def _deterministic(
    data_dim: int, latent_dim: int, hidden: Sequence[int], real: bool
) -> tuple[LatentGaussian, AmortisedDelta]:
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    model = LatentGaussian(StandardPrior(latent_dim), decoder, FixedScale(1.0))
    return model, AmortisedDelta(PointEncoder(data_dim, hidden, latent_dim))
