"""The folders of replicas that are trained together."""

from pathlib import Path

from pyro_vaes.errors import InputError


def replicas_of(folder: Path) -> list[Path]:
    """The folders of all replicas of a run, in their order; [] if it has none."""
    numbers = {path.name.partition("-")[2]: path for path in folder.glob("replica-*")}
    found = [numbers[number] for number in sorted(filter(str.isdecimal, numbers), key=int)]
    if found and not (folder / "replica-0" / "config.json").is_file():
        raise InputError(f"{folder} was cut off before all its replicas had a config: give the fit command again")
    return found


def check_free(folder: Path) -> None:
    """Refuse a folder for replicas that has anything in it but a start that was cut off."""
    if not folder.exists():
        return
    if not folder.is_dir() or not all(_begun(folder, path) for path in folder.rglob("*")):
        raise InputError(f"{folder} is there already, and not empty: name a new folder for replicas")


def _begun(folder: Path, path: Path) -> bool:
    """Whether a file is one that a process leaves that is killed before the last of its replicas has a config."""
    from pyro_vaes.inference.lock import transient

    if path.is_dir():
        return path.name.startswith("replica-") and path.parent == folder
    return transient(path.name) or (path.name == "config.json" and path.parent.name not in ("replica-0", folder.name))
