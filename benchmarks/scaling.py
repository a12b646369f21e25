"""How our step grows with what one can ask more of: passes, particles, rows per batch, replicas."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import pyro_vaes as pv
from benchmarks.architectures import ARCHITECTURES, DATA_DIM, iwae_architecture
from benchmarks.harness import Effort, Local, Runner, measure, ticks
from benchmarks.ours import KINDS, engine_peer, replicas_peer
from benchmarks.summary import summary

NAME = "bench-scaling"
EFFORTS = {"quick": Effort(repetitions=5, seconds=0.15), "paper": Effort(repetitions=15, seconds=0.3)}
BATCH = 128


@dataclass(frozen=True)
class Sweep:
    """One setting that grows.

    Attributes:
        title: in words.
        values: of the setting; times are relative to that of the first.
        make: gives what is timed, from engine, value and data.
        kinds: the engines that are asked.
    """

    title: str
    values: tuple[int, ...]
    make: Callable[[str, int, Tensor], Runner]
    kinds: tuple[str, ...] = KINDS


def passes(kind: str, value: int, x: Tensor) -> Runner:
    """The recurrent iC-VAE, 784-400-20, with N passes."""

    def pair() -> pv.Pair:
        return pv.ric_vae(DATA_DIM, latent_dim=20, hidden=(400,), passes=value)

    return Local(lambda: engine_peer(kind, pair(), x, BATCH), x.device)


def particles(kind: str, value: int, x: Tensor) -> Runner:
    """(c) with k particles."""
    architecture = iwae_architecture(value)
    return Local(lambda: engine_peer(kind, architecture.pair(), x, architecture.batch), x.device)


def batch(kind: str, value: int, x: Tensor) -> Runner:
    """(a) with B rows per step."""
    return Local(lambda: engine_peer(kind, ARCHITECTURES["a"].pair(), x, value), x.device)


def replicas(kind: str, value: int, x: Tensor) -> Runner:
    """(a), R of them in one graph, each on a batch of its own."""
    architecture = ARCHITECTURES["a"]
    return Local(lambda: replicas_peer(kind, [architecture.pair(r) for r in range(value)], x, BATCH), x.device)


SWEEPS: dict[str, Sweep] = {
    "passes": Sweep("recycling passes N of ric_vae, 784-400-20", (1, 2, 3, 4, 5), passes),
    "particles": Sweep("particles k of the IWAE (c), 784-200-200-50", (1, 5, 10, 20, 50), particles),
    "batch": Sweep("rows per batch B of (a), 784-400-20", (32, 64, 128, 256, 512, 1024), batch),
    "replicas": Sweep("replicas R of (a), 784-400-20, in one graph", (1, 2, 4, 8), replicas, ("graph", "inductor")),
}
ON_GPU = {"replicas": (1, 2, 4, 8, 16, 32), "batch": (32, 128, 512, 2048, 8192)}


def run(x: Tensor, scale: str, effort: Effort | None = None, only: tuple[str, ...] = tuple(SWEEPS)) -> dict[str, Any]:
    """Measure every sweep: engine -> value -> time, and its ratio to the first value's.

    The values of one engine are measured interleaved.
    """
    effort = effort or EFFORTS[scale]
    found: dict[str, Any] = {}
    plans = [(name, _values(name, x), kind) for name in only for kind in SWEEPS[name].kinds]
    with tqdm(total=sum(ticks(len(values), effort) for _, values, _ in plans), desc=NAME) as bar:
        for name, values, kind in plans:
            bar.set_description(f"{NAME} ({name}, {kind})")
            sweep = SWEEPS[name]
            makers: dict[str, Callable[[], Runner]] = {str(v): partial(sweep.make, kind, v, x) for v in values}
            torch.manual_seed(0)
            rows, absent = measure(makers, effort, bar)
            entry = found.setdefault(name, {"title": sweep.title, "engines": {}, "absent": {}})
            entry["engines"][kind] = summary(rows, str(values[0]))
            entry["absent"] |= {f"{kind}, {value}": why for value, why in absent.items()}
            torch.compiler.reset()
    return found


def _values(name: str, x: Tensor) -> tuple[int, ...]:
    return ON_GPU.get(name, SWEEPS[name].values) if x.is_cuda else SWEEPS[name].values
