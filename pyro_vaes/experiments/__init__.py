"""The experiments by name: each writes its numbers and figures and gives the path of the numbers."""

from collections.abc import Callable
from pathlib import Path

from pyro_vaes.experiments import demo, floor_sweep, frey_recovery, recycling

EXPERIMENTS: dict[str, Callable[[Path, str, Path], Path]] = {
    "demo": demo.reproduce,
    "frey-recovery": frey_recovery.reproduce,
    "floor-sweep": floor_sweep.reproduce,
    "recycling": recycling.reproduce,
}
