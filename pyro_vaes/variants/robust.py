"""The robust variants, for dirty data without labels, and the autoencoders and recycled ones they are compared with."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import nn

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.guides.cell_posterior import CellPosterior
from pyro_vaes.guides.datum_precision import ConjugateDatumPrecision
from pyro_vaes.guides.outlier import OutlierDelta
from pyro_vaes.guides.precision import ConjugatePrecision
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.models.cell_mixture import CellMixture
from pyro_vaes.models.datum_precision import DatumPrecision
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.index_conditional import IndexConditional
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.sparse_outlier import SparseOutlier
from pyro_vaes.models.student_t import PrecisionMixture
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, PointEncoder, check_sizes
from pyro_vaes.nn.scales import FixedScale, LearnedScale, floor_of
from pyro_vaes.pair import Pair
from pyro_vaes.variants.classical import l2_vae, lc_vae
from pyro_vaes.variants.parts import PIXELS, decoder_of, encoder_guide


def ic_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    floor: float | None = None,
    width: float = 1.0,
    beta: float = 1.0,
    real: bool = False,
) -> Pair:
    """p: z ~ N(0, I), s ~ Jeffreys, x = mu(z) + s | q: N(mu_z(x), sigma_z(x)^2) Delta(s - (x - mu(z))) |
    ELBO | S0 III-C.

    ``floor``: the error, in units of x, below which a residual is no outlier; None learns one per entry, which needs
    a finite ``width`` (see :class:`~pyro_vaes.distributions.Jeffreys`). ``beta`` weighs the code alone: the outlier's
    term is the data's.

    >>> ic_vae(data_dim=4).name
    'ic_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    model = SparseOutlier(StandardPrior(latent_dim), decoder, floor_of(floor, width, data_dim), width)
    guide = OutlierDelta(GaussianEncoder(data_dim, hidden, latent_dim), decoder, model.noise)
    return Pair(model, guide, ELBO({"z": beta}), range=None if real else PIXELS, name="ic_vae")


def indexed_ic_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    floor: float | None = None,
    width: float = 1.0,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x_i ~ N(mu(z), Sigma_i), Sigma_i profiled out | q: N(mu_z(x), sigma_z(x)^2) | ELBO |
    S0 III Eq. 3-8.

    The ``ic_vae`` in its first derivation: equal up to a constant, and cheaper, because mu(z) is computed once.

    >>> indexed_ic_vae(data_dim=4).name
    'indexed_ic_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    floor_net = floor_of(floor, width, data_dim)
    model = IndexConditional(StandardPrior(latent_dim), Decoder(latent_dim, hidden, data_dim), floor_net, width)
    return Pair(model, encoder_guide(data_dim, hidden, latent_dim), ELBO(beta), range=PIXELS, name="indexed_ic_vae")


def affine_ic_vae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] = (512, 256),
    floor: float | None = None,
    width: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), s ~ Jeffreys, x = W z + b + s | q: N(mu_z(x), sigma_z(x)^2) Delta(s - (x - Wz - b)) |
    ELBO | S0 III-B.

    ``latent_dim`` is d by default (kappa = d, S0 V-A): the bound prunes what it does not need. Data are real; ``width``
    is the largest outlier to expect, in units of x. Beyond it the prior is no density, and the loss no bound.

    >>> affine_ic_vae(data_dim=4).model.decoder
    Linear(in_features=4, out_features=4, bias=True)
    """
    latent_dim = data_dim if latent_dim is None else latent_dim
    check_sizes(data_dim, latent_dim, hidden)
    decoder = nn.Linear(latent_dim, data_dim)
    model = SparseOutlier(StandardPrior(latent_dim), decoder, floor_of(floor, width, data_dim), width)
    guide = OutlierDelta(GaussianEncoder(data_dim, hidden, latent_dim), decoder, model.noise)
    return Pair(model, guide, ELBO(), name="affine_ic_vae")


def t_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    beta: float = 1.0,
    minimum: float = 1e-3,
    real: bool = False,
) -> Pair:
    """p: z ~ N(0, I), w ~ Gamma(nu/2, nu/2), x ~ N(mu(z), s^2 / w) |
    q: N(mu_z(x), sigma_z(x)^2), exact Gamma posterior of w | ELBO | ours; cf. Takahashi et al. 2018.

    The sparse-outlier story made proper; s (per entry) and nu are learned, so there is no floor to choose. Departs from
    the Student-t VAE of Takahashi et al. (2018): s and nu belong to the entry and the data, not to the code, and the
    precision weights are explicit, with their exact posterior: the terms of w and x add up to log p(x | z) without
    variance, and no gradient passes through a Gamma. ``beta`` weighs the code alone; s stays above ``minimum``.

    >>> t_vae(data_dim=4).name
    't_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    scale = LearnedScale(data_dim, start=max(0.1, 2 * number("minimum", minimum, 1e-6)), minimum=minimum)
    dof = LearnedScale(1, start=1.0, minimum=1e-2)
    model = PrecisionMixture(StandardPrior(latent_dim), decoder, scale, dof)
    guide = ConjugatePrecision(GaussianEncoder(data_dim, hidden, latent_dim), decoder, scale, dof)
    return Pair(model, guide, ELBO({"z": beta}, exact=["w"]), range=None if real else PIXELS, name="t_vae")


def rvae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    alpha: float = 0.95,
    broad: float = 2.0,
    minimum: float = 0.22,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), w ~ Bernoulli(alpha), x ~ N(mu(z), sigma^2) if w, else N(0, broad^2) |
    q: N(mu_z(x), sigma_z(x)^2), exact Bernoulli posterior of w | ELBO | Eduardo et al. 2020.

    Data are real and standardised. ``alpha`` is the share of clean entries to expect; sigma (per entry) is learned,
    above ``minimum``, exp(-3/2) in the authors' code. w needs no gradient: see ``exact`` of
    :class:`~pyro_vaes.inference.objective.ELBO`.

    >>> rvae(data_dim=4).objective
    ELBO(exact=('w',))
    """
    check_sizes(data_dim, latent_dim, hidden)
    if not 1e-6 <= number("alpha", alpha) <= 1 - 1e-6:
        raise InputError(f"alpha is {alpha}: it must be between 0 and 1, a millionth away from both")
    decoder = decoder_of(latent_dim, hidden, data_dim, real=True)
    parts = (
        decoder,
        LearnedScale(data_dim, start=1.0, minimum=number("minimum", minimum, 1e-6)),
        FixedScale(alpha),
        FixedScale(broad),
    )
    model = CellMixture(StandardPrior(latent_dim), *parts)
    guide = CellPosterior(GaussianEncoder(data_dim, hidden, latent_dim), *parts)
    return Pair(model, guide, ELBO({"z": beta}, exact=["w"]), name="rvae")


def datum_t_vae(
    data_dim: int, latent_dim: int = 16, hidden: Sequence[int] = (512, 256), beta: float = 1.0, real: bool = False
) -> Pair:
    """p: z ~ N(0, I), w ~ Gamma(nu/2, nu/2) once per datum, x ~ N(mu(z), s^2 / w) |
    q: N(mu_z(x), sigma_z(x)^2), exact Gamma posterior of w | ELBO | ours; cf. Lange et al. 1989.

    For data that do not belong, where ``t_vae`` is for entries that do not: a datum that fits nowhere counts for little
    in training, so that it is not learned, and :func:`~pyro_vaes.evaluation.detection.detect` finds it. s (one number)
    and nu are learned.

    >>> datum_t_vae(data_dim=4).name
    'datum_t_vae'
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = decoder_of(latent_dim, hidden, data_dim, real)
    scale, dof = LearnedScale(1), LearnedScale(1, start=1.0, minimum=1e-2)
    model = DatumPrecision(StandardPrior(latent_dim), decoder, scale, dof)
    guide = ConjugateDatumPrecision(GaussianEncoder(data_dim, hidden, latent_dim), decoder, scale, dof)
    return Pair(model, guide, ELBO({"z": beta}, exact=["w"]), range=None if real else PIXELS, name="datum_t_vae")


def ric_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    floor: float | None = None,
    passes: int = 2,
    test_passes: int = 1,
    recycle_grad: bool = False,
    beta: float | None = None,
) -> Pair:
    """p, q: those of ``indexed_ic_vae`` | ELBO summed over N recycled passes, M passes at test time |
    S0 IV Eq. 21-22.

    ``passes`` is N, ``test_passes`` is M, ``beta`` is 1/N by default. Departs from S0 in both: there the KL term counts
    N times and M = N, but recycled data say less and less, so that codes are lost, and each further pass at test time
    blurs (experiment ``recycling``); ``beta=1, test_passes=passes`` is S0. From scratch it collapses all the same:
    start from a trained ``ic_vae`` (:func:`~pyro_vaes.inference.state.warm_start`), or let beta rise from 0.

    >>> ric_vae(data_dim=4).objective
    Recycled(ELBO(beta=0.5), passes=2)
    """
    weight = 1 / whole("passes", passes) if beta is None else beta
    base = indexed_ic_vae(data_dim, latent_dim, hidden, floor, beta=weight)
    return _recycled(base, "ric_vae", passes, test_passes, recycle_grad)


def r_l2_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    passes: int = 2,
    test_passes: int = 2,
    recycle_grad: bool = False,
) -> Pair:
    """p, q: those of ``l2_vae`` | ELBO summed over N recycled passes, M passes at test time | S0 V-B(d).

    The recycled datum is a draw from N(mu, I), as the source has it.

    >>> r_l2_vae(data_dim=4).passes
    2
    """
    return _recycled(l2_vae(data_dim, latent_dim, hidden), "r_l2_vae", passes, test_passes, recycle_grad)


def rlc_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    passes: int = 2,
    test_passes: int = 2,
    recycle_grad: bool = False,
) -> Pair:
    """p, q: those of ``lc_vae`` | ELBO summed over N recycled passes, M passes at test time | S0 V-B(f).

    >>> rlc_vae(data_dim=4).name
    'rlc_vae'
    """
    return _recycled(lc_vae(data_dim, latent_dim, hidden), "rlc_vae", passes, test_passes, recycle_grad)


def autoencoder(data_dim: int, latent_dim: int = 16, hidden: Sequence[int] = (512, 256)) -> Pair:
    """p: that of ``l2_vae`` | q: Delta(z - f(x)) | ELBO with beta = 0, which is squared error / 2 | S0 V-B(b).

    >>> autoencoder(data_dim=4).objective
    ELBO(beta=0.0)
    """
    check_sizes(data_dim, latent_dim, hidden)
    model = LatentGaussian(StandardPrior(latent_dim), Decoder(latent_dim, hidden, data_dim), FixedScale(1.0))
    guide = AmortisedDelta(PointEncoder(data_dim, hidden, latent_dim))
    return Pair(model, guide, ELBO(beta=0.0), range=PIXELS, name="autoencoder")


def induced_ae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    floor: float | None = None,
    l1: float = 0.0,
    width: float = 1.0,
    affine: bool = False,
    real: bool = False,
) -> Pair:
    """p: that of ``indexed_ic_vae``, z ~ Laplace(1/l1) | q: Delta(z - f(x)) | ELBO, beta = 0 if l1 = 0 |
    S3 III; S0 III-A.

    The loss is sum_j log|x_j - mu_j| + l1 ||z||_1: the robust loss without the smoothing that a spread-out q gives.
    ``width`` is the largest outlier to expect, in units of x. ``affine`` makes the mean W z + b, of real data, whose
    minima are those of robust PCA with a rank of at most ``latent_dim``.

    >>> induced_ae(data_dim=4, l1=0.1).objective
    ELBO()
    """
    check_sizes(data_dim, latent_dim, hidden)
    if not isinstance(affine, bool):
        raise InputError(f"affine is {affine!r}: it must be True or False")
    prior = StandardPrior(latent_dim, dist.Laplace, 1 / l1) if number("l1", l1) > 1e-6 else StandardPrior(latent_dim)
    decoder = nn.Linear(latent_dim, data_dim) if affine else decoder_of(latent_dim, hidden, data_dim, real)
    model = IndexConditional(prior, decoder, floor_of(floor, width, data_dim), width)
    guide = AmortisedDelta(PointEncoder(data_dim, hidden, latent_dim))
    objective = ELBO(beta=1.0 if l1 else 0.0)
    return Pair(model, guide, objective, range=None if real or affine else PIXELS, name="induced_ae")


def _recycled(pair: Pair, name: str, passes: int, test_passes: int, recycle_grad: bool) -> Pair:
    objective = Recycled(pair.objective, passes, recycle_grad)
    return Pair(pair.model, pair.guide, objective, passes=test_passes, range=pair.range, name=name)
