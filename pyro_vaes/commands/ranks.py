"""Several processes for one command, through Lightning Fabric."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from pyro_vaes.errors import InputError, first_line, number, unknown, whole

STRATEGIES = ("ddp",)
LONGEST = 10**7
# What a config says may be anybody's: no command starts a thousand processes for it.
FEW = 8
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
    if number("timeout", timeout, open_low=True) > LONGEST:
        raise InputError(f"timeout is {timeout}: it must be at most {LONGEST} seconds")
    started = _started()
    if started > 1 and count != started:
        asked = f"devices is {devices}, num_nodes {num_nodes}"
        raise InputError(f"{asked}, but this is one of {started} processes of a job")
    if count == 1:
        return None
    later = _a_later_rank()
    if device == "cpu" and devices > max(FEW, os.cpu_count() or 1):
        raise InputError(f"devices is {devices}: this machine has {os.cpu_count()} cores")
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
    with _in_words():
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy=made)
    if later:
        hush()
    return fabric


def launch(fabric: Any) -> bool:
    """Start the other processes, which run this command from its beginning; say whether this is the first.

    Raises:
        InputError: where torchrun or SLURM have started other processes than this command was told of.
        RankLost: if the others do not come.
    """
    if fabric is None:
        return True
    from pyro_vaes.inference.ranks import RankLost

    try:
        with _in_words():
            fabric.launch()
    except RuntimeError as error:
        raise RankLost(f"the processes have not found each other: {first_line(error)}") from error
    return fabric.global_rank == 0


@contextmanager
def _in_words() -> Iterator[None]:
    """Fabric refuses what does not fit its surroundings by a ValueError, and SLURM's variables by a RuntimeError."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "SLURM" not in str(error):
            raise
        raise InputError(f"these devices cannot be had: {first_line(error)}") from error


def _started() -> int:
    """How many processes torchrun or srun have started; 1 where it was neither."""
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    value = os.environ.get(name, "1")
    return int(value) if value.isdigit() else 1


def _a_later_rank() -> bool:
    """Whether this process is not the first of a job; Fabric itself breaks at a word that is no number."""
    found = {name: os.environ.get(name, "0") for name in WHICH}
    for name, value in found.items():
        if not value.isdecimal():
            raise InputError(f"the environment has {name}={value}: it must be a whole number, or left out")
    return any(int(value) > 0 for value in found.values())


def hush() -> None:
    """Let the first rank alone print what it does; errors are everybody's."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
