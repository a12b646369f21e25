"""The experiments by name: each writes its numbers and figures and gives the path of the numbers."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pyro_vaes.experiments import (
    cell_repair,
    concept_images,
    course_report,
    crvae_images,
    crvae_nll,
    demo,
    energies,
    explorer,
    floor_sweep,
    frey_ablation,
    frey_bound,
    frey_recovery,
    gallery,
    generation,
    guide_audit,
    identifiability,
    mnist_denoising,
    nll,
    outlier_images,
    phase_diagram,
    pruning,
    quadrants,
    recycling,
    robust_generation,
    semi_supervised,
    systematic_errors,
    two_stage,
    weak_labels,
)

_ALL = (
    demo,
    mnist_denoising,
    frey_recovery,
    frey_ablation,
    outlier_images,
    concept_images,
    cell_repair,
    floor_sweep,
    recycling,
    robust_generation,
    systematic_errors,
    course_report,
    nll,
    frey_bound,
    quadrants,
    two_stage,
    phase_diagram,
    identifiability,
    generation,
    energies,
    weak_labels,
    pruning,
    crvae_nll,
    semi_supervised,
    crvae_images,
    guide_audit,
    explorer,
    gallery,
)
MODULES: dict[str, ModuleType] = {module.NAME: module for module in _ALL}
EXPERIMENTS: dict[str, Callable[[Path, str, Path], Path]] = {name: m.reproduce for name, m in MODULES.items()}
