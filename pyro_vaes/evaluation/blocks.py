"""Views of a code that comes in blocks: one block after the other, along one of them, and between four codes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, said, unknown, whole
from pyro_vaes.evaluation.aggregated import code_sites
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.posterior import AtMean, decoded
from pyro_vaes.pair import Pair
from pyro_vaes.tensors import plain

ROWS = 512
PATHS = ("linear", "spherical")
Codes = dict[str, Tensor]
Start = Tensor | Mapping[str, Tensor] | None


def blocks_of(pair: Pair) -> tuple[str, ...]:
    """Name the blocks of a pair's code: its real-valued latent sites ``z_1 ... z_T``, in the order the model draws.

    A pair with the one site ``z`` has one block.

    Raises:
        InputError: for a pair without a code, or one whose model draws a site of the code from another one: a block
            that is moved would move those below it, so that nothing could be said of it alone.

    >>> from pyro_vaes.variants import iwae_2, l2_vae
    >>> blocks_of(l2_vae(4, 2, (8,)))
    ('z',)
    >>> blocks_of(iwae_2(4))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: iwae_2 draws z_1 from the sites before it: blocks are independent under p
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    sites = code_sites(pair)
    if not sites:
        raise InputError(f"{pair.name} has no code of real numbers, and so no blocks")
    with quietly(pair):
        y = pair.first_condition(2)
        one, other = (
            {name: value + shift for name, value in prior_codes(pair, sites, y, 2).items()} for shift in (0.0, 1.0)
        )
        # The density of one and the same value, with all other blocks elsewhere.
        for name in sites[1:]:
            among = [_density(pair, {**others, name: one[name]}, name, y) for others in (one, other)]
            if not torch.equal(*among):
                raise InputError(f"{pair.name} draws {name} from the sites before it: blocks are independent under p")
    return tuple(sites)


def evolve(pair: Pair, draws: int = 8, y: Tensor | int | None = None, *, x: Start = None, seed: int = 0) -> Tensor:
    r"""Let images come into being block by block: first nothing, then z_1, then z_2, each kept once it is drawn.

    .. math:: \mu(0, \dots, 0),\; \mu(z_1, 0, \dots, 0),\; \dots,\; \mu(z_1, \dots, z_T), \qquad z_t \sim p(z_t)

    Args:
        draws: B, how many images. y: the condition of a conditional pair: one label for all, a label each, or (B, c).
        x: instead of the prior's draws the guide's of these images, (B, d), or codes, site -> (B, k); then ``draws``
            is left out of account. seed: of the draws.

    Returns:
        (B, T + 1, d), in the units of the data: the site ``mu`` or the likelihood's mean. The last column is the whole
        code, which is what :func:`interpolate_block` and :func:`resample_block` of this seed start from.

    Raises:
        InputError: for bad arguments, or a pair whose code has no blocks; see :func:`blocks_of`.

    Source: Shang et al. (2017), 4.4 and Fig. 5a. Zero is the mean of their prior; it is put there whatever the
    pair's own prior is.

    >>> from pyro_vaes.variants import l2_vae
    >>> evolve(l2_vae(4, 2, (8,)), 3).shape
    torch.Size([3, 2, 4])
    """
    sites = blocks_of(pair)
    with quietly(pair):
        start, y = start_codes(pair, sites, draws, y, x, seed)
        nothing = {name: torch.zeros_like(value) for name, value in start.items()}
        columns = ({name: (start if i < t else nothing)[name] for i, name in enumerate(sites)}
                   for t in range(len(sites) + 1))  # fmt: skip
        return decode(pair, columns, y)


def interpolate_block(
    pair: Pair,
    block: int,
    steps: int = 8,
    draws: int = 4,
    y: Tensor | int | None = None,
    *,
    x: Start = None,
    path: str = "linear",
    seed: int = 0,
) -> Tensor:
    r"""Move one block from where it is to a new draw, the others stay.

    .. math:: z_t(w) = (1 - w)\, z_t + w\, \tilde z_t, \qquad \tilde z_t \sim p(z_t), \quad w \in [0, 1]

    The new draw is the same in all rows, so that all of them end with the same block t.

    Args:
        block: t, from 1. steps: columns, at least 2. draws, y, x, seed: as in :func:`evolve`.
        path: ``linear``, or ``spherical``, :math:`\cos(w \pi / 2)\, z_t + \sin(w \pi / 2)\, \tilde z_t`: of independent
            draws of N(0, I) every point of this path is one too, while those halfway on a line are too near to 0.

    Returns:
        (B, steps, d).

    Raises:
        InputError: for bad arguments, or a pair whose code has no blocks.

    Source: Shang et al. (2017), 4.4 and Fig. 5b-d. Which path they took is not said: the line is our reading. They
    chose t and the new draw by eye; here the seed does. Under a condition the new draw is that of the first row.

    >>> from pyro_vaes.variants import l2_vae
    >>> interpolate_block(l2_vae(4, 2, (8,)), 1, steps=5, draws=3).shape
    torch.Size([3, 5, 4])
    """
    site, sites = _block(pair, block)
    if path not in PATHS:
        raise unknown("path", str(path), PATHS)
    whole("steps", steps, low=2, high=10**4)
    with quietly(pair):
        start, y = start_codes(pair, sites, draws, y, x, seed)
        end = _anew(pair, site, y, 1, seed, block)
        stay, move = _quarter(steps, end) if path == "spherical" else _line(steps, end)
        columns = ({**start, site: a * start[site] + b * end} for a, b in zip(stay, move, strict=True))
        return decode(pair, columns, y)


def resample_block(
    pair: Pair,
    block: int,
    styles: int = 8,
    draws: int = 4,
    y: Tensor | int | None = None,
    *,
    x: Start = None,
    seed: int = 0,
) -> Tensor:
    r"""Draw one block anew, again and again, the others stay: the styles of what this block holds.

    .. math:: \mu(z_1, \dots, \tilde z_t^{(s)}, \dots, z_T), \qquad \tilde z_t^{(s)} \sim p(z_t), \quad s = 1 \dots S

    A draw is shared by the rows of its column, so that it can be seen whether it does the same in all of them.

    Args:
        block: t, from 1. styles: S. draws, y, x, seed: as in :func:`evolve`.

    Returns:
        (B, S, d), without the image it starts from: that is ``evolve(...)[:, -1]`` of the same arguments.

    Raises:
        InputError: for bad arguments, or a pair whose code has no blocks.

    Source: Shang et al. (2017), 4.4 and Fig. 5e-h.

    >>> from pyro_vaes.variants import l2_vae
    >>> resample_block(l2_vae(4, 2, (8,)), 1, styles=5, draws=3).shape
    torch.Size([3, 5, 4])
    """
    site, sites = _block(pair, block)
    whole("styles", styles, high=10**4)
    with quietly(pair):
        start, y = start_codes(pair, sites, draws, y, x, seed)
        anew = _anew(pair, site, y, styles, seed, block)
        return decode(pair, ({**start, site: style.expand_as(start[site])} for style in anew), y)


def interpolate(
    pair: Pair, x: Tensor | Mapping[str, Tensor], steps: int = 8, y: Tensor | int | None = None, *, seed: int = 0
) -> Tensor:
    r"""Fill the square between the codes of four data.

    .. math:: Z_{\psi, \varphi} = \cos\varphi\, (\cos\psi\, Z_1 + \sin\psi\, Z_2)
              + \sin\varphi\, (\cos\psi\, Z_3 + \sin\psi\, Z_4), \qquad \psi, \varphi \in [0, \pi / 2]

    The squares of the weights sum to 1, so that of independent codes from N(0, I) every point is one too.

    Args:
        x: four data, (4, d), whose codes are drawn from the guide, or their codes, site -> (4, k). steps: of either
            angle, at least 2. y: the condition of a conditional pair, one for all four. seed: of the draws.

    Returns:
        (steps, steps, d): phi runs down, psi to the right. Z_1 is top left, Z_2 top right, Z_3 bottom left, Z_4 bottom
        right.

    Raises:
        InputError: for bad arguments, other than four data, four conditions that differ (there is none in between), or
            a pair whose code has no blocks.

    Source: Shang et al. (2017), supplement B, Eq. S1.

    >>> from pyro_vaes.variants import l2_vae
    >>> interpolate(l2_vae(4, 2, (8,)), torch.rand(4, 4), steps=5).shape
    torch.Size([5, 5, 4])
    """
    sites = blocks_of(pair)
    whole("steps", steps, low=2, high=1000)
    with quietly(pair):
        start, y = start_codes(pair, sites, 4, y, x, seed)
        if x is None or len(start[sites[0]]) != 4:
            raise InputError(f"x holds {0 if x is None else len(start[sites[0]])} data: a square is between four")
        if y is not None and bool((y != y[0]).any()):
            raise InputError("y differs between the four data: there is no condition in between, so take four of one")
        down, right = _quarter(steps, start[sites[0]]), _quarter(steps, start[sites[0]])
        # (phi, psi, corner), in the order Z_1 ... Z_4.
        weight = torch.stack([c[:, None] * r[None] for c in down for r in right], -1).reshape(steps * steps, 4)
        every = {name: torch.tensordot(weight, value, 1) for name, value in start.items()}
        found = decode(pair, [every], None if y is None else y[:1].expand(steps * steps, -1))
    return found.reshape(steps, steps, -1)


def _block(pair: Pair, block: int) -> tuple[str, tuple[str, ...]]:
    sites = blocks_of(pair)
    if not isinstance(block, int) or isinstance(block, bool) or not 1 <= block <= len(sites):
        one = "1, its only one" if len(sites) == 1 else f"from 1 to {len(sites)}"
        raise InputError(f"block is {said(block)}: the blocks of {pair.name} are {one}")
    return sites[block - 1], sites


def start_codes(
    pair: Pair, sites: tuple[str, ...], draws: int, y: Tensor | int | None, x: Start, seed: int
) -> tuple[Codes, Tensor | None]:
    """The codes that a view starts from, of the prior, of images, or as given; and the condition of each."""
    whole("seed", seed, low=0)
    like = next(pair.parameters(), torch.empty(0))
    given = {} if x is None or isinstance(x, Tensor) else _given(pair, sites, x, like)
    if isinstance(x, Tensor):
        check_data(pair, x)
    rows = len(x) if isinstance(x, Tensor) else len(given[sites[0]]) if given else whole("draws", draws, high=10**6)
    y = torch.full((rows,), whole("y", y, low=0)) if isinstance(y, int) else y
    y = check_condition(pair, torch.empty(rows, 0, device=like.device), y)
    seed_at(seed, 0)
    if given or x is None:
        return given or prior_codes(pair, sites, y, rows), y
    q: Any = poutine.trace(pair.guide).get_trace(as_batch(cast(Tensor, x)).to(like.device), y).nodes
    return {name: q[name]["value"] for name in sites}, y


def _given(pair: Pair, sites: tuple[str, ...], x: Mapping[str, Tensor], like: Tensor) -> Codes:
    """Codes that the caller has: all blocks, and each as the model draws it."""
    if not isinstance(x, Mapping) or set(x) != set(sites) or not all(isinstance(v, Tensor) for v in x.values()):
        what = sorted(map(str, x)) if isinstance(x, Mapping) else type(x).__name__
        raise InputError(f"x is {what}: it must be images, or codes of all blocks: {', '.join(sites)}")
    for name in sites:
        plain(f"x: {name}", x[name], 2)
    drawn, rows = prior_codes(pair, sites, pair.first_condition(2), 2), len(x[sites[0]])
    if not rows:
        raise InputError("x is empty: there must be at least one code")
    for name in sites:
        if x[name].shape[1:] != drawn[name].shape[1:] or len(x[name]) != rows:
            raise InputError(f"x: {name} is {tuple(x[name].shape)}: it must be ({rows}, {drawn[name].shape[1]})")
        if not bool(torch.isfinite(x[name]).all()):
            raise InputError(f"x: {name} is not finite everywhere")
    return {name: x[name].to(like) for name in sites}


def prior_codes(pair: Pair, sites: Iterable[str], y: Tensor | None, rows: int) -> Codes:
    """Draw the blocks from the model. What else it draws stands at its mean: it may have no draws."""
    with AtMean(tuple(sites)):
        p: Any = poutine.trace(pair.model).get_trace(_no_data(pair, rows), y).nodes
    return {name: p[name]["value"] for name in sites}


def _anew(pair: Pair, site: str, y: Tensor | None, rows: int, seed: int, block: int) -> Tensor:
    """New draws of one block, (rows, k), under the first condition; another block has other draws."""
    seed_at(seed, 1, block)
    return prior_codes(pair, [site], None if y is None else y[:1].expand(rows, -1), rows)[site]


def _density(pair: Pair, values: Codes, site: str, y: Tensor | None) -> Tensor:
    with AtMean():
        p: Any = poutine.trace(poutine.condition(pair.model, values)).get_trace(_no_data(pair, 2), y).nodes
    return p[site]["fn"].log_prob(values[site])


def _no_data(pair: Pair, rows: int) -> Tensor:
    """What stands at the observed site while only codes are asked for; nobody scores it."""
    like = next(pair.parameters(), torch.empty(0))
    return torch.zeros(rows, pair.data_dim, dtype=like.dtype, device=like.device)


def decode(pair: Pair, columns: Iterable[Codes], y: Tensor | None) -> Tensor:
    """Decode one set of codes after the other, (rows, columns, d), some rows at a time."""
    found = []
    for codes in columns:
        rows = len(next(iter(codes.values())))
        found.append(torch.cat([
            decoded(pair, _no_data(pair, min(ROWS, rows - i)), None if y is None else y[i : i + ROWS],
                    {name: value[i : i + ROWS] for name, value in codes.items()})
            for i in range(0, rows, ROWS)
        ]))  # fmt: skip
    return torch.stack(found, 1)


def _line(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (1 - w).to(like), w.to(like)


def _quarter(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin from 0 to pi / 2, with both ends exactly 0 and 1."""
    cos = torch.linspace(0, math.pi / 2, steps, dtype=torch.float64).cos()
    cos[-1] = 0.0
    # sin is cos from the other end.
    return cos.to(like), cos.flip(0).to(like)
