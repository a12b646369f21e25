"""torch's compiler, called directly, and whether it can run here."""

import os
import shutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import torch


def inductor(graph: torch.fx.GraphModule, *inputs: Any) -> Callable:
    """Compile a graph for inputs of these shapes.

    Inductor is called directly: ``torch.compile`` would trace the graph again, and check at every call whether it must
    do so once more.
    """
    from torch import _inductor

    # The compiler's own random numbers are not those of the program at the same seed; and in torch 2.13 on a CPU its
    # Bernoulli mask reads memory that was never written: dropout behind a batch norm gave NaN.
    options = {"fallback_random": True}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # A copy, because compiling rewrites the graph, which goes on to serve where the compiled one does not.
        return _inductor.compile(deepcopy(graph), list(inputs), options=options)


def compiler(device: torch.device) -> bool:
    """Is there what torch's compiler needs for this device?"""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
