"""The least a step can cost: its matrix products and convolutions, and nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.architectures import DATA_DIM, Architecture

Product = Callable[[], object]


def matmuls(architecture: Architecture, device: torch.device | str = "cpu") -> Callable[[], None]:
    """Give a step of products alone: of each layer the forward one, that for its weights (dW) and for its input (dX).

    The first layer has no dX: data have no gradient.
    """
    products: list[Product] = []
    for layer, x, y in _layers(architecture, device):
        x, y = torch.randn_like(x), torch.randn_like(y)
        first = not products
        products += _linear(layer, x, y, first) if isinstance(layer, nn.Linear) else _convolution(layer, x, y, first)

    def step() -> None:
        for product in products:
            product()

    return step


def _layers(architecture: Architecture, device: torch.device | str) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Every layer that multiplies, in order, with its input and output for one batch."""
    hand, seen = architecture.hand().to(device), []
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
        for layer in hand.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        hand(torch.zeros(architecture.batch, DATA_DIM, device=device))
    for handle in handles:
        handle.remove()
    return seen


def _linear(layer: nn.Linear, x: Tensor, y: Tensor, first: bool) -> list[Product]:
    x, y, w = x.flatten(0, -2), y.flatten(0, -2), layer.weight.detach()
    forward, dw, dx = torch.empty_like(y), torch.empty_like(w), torch.empty_like(x)
    products: list[Product] = [lambda: torch.mm(x, w.T, out=forward), lambda: torch.mm(y.T, x, out=dw)]
    return products if first else [*products, lambda: torch.mm(y, w, out=dx)]


def _convolution(layer: nn.Module, x: Tensor, y: Tensor, first: bool) -> list[Product]:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    w = layer.weight.detach()
    how = (layer.stride, layer.padding, layer.dilation, isinstance(layer, nn.ConvTranspose2d), [0, 0], 1)
    wanted = [not first, True, False]
    return [
        lambda: torch.ops.aten.convolution(x, w, None, *how),
        lambda: torch.ops.aten.convolution_backward(y, x, w, None, *how, wanted),
    ]
