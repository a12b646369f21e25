"""A step for every shape of batch: what engines and replicas share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.inference.optimiser import Optimiser
from pyro_vaes.inference.tracing import SEEN
from pyro_vaes.inference.verify import Agreement

Gradients = Callable[[Tensor], tuple[list[Tensor | None], Tensor]]


class EngineWarning(UserWarning):
    """An engine stepped down to a simpler one; the message names the cause.

    Source: ours.

    >>> import pyro_vaes as pv
    >>> issubclass(pv.EngineWarning, UserWarning)
    True
    """


@dataclass
class Shape:
    """What an engine made for one shape of batch."""

    x: str
    kind: str
    rows: int = 0
    operations: int = 0
    traced: float = 0.0
    compiled: float = 0.0
    agreement: Agreement | None = None
    captured: bool = False
    replicas: bool = False

    def __str__(self) -> str:
        if self.kind == "eager":
            return f"{self.x}: the program itself{', replica by replica' if self.replicas else ''}"
        text = f"{self.x}: {self.operations} operations, traced in {self.traced:.1f} s"
        if self.kind == "inductor":
            text += f", compiled in {self.compiled:.1f} s"
        if self.captured:
            text += ", captured as a CUDA graph"
        return f"{text}; {self.agreement}"


class ByShape(ABC):
    """Run a step for each shape of batch in the way that was chosen when the shape first came."""

    names: tuple[str, ...]
    optimiser: Optimiser
    _modules: list[torch.nn.Module]
    _cache: dict[tuple, Callable[[Tensor], Tensor]]

    def step(self, x: Tensor) -> Tensor:
        """Take one optimiser step on a batch.

        Args:
            x: (B, d); for replicas (R, B, d).

        Returns:
            The statistics, on the device: reading them is what costs a synchronisation, not this call.
        """
        # Which of the modules train is part of what a graph froze.
        key = (*(module.training for module in self._modules), x.shape, x.stride(), x.dtype, x.device)
        run = self._cache.get(key)
        if run is None:
            run = self._cache[key] = self._whole(self._gradients(x), x)
        return run(x)

    def _skipped(self, stats: Tensor) -> dict[str, Tensor]:
        """Who skips this step, of the statistics (..., names): one number each for the optimiser."""
        found = {}
        for name in dict.fromkeys(self.optimiser.skips):
            if name and f"{SEEN}{name}" not in self.names:
                raise InputError(f"skip_rules names {name!r}, which the loss does not show (seen)")
            if name:
                found[name] = stats[..., self.names.index(f"{SEEN}{name}")]
        return found

    @abstractmethod
    def _gradients(self, x: Tensor) -> Gradients: ...

    @abstractmethod
    def _whole(self, gradients: Gradients, x: Tensor) -> Callable[[Tensor], Tensor]: ...
