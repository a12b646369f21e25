"""The variant that is fitted in stages."""

from collections.abc import Sequence

from pyro_vaes.errors import InputError
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.two_stage import TwoStageNormal
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.stagewise import Stagewise
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.two_stage import TwoStageGaussian
from pyro_vaes.nn.mlp import GaussianEncoder, check_sizes
from pyro_vaes.nn.scales import LearnedScale
from pyro_vaes.nn.skip import SkipGaussian, SkipMean
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS, decoder_of


def two_stage_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    second_hidden: Sequence[int] = (128, 128, 128),
    beta: float = 1.0,
    real: bool = False,
) -> Pair:
    """p: u ~ N(0, I), z ~ N(mu_z(u), gamma_z I), x ~ N(mu_x(z), gamma_x I), both gamma learned |
    q: N(mu_z(x), sigma_z(x)^2), then N(mu_u(z), sigma_u(z)^2) | Stagewise(), by fit_stages | Dai & Wipf 2019; S3 IV.

    The first stage is ``gamma_vae``; the second one learns where its codes lie, so that new codes lie there too. Train
    it by :func:`~pyro_vaes.inference.stages.fit_stages`, or ``pyro-vaes fit two_stage_vae``; ``fit`` alone trains both
    at once, each by its own loss. u has as many entries as z. ``second_hidden``: widths of both networks of the second
    stage, in which z (or u) is put beside the last hidden layer; the paper's are (1024, 1024, 1024). Departs from the
    paper: the square root of either gamma stays above 0.001, because the density is unbounded as gamma -> 0, and all
    networks are fully connected.

    >>> two_stage_vae(data_dim=4).objective
    Stagewise()
    """
    check_sizes(data_dim, latent_dim, hidden)
    check_sizes(data_dim, latent_dim, second_hidden, "second_hidden")
    if not second_hidden:
        raise InputError("second_hidden is empty: the second stage has at least one hidden layer")
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    encoder = GaussianEncoder(data_dim, hidden, latent_dim)
    model = TwoStageGaussian(
        StandardPrior(latent_dim), SkipMean(latent_dim, second_hidden), LearnedScale(1, start=1.0),
        decoder, LearnedScale(1, start=0.3),
    )  # fmt: skip
    guide = TwoStageNormal(encoder, SkipGaussian(latent_dim, second_hidden))
    return Pair(model, guide, Stagewise(beta=beta), range=None if real else PIXELS, name="two_stage_vae")


def first_stage(pair: Pair) -> Pair:
    """Give the first stage of a two-stage pair alone, with its prior N(0, I): a ``gamma_vae`` of the same networks.

    What it draws is what the pair would draw without its second stage.

    Args:
        pair: a ``two_stage_vae``; the networks are shared, not copied.

    Raises:
        InputError: for another pair.

    >>> first_stage(two_stage_vae(data_dim=4, latent_dim=2)).name
    'gamma_vae'
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    model, guide = pair.model, pair.guide
    if not (isinstance(model, TwoStageGaussian) and isinstance(guide, TwoStageNormal)):
        raise InputError(f"{pair.name} is no two-stage pair")
    # The standard prior of u is, with as many entries, that of z.
    alone = LatentGaussian(model.prior, model.decoder, model.scale)
    return Pair(alone, AmortisedNormal(guide.encoder), ELBO(), range=pair.range, name="gamma_vae")
