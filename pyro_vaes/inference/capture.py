"""A whole step as one CUDA graph: launched at once, without Python between the kernels."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from pyro_vaes.inference.shapes import EngineWarning

if TYPE_CHECKING:
    from pyro_vaes.inference.loop import Stepper

StepFunction = Callable[[Tensor], Tensor]


def capture_if_possible(
    engine: "Stepper", step: StepFunction, x: Tensor, generators: Sequence[Generator] = ()
) -> StepFunction:
    """Give the captured step on a CUDA device, and the step itself elsewhere or where it cannot be captured."""
    if not x.is_cuda:
        return step
    try:
        whole = captured(engine, step, x, generators)
    except Exception as error:
        warnings.warn(f"no CUDA graph: {str(error).splitlines()[0]}", EngineWarning, stacklevel=6)
        return step
    engine.shapes[-1].captured = True
    return whole


def captured(engine: "Stepper", step: StepFunction, x: Tensor, generators: Sequence[Generator] = ()) -> StepFunction:
    """Record a step, optimiser included, and give what replays it on another batch of the same shape.

    Kernels of a captured step read fixed addresses: the parameters, the optimiser's state and learning rate, settings
    and buffers are changed in place ever after, and a batch is copied to where the recorded one lay. The random
    generator of the device knows about captures, so that every replay draws anew.

    Args:
        engine: whose tensors the step changes; they are put back after the warm-up that a capture needs.
        step: takes the step on a batch, without synchronisation.
        x: a batch.
        generators: random generators besides the device's own that the step draws from.
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
    for generator in generators:
        graph.register_generator_state(generator)
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
