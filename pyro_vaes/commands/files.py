"""What the commands read and write."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data import Dataset
    from pyro_vaes.data.quadrants import Quadrants
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def read_data(
    source: dict[str, Any], download: bool = False, missing: bool = False
) -> "tuple[Dataset, Tensor, Tensor | None]":
    """Give the clean data set, what to train on, and the mask of what we made dirty (None if nothing).

    With ``missing`` NaN may pass, as an entry that is missing.
    """
    from torch import Tensor

    from pyro_vaes.data import corrupt, load
    from pyro_vaes.data.rows import chunks

    options = {"root": source["root"], "split": source["split"], "limit": source["limit"]}
    dataset = load(source["source"], **options, download=download, missing=missing)
    x, mask = dataset.x, None
    of_shards(x, corrupt=source["corrupt"], binarise=source["binarise"])
    missing = missing and x.is_floating_point() and isinstance(x, Tensor)
    if missing and all(bool(part.isnan().all()) for _, part in chunks(x, few=False)):
        raise InputError(f"{source['source']} holds nothing but missing entries (NaN)")
    changed = source["corrupt"] or source["binarise"] not in (None, "dynamic")
    if missing and changed and any(bool(part.isnan().any()) for _, part in chunks(x, few=False)):
        raise InputError(f"{source['source']} has missing entries: they cannot be made dirty or binary here")
    if source["corrupt"] is not None:
        dirty = corrupt(x, source["corrupt"], shape=dataset.shape, seed=source["seed"])
        x, mask = dirty.x, dirty.mask
    # What is drawn anew at every step is drawn by the step.
    if source["binarise"] not in (None, "dynamic"):
        found = binary(replace(dataset, x=x), source["binarise"], source)
        # Rows in another order have no labels.
        dataset, x = replace(dataset, y=found.y), found.x
    return _trained_on(source, dataset, x, mask)


def _trained_on(
    source: dict[str, Any], dataset: "Dataset", x: "Tensor", mask: "Tensor | None"
) -> "tuple[Dataset, Tensor, Tensor | None]":
    """Leave out the rows that a sweep has held out: the run of a trial knows nothing of them."""
    from pyro_vaes.data.held_out import split_rows

    if source.get("held_out") is None:
        return dataset, x, mask
    rows, _ = split_rows(len(x), source["held_out"], source["seed"])
    dataset = replace(dataset, x=dataset.x[rows], y=None if dataset.y is None else dataset.y[rows])
    return dataset, x[rows], None if mask is None else mask[rows]


#: What commands other than `fit` take of shards, or of more than 4 GiB.
FIRST = 10_000


def of_shards(x: Any, **asked: Any) -> None:
    """Refuse what would have to make a copy of data that are not in memory."""
    from pyro_vaes.data.rows import Rows

    for name, value in asked.items():
        if isinstance(x, Rows) and value not in (None, "dynamic", "gray", 1):
            raise InputError(
                f"{name} is {value}: shards are read as they are; write them so, or draw at every step, such as "
                "--augment impulse:0.4 or --binarise dynamic"
                if name in ("corrupt", "binarise")
                else f"{name} is {value}: not for shards, give data that fit into memory"
            )


def head(dataset: "Dataset", x: "Tensor") -> "tuple[Dataset, Tensor]":
    """Give the first rows, where there are more than memory may hold; and their labels."""
    import torch

    from pyro_vaes.data.rows import Rows, sampled

    if not sampled(x):
        return dataset, x
    rows, n = min(len(x), FIRST), len(x)
    x, y = x.read(torch.arange(rows)) if isinstance(x, Rows) else (x[:rows], dataset.y)
    print(f"{dataset.name}: the first {rows:,} of {n:,} data")
    return replace(dataset, x=x, y=None if y is None else y[:rows]), x


def binary(dataset: "Dataset", kind: Any, source: dict[str, Any]) -> "Dataset":
    """Make values binary by a rule, and say which; `source` has the seed, and where a file of such data may lie."""
    from pyro_vaes.data import binarised

    # A file holds clean data, and not what was made dirty.
    root = source["root"] if source["corrupt"] is None else None
    found = binarised(dataset, kind, seed=source["seed"], root=root, split=source["split"])
    if isinstance(kind, str):
        print(f"binarised: {found.note}")
    return found


def binarised_how(folder: "Run") -> "str | float | None":
    """How the run's data were made binary; an augmentation of that name is one way of saying dynamic."""
    from pyro_vaes.data.augment import DYNAMIC

    given = folder.config["data"].get("binarise")
    return "dynamic" if given is None and folder.config["augment"] in DYNAMIC else given


def data_of(folder: "Run", split: str | None = None) -> "tuple[Dataset, Tensor, Tensor | None]":
    """Give the data of a run, or another split of them, whole, as :func:`read_data` does.

    What the run drew anew at every step is drawn once: the literature tests on one fixed draw.
    """
    source = folder.config["data"] | ({} if split is None else {"split": split, "limit": None, "held_out": None})
    holes = folder.config["missing"] is not None
    dataset, x, mask = read_data(source, missing=holes)
    dataset, x = head(dataset, x)
    mask = None if mask is None else mask[: len(x)]
    if holes and x.is_floating_point() and bool(x.isnan().any()):
        raise InputError(f"{source['source']} has missing entries (NaN), and this takes whole data: see impute")
    if binarised_how(folder) == "dynamic":
        drawn = binary(replace(dataset, x=x), "static", source)
        dataset, x = replace(dataset, y=drawn.y), drawn.x
    return dataset, x, mask


def quadrants_of(condition: str | None, dataset: "Dataset", x: "Tensor") -> "Quadrants | None":
    """Split images where the condition is quadrants:N; None where it is the label."""
    from dataclasses import replace

    from pyro_vaes.data.quadrants import quadrants

    if condition in (None, "labels"):
        return None
    kind, _, observed = condition.partition(":")
    if kind != "quadrants" or observed not in ("1", "2", "3"):
        raise InputError(f"condition {condition!r}: it must be labels, or quadrants:N with N = 1, 2 or 3")
    of_shards(x, condition=condition)
    return quadrants(replace(dataset, x=x), int(observed))


def modelled(condition: str | None, dataset: "Dataset", x: "Tensor") -> "tuple[Tensor, Tensor | None, tuple[int, ...]]":
    """Give what a run models of its data, what may be its condition (labels or pixels), and the shape of one datum."""
    parts = quadrants_of(condition, dataset, x)
    return (x, dataset.y, dataset.shape) if parts is None else (parts.x, parts.y, (len(parts.missing),))


def condition_for(pair: "Pair", condition: str | None, x: "Tensor", y: "Tensor | None", name: str) -> "Tensor | None":
    """Give the conditions as the pair takes them, (N, c); None if it takes none."""
    from pyro_vaes.inference.guard import check_condition

    if not pair.condition_dim:
        if condition is not None:
            raise InputError(f"condition {condition!r}: {pair.name} takes none")
        return None
    if pair.partial and condition not in (None, "labels"):
        raise InputError(f"condition {condition!r}: {pair.name} takes labels, and no pixels")
    if y is None and not pair.partial and not getattr(x, "labelled", False):
        raise InputError(f"{name} has no labels, which {pair.name} takes as its condition")
    return check_condition(pair, x, y)


def locate_data(data: str) -> str:
    """Name a file by its full path, so that a run can be resumed from elsewhere."""
    from pyro_vaes.data import DATASETS
    from pyro_vaes.data.shards import holds_shards

    if not data:
        raise InputError("the data set has no name")
    if data in DATASETS or not (Path(data).exists() or holds_shards(data)):
        return data
    return str(Path(data).resolve())


def named(out: str) -> str:
    """Refuse a folder without a name, which Python takes for the current one.

    >>> named("runs/a")
    'runs/a'
    """
    if not out:
        raise InputError("out is '': it must name a folder (. is the current one)")
    return out


def output_path(output: str, input: str | None, run: str, suffixes: tuple[str, ...], also: str | None = None) -> Path:
    """Check where to write: nothing that was read, here or when the run was trained, may be overwritten."""
    from pyro_vaes.inference.run import Run

    path = Path(output)
    source = Run.open(run).config["data"]
    read = [input, also, source["source"], (source["corrupt"] or "").partition("mask:")[2]]
    if path.suffix not in suffixes:
        raise InputError(f"output {output}: it must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"output {output} is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"output {output}: there is no folder {path.parent}")
    for name in read:
        if name and path.exists() and Path(name).exists() and path.samefile(name):
            raise InputError(f"output {output} would overwrite the input {name}")
    if input is not None and Path(input).is_dir() and Path(input).resolve() in path.resolve().parents:
        raise InputError(f"output {output} lies inside the input folder")
    return path


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before the work that would be lost."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written to")


def write_array(path: Path, write: Any) -> None:
    import io

    from pyro_vaes.inference.checkpoint import write_atomically

    buffer = io.BytesIO()
    write(buffer)
    write_atomically(path, buffer.getvalue())


def beside(path: Path) -> Path:
    """Where the picture of an output goes: its name and .png, so that no other file of that stem is hit."""
    return path.with_name(f"{path.name}.png")


def write_figure(path: Path, figure: Any) -> None:
    from pyro_vaes.evaluation.report import png
    from pyro_vaes.inference.checkpoint import write_atomically

    write_atomically(path, png(figure))
    print(f"wrote {path}")


def is_image(shape: Any) -> bool:
    return len(shape) in (2, 3)


def device_of(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda"])
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this machine has none")
    return name


def finite(value: Any) -> Any:
    """Put None where a plain value is NaN or infinite, which JSON has not.

    >>> finite({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
