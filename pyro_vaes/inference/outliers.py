"""How likely it is that an entry is an outlier, by the model itself or by reading its residuals again."""

import math
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, first_line, number, whole
from pyro_vaes.inference.guard import as_batch, check_data
from pyro_vaes.inference.posterior import reconstructed
from pyro_vaes.pair import Pair


class TwoParts(NamedTuple):
    """Residuals as a mixture of a narrow and a broad Gaussian.

    Attributes:
        log_clean: log-probability of each residual to be of the narrow part, float64, of the shape of the residuals.
        share: of the broad part. narrow, broad: the two standard deviations.
        log_likelihood: mean over residuals, after each iteration.
    """

    log_clean: Tensor
    share: float
    narrow: float
    broad: float
    log_likelihood: list[float]


def two_parts(residual: Tensor, *, minimum: float = 1e-2, iterations: int = 200) -> TwoParts:
    r"""Fit a narrow and a broad Gaussian to residuals, all of them together, by maximum likelihood.

    .. math:: (1 - \epsilon)\, \mathcal{N}(u; 0, a^2) + \epsilon\, \mathcal{N}(u; 0, b^2), \qquad b \ge 2 a,\
              \epsilon \le 1/2

    The two constraints say which part is the dirt: at least twice as broad, and never the majority.

    Args:
        residual: any shape, finite, in any one unit. minimum: a stays above it, so that residuals which are zero to
            the last digit do not make the likelihood infinite. iterations: of EM, at most.

    The start is fixed: a is the median absolute residual / 0.6745, b = 5 a and eps = 0.05.

    Raises:
        InputError: residuals are empty or not finite, or an argument is out of range.

    Source: the contaminated normal of Tukey (1960); EM of Dempster, Laird & Rubin (1977).

    >>> u = torch.cat([torch.linspace(-1, 1, 90), torch.tensor([9.0, -8.0, 10.0])])
    >>> found = two_parts(u)
    >>> (found.log_clean < math.log(0.5)).nonzero().flatten().tolist()
    [90, 91, 92]
    """
    number("minimum", minimum, open_low=True)
    whole("iterations", iterations)
    if residual.numel() == 0 or not bool(residual.double().square().isfinite().all()):
        raise InputError(f"residual has shape {tuple(residual.shape)}: it and its squares must be finite and not empty")
    square = residual.detach().double().square()
    narrow = max(minimum, math.sqrt(float(square.median())) / 0.6745)
    broad, share, history = 5 * narrow, 0.05, list[float]()
    for _ in range(iterations):
        log_clean, both = _expectation(square, share, narrow, broad)
        history.append(both)
        if len(history) > 1 and history[-1] - history[-2] < 1e-7:
            break
        share, narrow, broad = _maximisation(square, 1 - log_clean.exp(), minimum)
    else:
        log_clean, both = _expectation(square, share, narrow, broad)
        history.append(both)
    return TwoParts(log_clean, share, narrow, broad, history)


def _expectation(square: Tensor, share: float, narrow: float, broad: float) -> tuple[Tensor, float]:
    clean = math.log1p(-share) - math.log(narrow) - square / (2 * narrow**2)
    dirt = math.log(share) - math.log(broad) - square / (2 * broad**2)
    both = torch.logaddexp(clean, dirt)
    return clean - both, float(both.mean()) - 0.5 * math.log(2 * math.pi)


def log_clean(residual: Tensor, parts: TwoParts) -> Tensor:
    """Read other residuals, in the same unit, with parts that have been fitted: their log-probability to be clean.

    >>> u = torch.cat([torch.linspace(-1, 1, 90), torch.tensor([9.0, -8.0, 10.0])])
    >>> parts = two_parts(u)
    >>> torch.equal(log_clean(u, parts), parts.log_clean)
    True
    """
    return _expectation(residual.double().square(), parts.share, parts.narrow, parts.broad)[0]


def _maximisation(square: Tensor, weight: Tensor, minimum: float) -> tuple[float, float, float]:
    """The best share, narrow and broad for given weights of the broad part, b >= 2 a included."""
    clean, dirt = 1 - weight, weight
    narrow = math.sqrt(float((clean * square).sum() / clean.sum().clamp(min=1e-12)))
    alone = math.sqrt(float((dirt * square).sum() / dirt.sum().clamp(min=1e-12)))
    if alone < 2 * narrow:
        # Where b = 2 a binds, one variance is fitted to both: clamping b alone would let the likelihood fall.
        narrow = math.sqrt(float(((clean + dirt / 4) * square).mean()))
    narrow = max(minimum, narrow)
    return min(max(float(dirt.mean()), 1e-6), 0.5), narrow, max(2 * narrow, alone)


def clean_log_probability(pair: Pair, x: Tensor, draws: int = 8, *, batch_size: int = 512, seed: int = 0) -> Tensor:
    r"""Give the log-probability of every entry to be clean, averaged over draws of the code.

    .. math:: \log \frac{1}{L} \sum_{l=1}^{L} P(\text{entry } ij \text{ is clean} \mid x_i, z^{(l)}),
              \qquad z^{(l)} \sim q(z \mid x_i)

    A guide with a Bernoulli site ``w`` of x's shape (``rvae``) knows the probability. Other models have one population
    of residuals, with heavy tails or without, and no class of outliers: for them the residuals, in units of the
    ordinary one, are read again as :func:`two_parts`, fitted to all entries and draws together, without labels. That
    probability is of the reader, not of the model, and it depends on the whole of ``x``; it is calibrated as far as
    clean residuals in those units are one Gaussian and dirty ones another, broader one.

    Args:
        x: (N, d), in the pair's range. draws: L. batch_size: rows at a time. seed: of the draws.

    Returns:
        (N, d), float64.

    Raises:
        InputError: for bad data, or arguments out of range.

    >>> from pyro_vaes.variants import rvae
    >>> x = torch.randn(9, 4)
    >>> bool((clean_log_probability(rvae(4, 2, (8,)), x) < 0).all())
    True
    """
    check_data(pair, x)
    whole("draws", draws), whole("batch_size", batch_size), whole("seed", seed, low=0)
    pair.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        batches = [as_batch(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        known = [torch.cat([_log_pi(pair, batch) for batch in batches]) for _ in range(draws if _knows(pair, x) else 0)]
        if known:
            each = torch.stack(known)
        else:
            residuals = [torch.cat([_residual(pair, batch) for batch in batches]) for _ in range(draws)]
            each = two_parts(torch.stack(residuals)).log_clean
    return each.logsumexp(0) - math.log(draws)


def outlier_probability(pair: Pair, x: Tensor, draws: int = 8, *, batch_size: int = 512, seed: int = 0) -> Tensor:
    """Give the probability of every entry to be an outlier: 1 - exp of :func:`clean_log_probability`.

    Args:
        x: (N, d), in the pair's range. draws: of the guide, over which probabilities are averaged.
        batch_size: rows at a time. seed: of the draws.

    Returns:
        (N, d), in [0, 1].

    Raises:
        InputError: for bad data, or a model that says nothing of outliers.

    Source: Eduardo et al. (2020) for ``rvae``; the others are ours.

    >>> from pyro_vaes.variants import t_vae
    >>> p = outlier_probability(t_vae(4, 2, (8,), real=True), torch.randn(9, 4))
    >>> p.shape, bool(((p >= 0) & (p <= 1)).all())
    (torch.Size([9, 4]), True)
    """
    log_clean = clean_log_probability(pair, x, draws, batch_size=batch_size, seed=seed)
    return -torch.expm1(log_clean.clamp(max=0.0))


def _weights(pair: Pair, x: Tensor) -> Any:
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        try:
            site: Any = poutine.trace(pair.guide).get_trace(x).nodes.get("w", {})
        except RuntimeError as error:  # a chance that is not a number cannot be drawn from
            raise InputError(f"the guide of {pair.name} cannot answer for these data: {first_line(error)}") from error
    fn = site.get("fn")
    return getattr(fn, "base_dist", fn)


def _knows(pair: Pair, x: Tensor) -> bool:
    with torch.random.fork_rng():
        return isinstance(_weights(pair, as_batch(x[:1])), dist.Bernoulli)


def _log_pi(pair: Pair, x: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(_weights(pair, x).logits.double())


def _residual(pair: Pair, x: Tensor) -> Tensor:
    mean, scale = reconstructed(pair, x, draw=True)
    return (x - mean).double() / scale
