"""Read a user's own data: .npy, .npz, .csv, .mat, or a folder of images."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data.declared import ENTRY, OBJECTS, check_npy, check_npz, mat_arrays
from pyro_vaes.data.folders import images, listed, spread
from pyro_vaes.errors import InputError

#: Bytes. A .npy file of at least this size is read through a memory map, and an array of bytes of at
#: least this size stays uint8, because as float32 it would be four times as large.
MMAP_BYTES = 2**30

Parts = tuple[Tensor, tuple[int, ...], Tensor | None]


def read(path: str | Path, *, split: str = "train", limit: int | None = None, missing: bool = False) -> Parts:
    """Read a file or an image folder as rows, the shape of one row's datum, and labels.

    Arguments:
        path: a `.npy`, `.npz`, `.csv` or `.mat` file, or a folder of images.
        split: a file holds `"train"` only; a folder with a `train` subfolder has its subfolders as splits.
        limit: how many images of a folder are decoded, spread evenly over its files in sorted order, so
            that every class folder is seen; files are read whole (`load` cuts them).
        missing: read empty cells of a `.csv` file as NaN.

    Returns:
        x of shape (N, d), the shape of one datum with product d, and int64 labels of shape (N,) or None.

    Raises:
        InputError: the path is missing, of an unknown kind, damaged, or holds no usable array.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "table.csv"
    ...     _ = path.write_text("width,height,label\\n1,2,0\\n3,4,1\\n")
    ...     x, shape, y = read(path)
    >>> x.tolist(), shape, y.tolist()
    ([[1.0, 2.0], [3.0, 4.0]], (2,), [0, 1])
    """
    path = Path(path)
    if not there(path):
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return read_folder(split_folder(path, split), limit)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'a file without a suffix'}: use {_kinds()}")
    if not path.is_file():
        raise InputError(f"{path}: is neither a file nor a folder")
    if split != "train":
        raise InputError(f"{path}: a file has no split {split!r}, only 'train'")
    return _csv(path, missing) if reader is _csv else reader(path)


def there(path: Path) -> bool:
    """Whether a path leads to something; one that the system cannot even look up does not.

    >>> there(Path("x" * 5000))
    False
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _kinds() -> str:
    return ", ".join(READERS) + " or a folder of images"


# Arrays


def rows(array: np.ndarray, where: str) -> tuple[Tensor, tuple[int, ...]]:
    """Flatten an array to (N, d) and return the shape of one datum, channel first.

    Bytes are divided by 255, x = bytes / 255, unless they are `MMAP_BYTES` or more; other numbers become
    float32 and keep their range.

    Arguments:
        array: (N, d), (N, H, W), (N, C, H, W) or (N, H, W, C), with C of 1 or 3 channels.
        where: what to call the array in an error.

    Raises:
        InputError: the array holds no real numbers, is empty, or has another number of axes or channels.

    >>> x, shape = rows(np.full((5, 4, 4, 3), 255, dtype=np.uint8), "faces.npy")
    >>> x.shape, shape, x.max().item()
    (torch.Size([5, 48]), (3, 4, 4), 1.0)
    """
    if array.dtype.kind not in "buif":
        raise InputError(f"{where}: holds {array.dtype} values: it must hold real numbers")
    if array.ndim not in (2, 3, 4):
        raise InputError(f"{where}: has shape {array.shape}: it must be (N, d), (N, H, W) or (N, C, H, W)")
    if array.size == 0:
        raise InputError(f"{where}: is empty, of shape {array.shape}")
    if array.ndim == 4:
        array = _channel_first(array, where)
    shape = tuple(array.shape[1:])
    return _numbers(array, where).reshape(len(array), math.prod(shape)), shape


def _channel_first(array: np.ndarray, where: str) -> np.ndarray:
    if array.shape[1] in (1, 3):
        return array
    if array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise InputError(f"{where}: has shape {array.shape}: images must have 1 or 3 channels, (N, C, H, W)")


def _numbers(array: np.ndarray, where: str) -> Tensor:
    if isinstance(array, np.memmap):
        return _mapped(array, where)
    if array.dtype == np.uint8:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if tensor.nbytes >= MMAP_BYTES else tensor.float() / 255
    # An overflow becomes inf, which `load` reports with its place; numpy's warning has no place.
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32, order="C"))


def _mapped(array: np.ndarray, where: str) -> Tensor:
    """Wrap a memory map without a copy, which only some layouts allow."""
    if array.dtype in (np.uint8, np.float32) and array.dtype.isnative and array.flags.c_contiguous:
        return torch.from_numpy(array)
    raise InputError(
        f"{where}: a file of {MMAP_BYTES} bytes or more is read through a memory map and must hold uint8 or "
        f"float32 in C order, channel first: this one is {array.dtype} of shape {array.shape}"
    )


def _labels(array: np.ndarray, n: int, where: str) -> Tensor:
    flat = array.reshape(-1)
    if flat.dtype.kind not in "buif" or flat.size != n:
        raise InputError(f"{where}: {array.dtype} labels of shape {array.shape}: they must be {n} numbers")
    values = flat.astype(np.float64)
    whole = (np.abs(values) < 2.0**63) & (np.trunc(values) == values)
    if not whole.all():
        raise InputError(f"{where}: label {flat[~whole][0]} of row {int(np.argmin(whole))} is not an integer")
    return torch.from_numpy(flat.astype(np.int64))


def _choose(held: list[str], where: str) -> list[str]:
    """Of the names of arrays that of the data, `x` or the only one besides `y`, and `y` where it is there."""
    names = [name for name in held if name != "y"]
    chosen = next((name for name in ("x", "X") if name in held), names[0] if len(names) == 1 else None)
    if chosen is None:
        raise InputError(f"{where}: holds {', '.join(held) or 'nothing'}: name the data 'x' (and labels 'y')")
    return [chosen, *(["y"] if "y" in held else [])]


def _pick(arrays: Mapping[str, np.ndarray], names: list[str], where: str) -> Parts:
    """Read data, and labels where there is a second name, out of named arrays; the others are never looked at."""
    x, shape = rows(arrays[names[0]], f"{where}[{names[0]}]")
    y = _labels(arrays["y"], len(x), f"{where}[y]") if "y" in names[1:] else None
    return x, shape, y


# Files


def _numpy(path: Path) -> Parts:
    try:
        # numpy leaves the file of a damaged archive open when it opened it itself.
        with path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                file.seek(0)
                size = path.stat().st_size
                check_npy(file, size, str(path))
                map_it = path.suffix.lower() == ".npy" and size >= MMAP_BYTES
                loaded = np.load(path if map_it else file, mmap_mode="c" if map_it else None, allow_pickle=False)
                return (*rows(loaded, str(path)), None)
            file.seek(0)
            # Once it is known to be an archive of arrays, the names are taken first, and two arrays at most are read.
            with np.load(file, allow_pickle=False) as archive:
                names = _choose(archive.files, str(path))
                check_npz(path, names)
                return _pick(archive, names, str(path))
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises depends on where the damage is
        raise _unreadable(path, error) from error


def _mat(path: Path) -> Parts:
    from scipy.io import loadmat

    try:
        held = mat_arrays(path)
        names = ["ff"] if "ff" in held else _choose(list(held), str(path))
        for name in names:
            _, kind = held[name]
            if kind not in ENTRY:
                word = (
                    f"is sparse: save it with full({name})"
                    if kind == "sparse"
                    else f"holds a {kind}: it must hold real numbers"
                )
                raise InputError(f"{path}: {name} {word}")
        arrays = loadmat(path, variable_names=names)
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(f"{path}: is a MATLAB 7.3 file: save it with -v7") from error
    except Exception as error:  # scipy's reader does not define what a damaged file raises
        raise _unreadable(path, error) from error
    return frey_layout(arrays["ff"], str(path)) if names == ["ff"] else _pick(arrays, names, str(path))


def frey_layout(ff: np.ndarray, where: str) -> Parts:
    """Read the layout of `frey_rawface.mat`: one column of 560 pixels per image, 28 high and 20 wide.

    Raises:
        InputError: the array is not (560, N).

    >>> x, shape, _ = frey_layout(np.zeros((560, 3), dtype=np.uint8), "frey_rawface.mat")
    >>> x.shape, shape
    (torch.Size([3, 560]), (28, 20))
    """
    if ff.ndim != 2 or ff.shape[0] != 560:
        raise InputError(f"{where}[ff]: has shape {ff.shape}: it must be (560, N), one column per image")
    x, _ = rows(ff.T, f"{where}[ff]")
    return x, (28, 20), None


def _csv(path: Path, missing: bool = False) -> Parts:
    lines = _csv_lines(path, missing)
    if not lines:
        raise InputError(f"{path}: is empty")
    first = lines[0][1]
    header = _header(first) if any(cell.strip() for cell in first) else None
    if header is not None:
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: has a header and no rows")
    width = len(header or lines[0][1])
    table = np.stack([_csv_row(path, line, cells, width, missing) for line, cells in lines])
    column = _label_column(path, header or [])
    if column is None:
        return (*rows(table, str(path)), None)
    x, shape = rows(np.delete(table, column, axis=1), str(path))
    return x, shape, _labels(table[:, column], len(table), str(path))


def _csv_lines(path: Path, missing: bool = False) -> list[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            # Where empty cells are missing ones, a row of nothing else is a datum too.
            return [
                (reader.line_num, cells)
                for cells in reader
                if any(cell.strip() for cell in cells) or (missing and len(cells) > 1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _header(cells: list[str]) -> list[str] | None:
    """Tell a header from data: none of its cells is a number, or one of them names the labels.

    A first line of numbers with one bad cell is data with an error, and not a header.
    """
    names = [cell.strip().lower() for cell in cells]
    return None if any(map(_is_number, cells)) and not {"label", "y"} & set(names) else names


def _label_column(path: Path, header: list[str]) -> int | None:
    found = [column for column, name in enumerate(header) if name in ("label", "y")]
    if len(found) > 1:
        raise InputError(f"{path}: has {len(found)} label columns: only one may be named 'label' or 'y'")
    return found[0] if found else None


def _csv_row(path: Path, line: int, cells: list[str], width: int, missing: bool = False) -> np.ndarray:
    if len(cells) != width:
        raise InputError(f"{path}: line {line} has {len(cells)} cells, the first line has {width}")
    if missing:
        cells = [cell if cell.strip() else "nan" for cell in cells]
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        bad = next(column for column, cell in enumerate(cells) if not _is_number(cell))
        raise InputError(f"{path}: line {line}, column {bad + 1}: {cells[bad]!r} is not a number") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in reason:
        reason = OBJECTS
    return InputError(f"{path}: cannot be read: {reason}")


READERS: dict[str, Callable[[Path], Parts]] = {".npy": _numpy, ".npz": _numpy, ".csv": _csv, ".mat": _mat}


# Folders of images


def split_folder(path: Path, split: str) -> Path:
    divided = (path / "train").is_dir()
    splits = sorted(child.name for child in path.iterdir() if child.is_dir()) if divided else ["train"]
    if split not in splits:
        raise InputError(f"{path}: has no split {split!r}, only {', '.join(map(repr, splits))}")
    return path / split if divided else path


def read_folder(path: Path, limit: int | None = None) -> Parts:
    """Read a folder of images of one size, or of class subfolders of them (labelled by sorted name).

    Raises:
        InputError: what `listed` and `images` raise.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("L", (3, 2)).save(Path(folder) / name / "1.png")
    ...     x, shape, y = read_folder(Path(folder))
    >>> x.shape, shape, y.tolist()
    (torch.Size([2, 6]), (2, 3), [0, 1])
    """
    found, classes = listed(path)
    keep = spread(len(found), limit)
    x, shape = rows(images([found[i] for i in keep]), str(path))
    return x, shape, None if classes is None else torch.tensor([classes[i] for i in keep])
