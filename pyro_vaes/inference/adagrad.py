"""Adagrad over all parameters at once, with the interface of :class:`~pyro_vaes.inference.adam.Adam`."""

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from pyro_vaes.inference.adam import laid_out, rate


class Adagrad:
    r"""One Adagrad step for all parameters, without weight decay.

    .. math:: s \leftarrow s + g^2, \qquad \theta \leftarrow \theta - \mathrm{lr}\, g / (\sqrt s + 10^{-10})

    Args:
        parameters: leaves, changed in place.
        lr: the learning rate, a tensor, so that a captured or compiled step reads what a schedule wrote.
        factors: what the rate of each parameter is multiplied by; empty for 1 everywhere.
        skips: for each parameter, the name of what says that it skips a step, or ""; empty for nothing.

    Source: Duchi, Hazan & Singer (2011), Fig. 1, with the diagonal of the proximal function. It is
    ``torch.optim.Adagrad`` up to rounding, whose own function reads its count of steps on the host, which cannot be
    captured; without a decay of the rate nothing has to be counted.

    >>> p = torch.ones(2)
    >>> Adagrad([p], lr=0.1).step([torch.tensor([2.0, -1.0])])
    >>> p
    tensor([0.9000, 1.1000])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float = 1e-2,
        factors: Sequence[float] = (),
        skips: Sequence[str] = (),
    ):
        self.parameters = [p.detach() for p in parameters]
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        self.steps: list[Tensor] = []
        self.factors, self.skips = list(factors), list(skips) or [""] * len(self.parameters)
        self.lr = rate(self.parameters, lr)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], skipped: Mapping[str, Tensor] | None = None) -> None:
        """Take one step; a parameter without a gradient, or with a 1 in ``skipped``, stays where it is."""
        there = [i for i, g in enumerate(gradients) if g is not None]
        parameters, sums = [self.parameters[i] for i in there], [self.sums[i] for i in there]
        if not there:
            return
        found = [laid_out(gradients[i], self.parameters[i]) for i in there]
        stay = [(skipped or {}).get(self.skips[i]) for i in there]
        # Without a gradient nothing moves here: there is no momentum.
        found = [g if s is None else torch.where(s > 0, 0.0, g) for g, s in zip(found, stay, strict=True)]
        torch._foreach_addcmul_(sums, found, found)
        below = torch._foreach_sqrt(sums)
        torch._foreach_add_(below, 1e-10)
        change = torch._foreach_div(found, below)
        torch._foreach_mul_(change, self.lr)
        if self.factors:
            torch._foreach_mul_(change, [self.factors[i] for i in there])
        torch._foreach_sub_(parameters, change)

    def moments(self) -> list[Tensor]:
        """What must stay finite besides the parameters."""
        return self.sums

    def part(self, run: int, parameters: Sequence[Tensor], lr: float) -> "Adagrad":
        """The optimiser of one replica: views of the common sums."""
        one = copy(self)
        one.parameters, one.lr = [p.detach() for p in parameters], torch.full_like(self.lr, lr)
        one.sums = [s[run] for s in self.sums]
        return one

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, ``adagrad.i.sum``; they are the state itself, not copies."""
        return {f"adagrad.{i}.sum": s for i, s in enumerate(self.sums)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy a state into this one, in place: a captured step knows the tensors by their address."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
