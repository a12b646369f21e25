"""Commands that run a protocol: demo, reproduce, bench."""

import os
from pathlib import Path

from pyro_vaes.commands.files import named
from pyro_vaes.errors import InputError, unknown


def do_demo(out: str = "runs/demo", scale: str = "quick") -> None:
    """Clean 1797 dirty digits with ten methods, and show what came out.

    Args:
        out: folder for the report, the figures, the numbers and the trained t_vae.
        scale: quick (about two minutes on 2 cores) or paper (five seeds, twice the steps).
    """
    from pyro_vaes.experiments.demo import write

    check_scale(scale)
    write(Path(named(out)), scale)


def do_reproduce(name: str, scale: str = "quick", out: str = "results", root: str = "data") -> None:
    """Run an experiment of the papers, and write its numbers and figures.

    Args:
        name: of the experiment; an unknown one is answered with the list.
        scale: quick (minutes on 2 cores) or paper (the settings of the paper).
        out: folder for NAME.SCALE.json and its figures.
        root: where data sets lie.
    """
    from pyro_vaes.experiments import EXPERIMENTS

    check_scale(scale)
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, list(EXPERIMENTS))
    if Path(named(out)).exists() and not Path(out).is_dir():
        raise InputError(f"{out} is a file: --out must be a folder")
    try:
        print(f"wrote {EXPERIMENTS[name](Path(out), scale, Path(root))} and the figures beside it")
    except KeyboardInterrupt:
        kept = len(list(Path(out).glob(f"{name}.{scale}.cells/*.json"))) - 1
        if kept > 0:
            print(f"{kept} finished cells are kept in {Path(out) / name}.{scale}.cells: the same command goes on")
        raise


def do_bench(only: str = "", quick: bool = False, root: str | None = None, out: str = "results") -> int:
    """Measure a training step and an epoch beside hand-written torch, stock Pyro, NumPyro and pythae.

    Args:
        only: of a, b, c, d (architectures) and steps, epochs, scaling, ranks (parts), such as a,b; all without it.
        quick: fewer repetitions.
        root: where MNIST lies; random pixels of its shape without it.
        out: folder for bench-steps, bench-epochs, bench-scaling and bench-ranks, as .json and figures.
    """
    import subprocess
    import sys

    import pyro_vaes

    source = Path(pyro_vaes.__file__).parent.parent
    if not (source / "benchmarks" / "__main__.py").is_file():
        raise InputError("bench needs the source of pyro-vaes, which has benchmarks/ beside pyro_vaes/: clone it")
    options = ["--only", only] if only else []
    options += ["--quick"] if quick else []
    options += ["--root", str(Path(root).resolve())] if root else []
    # A process of its own: thread settings must stand before torch is imported.
    command = [sys.executable, "-m", "benchmarks", *options, "--out", str(Path(named(out)).resolve())]
    # And they are OpenMP's own, as in a Python script, not those that the command line has set for itself.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return subprocess.run(command, cwd=source, env=environment).returncode


def check_scale(scale: str) -> None:
    if scale not in ("quick", "paper"):
        raise unknown("scale", scale, ["quick", "paper"])
