"""What variants are put together from."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import InputError
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder

PIXELS = (0.0, 1.0)  # where a sigmoid mean can reach


def decoder_of(latent_dim: int, hidden: Sequence[int], data_dim: int, real: bool) -> Decoder:
    """Give a decoder whose mean is squashed to [0, 1], or any real number.

    >>> decoder_of(2, (3,), 4, real=True)[-1]
    Identity()
    """
    if not isinstance(real, bool):
        raise InputError(f"real is {real!r}: it must be True or False")
    return Decoder(latent_dim, hidden, data_dim, output=nn.Identity if real else nn.Sigmoid)


def encoder_guide(data_dim: int, hidden: Sequence[int], latent_dim: int) -> AmortisedNormal:
    """Give the guide N(mu_z(x), sigma_z(x)^2).

    >>> encoder_guide(4, (3,), 2).encoder.loc
    Linear(in_features=3, out_features=2, bias=True)
    """
    return AmortisedNormal(GaussianEncoder(data_dim, hidden, latent_dim))
