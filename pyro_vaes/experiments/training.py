"""What the experiments share: build a variant from its seed and train it, many of them side by side."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
    if fit(pair, x, seed=seed, **plan).interrupted is not None:
        # One training ended early must not let the experiment go on with a half-trained pair.
        raise KeyboardInterrupt
    return pair


def side_by_side(
    cell: Callable[..., Any], settings: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Compute ``cell(*setting)`` for every setting, one process per core, and give each as it is done.

    Networks as small as these gain little from a second thread and much from a second process. ``cell`` must be a
    function of a module, and what it takes and gives must be plain values or arrays.
    """
    # Spawned, not forked: a forked copy of torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(cell, *setting): setting for setting in settings}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
