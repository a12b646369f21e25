"""Two players in one loss: a generator's side and a discriminator, each with a gradient of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from pyro_vaes.errors import InputError, first_line, flag
from pyro_vaes.tensors import NARROW, plain


class Players(NamedTuple):
    """The two losses of a game, and how it stands.

    Attributes:
        generator: a scalar, what the side that made the fakes minimises; constant in the discriminator's parameters.
        discriminator: a scalar, what the discriminator minimises; constant in everything that made the data and the
            fakes.
        accuracy: the share of real data and fakes, half each, that the discriminator tells right. It is no part of a
            loss.
        more: what the discriminator says of the real data beside the logits, if anything.

    Source: Goodfellow et al. (2014), Eq. 1.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> game = pv.players(pv.Discriminator(2, (8,)), torch.rand(6, 2), torch.rand(6, 2))
    >>> game.accuracy.shape
    torch.Size([])
    """

    generator: Tensor
    discriminator: Tensor
    accuracy: Tensor
    more: Any = None


def players(discriminator: nn.Module, real: Tensor, fake: Tensor, *, saturating: bool = False) -> Players:
    r"""Give both losses of a discriminator D, whose outputs are logits, and of what made the fakes.

    .. math:: \mathcal{L}_D = - \mathbb{E} \log \sigma(D(\text{real})) - \mathbb{E} \log (1 - \sigma(D(\text{fake}))),
              \qquad \mathcal{L}_G = - \mathbb{E} \log \sigma(D(\text{fake}))

    and :math:`\mathcal{L}_G = \mathbb{E} \log (1 - \sigma(D(\text{fake})))` where it is saturating, the zero-sum game.

    **One step for both.** D's parameters are constants in :math:`\mathcal{L}_G`, data and fakes are constants in
    :math:`\mathcal{L}_D`. The gradient of any :math:`a \mathcal{L}_G + b \mathcal{L}_D` is therefore a times that of
    :math:`\mathcal{L}_G` for the one side and b times that of :math:`\mathcal{L}_D` for the other, and one backward
    pass gives both players theirs. A step of Adam, which keeps its moments parameter by parameter, on their sum is the
    step of two optimisers at once, from the same parameters: simultaneous, where papers often let D go first. Weigh a
    loss by a tensor before adding it, say ``found.discriminator * (found.accuracy < 0.9)`` for a D that learns only
    while it is wrong often enough (its moments go on and move it a little further all the same); put fakes of several
    kinds into one set with ``torch.cat``. A learning rate of D's own: :func:`~pyro_vaes.inference.optimiser.factors`.

    The value of such a sum is that of no objective: it is not what falls in training, its two parts are to be read
    apart.

    Args:
        discriminator: D, (n, ...) -> logits (n,) or (n, 1), or a pair of them and of anything more. A module of the
            objective, not of p or q, so that its parameters are trained, kept and resumed with the pair's. It runs
            three times: batch norm would see fakes twice.
        real: (n, ...). fake: (m, ...), with the history of what made it.

    Raises:
        InputError: for a D that is no module, or does not give one logit per row.

    Source: Goodfellow et al. (2014), Eq. 1 and 3, where the second form of the generator's loss is the default here.

    >>> import torch
    >>> D = nn.Linear(1, 1)
    >>> fake = torch.ones(3, 1, requires_grad=True)
    >>> found = players(D, torch.zeros(3, 1), fake)
    >>> torch.autograd.grad(found.generator, D.weight, allow_unused=True)
    (None,)
    >>> torch.autograd.grad(found.discriminator, fake, allow_unused=True)
    (None,)
    """
    if not isinstance(discriminator, nn.Module):
        raise InputError(f"the discriminator is a {type(discriminator).__name__}: it must be a module")
    flag("saturating", saturating)
    for name, given in (("real", real), ("fake", fake)):
        if not plain(name, given).is_floating_point() or given.dtype in NARROW or not given.numel():
            raise InputError(
                f"{name} is {given.dtype} of shape {tuple(given.shape)}: it must be floating, and not empty"
            )
    # Tensors of the module as they are now: while a step is traced, others stand in for them.
    held = {name: t.detach() for name, t in (*discriminator.named_parameters(), *discriminator.named_buffers())}
    to_generator, _ = _logits(_asked(lambda a: functional_call(discriminator, held, (a,)), fake), fake)
    (on_real, more), (on_fake, _) = (_logits(_asked(discriminator, a), a) for a in (real.detach(), fake.detach()))
    generator = -softplus(to_generator).mean() if saturating else softplus(-to_generator).mean()
    right = 0.5 * ((on_real > 0).to(fake.dtype).mean() + (on_fake <= 0).to(fake.dtype).mean())
    return Players(generator, softplus(-on_real).mean() + softplus(on_fake).mean(), right.detach(), more)


def _asked(discriminator: Callable[[Tensor], Any], a: Tensor) -> Any:
    try:
        return discriminator(a)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        # What a trace cannot follow is told by those who trace.
        if "DataDependent" in type(error).__name__ or isinstance(error, InputError):
            raise
        what = f"{a.dtype} of shape {tuple(a.shape)}"
        raise InputError(f"the discriminator cannot take {what}: {first_line(error)}") from error


def _logits(found: Any, rows: Tensor) -> tuple[Tensor, Any]:
    found, more = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(found, Tensor):
        raise InputError(f"the discriminator gives a {type(found).__name__}: it must be a tensor, one logit each")
    if tuple(found.shape) not in ((len(rows),), (len(rows), 1)):
        raise InputError(
            f"the discriminator gives {tuple(found.shape)} for {len(rows)} rows: it must be one logit each"
        )
    return found.reshape(-1), more
