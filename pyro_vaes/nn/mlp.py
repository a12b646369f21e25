"""Fully connected encoders and decoders. Plain torch: no Pyro here."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.errors import InputError, unknown, whole

Activation = type[nn.Module]
ACTIVATIONS: dict[str, Activation] = {"tanh": nn.Tanh, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def mlp(sizes: Sequence[int], activation: Activation = nn.ReLU) -> nn.Sequential:
    """Stack linear layers of the given sizes, each followed by the activation.

    Args:
        sizes: widths from input to last hidden layer, at least one.

    >>> mlp([4, 3, 2])
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
      (3): ReLU()
    )
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers)


class GaussianEncoder(nn.Module):
    """Map x to the mean and standard deviation of q(z | x): (..., d) -> two of (..., k).

    >>> import torch
    >>> loc, scale = GaussianEncoder(8, [5], 2)(torch.zeros(3, 8))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([3, 2]), True)
    """

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int, activation: Activation = nn.ReLU):
        super().__init__()
        self.trunk = mlp([data_dim, *hidden], activation)
        width = [data_dim, *hidden][-1]
        self.loc = nn.Linear(width, latent_dim)
        self.raw_scale = nn.Linear(width, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        # 1e-5 keeps log sigma_z finite where softplus underflows to zero.
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5


class PointEncoder(nn.Sequential):
    """Map x to one code: (..., d) -> (..., k)."""

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int, activation: Activation = nn.ReLU):
        super().__init__(*mlp([data_dim, *hidden], activation), nn.Linear([data_dim, *hidden][-1], latent_dim))


class Decoder(nn.Sequential):
    """Map a code to the mean (or the logits) of x: (..., k) -> (..., d).

    Args:
        latent_dim: k. hidden: the *encoder's* widths, from x inwards; the decoder runs through them backwards.
        output: last activation, ``nn.Sigmoid`` for pixels in [0, 1], ``nn.Identity`` for logits or real data.

    >>> Decoder(2, [6, 4], 8)
    Decoder(
      (0): Linear(in_features=2, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=6, bias=True)
      (3): ReLU()
      (4): Linear(in_features=6, out_features=8, bias=True)
      (5): Sigmoid()
    )
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        data_dim: int,
        output: Activation = nn.Sigmoid,
        activation: Activation = nn.ReLU,
    ):
        widths = [latent_dim, *reversed(hidden)]
        super().__init__(*mlp(widths, activation), nn.Linear(widths[-1], data_dim), output())


class Discriminator(nn.Sequential):
    """Tell two kinds of rows apart: (..., k) -> logits (...), above 0 for real.

    Args:
        width: k, entries of a row. hidden: widths from the row on.

    Source: Tolstikhin et al. (2018) for its place; the network is the common one.

    >>> Discriminator(2, (6, 4))
    Discriminator(2, (6, 4))
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: Activation = nn.ReLU):
        check_sizes(width, 1, hidden, "discriminator_hidden")
        super().__init__(*mlp([width, *hidden], activation), nn.Linear([width, *hidden][-1], 1), nn.Flatten(-2))
        self._given = (width, tuple(hidden))

    def __repr__(self) -> str:
        return f"Discriminator{self._given}"


def check_sizes(data_dim: int, latent_dim: int, hidden: Sequence[int], name: str = "hidden") -> None:
    """Refuse sizes that are not whole and positive.

    >>> check_sizes(4, 2, (3,))
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise InputError(f"{name} is {hidden!r}: it must be a list of widths")
    sizes = {"data_dim": data_dim, "latent_dim": latent_dim, **{f"{name}[{i}]": h for i, h in enumerate(hidden)}}
    for what, size in sizes.items():
        whole(what, size, high=10**6)


def activation_of(name: str) -> Activation:
    """Look an activation up by name.

    >>> activation_of("tanh")
    <class 'torch.nn.modules.activation.Tanh'>
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise unknown("activation", str(name), list(ACTIVATIONS))
    return ACTIVATIONS[name]
