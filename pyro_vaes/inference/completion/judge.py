"""The discriminator of Eq. 5, where there is one of data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, first_line
from pyro_vaes.pair import Pair


def judge_of(pair: Pair, given: Any) -> Callable[[Tensor], Tensor]:
    """Give D, (n, d) -> logits (n,), that sees every datum by itself: what was given, or the objective's own.

    It is run in eval mode. One that compares the data of a batch is given them one after the other, because the energy
    of a datum must be its own.

    Raises:
        InputError: where there is none, or it is none of data.

    >>> from pyro_vaes.variants import l2_vae
    >>> judge_of(l2_vae(4, 2, (5,)), nn.Linear(4, 1))(torch.zeros(3, 4)).shape
    torch.Size([3])
    """
    found = getattr(pair.objective, "discriminator", None) if given is None else given
    if found is None:
        raise InputError(f"tau is above 0, but {pair.objective!r} of {pair.name} has no discriminator: give one")
    if not isinstance(found, nn.Module):
        raise InputError(f"the discriminator is a {type(found).__name__}: it must be a module")

    def together(rows: Tensor) -> Tensor:
        logits = found(rows)
        return logits.squeeze(-1) if logits.dim() > 1 else logits

    def alone(rows: Tensor) -> Tensor:
        return torch.cat([together(row[None]) for row in rows])

    like = next(pair.parameters(), torch.empty(0))
    rows = torch.rand(4, pair.data_dim, dtype=like.dtype, device=like.device)
    modes = {module: module.training for module in found.modules()}
    try:
        found.eval()
        logits = together(rows)
        by_itself = torch.allclose(logits[:1], together(rows[:1]), rtol=1e-3, atol=1e-4)
    except Exception as error:
        raise InputError(
            f"the discriminator cannot judge data of {pair.data_dim} entries: {first_line(error)}"
        ) from None
    finally:
        for module, mode in modes.items():
            module.training = mode
    if logits.shape != (4,):
        raise InputError(f"the discriminator gives {tuple(logits.shape)} for 4 data: it must be one logit each")
    return together if by_itself else alone
