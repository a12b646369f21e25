"""The state of a pair and of its optimiser, by name: what a checkpoint holds and what a warm start copies."""

from pathlib import Path

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.models.priors import ChannelPrior
from pyro_vaes.pair import Pair

PRIOR = "model.prior."
REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def load_state(pair: Pair, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Copy a checkpoint's parameters and buffers into a pair.

    Raises:
        InputError: if a tensor is missing, has another shape or kind, or is not finite; then nothing is changed.
    """
    with torch.no_grad():
        for name, target in state(pair).items():
            source = tensors.get(f"pair.{name}")
            if source is None or source.shape != target.shape:
                found = "missing" if source is None else f"of shape {tuple(source.shape)}"
                raise InputError(f"{path}: {name} is {found}, but {pair.name} needs {tuple(target.shape)}")
            if source.dtype != target.dtype and not {source.dtype, target.dtype} <= REAL:
                raise InputError(f"{path}: {name} is {source.dtype}, but {pair.name} needs {target.dtype}")
            # In the pair's own precision: what a wider one holds can be too large for it.
            if not torch.isfinite(source.to(target.dtype)).all():
                raise InputError(f"{path}: {name} is not finite")
        for name, target in state(pair).items():
            target.copy_(tensors[f"pair.{name}"])


def warm_start(pair: Pair, other: Pair) -> None:
    """Copy the parameters of a trained pair that has the same networks, such as ``ic_vae`` into ``ric_vae``.

    A prior that is fitted to codes after training (``empirical_cvae``) is neither given nor taken: training is under
    N(0, I).

    Raises:
        InputError: if a network is missing in the other pair or has another shape.

    Source: Wang et al. (2018), App. B, who start recycling from a trained iC-VAE.

    >>> from pyro_vaes.variants import ic_vae, ric_vae
    >>> warm_start(ric_vae(4, 2, (8,)), ic_vae(4, 2, (8,)))
    """
    for one in (pair, other):
        if not isinstance(one, Pair):
            raise InputError(f"a Pair is needed, not {type(one).__name__}")
    tensors = state(other)
    if any(isinstance(getattr(p.model, "prior", None), ChannelPrior) for p in (pair, other)):
        own = {name: tensor for name, tensor in state(pair).items() if name.startswith(PRIOR)}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PRIOR)} | own
    load_state(pair, {f"pair.{name}": tensor for name, tensor in tensors.items()}, other.name)


def state(pair: Pair) -> dict[str, Tensor]:
    """Give every parameter and every buffer that is kept, by name, each once; not the objective's settings.

    >>> from pyro_vaes.variants import ic_vae
    >>> [name for name in state(ic_vae(4, 2, ())) if "decoder" in name]
    ['model.decoder.0.weight', 'model.decoder.0.bias']
    """
    # named_parameters, unlike state_dict, names a network that model and guide share only once.
    kept = pair.state_dict().keys()
    return dict(pair.named_parameters()) | {name: b for name, b in pair.named_buffers() if name in kept}


def read_engine(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Read the state of optimiser and random generators, tensor by tensor, in the order of ``expected``.

    Args:
        expected: the state as it is now; a fused kernel would write past a tensor of another shape.

    Raises:
        InputError: if a tensor is missing, too many, or of another kind or shape.
    """
    others = ("pair.", "random.")
    moments = {name for name in tensors if not name.startswith(others)}
    if moments != {name for name in expected if not name.startswith(others)}:
        raise InputError(f"{path} has the optimiser's state of another run")
    for name, now in expected.items():
        found = tensors.get(name)
        if found is None or found.shape != now.shape or found.dtype != now.dtype:
            what = "missing" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            raise InputError(f"{path}: {name} is {what}, not {now.dtype} of shape {tuple(now.shape)}")
        if found.is_floating_point() and not torch.isfinite(found).all():
            raise InputError(f"{path}: {name} is not finite")
        if name.endswith(("step", "exp_avg_sq", ".sum")) and (found < 0).any():
            raise InputError(f"{path}: {name} is negative")
        if name == "random.cpu":
            try:
                torch.Generator().set_state(found)
            except RuntimeError as error:
                raise InputError(f"{path}: {name} is no state of a random generator: {error}") from None
    return {name: tensors[name] for name in expected}
