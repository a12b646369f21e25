"""The files whose mutants are made, by room."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyro_vaes"
OBJECTIVES = (
    "objective", "importance", "recycled", "wae", "mmd", "adversarial", "vae_gan", "classifier_gan", "stagewise",
    "enumerated", "annealed", "denoised", "masked", "empirical", "proposition1", "stock",
)  # fmt: skip


def programs(folder: str) -> list[Path]:
    return sorted(PACKAGE.glob(f"{folder}/[!_]*.py"))


ROOMS: dict[str, list[Path]] = {
    "objectives": [PACKAGE / "inference" / f"{name}.py" for name in OBJECTIVES],
    "variants": programs("variants"),
    "models": programs("models"),
    "guides": programs("guides"),
    "parts": [PACKAGE / name for name in ("distributions.py", "plates.py", "nn/scales.py")],
}


def room_of(path: Path) -> str:
    return next(room for room, paths in ROOMS.items() if path in paths)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
