"""Two processes beside one: how far what they train differs, what a step costs, and what is paid per datum or byte.

Both ranks are processes of this machine that talk through gloo, in memory: the cost of a step says what sharing out
costs where there is hardly anything to gain, and nothing of several machines or GPUs. Costs are seconds of CPU time,
of all threads of a process, so that they hold on a busy machine too; times by the clock stand beside them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

import pyro_vaes as pv
from benchmarks.architectures import ARCHITECTURES
from benchmarks.data import resident
from benchmarks.harness import Effort
from benchmarks.summary import spread
from pyro_vaes.inference.batches import Order, scattered
from pyro_vaes.inference.guard import check_data
from pyro_vaes.inference.sharing import checksum

NAME = "bench-ranks"
EFFORTS = {"quick": Effort(repetitions=5, seconds=0.2), "paper": Effort(repetitions=25, seconds=0.5)}
CASES = Path(__file__).parent.parent / "tests" / "ranks_cases.py"
ROWS = {"quick": 100_000, "paper": 1_000_000}


def run(scale: str, effort: Effort | None = None) -> dict[str, Any]:
    """Measure all of it."""
    effort = effort or EFFORTS[scale]
    return {
        "differences": differences(),
        "costs": costs(effort),
        "checkpoints": {key: checkpoint(key) for key in ARCHITECTURES},
        "passes": passes(ROWS[scale], effort.repetitions),
    }


def differences() -> dict[str, dict[str, float]]:
    """By variant, the largest relative difference of loss and parameters after the same steps, of either rank."""
    with TemporaryDirectory() as folder:
        out, losses = Path(folder), {}
        for way in ("ddp", "alone"):
            command = [sys.executable, str(CASES), folder, "still"]
            subprocess.run(command, check=True, env=os.environ | {"WAY": way}, stderr=subprocess.DEVNULL)
        for who in ("0", "1", "alone"):
            losses[who] = json.loads((out / f"found.{who}.json").read_text())["still"]
        found = {}
        for name, alone in losses["alone"].items():
            tensors = {who: load_file(out / f"still.{name}.{who}.safetensors") for who in losses}
            found[name] = {
                "loss": max(_off(torch.tensor(losses[who][name]), torch.tensor(alone)) for who in "01"),
                "parameters": max(
                    _off(tensors[who][n], t) for who in "01" for n, t in tensors["alone"].items() if t.numel()
                ),
            }
        return found


def _off(one: Tensor, other: Tensor) -> float:
    off = (one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-3)
    return float(f"{off:.2g}")


def costs(effort: Effort) -> dict[str, Any]:
    """Steps of two ranks and of one process, measured by two processes in turn."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.ranks_worker", str(path)]
        subprocess.run([*command, str(effort.repetitions), str(effort.seconds)], check=True)
        return json.loads(path.read_text())


def checkpoint(key: str) -> int:
    """Bytes of a checkpoint."""
    x, _ = resident(None, torch.device("cpu"), rows=200)
    with TemporaryDirectory() as folder:
        pv.fit(ARCHITECTURES[key].pair(), x, steps=1, batch_size=20, out=folder, engine="eager", progress=False)
        return (Path(folder) / "checkpoint.safetensors").stat().st_size


def passes(rows: int, repetitions: int) -> dict[str, Any]:
    """What is done once per datum: CPU nanoseconds per row of 784 bytes (once read, the file lies in memory)."""
    rng = np.random.default_rng(0)
    pair = pv.l2_vae(784, 5, (10,))
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", rng.integers(0, 256, (rows, 784), dtype=np.uint8))
        x = torch.from_numpy(np.load(Path(folder) / "x.npy", mmap_mode="c"))
        order, few = Order(rows, 1024, 0, x.device), torch.arange(1024)

        def batch() -> None:
            for step in range(rows // 1024):
                x[order(step)].float().div_(255)

        def places() -> None:
            for step in range(rows // 1024):
                scattered(few + 1024 * step, rows, 0, 0)

        work: dict[str, Callable[[], Any]] = {
            "check of the data": lambda: check_data(pair, x),
            "checksum of the data": lambda: checksum([x]),
            "permutation of an epoch": lambda: torch.randperm(rows),
            "order without a permutation": places,
            "batches of a memory map, as floats": batch,
        }
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in tqdm(range(repetitions), desc=f"{NAME} (passes)"):
            for name, function in work.items():
                began = time.process_time()
                function()
                times[name].append((time.process_time() - began) / rows * 1e9)
    return {"rows": rows, "bytes per row": 784, "ns per row": {name: spread(each) for name, each in times.items()}}
