"""What a trained pair says about data: clean values, outlying entries, new samples."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import OneHotCategorical, TransformedDistribution

from pyro_vaes.errors import InputError, flag, number, whole
from pyro_vaes.inference.densities import exact_sites, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data, check_pair
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.sharing import agree, columns
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Cleaned:
    """What :func:`clean` found, each of shape (N, d).

    Attributes:
        mean: the clean values mu(E z), at the guide's mean code, in the units of x.
        sd: the standard deviation of mu(z) over draws of the guide, in the units of x. A mean-field guide trained by
            the ELBO understates it.
        score: |x - mean| in units of the ordinary residual at that entry (a floor, a scale or a sigma, as the model
            has it).
        probability: share of the posterior draws of z in which |x - mu(z)| is above ``threshold`` ordinary residuals;
            a step is 1 / draws. It is the posterior of an event, and not calibrated against what "really" is dirty.
        mask: True where that is more likely than not.

    Source: Wang et al. (2018), V for the mean; sd, score, probability and mask are ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.clean(pair, x)
    >>> found.sd.shape, found.mask.dtype
    (torch.Size([6, 4]), torch.bool)
    """

    mean: Tensor
    sd: Tensor
    score: Tensor
    probability: Tensor
    mask: Tensor


class AtMean(Messenger):
    """Put every latent site at the mean of its distribution instead of drawing it; a class at the likeliest one.

    Args:
        drawn: sites that are drawn all the same.
    """

    def __init__(self, drawn: Collection[str] = ()):
        super().__init__()
        self.drawn = drawn

    def _pyro_sample(self, msg):
        free = not msg["is_observed"] and msg["value"] is None and not hasattr(msg["fn"], "subsample_size")
        if free and msg["name"] not in self.drawn:
            one_hot = isinstance(msg["fn"], OneHotCategorical)
            msg["value"], msg["done"] = msg["fn"].mode if one_hot else msg["fn"].mean, True


def reconstruct(
    pair: Pair, x: Tensor, y: Tensor | None = None, *, passes: int | None = None, draw: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Give the clean datum and the size of an ordinary residual for a batch.

    .. math:: x^{(1)} = x, \qquad x^{(m+1)} = \mu(\mu_z(x^{(m)})), \qquad m = 1 \dots M

    Args:
        x: (B, d), finite, or uint8 pixels. y: its condition, labels (B,) or (B, c), of a conditional pair.
        passes: M, the pair's own by default. draw: draw the code of the last pass from the guide instead of taking its
            mean, by torch's global generator.

    Returns:
        The site ``mu`` of the model if it records one, else the mean of its likelihood; and likewise the site
        ``scale``, else the likelihood's standard deviation. Both (B, d).

    Raises:
        InputError: for bad data or arguments, and for a likelihood without mean or standard deviation.

    Source: Wang et al. (2018), V. It does not say whether passes at test time hand on a draw or the mean: the mean.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> mean, scale = pv.reconstruct(pair, x)
    >>> mean.shape, scale.shape
    (torch.Size([6, 4]), torch.Size([6, 4]))
    """
    # Values outside of a binary likelihood's support are no mistake here: an answer may go in again.
    check_data(pair, x, support=False)
    y, _ = check_condition(pair, x, y), flag("draw", draw)
    return reconstructed(pair, as_batch(x), y, passes=passes, draw=draw)


def reconstructed(
    pair: Pair, x: Tensor, y: Tensor | None = None, *, passes: int | None = None, draw: bool = False
) -> tuple[Tensor, Tensor]:
    """Do what :func:`reconstruct` does, of a batch that has been looked at."""
    passes = pair.passes if passes is None else passes
    whole("passes", passes)
    # Bad data have been refused before; a recycled pass may lie outside of a binary likelihood's support.
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for m in range(passes):
            at_mean = AtMean() if not (draw and m == passes - 1) else Messenger()
            with at_mean:
                q = poutine.trace(pair.guide).get_trace(x, y)
            p = poutine.trace(poutine.replay(pair.model, trace=q)).get_trace(x, y)
            x = _finite(recorded(p, "mu", "mean"), p, "mean", "mu")
    return x, _finite(recorded(p, "scale", "stddev"), p, "standard deviation", "scale")


def codes_at_mean(pair: Pair, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
    """Give the guide's latent sites of a batch, each at its mean given those before it: site -> (B, ...)."""
    with AtMean():
        sites = prune_subsample_sites(poutine.trace(pair.guide).get_trace(x, y)).nodes
    found: dict[str, Any] = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    return found


def decoded(pair: Pair, x: Tensor, y: Tensor | None, values: dict[str, Tensor]) -> Tensor:
    """Give the clean data of codes, (B, d): of sites that are given no value the model's mean is taken."""
    with AtMean():
        p = poutine.trace(poutine.condition(pair.model, values)).get_trace(x, y)
    return _finite(recorded(p, "mu", "mean"), p, "mean", "mu")


def _finite(value: Tensor, p: poutine.Trace, moment: str, site: str) -> Tensor:
    if not torch.isfinite(value).all():
        fn: Any = p.nodes["x"]["fn"]
        family = type(getattr(fn, "base_dist", fn)).__name__
        raise InputError(
            f"the likelihood at x ({family}) gives a {moment} that is not finite: let the model record its own with "
            f'pyro.deterministic("{site}", ..., event_dim=1)'
        )
    return value


def recorded(p: poutine.Trace, site: str, attribute: str) -> Tensor:
    """A site that the model records, or what its likelihood has instead."""
    value: Any = p.nodes[site]["value"] if site in p.nodes else getattr(p.nodes["x"]["fn"], attribute)
    return value


def active_units(pair: Pair, x: Tensor, y: Tensor | None = None) -> int:
    r"""Count the entries of the code that the data move: those with :math:`\mathrm{Var}_x[\mathrm{E}_q z] > 0.01`.

    The sum of :func:`active_units_by_site` over the sites of the code.

    >>> from pyro_vaes.variants import l2_vae
    >>> 0 <= active_units(l2_vae(4, 2, (8,)), torch.rand(9, 4)) <= 2
    True
    """
    return sum(active_units_by_site(pair, x, y).values())


def active_units_by_site(
    pair: Pair, x: Tensor, y: Tensor | None = None, *, draws: int = 64, seed: int = 0
) -> dict[str, int]:
    r"""Count the active entries of every site of the code: ``z``, or ``z_1`` ... ``z_L``.

    .. math:: A_u = \mathrm{Var}_x\big[\mathrm{E}_{q(u | x)}\, u\big] > 0.01

    Where the guide is one site with a mean in closed form, that mean is taken. Elsewhere (a flow, several layers) it is
    the mean over ``draws`` of the site's mean, or of its value where it has none; the variance that the draws
    themselves leave in such a mean, as large as the threshold for an entry that is all prior, is taken off.

    Args:
        x: (N, d), N at least 2. y: conditions, or None. draws: at least 2. seed: of the draws.

    Source: Burda, Grosse & Salakhutdinov (2016), 5.2.

    >>> from pyro_vaes.variants import l2_vae
    >>> list(active_units_by_site(l2_vae(4, 2, (8,)), torch.rand(9, 4)))
    ['z']
    """
    whole("draws", draws, low=2), whole("seed", seed, low=0)
    check_data(pair, x, support=False)
    if len(x) < 2:
        raise InputError("x holds one datum: what moves with the data needs two")
    y = check_condition(pair, x, y)
    pair.eval()
    with torch.random.fork_rng(), torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        parts = Chunk("rows", 512).over(len(x), lambda i, n: _code_means(pair, *_part(x, y, i, n), draws))
    found = {}
    for site in parts[0]:
        mean, noise = (torch.cat([part[site][i] for part in parts]) for i in (0, 1))
        found[site] = int((mean.var(0) - noise.mean(0) > 0.01).sum())
    return found


def _code_means(pair: Pair, x: Tensor, y: Tensor | None, draws: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site of the code E_q u of each datum, and the variance that drawing has left in it."""
    seen: dict[str, list[Tensor]] = {}
    closed = False
    for _ in range(draws):
        sites = prune_subsample_sites(poutine.trace(pair.guide).get_trace(x, y)).nodes
        given = exact_sites(pair)
        latent = [name for name, site in sites.items() if site["type"] == "sample" and name not in given]
        # By name, as every pair of ours has it; a pair of one's own may call its code otherwise.
        codes = [n for n in latent if n == "z" or n.startswith("z_")] or latent
        means = {name: _mean(sites[name]) for name in codes}
        for name, (value, _) in means.items():
            seen.setdefault(name, []).append(value)
        # What is drawn before the code, as a class is, moves its mean.
        closed = len(codes) == 1 and codes[0] == latent[0] and means[codes[0]][1]
        if closed:
            break
    each = {name: torch.stack(values) for name, values in seen.items()}
    noise = {n: torch.zeros_like(v[0]) if closed else v.var(0) / draws for n, v in each.items()}
    return {name: (value.mean(0), noise[name]) for name, value in each.items()}


def _mean(site: Any) -> tuple[Tensor, bool]:
    """A site's mean and True, or its value and False where no mean is known."""
    if isinstance(site["fn"], TransformedDistribution):  # ``mean`` is a flow's centre, which its layers may bend away
        return site["value"], False
    try:
        return site["fn"].mean, True
    except (NotImplementedError, AttributeError):
        return site["value"], False


def ordinary_residual(pair: Pair, x: Tensor, y: Tensor | None = None) -> float:
    """Give the mean size of a residual that is no outlier: the floor, or the scale, that a result is read with.

    >>> from pyro_vaes.variants import ic_vae
    >>> round(ordinary_residual(ic_vae(4, 2, (8,), floor=0.2), torch.rand(3, 4)), 3)
    0.2
    """
    check_data(pair, x, support=False)
    y = check_condition(pair, x, y)
    pair.eval()
    parts = Chunk("rows", 512).over(len(x), lambda i, n: reconstructed(pair, *_part(x, y, i, n))[1])
    return torch.cat(parts).mean().item()


def bound(pair: Pair, x: Tensor, y: Tensor | None = None, *, batch_size: int = 512, seed: int = 0) -> float:
    r"""Give the mean of the pair's bound over data, in nats per datum, from one draw of the guide each.

    .. math:: \frac1N \sum_i \log p(x_i, z_i) - \log q(z_i \mid x_i), \qquad z_i \sim q(z \mid x_i)

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions of a conditional pair, labels (N,) or (N, c).
        batch_size: rows at a time, halved where memory runs out, with other draws then. seed: of the draws.

    Raises:
        InputError: for bad data.

    Source: Kingma & Welling (2014), Eq. 3.

    >>> from pyro_vaes.variants import l2_vae
    >>> bound(l2_vae(4, 2, (8,)), torch.rand(3, 4)) < 0
    True
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    whole("batch_size", batch_size), whole("seed", seed, low=0)
    pair.eval()
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        rows = Chunk("batch_size", batch_size)
        total = sum(rows.over(len(x), lambda i, n: pair(*_part(x, y, i, n)).bound.item() * n))
    return total / len(x)


def clean(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    passes: int | None = None,
    draws: int = 32,
    threshold: float = 2.0,
    batch_size: int = 512,
    seed: int = 0,
    fabric: Any = None,
) -> Cleaned:
    """Clean data with a trained pair, and say which entries were outliers and how sure that is.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions of a conditional pair, labels (N,) or (N, c).
        passes: M, how often the answer goes in again; the pair's own by default.
        draws: posterior draws for ``sd`` and ``probability``, at least 2.
        threshold: an entry is an outlier where its residual is more than this many ordinary residuals.
        batch_size: rows at a time, halved where memory runs out; then the draws of ``sd`` and ``probability`` are other
            draws of the same posterior. seed: of the draws.
        fabric: on every rank a launched Fabric, by which they share out the batches, and all get everything. A batch
            then has draws of its own, the same for any number of ranks; ``mean`` and ``score`` are as without.

    Raises:
        InputError: for bad data, or arguments out of range.
        MemoryError: if there is not enough for one row.

    Source: Wang et al. (2018), V for the mean; sd, score, probability and mask are ours.

    >>> from pyro_vaes.variants import t_vae
    >>> found = clean(t_vae(4, 2, (8,)), torch.rand(3, 4))
    >>> found.mean.shape, found.mask.dtype
    (torch.Size([3, 4]), torch.bool)
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    whole("draws", draws, low=2), whole("batch_size", batch_size), whole("seed", seed, low=0)
    threshold = number("threshold", threshold, open_low=True)
    whole("passes", pair.passes if passes is None else passes), pair.eval()

    def batch(start: int, count: int) -> tuple[Tensor, ...]:
        if fabric is not None:
            seed_at(seed, start)
        return _clean_batch(pair, *_part(x, y, start, count), passes, draws, threshold)

    agree(ranks := Ranks.of(fabric), pair, x, y, numbers=[passes, draws, threshold, batch_size, seed])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Cleaned(*columns(ranks, x, Chunk("batch_size", batch_size), batch))


def _part(x: Tensor, y: Tensor | None, start: int, count: int) -> tuple[Tensor, Tensor | None]:
    rows = slice(start, start + count)
    return as_batch(x[rows]), None if y is None else y[rows]


def _clean_batch(
    pair: Pair, x: Tensor, y: Tensor | None, passes: int | None, draws: int, threshold: float
) -> tuple[Tensor, ...]:
    mean, scale = reconstructed(pair, x, y, passes=passes)
    total, squares, exceeded = (torch.zeros_like(x) for _ in range(3))
    for _ in range(draws):
        drawn, drawn_scale = reconstructed(pair, x, y, passes=passes, draw=True)
        # Deviations from the mean, not raw values: their squares do not cancel.
        total += drawn - mean
        squares += (drawn - mean).square()
        exceeded += (x - drawn).abs() > threshold * drawn_scale
    variance = (squares - total.square() / draws) / (draws - 1)
    probability = exceeded / draws
    return mean, variance.clamp(min=0).sqrt(), (x - mean).abs() / scale, probability, probability > 0.5


def sample(
    pair: Pair,
    draws: int = 16,
    y: Tensor | int | None = None,
    *,
    passes: int | None = None,
    noise: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Draw new data from the model.

    Args:
        draws: how many, at least 1.
        y: the condition of a conditional pair: one label for all draws, a label each, or (draws, c).
        passes: M; the first gives :math:`x^{(1)} = \mu(z)` with :math:`z \sim p(z)`, each further one
            :math:`x^{(m+1)} = \mu(z)` with :math:`z \sim q(z | x^{(m)})`.
        noise: draw x itself, outliers and all, instead of the clean datum; then ``passes`` must be 1.
        seed: of the draws.

    Returns:
        (draws, d).

    Source: Wang et al. (2018), V-C. Eq. 7 says nothing of the first pass, where there is no x: it hands on the mean.

    >>> from pyro_vaes.variants import t_vae
    >>> sample(t_vae(4, 2, (8,)), 3).shape
    torch.Size([3, 4])
    """
    check_pair(pair)
    whole("draws", draws, high=10**7)
    whole("seed", seed, low=0), flag("noise", noise)
    passes = whole("passes", pair.passes if passes is None else passes)
    if noise and passes != 1:
        raise InputError("noise=True draws from the model itself: passes must be 1")
    y = torch.full((draws,), whole("y", y, low=0)) if isinstance(y, int) else y
    like = next(pair.parameters(), torch.empty(0))
    y = check_condition(pair, torch.empty(draws, 0, device=like.device), y)
    pair.eval()
    with torch.random.fork_rng(), torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        p = poutine.trace(pair.model).get_trace(None, y, size=draws)
        if noise:
            return p.nodes["x"]["value"]  # type: ignore[return-value]
        x = recorded(p, "mu", "mean")
        for _ in range(passes - 1):
            x, _ = reconstructed(pair, x, y, passes=1, draw=True)
    return x
