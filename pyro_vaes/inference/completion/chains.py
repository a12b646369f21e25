"""Codes of p(z | x_seen) by Pyro's NUTS, one datum and one chain after the other."""

import math
import warnings

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_vaes.inference.completion.field import Cost, Field
from pyro_vaes.inference.densities import seed_at


def chain(field: Field, start: Tensor, samples: int, warmup: int, depth: int, where: tuple[int, ...]) -> Tensor:
    """Run one chain of one datum from a code (k,) on, and give its codes, (samples, k).

    Args:
        field: of a single datum.
    """
    cost = Cost(None, 0.0, None)

    def potential(place: dict[str, Tensor]) -> Tensor:
        return field.energy(place["z"].reshape(1, 1, -1), cost).sum().to(start.dtype)

    seed_at(*where)
    kernel = NUTS(potential_fn=potential, max_tree_depth=depth)
    mcmc = MCMC(
        kernel, num_samples=samples, warmup_steps=warmup, initial_params={"z": start.clone()}, disable_progbar=True
    )
    with torch.enable_grad():
        mcmc.run()
    return mcmc.get_samples()["z"].detach()


def mixing(chains: Tensor) -> tuple[float, float]:
    """The worst R-hat over the entries of a code and the smallest bulk ESS: chains (C, S, k).

    R-hat compares chains, and a chain with itself: near 1 is good, above 1.01 (1.05 for short chains) not yet mixed.

    Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021); computed by ArviZ.

    >>> rhat, ess = mixing(torch.randn(4, 200, 3, generator=torch.Generator().manual_seed(0)))
    >>> rhat < 1.05, ess > 300
    (True, True)
    """
    values = chains.double().cpu().numpy()
    if values.shape[1] < 4:
        return math.nan, math.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # ArviZ announces its next version at every import.
        warnings.simplefilter("ignore")
        rhat, ess = _arviz()
        found = [(float(rhat(values[..., j])), float(ess(values[..., j]))) for j in range(values.shape[-1])]
    return max(r for r, _ in found), min(e for _, e in found)


def _arviz():
    import arviz

    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.rhat, arviz.ess
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    return lambda a: array_stats.rhat(a, **axes), lambda a: array_stats.ess(a, **axes)
