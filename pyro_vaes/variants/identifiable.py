"""The identifiable variant: sources that a linear decoder mixes."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import number
from pyro_vaes.guides.factor import AmortisedFactor
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.priors import SourcePrior
from pyro_vaes.nn.mlp import GaussianEncoder, check_sizes
from pyro_vaes.nn.scales import LearnedScale
from pyro_vaes.pair import Pair


def ica_vae(
    data_dim: int,
    latent_dim: int = 3,
    hidden: Sequence[int] = (64,),
    components: int = 3,
    minimum: float = 1e-2,
    beta: float = 1.0,
) -> Pair:
    """p: z_j ~ sum_c pi_jc N(m_jc, s_jc^2) of mean 0 and variance 1, learned, x ~ N(W z + b, gamma I), gamma learned |
    q: N(z; mu_z(x), sigma_z(x)^2) N(x; W z + b, gamma I), normalised | ELBO | S3 V; Hyvarinen, Karhunen & Oja 2001.

    The columns of W are found up to their order, lengths and signs if at most one z_j is Gaussian. ``components`` is C;
    1 makes the prior N(0, I), and W is found up to a rotation only. sqrt(gamma) stays above ``minimum``, since the
    density is unbounded as gamma -> 0. ``hidden`` are the encoder's widths; ``()`` makes it linear. Data are real.

    >>> ica_vae(data_dim=4).model.decoder
    Linear(in_features=3, out_features=4, bias=True)
    """
    check_sizes(data_dim, latent_dim, hidden)
    scale = LearnedScale(1, start=0.3, minimum=number("minimum", minimum, 1e-6))
    decoder = nn.Linear(latent_dim, data_dim)
    model = LatentGaussian(SourcePrior(latent_dim, components), decoder, scale)
    guide = AmortisedFactor(GaussianEncoder(data_dim, hidden, latent_dim), decoder, scale)
    return Pair(model, guide, ELBO(beta), name="ica_vae")
