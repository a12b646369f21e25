"""Damaged, lying and hostile data files: an answer or one line, in bounded memory and time, and no code runs."""

import ast
import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

import pyro_vaes
from pyro_vaes.data import corrupt, load
from pyro_vaes.data.hidden import read_mask
from pyro_vaes.errors import InputError

PACKAGE = Path(pyro_vaes.__file__).parent
TABLE = np.arange(24, dtype=np.float32).reshape(6, 4)
BYTES = np.arange(120, dtype=np.uint8).reshape(6, 4, 5)
QUICK = settings(max_examples=25, derandomize=True, deadline=None, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
# By hand for an hour: PYRO_VAES_FUZZ=5000.
LONG = settings(QUICK, max_examples=int(os.environ.get("PYRO_VAES_FUZZ", "200")))


def tried(path: Path, call=load) -> str:
    """Read a file; give what was said, or nothing where it could be read after all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = call(path)
        except InputError as error:
            said, found = str(error), None
    if found is None:
        assert said.isprintable() and len(said) <= 1010
        return said
    x = found.x if hasattr(found, "x") else found
    assert x.ndim == 2 and len(x) and torch.isfinite(x.float()).all()
    return ""


def refused(path: Path, message: str, call=load) -> None:
    said = tried(path, call)
    assert message in said, said or "it was read"


def file_of(kind: str) -> bytes:
    """A sound file of each kind."""
    held = io.BytesIO()
    if kind == "npy":
        np.save(held, TABLE)
    elif kind == "npz":
        np.savez_compressed(held, x=TABLE, y=np.arange(6))
    elif kind == "mat":
        savemat(held, {"x": TABLE, "y": np.arange(6)}, do_compression=True)
    elif kind == "mat4":
        savemat(held, {"x": TABLE}, format="4")
    elif kind == "csv":
        held.write(b"width,label\n1.5,0\n-2e3,1\n")
    else:
        Image.fromarray(BYTES[0]).save(held, format=kind.upper())
    return held.getvalue()


KINDS = ("npy", "npz", "mat", "mat4", "csv", "png", "jpeg", "bmp", "ppm", "tiff", "webp")


def placed(folder: Path, kind: str, content: bytes) -> Path:
    """Write a file where it will be read as one of its kind: images in a folder."""
    if kind in ("npy", "npz", "mat", "mat4", "csv"):
        path = folder / f"x.{kind.rstrip('4')}"
        path.write_bytes(content)
        return path
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / f"x.{kind}").write_bytes(content)
    return folder / "images"


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Flip bits, cut, repeat or put in foreign bytes."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(found) - 1)))
        match data.draw(st.sampled_from(["flip", "byte", "cut", "insert", "repeat"])):
            case "flip" if found:
                found[at] ^= 1 << data.draw(st.integers(0, 7))
            case "byte" if found:
                found[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            case "cut":
                del found[at:]
            case "insert":
                found[at:at] = data.draw(st.binary(max_size=8))
            case "repeat":
                found[at:at] = found[at : at + 16]
    return bytes(found)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(kind, data, tmp_path):
    tried(placed(tmp_path, kind, damaged(data, file_of(kind))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@LONG
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_at_length(kind, data, tmp_path):
    tried(placed(tmp_path, kind, damaged(data, file_of(kind))))


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "csv", "png"])
@QUICK
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(kind, content, tmp_path):
    tried(placed(tmp_path, kind, content))


@QUICK
@given(text=st.text(alphabet="01.-+einfa,;\"'\n\r\t\0 =()Ü\ufeff\u2028", max_size=60))
def test_any_text_is_a_table_or_refused(text, tmp_path):
    (tmp_path / "x.csv").write_bytes(text.encode())
    tried(tmp_path / "x.csv")


# --- headers that lie ---------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1" if version < (3, 0) else "utf8")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + body


SHAPED = "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 4)}}"
HEADERS = {
    "a shape beyond memory": (SHAPED.format(2**60), "claims"),
    "a shape beyond 64 bits": (SHAPED.format(2**80), "cannot be read"),
    "a negative shape": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", "claims shape (-1, 4)"),
    "code": ("__import__('os').system('touch SPOILT')", "cannot be read"),
    "code as a shape": ("{'descr': '<f4', 'fortran_order': False, 'shape': exit()}", "cannot be read"),
    "deep nesting": ("(" * 5000 + ")" * 5000, "cannot be read"),
    "objects": ("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", "never unpickled"),
    "objects in fields": ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1, 1)}", "never unpickled"),
    "fields": ("{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (1, 1)}", "real numbers"),
    "an unknown type": ("{'descr': '<q9', 'fortran_order': False, 'shape': (1, 1)}", "cannot be read"),
    "dates": ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1, 1)}", "real numbers"),
    "complex": ("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}", "real numbers"),
    "entries of no bytes": (SHAPED.format(2**40).replace("<f4", "|S0"), "cannot be read|real"),
    "a missing key": ("{'descr': '<f4', 'shape': (1, 1)}", "cannot be read"),
    "a huge header": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1)}" + " " * 60_000, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["npy", "npz", "mask", "hide"])
@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies_is_refused(case, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header, message = HEADERS[case]
    path = tmp_path / ("x.npz" if suffix == "npz" else "x.npy")
    content = npy(header + "\n", bytes(64))
    if suffix == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    if suffix == "mask":
        said = tried(path, lambda p: corrupt(torch.ones(1, 1), f"mask:{p}", shape=(1,)))
    elif suffix == "hide":
        said = tried(path, lambda p: read_mask(str(p), (1,), 1))
    else:
        said = tried(path)
    assert said and (suffix in ("mask", "hide") or any(part in said for part in message.split("|"))), said
    assert str(path) in said and not (tmp_path / "SPOILT").exists()


@pytest.mark.parametrize("array", [
    np.asfortranarray(TABLE), TABLE.astype(">f4"), TABLE.astype(">f8"), TABLE.astype("<f2"), TABLE.astype(">i2"),
    TABLE[::-1], TABLE[:, ::2], TABLE.astype(np.longdouble), TABLE > 3, TABLE.astype("<u8"),
], ids=lambda a: f"{a.dtype.str}{a.strides}")  # fmt: skip
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_any_order_of_bytes_and_entries_gives_the_same_numbers(array, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
    assert torch.equal(load(path).x, torch.from_numpy(np.ascontiguousarray(array).astype(np.float32)))


# --- bombs --------------------------------------------------------------------------------------------------------

# A process of its own, which says what was refused, and how much memory all of it took beyond that of the libraries.
IN_LITTLE_MEMORY = """
import resource, sys
import torch
from pyro_vaes.data import load
import numpy, scipy.io, PIL.Image
from PIL import BmpImagePlugin, PngImagePlugin, PpmImagePlugin
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        print(load(path))
    except Exception as error:
        print(type(error).__name__, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def zeros_npz(path: Path, gigabytes: int, name: str = "x.npy", shape: tuple[int, ...] | None = None) -> Path:
    """An archive of zeros: ten megabytes that unpack to ten gigabytes, written by hand in no time."""
    size = gigabytes * 10**9
    header = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape or (size // 1000, 1000)}}}\n")
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A megabyte of zeros packs to the same thousand bytes each time; the sum is wrong, which nobody lives to see.
    first = pack.compress(header) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(10**6)) + pack.flush(zlib.Z_FULL_FLUSH)
    packed = first + block * (size // 10**6) + pack.flush()
    info = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20)
    total = len(header) + size
    extra = struct.pack("<HHQQ", 1, 16, total, len(packed))
    local = b"PK\3\4" + info + name.encode() + extra
    central = b"PK\1\2" + struct.pack("<H", 20) + info + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode() + extra
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    path.write_bytes(local + packed + central + end)
    return path


def test_an_archive_that_claims_little_is_read_no_further(tmp_path):
    """The header says four numbers; what follows is not read."""
    said = tried(zeros_npz(tmp_path / "x.npz", 1, shape=(2, 2)))
    assert "cannot be read" in said or not said


def test_arrays_that_are_not_asked_for_are_not_unpacked(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=TABLE)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.npy", b"\x80\x04cos\nsystem\n(S'touch SPOILT'\ntR.")
    assert load(path).x.shape == (6, 4)


def zeros_mat(path: Path) -> Path:
    """A matrix of 1,250 million doubles, packed: its header says so, and ten megabytes follow."""
    rows, columns = 10**6, 1250
    pack = zlib.compressobj(9)
    head = struct.pack("<II", 14, (8 * rows * columns + 56) % 2**32)
    head += struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, rows, columns)
    head += struct.pack("<HH4s", 1, 1, b"x\0\0\0") + struct.pack("<II", 9, (8 * rows * columns) % 2**32)
    packed = pack.compress(head) + pack.compress(bytes(10**7)) + pack.flush()
    text = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM"
    path.write_bytes(text + struct.pack("<II", 15, len(packed)) + packed)
    return path


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def wide_image(folder: Path, kind: str, side: int = 20_000) -> Path:
    """The header of an image of 400 million pixels, and next to nothing after it."""
    if kind == "png":
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        content += chunk(b"IDAT", zlib.compress(bytes(10**6), 9)) + chunk(b"IEND", b"")
    elif kind == "bmp":
        sizes = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        content = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes
    else:
        content = f"P6 {side} {side} 255\n".encode()
    folder.mkdir()
    return placed(folder, kind, content + bytes(100))


def test_bombs_are_refused_in_little_memory(tmp_path):
    """Ten gigabytes in ten megabytes, twice, and three images of more than a gigabyte each."""
    bombs = {
        zeros_npz(tmp_path / "x.npz", 10): "unpacks to 10,000,000",
        zeros_mat(tmp_path / "x.mat"): "unpacks to 10,000,000,000",
    }
    bombs |= {wide_image(tmp_path / kind, kind): "pixels" for kind in ("png", "bmp", "ppm")}
    assert all(path.is_dir() or path.stat().st_size < 2e7 for path in bombs)
    command = [sys.executable, "-W", "error", "-c", IN_LITTLE_MEMORY, *map(str, bombs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=PACKAGE.parent)
    assert done.returncode == 0 and not done.stderr, done.stderr
    *said, taken = done.stdout.strip().splitlines()
    for line, message in zip(said, bombs.values(), strict=True):
        assert line.startswith("InputError") and message in line, line
    assert int(taken) < 100


def test_many_images_that_are_too_much_together_are_refused(tmp_path, monkeypatch):
    for i in range(4):
        Image.fromarray(BYTES[0]).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(os, "sysconf", lambda name: 8)
    refused(tmp_path, "takes 80 bytes, more than the memory")


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "message"), [
    (b"1,2\n3,=SUM(A1)\n", "'=SUM(A1)' is not a number"),
    (b"1,2\n3,4\xff\n", "cannot be read"),
    ("1,2\n3,4\n".encode("utf-16"), "cannot be read"),
    ("1,ü\n".encode("latin1"), "cannot be read"),
    (b"1,\0\n3,4\n", "not a number"),
    (b'a,"b\nc"\n1,2\n', ""),
    (b'1,"2\n3"\n', "not a number"),
    (b"1," + b"9" * 200_000 + b"\n", "cannot be read"),
    (b"1,1e999\n", "inf at row 0"),
    (b"1,0x10\n", "not a number"),
    (b"1,1_000\n", ""),
    ("1,\u0661\n".encode(), ""),
    (b"1;2\n3;4\n", "not a number|empty|rows"),
    (b"\xef\xbb\xbf1,2\n3,4\n", ""),
], ids=repr)  # fmt: skip
def test_tables_of_every_bad_kind(content, message, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    said = tried(path)
    assert any(part in said for part in message.split("|")) and bool(said) == bool(message), said


def test_a_table_of_a_million_columns_is_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"1," * (10**6 - 1) + b"1\n")
    assert load(path).x.shape == (1, 10**6)


# --- folders, links, names ----------------------------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("x.npy", "x.csv", "x.mat"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "neither a file nor a folder")
    os.mkfifo(tmp_path / "x.png")
    for path in (tmp_path / "x.npy", tmp_path / "x.csv", tmp_path / "x.mat"):
        path.unlink()
    refused(tmp_path, "not an ordinary file")


@pytest.mark.parametrize("call", [
    lambda p: corrupt(torch.ones(1, 1), f"mask:{p}", shape=(1,)), lambda p: read_mask(str(p), (1,), 1),
], ids=["corrupt", "hide"])  # fmt: skip
def test_a_mask_that_is_no_ordinary_file(call, tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    refused(tmp_path / "x.npy", "no such file", call)
    refused(tmp_path, "no such file", call)
    refused(Path("/dev/zero"), "no such file", call)
    refused(Path("a\0b"), "no such file", call)


def test_endless_devices_are_not_read(tmp_path):
    (tmp_path / "x.npy").symlink_to("/dev/zero")
    refused(tmp_path / "x.npy", "neither a file nor a folder")
    (tmp_path / "x.npy").rename(tmp_path / "x.png")
    refused(tmp_path, "not an ordinary file")


def test_circles_of_links_come_to_an_end(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(BYTES[0]).save(tmp_path / name / "1.png")
        for i in range(6):
            (tmp_path / name / f"again{i}").symlink_to(tmp_path)
    found = load(tmp_path)
    # Each class sees the images that its links lead to, every folder once.
    assert found.y is not None and found.y.bincount().tolist() == [2, 2]
    (tmp_path / "self.npy").symlink_to("self.npy")
    refused(tmp_path / "self.npy", "no such file")


NAMES = ["../../x", "a\nb", "ü\u202e", "x; rm -rf", "$(touch SPOILT)", "a" * 300, "-v", " ", "a\x1b[31m", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for suffix in ("", ".npy", "/x.csv"):
        assert tried(f"{name}{suffix}")  # type: ignore[arg-type]
    with np.errstate(all="ignore"), zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for member in (f"{name}.npy", "/etc/passwd.npy"):
            archive.writestr(member.encode("utf8", "replace").decode(), b"no array")
    assert "name the data" in tried(tmp_path / "x.npz") or tried(tmp_path / "x.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "/" not in name and len(name) < 200 and name.isprintable()] + ["a\nb"], ids=ascii
)
def test_a_file_of_any_name_is_read(name, tmp_path):
    np.save(tmp_path / f"{name}.npy", TABLE)
    assert load(tmp_path / f"{name}.npy").x.shape == (6, 4)
    (tmp_path / f"{name}.npy").write_bytes(b"")
    refused(tmp_path / f"{name}.npy", "cannot be read")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"plain text")
    refused(path, "cannot be read")


def test_two_members_of_one_name(tmp_path):
    path = tmp_path / "x.npz"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for array in (TABLE, TABLE + 1):
            held = io.BytesIO()
            np.save(held, array)
            archive.writestr("x.npy", held.getvalue())
    tried(path)


# --- idx files, and pickles ---------------------------------------------------------------------------------------


def idx(shape: tuple[int, ...], body: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(body)


@pytest.mark.parametrize(("images", "labels"), [
    (idx((2**31, 28, 28), 784), idx((1,), 1)), (idx((1, 28, 28), 10), idx((1,), 1)), (b"", b""),
    (b"\x1f\x8b", b"\x1f\x8b"),
    (idx((0, 28, 28), 0), idx((0,), 0)), (idx((1, 28, 28), 784), idx((2,), 2)), (b"\x80\x04N.", b"\x80\x04N."),
    (idx((2, 2, 2, 2), 16), idx((2,), 2)),
])  # fmt: skip
def test_idx_files_that_lie_are_refused(images, labels, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    said = tried(Path(), lambda _: load("mnist", root=tmp_path))
    assert said.startswith("mnist")


def test_an_old_cache_of_torchvision_is_never_unpickled(tmp_path):
    class Spoil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "SPOILT"),)

    old = tmp_path / "MNIST" / "processed"
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save((Spoil(), torch.zeros(1)), old / name)
    said = tried(Path(), lambda _: load("mnist", root=tmp_path))
    assert "missing or incomplete" in said and not (tmp_path / "SPOILT").exists()


# What could run code that lies in a file, and where each may stand: the one pickle is torchvision's CIFAR-10, opened
# only where its checksum is that of the published file, and not by us.
DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "imp", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "load_source", "exec_module", "import_module"}


def test_no_code_is_taken_from_data():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        where = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {(where, alias.name) for alias in node.names if alias.name.split(".")[0] in DANGEROUS}
            elif isinstance(node, ast.ImportFrom):
                found |= {(where, node.module) for _ in [0] if (node.module or "").split(".")[0] in DANGEROUS}
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in CALLS or name.split(".")[-1] in CALLS - {"compile", "eval"}:
                    found.add((where, name))
                if name in ("torch.load", "torch.jit.load", "np.load", "numpy.load", "np.lib.format.read_array"):
                    pickled = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) == "False"]
                    assert pickled and name.startswith("np"), f"{where}:{node.lineno}: {name} may unpickle"
    assert found == ALLOWED


# Our own modules by name, and the user's program `mine.py:my_pair`, which is named on the command line.
# The last two run the text of the user's own file, which has to be trusted: see test_trust.py.
ALLOWED = {
    ("__init__.py", "importlib.import_module"),
    ("inference/run.py", "compile"),
    ("inference/run.py", "exec"),
}
