"""The time of one training step, of everyone, on each architecture."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import numpyro_peer
from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.data import as_file
from benchmarks.harness import Effort, Local, Row, Runner, measure, ticks
from benchmarks.ours import OURS
from benchmarks.peers import PEERS, REFERENCE, Absent, Factory, Peer
from benchmarks.remote import Remote, require
from benchmarks.summary import pays_after, summary

NAME = "bench-steps"
EFFORTS = {"quick": Effort(repetitions=11, seconds=0.25), "paper": Effort(repetitions=25, seconds=0.4)}
NUMPYRO = {"NumPyro jit": "jit", "NumPyro scan": "scan"}


def run(x: Tensor, scale: str, threads: int, only: Sequence[str], effort: Effort | None = None) -> dict[str, Any]:
    """Measure every implementation on every architecture in ``only``.

    Returns:
        what goes into the results: architecture -> rows, and the rows that are absent with their reasons.
    """
    effort = effort or EFFORTS[scale]
    chosen = {name: ARCHITECTURES[name] for name in only}
    labels = len(PEERS) + len(OURS) + len(NUMPYRO)
    result: dict[str, Any] = {}
    with as_file(x) as file, tqdm(total=len(chosen) * ticks(labels, effort), desc=NAME) as bar:
        for name, architecture in chosen.items():
            bar.set_description(f"{NAME} ({name})")
            torch.manual_seed(0)
            rows, absent = measure(_makers(name, architecture, x, file, threads), effort, bar)
            found = summary(rows, REFERENCE)
            for label, steps in _payback(rows).items():
                found[label]["pays after, steps"] = steps
            result[name] = {"title": architecture.title, "batch": architecture.batch, "rows": found, "absent": absent}
            torch.compiler.reset()
    return {"reference": REFERENCE, "architectures": result}


def settings(scale: str, effort: Effort | None = None) -> dict[str, Any]:
    """How it was measured."""
    effort = effort or EFFORTS[scale]
    return {"repetitions": effort.repetitions, "seconds per slice": effort.seconds}


def _makers(
    name: str, architecture: Architecture, x: Tensor, file: str, threads: int
) -> dict[str, Callable[[], Runner]]:
    makers: dict[str, Callable[[], Runner]] = {
        label: partial(_local, factory, architecture, x) for label, factory in (PEERS | OURS).items()
    }
    device = "cpu" if x.device.type == "cpu" else None
    return makers | {label: partial(numpyro, name, mode, file, threads, device) for label, mode in NUMPYRO.items()}


def _local(factory: Factory, architecture: Architecture, x: Tensor) -> Runner:
    def make() -> Peer:
        return factory(architecture, x)

    return Local(make, x.device)


def numpyro(architecture: str, mode: str, file: str, threads: int, device: str | None) -> Runner:
    """Start the process of NumPyro."""
    if architecture not in numpyro_peer.SIZES:
        raise Absent("not written for NumPyro")
    require("numpyro", "jax")
    command = ["benchmarks.numpyro_peer", architecture, mode, "--data", file, "--threads", str(threads)]
    return Remote(command, {"JAX_PLATFORMS": device} if device else None)


def _payback(rows: dict[str, Row]) -> dict[str, int | None]:
    """For what is compiled: the steps after which that pays, beside what is not."""
    found = {}
    for compiled, plain in (
        ("pyro-vaes graph", "pyro-vaes eager"),
        ("pyro-vaes inductor", "pyro-vaes eager"),
        ("hand, torch.compile", REFERENCE),
    ):
        if compiled in rows and plain in rows:
            found[compiled] = pays_after(rows[compiled], rows[plain])
    return found
