"""The classical variants: one code, one likelihood, the ELBO."""

from collections.abc import Sequence

from torch import nn

from pyro_vaes.errors import InputError, unknown
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.denoised import Denoised
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, activation_of, check_sizes
from pyro_vaes.nn.scales import FixedScale, LearnedScale, NetworkScale, TanhLogVariance
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS, decoder_of, encoder_guide


def vae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    activation: str = "tanh",
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)) | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S4 4.1; Kingma & Welling 2014.

    Data are binary, 0 or 1. ``activation="relu"`` is the network of S4 4.2.1 ("tuned"), which trains it with Adam at
    beta_2 = 0.99.

    >>> vae(data_dim=4).name
    'vae'
    """
    return Pair(*_bernoulli(data_dim, latent_dim, hidden, activation), ELBO(beta), name="vae")


def beta_vae(data_dim: int, latent_dim: int = 20, hidden: Sequence[int] = (500,), beta: float = 4.0) -> Pair:
    """p, q: those of ``vae`` | ELBO with beta = 4, whose bound is that of beta = 1 | Higgins et al. 2017; S4 4.2.6.

    The loss is E -log p(x | z) + beta KL; a run shows it, and the bound with beta = 1. Data are binary.

    >>> beta_vae(data_dim=4).objective
    ELBO(beta=4.0)
    """
    return Pair(*_bernoulli(data_dim, latent_dim, hidden, "tanh"), ELBO(beta), name="beta_vae")


def dvae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    corruption: str = "salt_and_pepper:0.05",
    beta: float = 1.0,
) -> Pair:
    """p, q: those of ``vae``, q given a corrupted x~ in training | ELBO, denoised | Im et al. 2017; S4 4.2.5.

    ``corruption``: ``salt_and_pepper:FRACTION`` or ``impulse:FRACTION``, drawn anew at every step; see
    :class:`~pyro_vaes.inference.denoised.Denoised`. ReLU, as S4 has it. Data are binary.

    >>> dvae(data_dim=4).objective
    Denoised(ELBO(), 'salt_and_pepper:0.05')
    """
    objective = Denoised(ELBO(beta), corruption)
    return Pair(*_bernoulli(data_dim, latent_dim, hidden, "relu"), objective, name="dvae")


def iwae(
    data_dim: int,
    latent_dim: int = 50,
    hidden: Sequence[int] = (200, 200),
    particles: int = 50,
    alpha: float = 0.0,
    estimator: str = "iwae",
) -> Pair:
    """p, q: those of ``vae`` | ImportanceWeighted(K) | Burda, Grosse & Salakhutdinov 2016.

    Their network of one stochastic layer: two tanh layers of 200, 50 codes. ``particles`` is K; ``alpha`` and
    ``estimator`` are those of :class:`~pyro_vaes.inference.importance.ImportanceWeighted`. Data are binary.

    >>> iwae(data_dim=4, particles=5).objective
    ImportanceWeighted(particles=5)
    """
    objective = ImportanceWeighted(particles, alpha, estimator)
    return Pair(*_bernoulli(data_dim, latent_dim, hidden, "tanh"), objective, name="iwae")


def _bernoulli(
    data_dim: int, latent_dim: int, hidden: Sequence[int], activation: str
) -> tuple[LatentBernoulli, AmortisedNormal]:
    check_sizes(data_dim, latent_dim, hidden)
    kind = activation_of(activation)
    decoder = Decoder(latent_dim, hidden, data_dim, output=nn.Identity, activation=kind)
    model = LatentBernoulli(StandardPrior(latent_dim), decoder)
    return model, AmortisedNormal(GaussianEncoder(data_dim, hidden, latent_dim, kind))


def gaussian_vae(
    data_dim: int,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    minimum: float = 1e-2,
    head: str = "softplus",
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), sigma(z)^2) | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S4 4.1, App. A.1 Eq. 6.

    One tanh layer. sigma comes from a network of its own, whose last layer is the ``head``: ``softplus`` plus
    ``minimum``, or ``course_report``, log sigma^2 = tanh(.), as S4's "tanh for the variance" can be read. That sigma^2
    is at least 1/e, so the negative bound is at least d (ln 2 pi - 1) / 2.

    >>> gaussian_vae(data_dim=4).name
    'gaussian_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = Decoder(latent_dim, hidden, data_dim, activation=nn.Tanh)
    if head not in ("softplus", "course_report"):
        raise unknown("head", str(head), ["softplus", "course_report"])
    if head == "course_report" and minimum != 1e-2:
        raise InputError(f"minimum is {minimum}: the head course_report has a smallest sigma of its own")
    scale = (
        NetworkScale(latent_dim, hidden, data_dim, minimum, nn.Tanh)
        if head == "softplus"
        else TanhLogVariance(latent_dim, hidden, data_dim, nn.Tanh)
    )
    model = LatentGaussian(StandardPrior(latent_dim), decoder, scale)
    guide = AmortisedNormal(GaussianEncoder(data_dim, hidden, latent_dim, nn.Tanh))
    return Pair(model, guide, ELBO(beta), range=PIXELS, name="gaussian_vae")


def l2_vae(
    data_dim: int, latent_dim: int = 16, hidden: Sequence[int] = (512, 256), beta: float = 1.0, real: bool = False
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), I) | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S0 V-B(c).

    >>> l2_vae(data_dim=4).name
    'l2_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    model = LatentGaussian(StandardPrior(latent_dim), decoder, FixedScale(1.0))
    guide = encoder_guide(data_dim, hidden, latent_dim)
    return Pair(model, guide, ELBO(beta), range=None if real else PIXELS, name="l2_vae")


def gamma_vae(
    data_dim: int, latent_dim: int = 16, hidden: Sequence[int] = (512, 256), beta: float = 1.0, real: bool = False
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), gamma I), gamma learned | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S3 II-IV.

    Departs from S3: sqrt(gamma) stays above 0.001, because the density is unbounded as gamma -> 0.

    >>> gamma_vae(data_dim=4).name
    'gamma_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    scale = LearnedScale(1, start=0.3)
    model = LatentGaussian(StandardPrior(latent_dim), decoder_of(latent_dim, hidden, data_dim, real), scale)
    guide = encoder_guide(data_dim, hidden, latent_dim)
    return Pair(model, guide, ELBO(beta), range=None if real else PIXELS, name="gamma_vae")


def lc_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    minimum: float = 1e-2,
    beta: float = 1.0,
    real: bool = False,
) -> Pair:
    """p: z ~ N(0, I), x ~ N(mu(z), diag sigma(z)^2), sigma learned | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S0 V-B(e).

    >>> lc_vae(data_dim=4).name
    'lc_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    scale = NetworkScale(latent_dim, hidden, data_dim, minimum)
    model = LatentGaussian(StandardPrior(latent_dim), decoder_of(latent_dim, hidden, data_dim, real), scale)
    guide = encoder_guide(data_dim, hidden, latent_dim)
    return Pair(model, guide, ELBO(beta), range=None if real else PIXELS, name="lc_vae")
