"""The flexible variants: the Bernoulli VAE with a posterior or a prior that is no single Gaussian."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.flows import AmortisedFlow, inverse_autoregressive, planar, spline
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.priors import MixturePrior, VampPrior
from pyro_vaes.nn.flows import ContextEncoder
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, check_sizes
from pyro_vaes.pair import Pair


def planar_vae(
    data_dim: int, latent_dim: int = 20, hidden: Sequence[int] = (500,), flows: int = 10, beta: float = 1.0
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)) | q: z_0 ~ N(mu(x), sigma(x)^2), then planar layers z + u tanh(w'z + b),
    with b, u, w from x | ELBO | Rezende & Mohamed 2015.

    ``flows`` is the number of layers. They have no inverse, so that q can score its own draws only. Data are binary.

    >>> planar_vae(data_dim=4).name
    'planar_vae'
    """
    encoder = _encoder(data_dim, latent_dim, hidden)
    return _flow_pair("planar_vae", encoder, planar(latent_dim, encoder.context, flows), data_dim, hidden, beta)


def iaf_vae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    flows: int = 2,
    width: int = 64,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)) | q: z_0 ~ N(mu(x), sigma(x)^2), then inverse autoregressive layers
    m + s z, with m, s from x and the entries before | ELBO | Kingma et al. 2016.

    ``flows`` is the number of layers, ``width`` that of each one's hidden layer, at least ``latent_dim``. Data are
    binary.

    >>> iaf_vae(data_dim=4).name
    'iaf_vae'
    """
    encoder = _encoder(data_dim, latent_dim, hidden)
    layers = inverse_autoregressive(latent_dim, encoder.context, flows, width)
    return _flow_pair("iaf_vae", encoder, layers, data_dim, hidden, beta)


def spline_vae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    flows: int = 2,
    width: int = 64,
    bins: int = 8,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)) | q: z_0 ~ N(mu(x), sigma(x)^2), then autoregressive layers of
    rational-quadratic splines, from x and the entries before | ELBO | Durkan et al. 2019.

    ``flows`` is the number of layers, ``width`` that of the two hidden layers of each, ``bins`` the pieces of a spline.
    The layers are zuko's, which is an extra: ``pip install 'pyro-vaes[flows]'``. Data are binary.

    >>> spline_vae(data_dim=4).name
    'spline_vae'
    """
    encoder = _encoder(data_dim, latent_dim, hidden)
    layers = spline(latent_dim, encoder.context, flows, width, bins)
    return _flow_pair("spline_vae", encoder, layers, data_dim, hidden, beta)


def mixture_vae(
    data_dim: int, latent_dim: int = 20, hidden: Sequence[int] = (500,), components: int = 10, beta: float = 1.0
) -> Pair:
    """p: z ~ sum_c pi_c N(m_c, s_c^2), x ~ Bernoulli(logits(z)) | q: N(mu_z(x), sigma_z(x)^2) | ELBO |
    the MoG of Tomczak & Welling 2018.

    ``components`` is C; their weights, centres and scales are learned. Data are binary.

    >>> mixture_vae(data_dim=4).name
    'mixture_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    model = LatentBernoulli(MixturePrior(latent_dim, components), _decoder(latent_dim, hidden, data_dim))
    guide = AmortisedNormal(GaussianEncoder(data_dim, hidden, latent_dim, nn.Tanh))
    return Pair(model, guide, ELBO(beta), name="mixture_vae")


def vamp_vae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    components: int = 500,
    grey: float = 0.05,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ mean over c of q(z; u_c), u_c learned, x ~ Bernoulli(logits(z)) | q: N(mu_z(x), sigma_z(x)^2) | ELBO |
    Tomczak & Welling 2018.

    ``components`` is C, the number of pseudo-inputs u_c; they start near ``grey``, or at data after
    ``pair.model.prior.place(x[:C])``. Model and guide share the encoder. It needs more steps than ``vae``,
    since no fixed prior holds the codes in place. Data are binary.

    >>> vamp_vae(data_dim=4).name
    'vamp_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    encoder = GaussianEncoder(data_dim, hidden, latent_dim, nn.Tanh)
    prior = VampPrior(encoder, data_dim, components, grey)
    model = LatentBernoulli(prior, _decoder(latent_dim, hidden, data_dim))
    return Pair(model, AmortisedNormal(encoder), ELBO(beta), name="vamp_vae")


def _encoder(data_dim: int, latent_dim: int, hidden: Sequence[int]) -> ContextEncoder:
    check_sizes(data_dim, latent_dim, hidden)
    return ContextEncoder(data_dim, hidden, latent_dim, nn.Tanh)


def _decoder(latent_dim: int, hidden: Sequence[int], data_dim: int) -> Decoder:
    return Decoder(latent_dim, hidden, data_dim, output=nn.Identity, activation=nn.Tanh)


def _flow_pair(
    name: str, encoder: ContextEncoder, layers: list[nn.Module], data_dim: int, hidden: Sequence[int], beta: float
) -> Pair:
    latent_dim = encoder.loc.out_features
    model = LatentBernoulli(StandardPrior(latent_dim), _decoder(latent_dim, hidden, data_dim))
    return Pair(model, AmortisedFlow(encoder, layers), ELBO(beta), name=name)
