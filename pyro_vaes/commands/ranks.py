"""Several processes for one command, through Lightning Fabric."""

import logging
import os
import sys
from datetime import timedelta
from typing import Any

from pyro_vaes.errors import InputError, number, unknown, whole

STRATEGIES = ("ddp",)
# Where Fabric, torchrun and SLURM say which process of a job this is.
WHICH = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


def fabric_of(devices: int, num_nodes: int, strategy: str, device: str, timeout: float) -> Any:
    """Give a Fabric that is not launched yet, and None where one process does.

    Args:
        devices: processes on each node, each with a device of its own, or a share of the CPU's cores.
        num_nodes: machines. strategy: ``ddp``. device: ``cpu`` or ``cuda``.
        timeout: seconds that a rank waits for another.

    Raises:
        InputError: for numbers out of range, another strategy, fewer devices than asked for, or without Fabric.
    """
    count = whole("devices", devices) * whole("num_nodes", num_nodes)
    if strategy not in STRATEGIES:
        raise unknown("strategy", str(strategy), list(STRATEGIES))
    number("timeout", timeout, open_low=True)
    if count == 1:
        return None
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        raise InputError('several devices need Lightning Fabric: pip install "pyro-vaes[ranks]"') from None
    import torch

    if device == "cuda" and torch.cuda.device_count() < devices:
        raise InputError(f"devices is {devices}: this machine has {torch.cuda.device_count()} of CUDA")
    for name in ("lightning_fabric", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    made = DDPStrategy(timeout=timedelta(seconds=timeout))
    return Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy=made)


def launch(fabric: Any) -> bool:
    """Start the other processes, which run this command from its beginning; say whether this is the first."""
    if fabric is None:
        return True
    fabric.launch()
    return fabric.global_rank == 0


def a_later_rank() -> bool:
    """Whether this process is not the first of a job; a word that is no number counts as the first's.

    >>> a_later_rank()
    False
    """
    return any(os.environ.get(name, "0").isdigit() and int(os.environ.get(name, "0")) > 0 for name in WHICH)


def hush() -> None:
    """Let the first rank alone print what it does; errors are everybody's."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
