"""Leave-one-out prediction where every datum has a code of its own: a datum left out, or an entry of one."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vaes.analysis.target import Sites, Target, look
from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import Values, quietly, rehearsed, run
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.pareto import FEWEST
from pyro_vaes.inference.pareto import smoothed as pareto_smoothed
from pyro_vaes.pair import Pair

LEFT_OUT = ("datum", "entry")


@dataclass(frozen=True)
class LOO:
    """What :func:`loo` found, in nats, float64.

    Attributes:
        left_out: ``datum`` or ``entry``.
        elpd: (N,), log p(x_i), or (N, d), log p(x_ij | x_i without entry j).
        khat: of the weights behind each, of the same shape; above 0.7 the value is not to be trusted.
        draws: of the guide, per datum.

    Source: Vehtari, Gelman & Gabry (2017); the weights by Vehtari et al. (2024).

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> pv.loo(pair, x).elpd.shape
    torch.Size([6])
    """

    left_out: str
    elpd: Tensor
    khat: Tensor
    draws: int

    @property
    def total(self) -> float:
        """Expected log predictive density of all that was left out in turn."""
        return self.elpd.sum().item()

    @property
    def se(self) -> float:
        """Standard error of ``total`` as a sum over data, sqrt(N Var_i): of the choice of data, not of the draws."""
        each = self.elpd.reshape(len(self.elpd), -1).sum(1)
        return math.sqrt(len(each)) * each.std().item() if len(each) > 1 else math.nan

    @property
    def unreliable(self) -> float:
        """Share of the values whose k-hat is above 0.7; NaN where there are too few draws to say."""
        known = self.khat[~self.khat.isnan()]
        return (known > 0.7).double().mean().item() if len(known) else math.nan

    def finding(self) -> Finding:
        """Good where 1 % of k-hats or fewer are above 0.7, caution up to 10 %, bad beyond, or if a value is infinite.

        0.7 is where Vehtari, Simpson, Gelman, Yao & Gabry (2024) stop trusting an estimate; the two shares are ours:
        a sum of N values bears a few that are unsure, and not one in ten.
        """
        share, test = self.unreliable, f"LOO by {self.left_out}"
        question = "can log predictive densities of this model be read off draws of its guide?"
        if math.isnan(share):
            return Finding(test, question, "not tested", f"{self.draws} draws are too few for a k-hat: take 100")
        finite = bool(self.elpd.isfinite().all())
        verdict = "bad" if share > 0.1 or not finite else "caution" if share > 0.01 else "good"
        what = "data" if self.left_out == "datum" else "entries"
        advice = {"good": "the sum can be compared between models of the same data",
                  "caution": "mind the values above 0.7, or take more draws",
                  "bad": "do not compare models by it; take more draws, or a better guide"}[verdict]  # fmt: skip
        said = f"k-hat above 0.7 for {share:.1%} of {self.khat.numel()} {what}: {advice}"
        return Finding(test, question, verdict, said, {"elpd": self.total, "se": self.se, "unreliable": share})


def loo(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    left_out: str = "datum",
    draws: int = 1000,
    batch_size: int = 64,
    chunk: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> LOO:
    r"""Say how well the model predicts what was left out: a whole datum, or one entry of it given the others.

    The decoder is fixed, and each datum has a code of its own. To leave out datum i then leaves nothing of it behind:

    .. math:: \log p(x_i | x_{-i}) = \log p(x_i) \approx \log \frac1S \sum_s w_s, \qquad
              w_s = \frac{p(x_i, z_s)}{q(z_s | x_i)},\ z_s \sim q(z | x_i)

    with Pareto-smoothed weights (no refit: the data trained the decoder, so take data it has not seen). ``az.loo`` of
    the tree's log_likelihood is something else, and wrong here: it leaves x_i out of the posterior of its own code by
    the weights 1 / p(x_i | z_s) alone, as if the guide's draws were the posterior's, and breaks down with z_i. What
    cross-validation within a datum means is to leave out one entry:

    .. math:: p(x_{ij} | x_{i, -j}) \approx \sum_s \bar v_s\, p(x_{ij} | z_s), \qquad
              v_s = \frac{w_s}{p(x_{ij} | z_s)}, \quad \bar v = \text{Pareto-smoothed } v \text{, summing to } 1

    v weighs draws of the guide, made with all of x_i, to the posterior given the other entries, q's own error
    included. A precision per entry whose posterior is exact (``t_vae``) is integrated out of both.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions of a conditional pair.
        left_out: ``"datum"`` or ``"entry"``; entries cost a Pareto fit each, about N d / 5000 seconds.
        draws: S, of the guide per datum, at least 2. batch_size: data at a time. chunk: draws at a time. seed: of the
            draws. progress: show a bar. Memory: batch_size times draws times d numbers for entries, and chunk for data.

    Raises:
        InputError: for bad data or arguments; for a pair without a normalised density (``ic_vae``), a guide that is a
            point mass (``autoencoder``), and for entries a likelihood that has no density entry by entry.

    Source: Vehtari, Gelman & Gabry (2017), 2.1; Vehtari et al. (2024). The weights of the guide are those of Magnusson,
    Andersen, Jonasson & Vehtari (2019), Eq. 6, who leave out data of a posterior that all data share.

    >>> from pyro_vaes.variants import l2_vae
    >>> x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    >>> found = loo(l2_vae(4, 2, (8,)), x, left_out="entry", draws=50)
    >>> found.elpd.shape, found.khat.shape, found.total < 0
    (torch.Size([3, 4]), torch.Size([3, 4]), True)
    """
    if left_out not in LEFT_OUT:
        raise unknown("left_out", str(left_out), LEFT_OUT)
    whole("draws", draws, low=2), whole("seed", seed, low=0)
    whole("batch_size", batch_size), whole("chunk", chunk)
    check_data(pair, x)
    y = check_condition(pair, x, y)
    sites = look(pair, x, y)
    entrywise = _check(pair, x, y, sites, left_out)
    parts = []
    with quietly(pair):
        for start, rows in _batches(len(x), batch_size, progress):
            at = Target(pair, as_batch(x[rows]), None if y is None else y[rows], sites)
            log_w, log_p = _terms(at, draws, chunk, (seed, start), entrywise, left_out == "entry")
            parts.append(_by_datum(log_w) if log_p is None else by_entry(log_w, log_p))
    elpd, shape = (torch.cat(column) for column in zip(*parts, strict=True))
    return LOO(left_out, elpd, shape, draws)


def by_entry(log_w: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    r"""Give log p(x_j | x_{-j}) and k-hat, (B, d), of log weights (S, B) and log p(x_j | z) (S, B, d).

    >>> elpd, shape = by_entry(torch.zeros(100, 1), torch.full((100, 1, 2), -1.5))
    >>> elpd, shape
    (tensor([[-1.5000, -1.5000]], dtype=torch.float64), tensor([[0., 0.]], dtype=torch.float64))
    """
    s, b, d = log_p.shape
    p = log_p.double().reshape(s, b * d).T
    log_v = log_w.double()[:, :, None].expand(s, b, d).reshape(s, b * d).T - p
    weights, _, shape = smoothed(log_v)
    return (weights + p).logsumexp(1).reshape(b, d), shape.reshape(b, d)


def smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Smooth the largest importance weights of each row by the Pareto distribution that they follow.

    Args:
        log_weights: (N, S), in nats.

    Returns:
        Log weights that sum to 1, (N, S); the log of the mean smoothed weight, (N,); and k-hat, (N,); float64. Fewer
        than 25 weights, or weights that are all equal, stay as they are.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024); computed by ArviZ, from whose normalised weights the mean is
    had by way of a weight below the tail, which smoothing leaves alone.

    >>> weights, mean, shape = smoothed(torch.zeros(1, 30))
    >>> mean.item(), shape.item(), round(weights.exp().sum().item(), 6)
    (0.0, 0.0, 1.0)
    """
    rows = log_weights.detach().double().cpu()
    raw, (found, shape) = rows.logsumexp(1, keepdim=True), pareto_smoothed(rows)
    s = rows.shape[1]
    plain = (rows - raw, raw[:, 0] - math.log(s))
    if s < FEWEST:
        return *plain, shape
    # Smoothing moves a fifth of the weights at most: the median is not among them.
    middle = rows.argsort(1)[:, s // 2, None]
    shift = (rows.gather(1, middle) - found.gather(1, middle))[:, 0]
    usual = (shape.isfinite() & (shape != 0) & shift.isfinite() & found.isfinite().all(1))[:, None]
    return (
        torch.where(usual, found, plain[0]),
        torch.where(usual[:, 0], shift - math.log(s), plain[1]),
        shape,
    )


def _by_datum(log_w: Tensor) -> tuple[Tensor, Tensor]:
    _, mean, shape = smoothed(log_w.T)
    return mean, shape


def _terms(
    at: Target, draws: int, chunk: int, where: tuple[int, ...], entrywise: tuple[str, ...], entries: bool
) -> tuple[Tensor, Tensor | None]:
    """log w (S, B), and log p(x_j | code) (S, B, d) where it is asked for."""
    weights, densities = [], []
    for done in range(0, draws, chunk):
        drawn = at.draw(min(chunk, draws - done), (*where, done))
        weights.append(drawn.log_weights)
        if entries:
            densities.append(_entries(at, drawn.values, entrywise))
    return torch.cat(weights), torch.cat(densities) if entries else None


def _entries(at: Target, values: Values, entrywise: tuple[str, ...]) -> Tensor:
    """log p(x_j | code), (S, B, d), with sites that have one value for each entry integrated out."""
    draws = len(next(iter(values.values())))
    p = run(at.pair.model, at.x, at.y, draws, values)
    found = _by_place(p["x"])
    if entrywise:
        # log p(x_j, w_j | z) - log q(w_j | z, x_j) is log p(x_j | z), whatever w_j is.
        q = run(at.pair.guide, at.x, at.y, draws, values)
        for name in entrywise:
            found = found + _by_place(p[name]) - _by_place(q[name])
    return found


def _by_place(site: Any) -> Tensor:
    return site["fn"].base_dist.log_prob(site["value"]).double()


def _check(pair: Pair, x: Tensor, y: Tensor | None, sites: Sites, left_out: str) -> tuple[str, ...]:
    """Refuse pairs without what is needed; give the exact sites that have one value for each entry."""
    if not sites.normalised:
        raise InputError(f"{pair.name} has no normalised density: a log predictive density would lack its constant")
    if sites.point_mass:
        raise InputError(f"the guide of {pair.name} puts a point mass on the code: there are no importance weights")
    p, q = rehearsed(pair, x, y)
    if left_out == "entry" and not _independent(p["x"], p["x"]):
        kind = type(p["x"]["fn"]).__name__
        raise InputError(f"the likelihood at x ({kind}) has no density entry by entry, so that none can be left out")
    return tuple(n for n in sites.exact if _independent(p[n], p["x"]) and _independent(q[n], p["x"]))


def _independent(site: Any, observed: Any) -> bool:
    """Whether a site is d independent values, as many as x has entries."""
    fn = site["fn"]
    once = isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == 1
    return once and not fn.base_dist.event_shape and tuple(fn.event_shape) == tuple(observed["fn"].event_shape)


def _batches(rows: int, batch_size: int, progress: bool) -> Iterator[tuple[int, slice]]:
    starts = range(0, rows, batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, unit="batch", desc="leave one out")
    for start in starts:
        yield start, slice(start, start + batch_size)
