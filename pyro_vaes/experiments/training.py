"""What the experiments share: build a variant from its seed and train it."""

from typing import Any

import torch
from torch import Tensor

from pyro_vaes.inference.fit import fit, warm_start
from pyro_vaes.pair import Pair
from pyro_vaes.variants import variant


def trained(
    name: str, x: Tensor, *, start: Pair | None = None, seed: int = 0, arguments: dict[str, Any], **plan: Any
) -> Pair:
    """Build a variant from its seed, start it from another pair's parameters if one is given, and train it.

    Args:
        name: of the variant. x: (N, d). arguments: of the variant. plan: arguments of ``fit``.

    >>> trained("l2_vae", torch.rand(9, 4), arguments={"hidden": (3,)}, steps=2, progress=False).name
    'l2_vae'
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair = variant(name)(data_dim=x.shape[1], **arguments)
    if start is not None:
        warm_start(pair, start)
    fit(pair, x, seed=seed, **plan)
    return pair
