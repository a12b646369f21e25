"""Every loader reads back what was written, and every bad input is refused in one line."""

import math
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from pyro_vaes.data import DATASETS, load
from pyro_vaes.data import files as files_module
from pyro_vaes.errors import InputError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 4, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
TABLE = RNG.normal(size=(6, 3)).astype(np.float32)


def refused(message: str, *args, **kwargs) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def save_images(folder: Path, arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.png")
    return folder


# Names


def test_digits_is_the_default():
    data = load()
    assert data.name == "digits" and data.shape == (8, 8)
    assert data.x.shape == (1797, 64) and data.x.dtype == torch.float32
    assert data.x.min() == 0 and data.x.max() == 1
    assert torch.equal(data.x * 16, (data.x * 16).round())
    assert data.y is not None and data.y.dtype == torch.int64 and data.y[:5].tolist() == [0, 1, 2, 3, 4]


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, pyro_vaes.data; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torchvision", "sklearn", "scipy", "matplotlib", "PIL"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_idx_files(tmp_path, name, folder, split, stem):
    for part, offset in (("train", 0), ("t10k", 1)):
        idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", np.roll(BYTES, offset))
        idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) + offset)
    data = load(name, root=tmp_path, split=split)
    offset = int(stem == "t10k")
    assert data.shape == (4, 5) and data.x.dtype == torch.float32
    assert np.array_equal((data.x * 255).round().numpy(), np.roll(BYTES, offset).reshape(6, 20))
    assert data.y is not None and data.y.tolist() == list(range(offset, 6 + offset))
    images = tmp_path / folder / "raw" / f"{stem}-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-3])
    refused(f"{name} cannot be read from", name, root=tmp_path, split=split)


def test_idx_files_with_other_numbers_of_images_and_labels(tmp_path):
    for part in ("train", "t10k"):
        idx(tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", BYTES)
        idx(tmp_path / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    refused("6 data and 5 labels", "mnist", root=tmp_path)


@pytest.mark.parametrize("source", ["folder", "torchvision"])
def test_cifar10(tmp_path, monkeypatch, source):
    images = RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    if source == "folder":
        for i, name in enumerate(("cat", "dog")):
            save_images(tmp_path / "cifar10" / "test" / name, images[2 * i : 2 * i + 2].transpose(0, 2, 3, 1))
    else:
        fake_cifar10(tmp_path / "cifar-10-batches-py", images, monkeypatch)
    data = load("cifar10", root=tmp_path, split="test")
    assert data.shape == (3, 32, 32) and data.y is not None and data.y.tolist() == [0, 0, 1, 1]
    assert np.array_equal((data.x * 255).round().numpy(), images.reshape(4, -1))


def fake_cifar10(folder: Path, images: np.ndarray, monkeypatch) -> None:
    """Write torchvision's own layout, of four images and without checksums."""
    import pickle

    from torchvision.datasets import CIFAR10

    folder.mkdir()
    (folder / "test_batch").write_bytes(
        pickle.dumps({"data": images.reshape(4, -1), "labels": [0, 0, 1, 1]}, protocol=2)
    )
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}, protocol=2))
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})


@pytest.mark.parametrize("split", ["train", "test", "unlabeled"])
def test_stl10(tmp_path, monkeypatch, split):
    from torchvision.datasets import STL10

    images = RNG.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test", "unlabeled"):
        # The file holds columns first.
        images.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        np.array([1, 2, 3], dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    names = [[f"{part}.bin", None] for part in ("train_X", "train_y", "unlabeled_X", "test_X", "test_y")]
    monkeypatch.setattr(STL10, "train_list", names[:3])
    monkeypatch.setattr(STL10, "test_list", names[3:])
    data = load("stl10", root=tmp_path, split=split, limit=2)
    assert data.shape == (3, 96, 96)
    assert np.array_equal((data.x * 255).round().numpy(), images[:2].reshape(2, -1))
    if split == "unlabeled":
        assert data.y is None
    else:
        assert data.y is not None and data.y.tolist() == [0, 1]


def test_the_folds_of_stl10_are_the_lines_of_its_file(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    images.transpose(0, 1, 3, 2).tofile(folder / "train_X.bin")
    np.array([1, 2, 3, 4], dtype=np.uint8).tofile(folder / "train_y.bin")
    (folder / "fold_indices.txt").write_text("".join(f"{k % 4} {(k + 2) % 4}\n" for k in range(10)))
    monkeypatch.setattr(STL10, "train_list", [["train_X.bin", None], ["train_y.bin", None]])
    monkeypatch.setattr(STL10, "test_list", [])
    data = load("stl10", root=tmp_path, split="fold5")
    assert data.y is not None and data.y.tolist() == [1, 3]
    assert np.array_equal((data.x * 255).round().numpy(), images[[1, 3]].reshape(2, -1))
    refused("stl10 has no split 'fold10'", "stl10", root=tmp_path, split="fold10")


def test_celeba_is_cropped_scaled_and_split(tmp_path, monkeypatch):
    from torchvision.datasets import CelebA

    folder = tmp_path / "celeba"
    # The central 140 x 140 of 218 x 178 are one colour, all around is another.
    faces = np.zeros((5, 218, 178, 3), dtype=np.uint8)
    faces[:, 39:179, 19:159] = np.arange(1, 6)[:, None, None, None] * [10, 20, 30]
    save_images(folder / "img_align_celeba", faces)
    names = [f"{i}.png" for i in range(5)]
    for name in ("identity_CelebA", "list_eval_partition"):
        write(folder / f"{name}.txt", "".join(f"{n} {int(i > 2)}\n" for i, n in enumerate(names)))
    for name in ("list_attr_celeba", "list_bbox_celeba", "list_landmarks_align_celeba"):
        write(folder / f"{name}.txt", "5\na b\n" + "".join(f"{n} 1 -1\n" for n in names))
    monkeypatch.setattr(CelebA, "file_list", [("", None, file.name) for file in folder.glob("*.txt")])
    data = load("celeba", root=tmp_path)
    assert data.shape == (3, 64, 64) and len(data.x) == 3 and data.y is None
    expected = np.arange(1, 4)[:, None] * [10, 20, 30]
    pixels = (data.x * 255).round().view(3, 3, 64 * 64)
    assert np.array_equal(pixels.amin(2).numpy(), expected) and np.array_equal(pixels.amax(2).numpy(), expected)
    assert len(load("celeba", root=tmp_path, split="valid").x) == 2


def test_celeba_from_an_image_folder(tmp_path):
    save_images(tmp_path / "celeba" / "valid", COLOUR.transpose(0, 2, 3, 1))
    data = load("celeba", root=tmp_path, split="valid")
    assert data.shape == (3, 4, 5) and len(data.x) == 6


@pytest.mark.parametrize("place", ["frey/frey_rawface.mat", "frey_rawface.mat"])
def test_frey(tmp_path, place):
    images = RNG.integers(0, 256, (7, 28, 20), dtype=np.uint8)
    (tmp_path / "frey").mkdir()
    savemat(tmp_path / place, {"ff": images.reshape(7, 560).T})
    for data in (load("frey", root=tmp_path), load(tmp_path / place)):
        assert data.shape == (28, 20) and data.y is None and data.x.is_contiguous()
        assert np.array_equal((data.x * 255).round().view(7, 28, 20).numpy(), images)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba", "stl10"])
def test_nothing_is_downloaded_unasked(tmp_path, name):
    refused(f"{name} is missing or incomplete in .*download=True.* put its files into ", name, root=tmp_path)
    assert not any(tmp_path.rglob("*.*"))


def test_the_user_can_ask_for_a_download_and_its_failure_is_told(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def fails(self):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(MNIST, "download", fails)
    refused("mnist cannot be downloaded to .*: no network", "mnist", root=tmp_path, download=True)


def test_frey_says_where_to_find_it(tmp_path):
    refused("frey is not in .*: fetch https://", "frey", root=tmp_path, download=True)


@pytest.mark.parametrize("name", list(DATASETS))
def test_an_unknown_split_is_refused(tmp_path, name):
    refused(f"{name} has no split 'dev': it has train", name, root=tmp_path, split="dev")


def test_an_unknown_name_is_refused():
    refused("unknown data set 'minst': did you mean 'mnist'", "minst")


def test_limit(tmp_path):
    data = load("digits", limit=10)
    assert len(data.x) == 10 and data.y is not None and len(data.y) == 10
    assert len(load(save(tmp_path / "x.npy", TABLE), limit=4).x) == 4
    assert len(load(tmp_path / "x.npy", limit=100).x) == 6
    for limit in (0, -1):
        refused(f"limit is {limit}", "digits", limit=limit)


# Arrays


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (TABLE, (3,)),
        (TABLE.astype(np.float64), (3,)),
        (TABLE.astype(">f4"), (3,)),
        (np.asfortranarray(TABLE), (3,)),
        (np.arange(12).reshape(4, 3), (3,)),
        (TABLE > 0, (3,)),
        (TABLE.reshape(2, 3, 3), (3, 3)),
        (COLOUR.astype(np.float32), (3, 4, 5)),
        (COLOUR[:, :1].astype(np.float16), (1, 4, 5)),
    ],
)
def test_numbers_are_taken_as_they_are(tmp_path, array, shape):
    data = load(save(tmp_path / "x.npy", array))
    assert data.shape == shape and data.x.dtype == torch.float32 and data.y is None
    assert np.array_equal(data.x.numpy(), array.reshape(len(array), -1).astype(np.float32))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BYTES.reshape(6, 20), BYTES),
        (BYTES, BYTES),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
    ],
)
def test_bytes_are_divided_by_255_and_channels_come_first(tmp_path, array, expected):
    data = load(save(tmp_path / "x.npy", array))
    assert data.shape == (expected.shape[1:] if array.ndim > 2 else (20,))
    assert np.array_equal(data.x.numpy(), expected.reshape(6, -1).astype(np.float32) / 255)


@pytest.mark.parametrize("suffix", ["npz", "mat"])
@pytest.mark.parametrize("key", ["x", "X", "faces"])
def test_named_arrays_with_labels(tmp_path, suffix, key):
    path, arrays = tmp_path / f"data.{suffix}", {key: BYTES, "y": np.arange(6)}
    if suffix == "npz":
        np.savez_compressed(path, **arrays)
    else:
        savemat(path, arrays)
    data = load(path)
    assert data.shape == (4, 5) and np.array_equal((data.x * 255).round().numpy(), BYTES.reshape(6, 20))
    assert data.y is not None and data.y.dtype == torch.int64 and data.y.tolist() == list(range(6))


def test_x_is_preferred_among_other_arrays(tmp_path):
    np.savez(tmp_path / "data.npz", a=BYTES, x=TABLE)
    assert torch.equal(load(tmp_path / "data.npz").x, torch.from_numpy(TABLE))
    np.savez(tmp_path / "data.npz", a=BYTES, b=TABLE)
    refused("holds a, b: name the data 'x'", tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", y=TABLE)
    refused("holds y: name the data 'x'", tmp_path / "data.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_large_file_is_mapped_and_not_copied(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(files_module, "MMAP_BYTES", 100)
    path = save(tmp_path / "x.npy", COLOUR.astype(dtype))
    opened, numpy_load = [], np.load
    monkeypatch.setattr(np, "load", lambda *args, **options: opened.append(numpy_load(*args, **options)) or opened[-1])
    data = load(path, limit=5)
    assert data.x.dtype == getattr(torch, np.dtype(dtype).name) and data.shape == (3, 4, 5)
    assert np.array_equal(data.x.numpy(), COLOUR[:5].reshape(5, -1).astype(dtype))
    assert isinstance(opened[0], np.memmap) and opened[0].ctypes.data == data.x.data_ptr()
    data.x[:] = 0
    assert np.array_equal(numpy_load(path), COLOUR.astype(dtype))


def test_a_large_file_that_cannot_be_mapped_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MMAP_BYTES", 100)
    for array in (TABLE.astype(np.float64), np.asfortranarray(COLOUR), COLOUR.transpose(0, 2, 3, 1).copy()):
        refused("must hold uint8 or float32 in C order", save(tmp_path / "x.npy", array))
    path = save(tmp_path / "x.npy", COLOUR)
    path.write_bytes(path.read_bytes()[:-10])
    refused("cannot be read", path)


def test_nan_in_a_mapped_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MMAP_BYTES", 100)
    table = np.zeros((50, 3), dtype=np.float32)
    table[40, 2] = np.nan
    refused("nan at row 40, column 2", save(tmp_path / "x.npy", table))


def test_many_bytes_stay_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MMAP_BYTES", 100)
    np.savez(tmp_path / "x.npz", x=COLOUR)
    data = load(tmp_path / "x.npz")
    assert data.x.dtype == torch.uint8 and np.array_equal(data.x.numpy(), COLOUR.reshape(6, -1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 2), (5, 1)])
def test_what_is_not_finite_is_reported_with_its_place(tmp_path, value, place):
    table = TABLE.copy()
    table[place] = table[5, 2] = value
    refused(f"{value} at row {place[0]}, column {place[1]}", save(tmp_path / "x.npy", table))


def test_the_place_is_right_in_a_later_block(tmp_path):
    from pyro_vaes.data.datasets import _check_finite

    x = torch.zeros(10, 3)
    x[7, 1] = math.inf
    for values in (1, 5, 6, 9, 100):
        with pytest.raises(InputError, match="inf at row 7, column 1"):
            _check_finite(x, "x", values)


def test_an_overflow_of_float32_is_reported(tmp_path):
    refused("inf at row 0, column 1", save(tmp_path / "x.npy", np.array([[1.0, 1e300]])))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float64(3), r"has shape \(\)"),
        (np.zeros(5), r"has shape \(5,\)"),
        (np.zeros((2, 3, 2, 2, 2)), "it must be"),
        (np.zeros((0, 5)), "is empty"),
        (np.zeros((5, 0)), "is empty"),
        (np.zeros((2, 4, 5, 6)), "must have 1 or 3 channels"),
        (np.zeros((2, 2, 5, 4)), "must have 1 or 3 channels"),
        (np.array([["a", "b"]]), "must hold real numbers"),
        (np.zeros((2, 2), dtype=complex), "must hold real numbers"),
        (np.array([[1, None]]), "never unpickled"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_of_the_wrong_kind_is_refused(tmp_path, array, message, suffix):
    path = tmp_path / f"x.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
    refused(message, path)


def test_a_pickle_is_not_opened(tmp_path):
    import pickle

    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(pickle.dumps({"x": [1, 2]}))
        refused("never unpickled", tmp_path / name)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(5), "they must be 6 numbers"),
        (np.array(list("abcdef")), "they must be 6 numbers"),
        (np.array([0, 1, 2, 0.5, 1, 2]), "label 0.5 of row 3"),
        (np.array([0, np.nan, 2, 1, 1, 2]), "label nan of row 1"),
        (np.array([0, np.inf, 2, 1, 1, 2]), "label inf of row 1"),
    ],
)
def test_bad_labels_are_refused(tmp_path, y, message):
    np.savez(tmp_path / "x.npz", x=TABLE, y=y)
    refused(message, tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "png"])
def test_a_truncated_file_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"x.{suffix}"
    array = RNG.integers(0, 256, (50, 60), dtype=np.uint8)
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "npz":
        np.savez(path, x=array)
    elif suffix == "mat":
        savemat(path, {"x": array}, do_compression=True)
    else:
        Image.fromarray(array).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused("cannot be read", tmp_path if suffix == "png" else path)


def test_a_damaged_zip_member_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=BYTES)
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[0].header_offset + 250
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)
    refused("cannot be read", path)


# Mat


def test_the_mat_layouts(tmp_path):
    path = tmp_path / "x.mat"
    savemat(path, {"ff": np.zeros((28, 20))})
    refused(r"it must be \(560, N\)", path)
    savemat(path, {"a": TABLE, "b": TABLE})
    refused("holds a, b: name the data 'x'", path)
    savemat(path, {"x": np.array([[1, "a"]], dtype=object)})
    refused("must hold real numbers", path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    refused("7.3", path)


# Csv


@pytest.mark.parametrize(
    ("text", "x", "y"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], None),
        ("a,b\n1,2\n\n3,-4e1\n", [[1, 2], [3, -40]], None),
        ("\ufeffa,label\r\n1,2\r\n3,4\r\n", [[1], [3]], [2, 4]),
        ("Y, a ,b\n0,1.5,2\n1, 3,4\n", [[1.5, 2], [3, 4]], [0, 1]),
        ("label,0,1\n7,1,2\n", [[1, 2]], [7]),
    ],
)
def test_csv(tmp_path, text, x, y):
    data = load(write(tmp_path / "x.csv", text))
    assert data.x.tolist() == x and data.x.dtype == torch.float32 and data.shape == (len(x[0]),)
    assert (data.y if data.y is None else data.y.tolist()) == y


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "a header and no rows"),
        ("1,2\n3,four\n", "line 2, column 2: 'four' is not a number"),
        ("a,b\n\n1,2\n,4\n", "line 4, column 1: '' is not a number"),
        ("1,two\n3,4\n", "line 1, column 2: 'two' is not a number"),
        ("1,2\n3\n", "line 2 has 1 cells, the first line has 2"),
        ("a,b\n1,2,3\n", "line 2 has 3 cells, the first line has 2"),
        ("1,2\n3,nan\n", "nan at row 1, column 1"),
        ("a,label\n1,0.5\n", "label 0.5 of row 0"),
        ("a,label\n1,cat\n", "line 2, column 2: 'cat'"),
        ("label,y,a\n1,2,3\n", "only one may be named"),
        ("label\n1\n", "is empty"),
        ('1,"2\n3,4\n', "not a number|cells"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path, text, message):
    refused(message, write(tmp_path / "x.csv", text))


def test_a_csv_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x81")
    refused("cannot be read", tmp_path / "x.csv")


# Folders


@pytest.mark.parametrize(("arrays", "shape"), [(BYTES, (4, 5)), (COLOUR.transpose(0, 2, 3, 1), (3, 4, 5))])
def test_a_flat_folder_of_images(tmp_path, arrays, shape):
    write(save_images(tmp_path / "faces", arrays) / "notes.txt", "not an image")
    data = load(str(tmp_path / "faces"))
    assert data.shape == shape and data.y is None
    expected = BYTES if len(shape) == 2 else COLOUR
    assert np.array_equal((data.x * 255).round().numpy(), expected.reshape(6, -1))


def test_a_folder_of_classes_and_splits(tmp_path):
    for split, value in (("train", 50), ("test", 100)):
        for i, name in enumerate(("ant", "bee")):
            save_images(tmp_path / split / name, np.full((4, 2, 3), value + i, dtype=np.uint8))
    train = load(tmp_path)
    assert train.y is not None and train.y.tolist() == [0] * 4 + [1] * 4
    assert (train.x[:, 0] * 255).round().tolist() == [50] * 4 + [51] * 4
    few = load(tmp_path, split="test", limit=2)
    assert few.y is not None and few.y.tolist() == [0, 1]
    assert (few.x[:, 0] * 255).round().tolist() == [100, 101]
    refused("no split 'valid', only 'test', 'train'", tmp_path, split="valid")
    refused("no split 'test', only 'train'", tmp_path / "train", split="test")


@pytest.mark.parametrize(("mode", "shape"), [("1", (2, 3)), ("P", (3, 2, 3))])
def test_bitmaps_and_palettes(tmp_path, mode, shape):
    Image.fromarray(np.full((2, 3, 3), 255, dtype=np.uint8)).convert(mode).save(tmp_path / "a.png")
    data = load(tmp_path)
    assert data.shape == shape and (data.x == 1).all()


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2), ("I;16", 1)])
def test_a_wrong_channel_count_names_the_file(tmp_path, mode, channels):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    refused(rf"a\.png: has {channels} channel\(s\) of mode {mode}", tmp_path)


def test_mixed_images_name_the_file(tmp_path):
    save_images(tmp_path, BYTES)
    Image.new("L", (4, 5)).save(tmp_path / "z.png")
    refused(r"z\.png: is 5 x 4 with 1 .*0\.png is 4 x 5 .*one size", tmp_path)
    Image.new("RGB", (5, 4)).save(tmp_path / "z.png")
    refused(r"z\.png: is 4 x 5 with 3", tmp_path)


def test_what_is_no_image_names_the_file(tmp_path):
    write(tmp_path / "a.jpg", "text")
    refused(r"a\.jpg: cannot be read", tmp_path)


def test_folders_without_images_are_refused(tmp_path):
    refused("holds no images", tmp_path)
    (tmp_path / "ant").mkdir()
    refused("cannot be read", tmp_path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    refused("no such file or folder", tmp_path / "x.npy")
    refused("no such file or folder", "nowhere/x")
    refused("no such file or folder", Path("digits"))
    refused("cannot read .txt: use .npy, .npz, .csv, .mat or a folder", write(tmp_path / "x.txt", "1"))
    refused("a file has no split 'test'", save(tmp_path / "x.npy", TABLE), split="test")
