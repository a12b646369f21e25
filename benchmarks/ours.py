"""Our own rows: the three engines."""

from functools import partial

import pyro
from torch import Tensor

from benchmarks.architectures import Architecture
from benchmarks.peers import LR, Absent, Factory, Peer, batches
from pyro_vaes.pair import Pair

KINDS = ("eager", "graph", "inductor")


def engine_peer(kind: str, pair: Pair, x: Tensor, batch: int) -> Peer:
    """Train any pair with one of our engines."""
    try:
        from pyro_vaes.inference.compile import engine
    except ImportError as error:
        raise Absent(f"no engines in this version: {error}") from error
    made = engine(kind, pair.to(x.device).train(), size=len(x), lr=LR)
    data = batches(x, batch)
    with pyro.validation_enabled(False):
        made.step(next(data))
    if made.fell:
        raise Absent(f"it fell back to {made.kind}: {made.fell}")
    # As in `fit`.
    return Peer(lambda: made.step(next(data)), partial(pyro.validation_enabled, False))


def replicas_peer(kind: str, pairs: list[Pair], x: Tensor, batch: int) -> Peer:
    """Train pairs of one structure in one graph."""
    try:
        from pyro_vaes.inference.replicas import Replicas
    except ImportError as error:
        raise Absent(f"no replicas in this version: {error}") from error
    pairs, count = [pair.to(x.device).train() for pair in pairs], len(pairs)
    made = Replicas(kind, pairs, len(x), [LR] * count, [*range(count)])
    data = (part.view(count, batch, -1) for part in batches(x, count * batch))
    with pyro.validation_enabled(False):
        made.step(next(data))
    if made.fell:
        raise Absent(f"it fell back to {made.kind}: {made.fell}")
    return Peer(lambda: made.step(next(data)), partial(pyro.validation_enabled, False))


def _ours(kind: str, architecture: Architecture, x: Tensor) -> Peer:
    return engine_peer(kind, architecture.pair(), x, architecture.batch)


OURS: dict[str, Factory] = {f"pyro-vaes {kind}": partial(_ours, kind) for kind in KINDS}
