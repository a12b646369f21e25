"""A whole step as one CUDA graph: launched at once, without Python between the kernels."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_vaes.inference.compile import Engine


def captured(engine: "Engine", step: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Record a step, optimiser included, and give what replays it on another batch of the same shape.

    Kernels of a captured step read fixed addresses: the parameters, Adam's state and learning rate, settings and
    buffers are changed in place ever after, and a batch is copied to where the recorded one lay. The random generator
    of the device knows about captures, so that every replay draws anew.

    Args:
        engine: whose tensors the step changes; they are put back after the warm-up that a capture needs.
        step: takes the step on a batch, without synchronisation.
        x: a batch.
    """
    place = x.clone()
    before, random = [t.clone() for t in engine.changing()], engine.random()
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step(place)
    torch.cuda.current_stream(x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stats = step(place)
    with torch.no_grad():
        for tensor, value in zip(engine.changing(), before, strict=True):
            tensor.copy_(value)
    engine.set_random(random)

    def replay(x: Tensor) -> Tensor:
        place.copy_(x)
        graph.replay()
        return stats.clone()

    return replay
