"""A loss before the first step: a program that cannot run is refused before anything is written."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vaes.data.rows import Rows
from pyro_vaes.errors import InputError, first_line, said, short
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.objective import Loss
from pyro_vaes.inference.tracing import prepared
from pyro_vaes.pair import Pair, aside


def rehearse(pair: Pair, x: Tensor | Rows, prepare: Callable[[Tensor], Any] = as_batch) -> None:
    """Compute one loss and its gradient on two rows, so that what cannot run is refused before anything is written.

    Raises:
        InputError: with the first line of what went wrong.
    """
    # With gradients: some of Pyro's estimators refuse to work without.
    with aside(pair), torch.enable_grad(), pyro.validation_enabled(False):
        try:
            # A copy: a program may change its batch.
            loss = pair(*prepared(prepare, x[:2].to(next(iter(pair.parameters())).device).clone()), size=len(x))
            _check_parts(pair, loss)
            learned = [p for p in pair.parameters() if p.requires_grad]
            torch.autograd.grad(loss.total, learned, allow_unused=True)
        except InputError as error:
            raise InputError(short(error)) from None
        except Exception as error:
            raise InputError(f"{pair.name} cannot compute its loss: {first_line(error)}") from error


def _check_parts(pair: Pair, loss: Any) -> None:
    """Refuse a loss that is none, or that holds something else than numbers that a gradient flows to."""
    who = f"the objective of {pair.name} gives"
    if not isinstance(loss, Loss):
        raise InputError(f"{who} {said(loss)}: it must give a Loss")
    if not isinstance(loss.terms, Mapping):
        raise InputError(f"{who} terms that are {said(loss.terms)}: they must be a dict, site -> number")
    for name, value in {
        "a total": loss.total,
        "a bound": loss.bound,
        **{f"a term {n!r}": t for n, t in loss.terms.items()},
    }.items():
        if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() or not value.is_floating_point():
            what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else said(value)
            raise InputError(f"{who} {name} that is {what}: it must be a tensor that holds one real number")
    if not loss.total.requires_grad:
        raise InputError(f"{who} a total without a gradient: no parameter could learn from it")


def rehearse_last(pair: Pair, x: Tensor, batch_size: int, prepare: Callable[[Tensor], Any]) -> None:
    """Refuse a last batch of one row where a batch normalisation has no spread to divide by.

    Args:
        x: data with their conditions, of which the first row is tried.

    Raises:
        InputError: naming the batch.
    """
    if (len(x) % batch_size or min(len(x), batch_size)) > 1 or not any(
        isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in pair.modules()
    ):
        return
    # A copy, in the mode that a step runs it in: running averages move there.
    own = copy.deepcopy(pair).train()
    with torch.random.fork_rng(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        try:
            own(*prepared(prepare, x[:1].to(next(iter(pair.parameters())).device)), size=len(x))
        except ValueError as error:
            raise InputError(
                f"a last batch of 1 of {len(x)} data: {pair.name} normalises over a batch and needs at least 2 rows in "
                f"each ({short(error)})"
            ) from error
