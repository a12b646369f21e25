"""Hamiltonian Monte Carlo for many chains of many data at once, each datum with a step size of its own."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# z (C, B, k) -> the log-densities that a path begins and ends with, each (C, B).
Ends = Callable[[Tensor], tuple[Tensor, Tensor]]


class State(NamedTuple):
    """Where the chains are, (C, B, k), with the two log-densities there, (C, B)."""

    z: Tensor
    start: Tensor
    end: Tensor


def state_at(ends: Ends, z: Tensor) -> State:
    start, end = ends(z)
    return State(z, start.detach(), end.detach())


def between(state: State, b: Tensor) -> Tensor:
    r"""The log-density at temperature b: (1 - b) log start + b log end."""
    return (1 - b) * state.start + b * state.end


def gradient(ends: Ends, z: Tensor, b: Tensor) -> tuple[Tensor, State]:
    """The gradient of the log-density at temperature b, and the state there."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        state = State(z, *ends(z))
        (found,) = torch.autograd.grad(between(state, b).sum(), z)
    return found, State(z.detach(), state.start.detach(), state.end.detach())


def leapfrog(ends: Ends, b: Tensor, z: Tensor, p: Tensor, step: Tensor, steps: int) -> tuple[State, Tensor]:
    """Follow Hamilton's equations for unit masses: half a kick, then drifts and kicks, then half a kick.

    Args:
        z, p: position and momentum, (C, B, k). step: per datum, (B,). steps: at least 1.

    >>> ends = lambda z: (-z.square().sum(-1) / 2, -2 * z.square().sum(-1))
    >>> b, z, p, step = torch.tensor(0.5), torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0.1])
    >>> there, q = leapfrog(ends, b, z, p, step, 5)
    >>> back, r = leapfrog(ends, b, there.z, -q, step, 5)
    >>> torch.allclose(back.z, z, atol=1e-6), torch.allclose(-r, p, atol=1e-6)
    (True, True)
    """
    size = step[:, None].to(z.dtype)
    kick, state = gradient(ends, z, b)
    for i in range(steps):
        p = p + (0.5 if i == 0 else 1.0) * size * kick
        kick, state = gradient(ends, state.z + size * p, b)
    return state, p + 0.5 * size * kick


def transition(ends: Ends, b: Tensor, now: State, step: Tensor, steps: int) -> tuple[State, Tensor]:
    """Draw a momentum, follow it, and accept by Metropolis's rule; give the state and the probability to accept."""
    p = torch.randn_like(now.z)
    there, q = leapfrog(ends, b, now.z, p, step, steps)
    energy = between(now, b) - 0.5 * p.double().square().sum(-1)
    change = between(there, b) - 0.5 * q.double().square().sum(-1) - energy
    # A step that leaves the numbers behind is not taken.
    probability = change.nan_to_num(nan=-torch.inf, posinf=0.0).clamp(max=0.0).exp()
    accept = torch.rand_like(probability) < probability
    z = torch.where(accept[..., None], there.z, now.z)
    start, end = torch.where(accept, there.start, now.start), torch.where(accept, there.end, now.end)
    return State(z, start, end), probability
