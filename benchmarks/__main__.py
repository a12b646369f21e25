"""`python -m benchmarks`: measure, write `results/bench-*.json` and draw the figures beside them.

It trains with everyone that is installed, one slice after the other, on one machine that should do nothing else. Peers
(`pip install numpyro jax pythae`) are optional: what is missing is named in the results with its reason.
"""

import argparse
import importlib.metadata
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import WAIT_POLICY, epochs, figure, footprint, ranks, scaling, steps
from benchmarks.architectures import ARCHITECTURES
from benchmarks.compiler import cold, load
from benchmarks.data import resident
from pyro_vaes.experiments.record import record
from pyro_vaes.inference.run import device as device_name

PARTS = ("steps", "epochs", "scaling", "ranks")
OPTIONAL = ("numpyro", "jax", "pythae")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions (minutes); files are called *.quick.*")
    parser.add_argument("--root", type=Path, help="folder with MNIST; random zeros and ones of its shape without it")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--only", default="", help="architectures and parts, such as a,b,steps; all without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, and cores of NumPyro")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args()
    chosen = [word for word in args.only.split(",") if word]
    unknown = sorted(set(chosen) - {*ARCHITECTURES, *PARTS})
    if unknown:
        parser.error(f"--only {unknown[0]}: it is none of {', '.join([*ARCHITECTURES, *PARTS])}")
    args.architectures = [name for name in ARCHITECTURES if name in chosen] or list(ARCHITECTURES)
    named = [part for part in PARTS if part in chosen]
    args.parts = named or (["steps"] if chosen else list(PARTS))
    return args


def main() -> None:
    """Run what was asked for."""
    args = arguments()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*TensorFloat32.*")
    scale, device = "quick" if args.quick else "paper", torch.device(args.device)
    x, data = resident(args.root, device)
    with cold():
        settings = {
            "seeds": [0],
            "data": data,
            "device": device.type,
            "threads": args.threads,
            "cores": os.cpu_count(),
            "OMP_WAIT_POLICY": WAIT_POLICY,
            "first use of torch.compile, seconds": load(device),
        }
        run = {"steps": _steps, "epochs": _epochs, "scaling": _scaling, "ranks": _ranks}
        for part in args.parts:
            print(f"wrote {run[part](x, scale, args, settings)}")


def _steps(x: torch.Tensor, scale: str, args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    result = steps.run(x, scale, args.threads, args.architectures)
    drawn = figure.comparison(result, "One training step", _footnote(scale, settings, steps.EFFORTS[scale]))
    return _write(args.out, steps.NAME, scale, settings, steps.EFFORTS[scale], result, {"ratios": drawn})


def _epochs(x: torch.Tensor, scale: str, args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    settings = settings | {"data": f"{settings['data']}, the first {epochs.ROWS[scale]:,} of them"}
    result = epochs.run(x, scale)
    drawn = figure.comparison(result, "One epoch", _footnote(scale, settings, epochs.EFFORTS[scale]))
    return _write(args.out, epochs.NAME, scale, settings, epochs.EFFORTS[scale], result, {"ratios": drawn})


def _scaling(x: torch.Tensor, scale: str, args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    sweeps = scaling.run(x, scale)
    effort = scaling.EFFORTS[scale]
    result = {"sweeps": sweeps, "seconds to import": footprint.imports(), "MiB added by training": footprint.memory()}
    drawn = figure.growth(sweeps, "How the step of pyro-vaes grows", _footnote(scale, settings, effort))
    return _write(args.out, scaling.NAME, scale, settings, effort, result, {"growth": drawn})


def _ranks(x: torch.Tensor, scale: str, args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    effort = ranks.EFFORTS[scale]
    settings = settings | {"data": "random zeros and ones", "device": "cpu", "threads": 1}
    return _write(args.out, ranks.NAME, scale, settings, effort, ranks.run(scale), {})


def _write(
    out: Path, name: str, scale: str, settings: dict[str, Any], effort: Any, result: dict[str, Any], figures: dict
) -> Path:
    how = {**settings, "repetitions": effort.repetitions, "seconds per slice": effort.seconds or "one epoch each"}
    peers = {package: importlib.metadata.version(package) for package in OPTIONAL if find_spec(package) is not None}
    return record(out, name, scale, {"settings": how, "peers": peers, **result}, figures)


def _footnote(scale: str, settings: dict[str, Any], effort: Any) -> str:
    where = device_name() if settings["device"] == "cuda" else f"CPU, {settings['threads']} threads"
    policy = f", OMP_WAIT_POLICY {settings['OMP_WAIT_POLICY']}" if settings["device"] == "cpu" else ""
    times = f"{effort.repetitions} interleaved repetitions"
    torch_version = f"torch {torch.__version__.split('+')[0]}"
    return f"{scale} scale, {times}; {where}{policy}; {torch_version};\n{settings['data']}"


if __name__ == "__main__":
    main()
