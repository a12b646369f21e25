"""What one pays before and beside the steps: time to import, memory."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.architectures import ARCHITECTURES
from benchmarks.compiler import load
from benchmarks.data import resident
from benchmarks.ours import OURS
from benchmarks.peers import PEERS, REFERENCE
from benchmarks.summary import spread

IMPORTS = {
    "Python alone": "",
    "torch": "import torch",
    "pyro": "import pyro",
    "pyro_vaes": "import pyro_vaes",
    "pyro_vaes, all of it used": "import pyro_vaes; pyro_vaes.fit; pyro_vaes.t_vae; pyro_vaes.load; pyro_vaes.clean",
}
MEMORY = (REFERENCE, "hand, torch.compile", "Pyro SVI", *OURS)
STEPS = 30
PEAK = Path("/proc/self/status")  # Linux; elsewhere memory is not measured


def imports(repetitions: int = 5) -> dict[str, Any]:
    """Seconds from the start of Python to its end, around an import; interleaved."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in tqdm(range(repetitions), desc="bench-scaling (imports)"):
        for name, code in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(time.perf_counter() - began)
    return {name: spread(each) for name, each in times.items()}


def memory(architectures: tuple[str, ...] = ("a", "c"), repetitions: int = 1) -> dict[str, Any]:
    """MiB that training adds to a process that has loaded everything, the compiler too: the peak of 30 steps.

    None where it cannot be measured.
    """
    found: dict[str, dict[str, float | None]] = {}
    for architecture in architectures:
        found[architecture] = {}
        for name in tqdm(MEMORY, desc=f"bench-scaling (memory of {architecture})"):
            measured = [_added(architecture, name) for _ in range(repetitions)]
            known = [value for value in measured if value is not None]
            found[architecture][name] = round(median(known), 1) if known else None
    return found


def _added(architecture: str, name: str) -> float | None:
    command = [sys.executable, "-m", "benchmarks.footprint", architecture, name]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def _reset() -> float:
    """Forget the peak so far, and give the MiB in use."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    PEAK.with_name("clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """MiB at the peak since the reset, of the device or of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    line = next(line for line in PEAK.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def main() -> None:
    """Train a little in this process, and print the MiB that it took."""
    architecture, name = ARCHITECTURES[sys.argv[1]], sys.argv[2]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, _ = resident(None, device, rows=2000)
    load(device)
    before = _reset()
    peer = (PEERS | OURS)[name](architecture, x)
    with peer.around():
        for _ in range(STEPS):
            peer.step()
    print(json.dumps(_peak() - before))


if __name__ == "__main__":
    main()
