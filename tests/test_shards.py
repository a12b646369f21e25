"""Data in many files: the order, what is read how often, resume, and files that are not what they say."""

import io
import os
import signal
import tarfile
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_vaes as pv
from pyro_vaes.data.rows import checksum
from pyro_vaes.inference.batches import Lanes, Prefetched, order_of
from pyro_vaes.inference.fit import check_options
from pyro_vaes.inference.guard import check_data

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
pytest.importorskip("webdataset")
CPU = torch.device("cpu")
BYTES = np.random.default_rng(0).integers(0, 256, (230, 8), dtype=np.uint8)


def write_parquet(folder, x=BYTES, files=3, group=16, labels=None, **more):
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(np.array_split(np.arange(len(x)), files)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].reshape(-1)), x.shape[1])
        columns = {"x": column} | ({} if labels is None else {"label": labels[rows]}) | more
        pq.write_table(pa.table(columns), folder / f"{i}.parquet", row_group_size=group)
    return folder


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_tar(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
    return path


def tar_of(path, x=BYTES, labels=None):
    members = []
    for i, row in enumerate(x):
        members.append((f"{i:06d}.npy", npy(row)))
        if labels is not None:
            members.append((f"{i:06d}.cls", str(int(labels[i])).encode()))
    return write_tar(path, members)


def small(name="gaussian_vae", **arguments):
    torch.manual_seed(0)
    return pv.variant(name)(data_dim=8, latent_dim=2, hidden=(6,), **arguments)


COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_every_row_comes_once_per_epoch(counts, lanes, batch_size, seed, epoch):
    order = Lanes(torch.tensor(counts), min(lanes, len(counts)), batch_size, seed)
    first = epoch * order.batches
    rows = torch.cat([order(first + i) for i in range(order.batches)])
    assert sorted(rows.tolist()) == list(range(sum(counts)))
    # A step is found without those before it, and again after others.
    again = Lanes(torch.tensor(counts), min(lanes, len(counts)), batch_size, seed)
    middle = first + order.batches // 2
    assert torch.equal(again(middle), order(middle))


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(0, 99))
def test_ranks_share_the_units(counts, ranks, per_rank, seed):
    """Where W divides batch size and K, a unit is of one rank, unless a cut divides it."""
    lanes = ranks * per_rank
    order = Lanes(torch.tensor(counts), lanes, 2 * ranks, seed)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    read = [
        torch.cat([owner[order(i)[r::ranks]] for i in range(order.batches)]).unique().tolist() for r in range(ranks)
    ]
    assert sum(map(len, read)) <= len(counts) + lanes - 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_unit_is_decoded_more_than_told(ranks, tmp_path):
    folder = write_parquet(tmp_path / "p", group=7)
    decoded = 0
    for r in range(ranks):
        shards = pv.Shards(folder, window=4)
        order = order_of(shards, 8, seed=3)
        for step in range(order.batches):
            rows = order(step)[r::ranks]
            assert torch.equal(shards[rows], torch.from_numpy(BYTES)[rows])
            assert len(shards._kept) <= 4
        decoded += shards.reads
    assert decoded <= len(shards.counts) + 3


def test_orders_differ_by_epoch_and_seed_and_mix_units():
    order, other = (Lanes(torch.tensor([50] * 8), 4, 20, seed) for seed in (0, 1))
    assert not torch.equal(order(0), order(order.batches)) and not torch.equal(order(0), other(0))
    assert len((order(0) // 50).unique()) == 4


@pytest.mark.parametrize("kind", ["lists", "columns", "tar"])
def test_rows_are_what_was_written(kind, tmp_path):
    labels = np.arange(len(BYTES)) % 3
    if kind == "lists":
        source = write_parquet(tmp_path / "p", labels=labels)
    elif kind == "columns":
        columns = {f"c{j}": BYTES[:, j] for j in range(8)} | {"y": labels}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=20)
        source = tmp_path / "*.parquet"
    else:
        source = [tar_of(tmp_path / "a.tar", BYTES[:99], labels), tar_of(tmp_path / "b.tar", BYTES[99:], labels[99:])]
    shards = pv.Shards(source)
    x, y = shards.read(torch.arange(len(BYTES)))
    assert shards.shape == (230, 8) and shards.labelled and shards.dtype == torch.uint8
    assert torch.equal(x, torch.from_numpy(BYTES)) and torch.equal(y, torch.from_numpy(labels))
    assert pv.Shards(source, limit=101).shape == (101, 8)
    if kind != "tar":
        assert pv.load(str(source)).x.shape == (230, 8)


def test_images_and_floats_in_tars(tmp_path):
    from PIL import Image

    image, stream = BYTES[:2].reshape(4, 4), io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    shards = pv.Shards(write_tar(tmp_path / "a.tar", [("a/1.png", stream.getvalue()), ("a/1.json", b"no"), ("R", b"")]))
    assert shards.datum == (4, 4) and torch.equal(shards[:], torch.from_numpy(image).reshape(1, 16))
    shards = pv.Shards(write_tar(tmp_path / "b.tar", [("1.npy", npy(np.array([0.5, 2.0])))]))
    assert shards[:].tolist() == [[0.5, 2.0]] and shards.dtype == torch.float32


@pytest.mark.parametrize(("kind", "stop"), [("parquet", 5), ("tar", 33)])
def test_resume_in_the_middle_of_an_epoch_is_bitwise(kind, stop, tmp_path):
    source = write_parquet(tmp_path / "p", group=9) if kind == "parquet" else tar_of(tmp_path / "p" / "a.tar")
    options = {"steps": 40, "batch_size": 12, "progress": False, "engine": "eager", "checkpoint_every": 7}
    options |= {"log_every": 1}
    whole = small()
    history = pv.fit(whole, pv.Shards(source, window=4), **options)

    def interrupt(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    cut = pv.fit(small(), pv.Shards(source, window=4), **options, out=tmp_path / "run", on_step=interrupt)
    assert cut.step == stop
    resumed = small()
    again = pv.fit(resumed, pv.Shards(source, window=4), **options, out=tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [row["loss"] for row in again.rows] == [row["loss"] for row in history.rows]
    assert threading.active_count() < 10
    # Another window is another order, and other rows are other data.
    for other in (pv.Shards(source, window=3 if kind == "parquet" else 1, limit=200), torch.from_numpy(BYTES)):
        with pytest.raises(pv.InputError, match="belongs to another run: data"):
            pv.fit(small(), other, **options, out=tmp_path / "run", resume=True)


def test_a_run_is_that_of_the_rows_in_memory_in_the_same_order(tmp_path):
    """What is trained on shards is what would be trained on a tensor that is gone through in their order."""
    shards, one, other = pv.Shards(write_parquet(tmp_path / "p", group=9)), small(), small()
    pv.fit(one, shards, steps=1, batch_size=230, engine="eager", progress=False)
    x = shards[order_of(shards, 230, 0)(0)]
    place = torch.randperm(230, generator=torch.Generator().manual_seed(0)).argsort()
    pv.fit(other, x[place], steps=1, batch_size=230, engine="eager", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_labels_of_shards_are_the_condition(tmp_path):
    labels = np.arange(len(BYTES)) % 3
    binary = (BYTES > 127).astype(np.uint8) * 255
    shards = pv.Shards(write_parquet(tmp_path / "p", binary, labels=labels))
    one, other = (small("structured_cvae", condition_dim=3) for _ in range(2))
    options = {"steps": 3, "batch_size": 230, "engine": "eager", "progress": False}
    pv.fit(one, shards, **options)
    pv.fit(other, shards, torch.from_numpy(labels), **options)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(pv.InputError, match=r"parquet, row group \d, row \d+ of it has the label 2: it must be 0 to 1"):
        pv.fit(small("structured_cvae", condition_dim=2), shards, **options)


@pytest.mark.parametrize(("kind", "row"), [("parquet", 200), ("tar", 200)])
def test_a_nan_far_inside_is_named_when_it_is_read(kind, row, tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((230, 8), dtype=np.float32)
    x[row, 3] = np.nan
    source = write_parquet(tmp_path / "p", x) if kind == "parquet" else tar_of(tmp_path / "p" / "a.tar", x)
    monkeypatch.setattr("pyro_vaes.data.rows.LOOKS", 2)
    monkeypatch.setattr("pyro_vaes.data.rows.CHUNK", 4)
    monkeypatch.setattr(pv.inference.guard.chunks, "__defaults__", (4,))
    place = r"2\.parquet, row group 2, row 14 of it" if kind == "parquet" else r"a\.tar, sample 200"
    pair, out = small(), tmp_path / "run"
    with pytest.raises(pv.InputError, match=rf"step \d+: x is nan at .*{place}, column 3: it must be finite"):
        pv.fit(pair, pv.Shards(source), steps=60, batch_size=4, engine="eager", progress=False, out=out)
    # A pair that takes it as missing takes it here, too.
    torch.manual_seed(0)
    pair.objective = pv.Masked(pair.objective, 0.1)
    pv.fit(pair, pv.Shards(source), steps=60, batch_size=4, engine="eager", progress=False)


def test_what_is_too_large_to_look_at_whole_is_checked_batch_by_batch(monkeypatch):
    monkeypatch.setattr("pyro_vaes.data.rows.WHOLE", 0)
    monkeypatch.setattr("pyro_vaes.inference.batches.LARGE", 0)
    monkeypatch.setattr(pv.inference.guard.chunks, "__defaults__", (4,))
    x = torch.rand(300, 8)
    x[201, 5] = 7.0
    pair = pv.l2_vae(8, 2, (6,))
    check_data(pair, x, large=True)
    with pytest.raises(pv.InputError, match="x is 7 at row 201, column 5"):
        check_data(pair, x)
    with pytest.raises(pv.InputError, match=r"step \d+: x is 7 at row 201, column 5: l2_vae models values in \[0, 1\]"):
        pv.fit(pair, x, steps=20, batch_size=16, engine="eager", progress=False)
    with pytest.raises(pv.InputError, match=r"step \d+: x is 7 at row 201, column 5: an augmentation"):
        pv.fit(pair, x, steps=20, batch_size=16, engine="eager", progress=False, augment="impulse:0.1")


def test_bytes_need_no_look_where_any_byte_passes(monkeypatch):
    class Unread(torch.Tensor):
        def __getitem__(self, index):
            assert index == slice(None, 1), "the data were read"
            return super().__getitem__(index)

    monkeypatch.setattr("pyro_vaes.inference.guard.JOINED", 0)
    x = torch.full((20, 8), 7, dtype=torch.uint8)
    check_data(pv.l2_vae(8, 2, (6,)), x.as_subclass(Unread))
    with pytest.raises(pv.InputError, match="at row 0, column 0: it must lie in the support"):
        check_data(pv.vae(8, 2, (6,)), x)


def test_checksums_of_large_data_look_at_many_places(monkeypatch):
    x = torch.zeros(100_000, 2, dtype=torch.uint8)
    whole = checksum(x)
    monkeypatch.setattr("pyro_vaes.data.rows.WHOLE", 0)
    few = checksum(x)
    x[-1, 1] = 1
    assert few not in (whole, checksum(x))


def test_conditions_stay_beside_what_is_large(monkeypatch, tmp_path):
    """A memory map and its conditions are not joined in memory; the run is the same."""
    np.save(tmp_path / "x.npy", (BYTES > 127).astype(np.uint8) * 255)
    x, y = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c")), torch.arange(230) % 3
    one, other = (small("structured_cvae", condition_dim=3) for _ in range(2))
    options = {"steps": 5, "batch_size": 32, "engine": "eager", "progress": False}
    pv.fit(one, x, y, **options)
    monkeypatch.setattr("pyro_vaes.inference.guard.JOINED", 0)
    monkeypatch.setattr(torch, "cat", lambda parts, *a, cat=torch.cat: _small(cat(parts, *a)))
    pv.fit(other, x, y, **options)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def _small(tensor):
    assert len(tensor) < 230, "all rows were joined"
    return tensor


def test_a_repeated_step_is_gathered_again():
    x = torch.arange(40.0).reshape(20, 2)
    there = Prefetched(x, [Lanes(torch.tensor([10, 10]), 2, 4, 0)], CPU)
    first = there(0)
    there(1), there(2)
    assert torch.equal(there(0), first)
    there.close()


HEADER = npy(np.zeros(8, np.uint8))[:128]
BAD = {
    "a pickle": ([("1.npy", npy(BYTES[0])), ("1.pkl", b"cos\nsystem\n")], r"member '1\.pkl' is a pickle"),
    "a hidden pickle": ([("1.meta.PYD", b"x"), ("1.npy", npy(BYTES[0]))], "is a pickle"),
    "objects": ([("1.npy", npy(np.array([{}, 1], dtype=object)))], r"sample 0: holds object values"),
    "a parent": ([("../1.npy", npy(BYTES[0]))], "is no plain name"),
    "an absolute name": ([("/etc/1.npy", npy(BYTES[0]))], "is no plain name"),
    "a link": ([("1.npy", "/etc/passwd")], "is a link"),
    "nothing": ([("readme", b"x")], "holds no samples"),
    "no data": ([("1.json", b"{}")], "sample 0: holds json: a sample is one"),
    "two data": ([("1.npy", npy(BYTES[0])), ("1.png", b"x")], "holds npy, png"),
    "twice": ([("1.npy", npy(BYTES[0])), ("1.npy", npy(BYTES[0]))], "duplicate"),
    "no image": ([("1.png", b"no image")], "image cannot be read"),
    "a bomb": ([("1.npy", HEADER.replace(b"(8,)", b"(8" + b"0" * 12 + b",)")[:128] + b"1234567")], "do not hold"),
    "no array": ([("1.npy", b"no array")], r"\.npy cannot be read"),
    "mixed shapes": ([("1.npy", npy(BYTES[0])), ("2.npy", npy(BYTES[0, :5]))], r"sample 1: is uint8 of shape \(5,\)"),
    "mixed types": ([("1.npy", npy(BYTES[0])), ("2.npy", npy(BYTES[0] / 2))], "sample 1: is float32"),
    "a lost label": (
        [("1.npy", npy(BYTES[0])), ("1.cls", b"3"), ("2.npy", npy(BYTES[0]))],
        "sample 1: lacks the label",
    ),
    "a bad label": ([("1.npy", npy(BYTES[0])), ("1.cls", b"cat")], "sample 0: label 'cat' is not a whole number"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tars_are_refused(what, tmp_path):
    members, message = BAD[what]
    with pytest.raises(pv.InputError, match=message) as error:
        pv.Shards(write_tar(tmp_path / "bad.tar", members))[:]
    assert "bad.tar" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [100, 512 * 40 + 3, -1024])
def test_a_tar_that_is_cut_off_is_refused(cut, tmp_path):
    whole = tar_of(tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(pv.InputError, match=r"a\.tar: is (cut off|no tar file)"):
        pv.Shards(tmp_path / "a.tar")


def test_a_tar_with_a_damaged_header_is_refused(tmp_path):
    path = tar_of(tmp_path / "a.tar")
    content = bytearray(path.read_bytes())
    content[1024 * 20 : 1024 * 20 + 100] = b"x" * 100
    path.write_bytes(content)
    with pytest.raises(pv.InputError, match=r"a\.tar"):
        pv.Shards(path)[:]


def table(**columns):
    return pa.table(columns)


LISTS = pa.FixedSizeListArray.from_arrays(pa.array(BYTES[:4].reshape(-1)), 8)
TABLES = {
    "text": (table(a=["x", "y"], b=[1, 2]), "'a' \\(string\\)"),
    "two lists": (table(a=LISTS, b=LISTS), "there must be one of lists of a fixed size"),
    "free lists": (table(a=[[1, 2], [3, 4]]), "there must be one of lists of a fixed size"),
    "only labels": (table(label=[1, 2]), "columns none"),
    "labels that are not": (table(a=[1.0, 2.0], label=[0.5, 1]), "labels must be whole numbers"),
    "an empty entry": (table(a=[1.0, None], b=[1.0, 2.0]), "row group 0, row 1 of it: column 'a' is empty"),
    "an empty list": (
        table(a=pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))), "row 1 of it: column 'a' is empty"),
    "an entry of a list": (
        table(a=pa.array([[1.0, 2.0], [None, 1.0]], pa.list_(pa.float32(), 2))), "row 1 of it: holds an empty entry"),
    "no rows": (table(a=pa.array([], pa.float32())), "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_bad_tables_are_refused(what, tmp_path):
    content, message = TABLES[what]
    pq.write_table(content, tmp_path / "bad.parquet")
    with pytest.raises(pv.InputError, match=message) as error:
        pv.Shards(tmp_path)[:]
    assert "bad.parquet" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("note", "width"),
    [(b'{"index_columns": ["i"]}', 2), (b'{"index_columns": 5}', 3), (b'{"index_columns": [["i"]]}', 3), (b"{", 3)],
)
def test_the_index_of_pandas_is_no_entry(note, width, tmp_path):
    written = table(a=[0.0, 1.0], i=[1, 0], b=[0.5, 0.5]).replace_schema_metadata({b"pandas": note})
    pq.write_table(written, tmp_path / "a.parquet")
    assert pv.Shards(tmp_path).shape == (2, width)


def test_files_that_differ_or_are_damaged_are_refused(tmp_path):
    folder = write_parquet(tmp_path / "p")
    pq.write_table(table(z=LISTS), folder / "9.parquet")
    with pytest.raises(pv.InputError, match=r"9\.parquet: lacks the column 'x', which 0\.parquet has"):
        pv.Shards(folder)
    pq.write_table(table(x=[1.0]), folder / "9.parquet")
    with pytest.raises(pv.InputError, match=r"9\.parquet: column 'x' holds double"):
        pv.Shards(folder)
    whole = (folder / "0.parquet").read_bytes()
    (folder / "9.parquet").write_bytes(whole[:-20])
    with pytest.raises(pv.InputError, match=r"9\.parquet: cannot be read"):
        pv.Shards(folder)
    # What is damaged inside shows when it is read.
    pq.write_table(table(x=LISTS), folder / "9.parquet", write_page_checksum=True)
    whole = (folder / "9.parquet").read_bytes()
    place = whole.index(BYTES[0].tobytes()) if BYTES[0].tobytes() in whole else len(whole) // 4
    (folder / "9.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(pv.InputError, match=r"9\.parquet, row group 0: cannot be read"):
        pv.Shards(folder)[-4:]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 255), st.sampled_from(["parquet", "tar"]))
def test_a_changed_byte_never_breaks_out(tmp_path_factory, place, value, kind):
    """Whatever a byte becomes, rows come out or one line says what is wrong."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = (
        write_parquet(folder, BYTES[:12], 1) / "0.parquet" if kind == "parquet" else tar_of(folder / "a.tar", BYTES[:3])
    )
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    message = path.name
    try:
        assert pv.Shards(path)[:].dim() == 2
    except pv.InputError as error:
        message = str(error)
    assert path.name in message and "\n" not in message


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere/*.tar", {}, "no such files"),
        (3, {}, "it must be a folder"),
        ([], {}, "no such files"),
        (["a.csv"], {}, "no such file"),
        ("p", {"window": 0}, "window is 0"),
        ("p", {"memory": 100}, "takes 128 bytes, more than memory"),
        ("p", {"limit": 0}, "limit is 0"),
        (["p/0.parquet", "p/../p/0.parquet"], {}, "named twice"),
        (["p/0.parquet", "p/a.tar"], {}, "Parquet and tar files"),
    ],
)
def test_bad_arguments_are_refused(source, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "p")
    if not isinstance(source, str):
        tar_of(tmp_path / "p" / "a.tar", BYTES[:2])
    with pytest.raises(pv.InputError, match=message):
        pv.Shards(source, **options)


def test_what_does_not_take_shards_says_so(tmp_path):
    shards, pair = pv.Shards(write_parquet(tmp_path / "p")), small()
    with pytest.raises(pv.InputError, match=r"which only a training reads: give rows of it, such as x\[:1000\]"):
        pv.clean(pair, shards)
    with pytest.raises(pv.InputError, match="replicas would read other shards"):
        pv.fit(pair, shards, replicas=2, progress=False)
    with pytest.raises(pv.InputError, match="made for 9"):
        check_options(pv.gaussian_vae(9, 2, (6,)), shards)
    assert pv.clean(pair, shards[:5]).mean.shape == (5, 8)


@pytest.mark.parametrize("window", [1, 5, 16])
def test_memory_lowers_the_window(window, tmp_path):
    shards = pv.Shards(write_parquet(tmp_path / "p"), window=window, memory=16 * 8 * 3)
    assert shards.lanes == min(window, 3)


def test_the_commands_take_shards(tmp_path, capsys):
    from pyro_vaes.cli import main

    folder, run = write_parquet(tmp_path / "p", labels=np.arange(230) % 3), str(tmp_path / "run")
    fit = ["fit", "gaussian_vae", "--data", str(folder), "--steps", "4", "--engine", "eager", "--hidden", "[6]"]
    assert main([*fit, "--out", run, "--limit", "100", "--latent_dim", "2"]) in (0, None)
    assert main(["evaluate", run]) in (0, None)
    assert "the first 100 of 100 data" in capsys.readouterr().out
    for bad, message in (
        (["--corrupt", "impulse:0.4"], "corrupt is impulse:0.4: shards are read as they are"),
        (["--binarise", "static"], "binarise is static"),
        (["--replicas", "2"], "replicas is 2: not for shards"),
        (["--data", f"{folder}/*.tar"], "no such files"),
    ):
        assert main([*fit, *bad, "--out", str(tmp_path / "no")]) == 2
        found = capsys.readouterr().err.strip()
        assert message in found and "\n" not in found
        assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_memory_map_is_never_copied_by_the_command(tmp_path):
    """Six gigabytes of a sparse file, by the command, in a process whose own memory stays small."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(8_000_000, 784)).flush()
    command = [sys.executable, "-m", "pyro_vaes.cli", "fit", "l2_vae", "--data", str(path), "--steps", "60"]
    command += ["--hidden", "[16]", "--engine", "eager", "--out", str(tmp_path / "run")]
    process, most = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0
    while process.poll() is None:
        text = Path(f"/proc/{process.pid}/status").read_text()
        most = max([most, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.02)
    assert process.returncode == 0
    assert most * 1024 < 10**9
