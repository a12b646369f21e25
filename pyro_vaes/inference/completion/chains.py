"""Codes of p(z | x_seen) by Pyro's NUTS, one datum and one chain after the other."""

import math

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_vaes.inference.by_arviz import rhat_and_ess
from pyro_vaes.inference.completion.field import Cost, Field
from pyro_vaes.inference.completion.local import Local
from pyro_vaes.inference.densities import seed_at


def chain(
    field: Field, near: Local | None, start: Tensor, samples: int, warmup: int, depth: int, where: tuple[int, ...]
) -> Tensor:
    r"""Run one chain of one datum, and give its codes, (samples, k).

    It walks in :math:`\epsilon` where :math:`z = z^* + L \epsilon` and L L' is the covariance near the mode, so that
    all directions are about as long, and starts one draw of :math:`N(0, I)` away from where it is put.

    Args:
        field, near: of a single datum; without ``near`` L is the identity and nothing is added. start: a code (k,).
    """
    cost = Cost(None, 0.0, None)
    mode = start.new_zeros(start.shape) if near is None else near.mode[0]
    scale = torch.eye(len(start)).to(start) if near is None else near.scale[0]

    def potential(place: dict[str, Tensor]) -> Tensor:
        return field.energy((mode + scale @ place["z"]).reshape(1, 1, -1), cost).sum().to(start.dtype)

    seed_at(*where)
    at = torch.linalg.solve_triangular(scale, (start - mode)[:, None], upper=False)[:, 0]
    at = at if near is None else at + torch.randn_like(at)
    mcmc = MCMC(
        NUTS(potential_fn=potential, max_tree_depth=depth),
        num_samples=samples, warmup_steps=warmup, initial_params={"z": at}, disable_progbar=True,
    )  # fmt: skip
    with torch.enable_grad():
        mcmc.run()
    return mode + mcmc.get_samples()["z"].detach() @ scale.T


def mixing(chains: Tensor) -> tuple[float, float]:
    """The worst R-hat over the entries of a code and the smallest bulk ESS: chains (C, S, k).

    R-hat compares chains, and a chain with itself: near 1 is good, above 1.01 (1.05 for short chains) not yet mixed.

    Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021); computed by ArviZ.

    >>> rhat, ess = mixing(torch.randn(4, 200, 3, generator=torch.Generator().manual_seed(0)))
    >>> rhat < 1.05, ess > 300
    (True, True)
    """
    values = chains.double().cpu().numpy()
    # A class that never changes is neither mixed nor not.
    values = values[..., values.std((0, 1)) > 0]
    if not values.shape[2]:
        return math.nan, math.nan
    rhat, ess = rhat_and_ess(values)
    return float(rhat.max()), float(ess.min())
