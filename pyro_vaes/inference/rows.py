"""Do the rows of a batch meet? Found out by computing a loss twice under noise that is the same for every row."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vaes.inference.verify import untouched
from pyro_vaes.meeting import norms_of
from pyro_vaes.pair import Pair

# Of float32 losses and of float64 ones.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class Still(TorchDispatchMode):
    """Let every random operation give its median, or near it: one value for all entries of equal parameters."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        # An order is no noise.
        if torch.Tag.nondeterministic_seeded not in func.tags or name == "randperm":
            return func(*args, **kwargs)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name == "_fused_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.uint8)
        if name in ("bernoulli", "bernoulli_"):
            return _bernoulli(name, args, kwargs)
        if name == "multinomial":
            return args[0].argmax(-1, keepdim=True).expand(*args[0].shape[:-1], args[1]).contiguous()
        if name in ("_standard_gamma", "poisson", "_sample_dirichlet", "dropout"):
            return args[0].clone() if name != "_sample_dirichlet" else args[0] / args[0].sum(-1, keepdim=True)
        found = func(*args, **kwargs)
        if name == "normal" and isinstance(args[0], Tensor):
            return found.copy_(args[0].expand_as(found))
        return _median(name, found)


def _bernoulli(name: str, args: Any, kwargs: Any) -> Tensor:
    if name == "bernoulli":
        return (args[0] > 0.5).to(args[0].dtype)
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return args[0].copy_(p > 0.5) if isinstance(p, Tensor) else args[0].fill_(float(p > 0.5))


def _median(name: str, found: Any) -> Any:
    """Overwrite draws in place: a normal's by 0, a uniform's by one half, any other kind by the first."""
    if not isinstance(found, Tensor) or not found.numel():
        return found
    if name.startswith("randn") or name in ("normal_", "normal", "normal_functional"):
        return found.zero_()
    if name in ("rand", "rand_like", "uniform_", "uniform"):
        return found.fill_(0.5)
    return found.copy_(found.flatten()[0].expand_as(found))


def declared(pair: Pair) -> bool:
    """Whether a pair says that the rows of a batch meet: by a batch norm, or an objective with ``meets``."""
    return bool(norms_of(pair)) or any(getattr(module, "meets", False) for module in pair.modules())


def separable(pair: Pair, x: Tensor, y: Tensor | None = None) -> bool:
    r"""Say whether the loss of a batch is the mean of its halves' losses, as it is where rows do not meet.

    .. math:: \mathcal{L}(x_1, \dots, x_{2b}) = \tfrac12 \mathcal{L}(x_1, \dots, x_b)
              + \tfrac12 \mathcal{L}(x_{b+1}, \dots, x_{2b})

    with every draw at its median, so that noise is no difference. Everything is left as it was.

    Args:
        x: (2 b, d), different rows. y: their conditions.

    >>> from pyro_vaes.variants import l2_vae, wae_mmd
    >>> _ = torch.manual_seed(0)
    >>> x = torch.rand(4, 4)
    >>> separable(l2_vae(4, 2, (5,)), x), separable(wae_mmd(4, 2, (5,)), x)
    (True, False)
    """
    half = len(x) // 2
    parts = [slice(0, 2 * half), slice(0, half), slice(half, 2 * half)]
    found = []
    for part in parts:
        with untouched(pair), Still():
            loss = pair(x[part].clone(), None if y is None else y[part].clone(), size=2 * half)
            found.append(torch.stack([loss.total, *loss.terms.values()]).detach().double())
    whole, one, other = found
    if not all(bool(torch.isfinite(f).all()) for f in found):
        return True  # nothing can be said; the training will say which site it is
    size = max(float(whole.abs().max()), 1.0)
    return float((whole - (one + other) / 2).abs().max()) <= TOLERANCE.get(x.dtype, 1e-2) * size
