"""What the experiments share: build a variant from its seed and train it, many of them side by side."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vaes.errors import InputError
from pyro_vaes.inference.fit import fit
from pyro_vaes.inference.plan import History
from pyro_vaes.inference.stages import fit_stages
from pyro_vaes.inference.state import warm_start
from pyro_vaes.pair import Pair
from pyro_vaes.variants import variant

Builder = Callable[..., Pair]

# Counts the steps of all processes for the one progress bar; None where nobody looks.
_ticks: Any = None
_stop: Any = None


def trained(
    name: str | Builder, x: Tensor, *, start: Pair | None = None, seed: int = 0, arguments: dict[str, Any], **plan: Any
) -> Pair:
    """Build a variant from its seed, start it from another pair's parameters if one is given, and train it.

    Args:
        name: of the variant, or a function that builds a pair as a variant does. x: (N, d). arguments: of the
            variant. plan: arguments of ``fit``.

    >>> trained("l2_vae", torch.rand(9, 4), arguments={"hidden": (3,)}, steps=2).name
    'l2_vae'
    """
    pair = untrained(name, x.shape[1], arguments, seed)
    if start is not None:
        warm_start(pair, start)
    return train(pair, x, seed=seed, **plan)


def trained_in_stages(name: str | Builder, x: Tensor, *, seed: int = 0, arguments: dict[str, Any], **plan: Any) -> Pair:
    """Build a variant from its seed and train it stage by stage, as :func:`trained` does one that has none.

    >>> trained_in_stages("two_stage_vae", torch.rand(9, 4), arguments={"hidden": (3,)}, steps=[2, 3]).name
    'two_stage_vae'
    """
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt
    pair = untrained(name, x.shape[1], arguments, seed)
    histories = fit_stages(pair, x, **{"progress": False, "on_step": _tick, "seed": seed, **plan})
    if histories[-1].interrupted is not None:
        raise KeyboardInterrupt
    return pair


def train(pair: Pair, x: Tensor, y: Tensor | None = None, **plan: Any) -> Pair:
    """Train a pair as part of an experiment, and give it back; see :func:`run`.

    >>> train(untrained("l2_vae", 4, {"hidden": (3,)}, seed=0), torch.rand(9, 4), steps=2).name
    'l2_vae'
    """
    run(pair, x, y, **plan)
    return pair


def run(pair: Pair, x: Tensor, y: Tensor | None = None, **plan: Any) -> History:
    """Train a pair as part of an experiment: without a bar of its own, and stopped with the whole.

    Args:
        x: (N, d). y: its conditions, of a conditional pair. plan: arguments of ``fit``.

    >>> run(untrained("l2_vae", 4, {"hidden": (3,)}, seed=0), torch.rand(9, 4), steps=2).step
    2
    """
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt
    history = fit(pair, x, y, **{"progress": False, "on_step": _tick, **plan})
    if history.interrupted is not None:
        # One training ended early must not let the experiment go on with a half-trained pair.
        raise KeyboardInterrupt
    return history


def trained_together(
    name: str | Builder,
    data: Sequence[Tensor],
    *,
    start: Sequence[Pair] | None = None,
    arguments: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    **plan: Any,
) -> list[Pair]:
    """Train many of one variant as replicas in one graph, which a GPU does almost in the time of one.

    Args:
        name: as for :func:`trained`. data, start, arguments, seeds: of each. plan: arguments of ``fit``.

    >>> x = torch.rand(9, 4)
    >>> pairs = trained_together("l2_vae", [x, x], arguments=[{"hidden": (3,)}] * 2, seeds=[0, 1], steps=2)
    >>> len(pairs)
    2
    """
    cells = zip(data, arguments, seeds, strict=True)
    pairs = [untrained(name, x.shape[1], each, seed) for x, each, seed in cells]
    for pair, from_ in zip(pairs, start or [], strict=bool(start)):
        warm_start(pair, from_)
    plan = {"progress": False, "on_step": _tick, **plan}
    if any(history.interrupted is not None for history in fit(pairs, list(data), seed=list(seeds), **plan)):
        raise KeyboardInterrupt
    return pairs


def trained_each(
    name: str | Builder,
    data: Sequence[Tensor],
    *,
    start: Sequence[Pair] | None = None,
    arguments: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    **plan: Any,
) -> list[Pair]:
    """Train one of a variant by itself, or many as replicas, so that one protocol serves both.

    >>> x = torch.rand(9, 4)
    >>> len(trained_each("l2_vae", [x], arguments=[{"hidden": (3,)}], seeds=[0], steps=2))
    1
    """
    if len(data) > 1:
        return trained_together(name, data, start=start, arguments=arguments, seeds=seeds, **plan)
    first = start[0] if start else None
    plan = {k: v[0] if isinstance(v, list) else v for k, v in plan.items()}
    return [trained(name, data[0], start=first, seed=seeds[0], arguments=arguments[0], **plan)]


def untrained(name: str | Builder, data_dim: int, arguments: dict[str, Any], seed: int) -> Pair:
    """Build a variant from its seed."""
    build = variant(name) if isinstance(name, str) else name
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(data_dim=data_dim, **arguments)


def side_by_side(
    cell: Callable[..., Any],
    settings: Sequence[tuple[Any, ...]],
    *,
    desc: str,
    steps: int,
    done: Callable[[tuple[Any, ...], Any], None] | None = None,
) -> dict[tuple[Any, ...], Any]:
    """Compute ``cell(*setting)`` for every setting, one process per core, behind one bar that counts training steps.

    Networks as small as these gain little from a second thread and much from a second process. ``cell`` must be a
    function of a module, and what it takes and gives must be plain values or arrays.

    Args:
        steps: of all settings together, for the bar.
        done: is told every setting and its value as soon as it is finished; on an interrupt too, of those that are.

    Raises:
        InputError: a process was killed from outside.
    """
    # Spawned, not forked: a forked copy of torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    ticks, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(os.cpu_count(), context, initializer=_begin, initargs=(ticks, stop))
    told: set[Future] = set()

    def tell(futures: Iterable[Future]) -> None:
        for future in futures:
            value = future.result()
            if done is not None and future not in told:
                done(submitted[future], value)
            told.add(future)

    submitted = _submitted(pool, cell, settings)
    pending = set(submitted)
    with tqdm(total=steps, desc=desc, unit="step", mininterval=0.5) as bar:
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.update(ticks.value - bar.n)
                # Cells that take no training steps show here.
                bar.set_postfix_str(f"{len(settings) - len(pending)} of {len(settings)} cells", refresh=False)
                tell(finished)
        except BaseException as error:
            stop.set()
            # Waits for the cells that run and know no stop; what is queued is given up.
            pool.shutdown(wait=True, cancel_futures=True)
            tell(f for f in submitted if f.done() and not f.cancelled() and f.exception() is None)
            if isinstance(error, BrokenProcessPool):
                raise InputError(f"{desc}: a process was killed from outside, perhaps for want of memory") from error
            raise
    pool.shutdown()
    return {submitted[future]: future.result() for future in submitted}


def _submitted(
    pool: ProcessPoolExecutor, cell: Callable[..., Any], settings: Sequence[tuple[Any, ...]]
) -> dict[Future, tuple[Any, ...]]:
    """Hand all cells to the pool, whose processes start deaf to Ctrl-C: it reaches all of them, the parent decides."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        return {pool.submit(cell, *setting): setting for setting in settings}
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _begin(ticks: Any, stop: Any) -> None:
    global _ticks, _stop
    _ticks, _stop = ticks, stop
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """A parent that was killed cannot say so: without it nobody takes the result, nor ends this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tick(_: int) -> None:
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt
    if _ticks is not None:
        with _ticks.get_lock():
            _ticks.value += 1
