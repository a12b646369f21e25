"""The conditional variants: a label, or a part of the datum itself, is given beside what is modelled.

Their bounds are of log p(x | y), and not comparable with those of log p(x).
"""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import whole
from pyro_vaes.guides.conditional import ConditionalNormal, NoCode
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.conditional import ConditionalBernoulli, DirectOutput, StructuredOutput
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, check_sizes
from pyro_vaes.pair import Pair


def cvae(
    data_dim: int, classes: int = 10, latent_dim: int = 20, hidden: Sequence[int] = (500,), beta: float = 1.0
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z, y)), y one-hot | q: N(mu_z(x, y), sigma_z(x, y)^2) | ELBO |
    S4 4.2.3; S3 V; Kingma et al. 2014b.

    The code is independent of the label: it holds what the label leaves open, such as the style of a digit. ``classes``
    is the number of labels; the label goes to encoder and decoder. Data are binary, 0 or 1. ReLU, as S4 trains it; its
    Eq. 3 is not this model, but :func:`structured_cvae`. The bound is one of log p(x | y), and not to be compared
    with that of an unconditional variant.

    >>> cvae(data_dim=4, classes=3).condition_dim
    3
    """
    check_sizes(data_dim, latent_dim, hidden)
    c = whole("classes", classes, high=10**6)
    decoder = Decoder(latent_dim + c, hidden, data_dim, output=nn.Identity)
    model = ConditionalBernoulli(StandardPrior(latent_dim), decoder)
    guide = ConditionalNormal(GaussianEncoder(data_dim + c, hidden, latent_dim))
    return Pair(model, guide, ELBO(beta), condition_dim=c, name="cvae")


def structured_cvae(
    data_dim: int,
    condition_dim: int = 10,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(mu_p(y), sigma_p(y)^2), x ~ Bernoulli(logits(z, y)) | q: N(mu_z(x, y), sigma_z(x, y)^2) | ELBO |
    S4 Eq. 3; S3 V; Sohn et al. 2015.

    Structured prediction: what is predicted is x here, as everywhere, and what is given is y, ``condition_dim`` numbers
    per datum, such as the pixels of one quadrant (:func:`~pyro_vaes.data.quadrants.quadrants`). Eq. 3 of S4 calls them
    the other way round, p(y | x, z) p(z | x). Data are binary, 0 or 1. Departs from Sohn et al., whose prior network is
    given a first guess of x by a network without a code as well.

    >>> structured_cvae(data_dim=4, condition_dim=6).condition_dim
    6
    """
    check_sizes(data_dim, latent_dim, hidden)
    c = whole("condition_dim", condition_dim, high=10**6)
    decoder = Decoder(latent_dim + c, hidden, data_dim, output=nn.Identity)
    model = StructuredOutput(GaussianEncoder(c, hidden, latent_dim), decoder)
    guide = ConditionalNormal(GaussianEncoder(data_dim + c, hidden, latent_dim))
    return Pair(model, guide, ELBO(beta), condition_dim=c, name="structured_cvae")


def direct_output(data_dim: int, condition_dim: int = 10, hidden: Sequence[int] = (500,)) -> Pair:
    """Predict x from y without a code, the baseline of :func:`structured_cvae`: a pair whose bound is log p(x | y).

    It is no variant: it has nothing latent.

    >>> print(direct_output(data_dim=4, condition_dim=6, hidden=(3,)).describe())
    direct_output: ELBO(), 1 pass at test time, 37 parameters
    site | p         | q    | shape
    x    | Bernoulli | data | (4,)
    """
    check_sizes(data_dim, 1, hidden)
    c = whole("condition_dim", condition_dim, high=10**6)
    # A decoder runs through its widths backwards; here nothing mirrors an encoder.
    decoder = Decoder(c, tuple(reversed(hidden)), data_dim, output=nn.Identity)
    return Pair(DirectOutput(decoder), NoCode(), ELBO(), condition_dim=c, name="direct_output")
