"""How much images move with each block of a code: numbers for what the views show."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, said, whole
from pyro_vaes.evaluation.blocks import Start, blocks_of, decode, prior_codes, start_codes
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class BlockEffects:
    r"""How much images move when one block is drawn anew; see :func:`block_effects`.

    Attributes:
        sites: the blocks. change: (T,), the mean square of the change of an entry, in squared units of the data.
        error: (T,), its standard error. everything: the same when all blocks are drawn anew at once.
        share: (T,), change / everything: the total effect (Sobol index) of each block. Together they are 1 where no
            two blocks interact, else more.
        coarse: (T,), the share of the change that is left in 4 x 4 mean patches of the image; None without a shape.

    Source: Sobol (2001) for the share; the images are those of Shang et al. (2017), Fig. 5.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair = pv.crvae(64, 64, (8,), blocks=2, units=4, sd=0.1, shape=(8, 8))
    >>> pv.block_effects(pair, 8).share.shape
    torch.Size([2])
    """

    sites: tuple[str, ...]
    change: Tensor
    error: Tensor
    everything: float
    share: Tensor
    coarse: Tensor | None


def block_effects(
    pair: Pair,
    draws: int = 512,
    y: Tensor | int | None = None,
    *,
    x: Start = None,
    shape: Iterable[int] | None = None,
    seed: int = 0,
) -> BlockEffects:
    r"""Measure how much the image moves when one block alone is drawn anew, block by block.

    .. math:: e_t = \frac1d\, \mathrm{E}\, \big\| \mu(z) - \mu(z_1, \dots, \tilde z_t, \dots, z_T) \big\|^2, \qquad
              \mathrm{share}_t = \frac{e_t}{\frac1d\, \mathrm{E}\, \| \mu(z) - \mu(\tilde z) \|^2}

    A share is the part of the variance of images that is left when all other blocks are known. The coarse share says of
    what kind the change is: 1 where whole regions become lighter or darker, 0 where only details within 4 x 4 patches
    do. So whether early blocks hold what is global, as the source says, is a question to two lists of numbers.

    Args:
        draws: at least 2. y, x, seed: as in :func:`evolve`; the new draws are each row's own here.
        shape: of an image, (H, W) or (C, H, W), for the coarse share.

    Raises:
        InputError: for bad arguments, or a pair whose code has no blocks.

    Source: the measure is ours, for a claim that Shang et al. (2017), 4.4, show by pictures; the estimator is Jansen's
    (1999) of the total effect.

    >>> from pyro_vaes.variants import l2_vae
    >>> block_effects(l2_vae(4, 2, (8,)), 20).share
    tensor([1.])
    """
    sites = blocks_of(pair)
    patches = None if shape is None else _patches(pair, shape)
    with quietly(pair):
        start, y = start_codes(pair, sites, whole("draws", draws, low=2, high=10**6), y, x, seed)
        if len(start[sites[0]]) < 2:
            raise InputError("x holds one datum: a mean change needs two")
        seed_at(seed, 2)
        anew = prior_codes(pair, sites, y, len(start[sites[0]]))
        before = decode(pair, [start], y)[:, 0]
        moved = [{**start, name: anew[name]} for name in sites] + [anew]
        delta = torch.stack([decode(pair, [codes], y)[:, 0] - before for codes in moved]).double()
    square = delta.square().mean(-1)
    change, error = square.mean(1), square.std(1) / math.sqrt(square.shape[1])
    coarse = None
    if patches is not None:
        left = patches(delta[:-1]).square().mean((1, 2))
        coarse = (left / change[:-1]).float()
    share = (change[:-1] / change[-1]).float()
    return BlockEffects(sites, change[:-1].float(), error[:-1].float(), change[-1].item(), share, coarse)


def _patches(pair: Pair, given: Iterable[int], cells: int = 4):
    """Give the projection of flat images onto the means of 4 x 4 patches, of whatever size the image leaves them."""
    shape = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    sizes = len(shape) in (2, 3) and all(isinstance(side, int) and side > 0 for side in shape)
    if not sizes or math.prod(shape) != pair.data_dim:
        raise InputError(f"shape is {said(given)}: it must be (H, W) or (C, H, W), with {pair.data_dim} entries")

    def mean(side: int) -> Tensor:
        patch = torch.arange(side) * min(cells, side) // side
        same = (patch[:, None] == patch[None]).double()
        return same / same.sum(1, keepdim=True)

    down, right = mean(shape[-2]), mean(shape[-1])

    def project(flat: Tensor) -> Tensor:
        images = flat.reshape(*flat.shape[:-1], *shape)
        return (down.to(flat.device) @ images @ right.T.to(flat.device)).reshape(flat.shape)

    return project
