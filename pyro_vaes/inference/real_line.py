"""Codes as vectors on the whole real line, which samplers and optimisers walk in."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints


def support_of(site: Any) -> Any:
    """The support of one entry of a site."""
    support = site["fn"].support
    return getattr(support, "base_constraint", support)


class RealLine:
    r"""Map sites (R, B, ...) to states (R, B, k) and back: a positive site is its logarithm, real ones are themselves.

    Args:
        sites: name -> site of a trace, none of them discrete; in the order that a state holds them.

    >>> import pyro.distributions as dist
    >>> line = RealLine({"z": {"fn": dist.Normal(torch.zeros(2), 1.0).to_event(1)}, "v": {"fn": dist.Gamma(1.0, 1.0)}})
    >>> state = line.state({"z": torch.zeros(1, 1, 2), "v": torch.ones(1, 1)})
    >>> state, line.values(state)[1]
    (tensor([[[0., 0., 0.]]]), tensor([[0.]], dtype=torch.float64))
    """

    def __init__(self, sites: Mapping[str, Any]):
        self.shapes = {name: torch.Size(site["fn"].event_shape) for name, site in sites.items()}
        self.bijections = {name: biject_to(site["fn"].support) for name, site in sites.items()}
        self.curved = {name: support_of(site) is not constraints.real for name, site in sites.items()}

    @property
    def size(self) -> int:
        """k, entries of a state."""
        return sum(shape.numel() for shape in self.shapes.values())

    def values(self, state: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites of a state, and the log-Jacobian (R, B), which makes their density that of the state."""
        found, jacobian = dict[str, Tensor](), torch.zeros(state.shape[:-1], dtype=torch.float64, device=state.device)
        parts = state.split([shape.numel() for shape in self.shapes.values()], -1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            raw = part.reshape(*state.shape[:-1], *shape)
            found[name] = raw
            if self.curved[name]:
                found[name] = self.bijections[name](raw)
                stretched = self.bijections[name].log_abs_det_jacobian(raw, found[name])
                jacobian = jacobian + stretched.reshape(*state.shape[:-1], -1).double().sum(-1)
        return found, jacobian

    def state(self, values: Mapping[str, Tensor]) -> Tensor:
        """The other way round, (R, B, k)."""
        parts = []
        for name, shape in self.shapes.items():
            raw = self.bijections[name].inv(values[name]) if self.curved[name] else values[name]
            parts.append(raw.reshape(*raw.shape[: raw.dim() - len(shape)], shape.numel()))
        return torch.cat(parts, -1)

    def names(self) -> list[str]:
        """A name for every entry: ``z[0]``, ``z[1]`` ...; ``v`` for a site of one number."""
        return [f"{n}[{j}]" if shape else n for n, shape in self.shapes.items() for j in range(shape.numel())]
