"""Compilation times that mean something: an empty cache, and a compiler that is already loaded."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import torch
from torch import nn

CACHE = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def cold() -> Iterator[None]:
    """Let torch's compiler find nothing that an earlier run left behind."""
    before = os.environ.get(CACHE)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[CACHE]
            else:
                os.environ[CACHE] = before


def load(device: torch.device) -> float | None:
    """Compile something small, and give the seconds of a process's first compilation; None if it cannot.

    Whoever comes first would otherwise pay for the imports of the compiler and of the optimisers.
    """
    began = time.perf_counter()
    network = nn.Linear(3, 2).to(device)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(4, 3, device=device)).sum().backward()
    optimiser.step()
    try:
        torch.compile(network)(torch.ones(4, 3, device=device)).sum().backward()
    except Exception:  # no C++ compiler, or no Triton: the rows say so themselves
        return None
    return round(time.perf_counter() - began, 2)
