"""The others in this process: plain torch by hand, and Pyro as it comes.

Each is a factory: (architecture, data) -> a :class:`Peer`, whose ``step()`` trains on the next batch.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pyro
import pyro.optim
import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from benchmarks.architectures import Architecture
from benchmarks.matmuls import matmuls

LR = 1e-3
pyro_adam: Any = pyro.optim.Adam  # type: ignore[attr-defined]


class Absent(Exception):
    """A row that cannot be measured here, with the reason."""


@dataclass(frozen=True)
class Peer:
    """An implementation of one training step.

    Attributes:
        step: does one whole step on the next batch; need not wait for the device.
        around: what must hold during the steps, entered once per slice of them.
    """

    step: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


Factory = Callable[[Architecture, Tensor], Peer]


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Slices of resident data, forever; a smaller last one is left out."""
    return cycle([part for part in x.split(size) if len(part) == size])


def products(architecture: Architecture, x: Tensor) -> Peer:
    """The matrix products of a step alone."""
    return Peer(matmuls(architecture, x.device))


def hand(architecture: Architecture, x: Tensor, *, compiled: bool = False, **adam: Any) -> Peer:
    """The loop everyone writes; ``adam`` chooses the optimiser's implementation."""
    network = architecture.hand().to(x.device)
    loss: nn.Module | Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
    optimiser = torch.optim.Adam(network.parameters(), lr=LR, **adam)
    data = batches(x, architecture.batch)

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss(next(data))
        value.backward()
        optimiser.step()
        return value

    return Peer(step)


def hand_graphed(architecture: Architecture, x: Tensor) -> Peer:
    """The compiled loop captured in a CUDA graph."""
    if not x.is_cuda:
        raise Absent("CUDA graphs need a GPU")
    network = architecture.hand().to(x.device)
    loss = torch.compile(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=LR, fused=True, capturable=True)
    data = batches(x, architecture.batch)
    static = next(data).clone()
    value = torch.zeros((), device=x.device)

    def train() -> None:
        optimiser.zero_grad(set_to_none=False)
        found = loss(static)
        found.backward()
        optimiser.step()
        value.copy_(found.detach())

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            train()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train()

    def step() -> Tensor:
        static.copy_(next(data))
        graph.replay()
        return value

    return Peer(step)


def svi(architecture: Architecture, x: Tensor, *, validation: bool, closed_form: bool = False) -> Peer:
    """Pyro's SVI and Pyro's Adam on our model and guide. Validation is on unless one switches it off."""
    if closed_form and architecture.particles > 1:
        raise Absent("importance weights have no closed form")
    pair, data = architecture.pair().to(x.device), batches(x, architecture.batch)
    estimator = TraceMeanField_ELBO() if closed_form else _estimator(architecture)
    loop = SVI(pair.model, pair.guide, pyro_adam({"lr": LR}), estimator)
    return Peer(lambda: loop.step(next(data)), own_store(validation))


def jit(architecture: Architecture, x: Tensor) -> Peer:
    """Pyro's own way to trace a loss, and one fused Adam."""
    if architecture.particles > 1:
        raise Absent("Pyro has no JitRenyiELBO")
    pair, data = architecture.pair().to(x.device), batches(x, architecture.batch)
    estimator = JitTrace_ELBO(ignore_jit_warnings=True)
    optimiser = torch.optim.Adam(pair.parameters(), lr=LR, fused=True)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = estimator.differentiable_loss(pair.model, pair.guide, next(data))
        loss.backward()
        optimiser.step()
        return loss

    return Peer(step, own_store(validation=False))


def _estimator(architecture: Architecture) -> PyroELBO:
    if architecture.particles == 1:
        return Trace_ELBO()
    return RenyiELBO(alpha=0, num_particles=architecture.particles, vectorize_particles=True, max_plate_nesting=1)


def own_store(validation: bool) -> Callable[[], AbstractContextManager[object]]:
    """What must hold around steps: Pyro knows parameters by name, so everyone gets a parameter store of their own."""
    with pyro.get_param_store().scope() as store:
        pass

    @contextmanager
    def around() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(pyro.get_param_store().scope(store))
            stack.enter_context(pyro.validation_enabled(validation))
            yield

    return around


def _hand(compiled: bool = False, **adam: Any) -> Factory:
    return lambda architecture, x: hand(architecture, x, compiled=compiled, **adam)


def _svi(validation: bool, closed_form: bool) -> Factory:
    return lambda architecture, x: svi(architecture, x, validation=validation, closed_form=closed_form)


REFERENCE = "hand, fused Adam"

PEERS: dict[str, Factory] = {
    "matrix products alone": products,
    "hand, default Adam": _hand(),
    REFERENCE: _hand(fused=True),
    "hand, torch.compile": _hand(compiled=True, fused=True),
    "hand, CUDA graph": hand_graphed,
    "Pyro SVI": _svi(validation=True, closed_form=False),
    "Pyro SVI, no validation": _svi(validation=False, closed_form=False),
    "Pyro SVI, mean field": _svi(validation=True, closed_form=True),
    "Pyro SVI, mean field, no validation": _svi(validation=False, closed_form=True),
    "Pyro JitTrace_ELBO": jit,
}
