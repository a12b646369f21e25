"""Random bad input to the commands, to a run's config and to its checkpoint: one line, code 2, nothing written."""

import contextlib
import inspect
import io
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyro_vaes as pv
from pyro_vaes.cli import COMMANDS, LONGEST, main
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.state import state

FEW = settings(
    derandomize=True, database=None, deadline=60_000, max_examples=12, suppress_health_check=list(HealthCheck)
)
# By hand for an hour: PYRO_VAES_FUZZ=5000.
MANY = settings(FEW, max_examples=int(os.environ.get("PYRO_VAES_FUZZ", "100")))
# What a command is given so that it is cheap where what is drawn for it turns out to be good.
CHEAP = {
    "clean": ["x.npy", "o.npz"],
    "detect": ["x.npy"],
    "sample": [],
    "evaluate": [],
    "latent": ["--draws=200"],
    "complete": ["--steps=2", "--count=2"],
    "evolve": ["--draws=2"],
    "interpolate": ["--steps=2"],
    "resample": ["--draws=2", "--styles=2"],
    "posterior": ["--draws=5", "--replicates=2", "--entries=0"],
    "check": ["--nuts=0", "--draws=30", "--simulations=20", "--rows=4"],
    "impute": ["x.npy", "--mask=right", "--samples=20", "--draws=2"],
    "describe": [],
    "fit": ["--data=x.npy", "--steps=2", "--hidden=[4]", "--out=new"],
    "resume": [],
}
ODD = [
    "0", "-1", "2", "3.5", "1e400", "-1e400", ".nan", ".inf", "nan", "2147483648", "9223372036854775808", "9" * 40,
    "1e-320", "-0.0", "0x3", "", " ", "null", "true", "[]", "[[]]", "[1,2]", "[3,1]", "{}", "{a: 1}", '"x"', "&a [*a]",
    "!!python/object/apply:os.system [echo]", "{class_path: os.system, init_args: {command: touch owned}}",
    "\u202eabc", "\n", "a\nb", "😀", "\udc80", "~", "../..", "../o.npz", "/dev/null", "/dev/zero", "/dev/null/o.npz",
    "a" * 300, "a" * 300 + ".npz", "a" * 5000, "[" * 50, "*a", "- 1", "? x", "|", "%s", "-", "@x", "${HOME}", "٣",
    "x.npy", "fifo.npy", "loop.npy", "folder.npz", "run", "run/", "file", "file/o.npz", "digits", "importance",
    "test", "right",
]  # fmt: skip
PLACES = ["run", "run/", "./run/../run", "", ".", "/", "file", "x.npy", "fifo.npy", "loop.npy", "/dev/null", "\udc80",
          "a" * 300, "a\nb", "~", "--", "file/run", "mine.py:f", "t_vae", "l2_vae"]  # fmt: skip
values = st.one_of(
    st.sampled_from(ODD),
    st.integers(-3, 3).map(str),
    st.integers(2**31, 2**80).map(str),
    st.floats(allow_subnormal=True).map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)


def options():
    """Every option of every command, but how many of something are made: what is large there is only slow."""
    for name in CHEAP:
        for option in inspect.signature(COMMANDS[name]).parameters.values():
            if option.kind is not option.VAR_KEYWORD and option.default is not option.empty:
                yield name, option.name


words = st.tuples(st.sampled_from(sorted(options())), values, st.sampled_from(["run"] * 9 + PLACES), st.booleans())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run, and what should not be taken for one, in a folder of their own."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.save("x.npy", np.random.default_rng(0).random((12, 4, 4), dtype=np.float32))
        Path("file").write_text("somebody's")
        Path("folder.npz").mkdir()
        os.mkfifo("fifo.npy")
        os.symlink("loop.npy", "loop.npy")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            fit = ["--data=x.npy", "--steps=2", "--latent_dim=2", "--hidden=[4]", "--out=run"]
            assert main(["fit", "l2_vae", *fit]) == 0
        shutil.copytree("run", "kept")
        yield folder


def tree(folder):
    return {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(Path(folder).rglob("*")) if not p.is_dir()}


def attempt(argv, folder="."):
    """Run a command; hold what every command promises whatever it is given; give its exit code and what it said."""
    before, out, err = tree(folder), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as end:  # --help
            code = end.code
    said, after = err.getvalue(), tree(folder)
    assert code in (0, 1, 2), argv
    assert "Traceback" not in said + out.getvalue()
    assert not [p for p in after if p.name.startswith(".")], "a temporary file is left"
    assert not Path(folder, "owned").exists()
    if code == 2:
        assert said.startswith("pyro-vaes: ") and said.count("\n") == 1 and len(said) < 8 * LONGEST, said
        assert said.isascii() or said.strip().isprintable()
        assert after == before, "something was written"
    return code, said


def known_places(before, after):
    """New files lie in the run, in --out, or where the output was named."""
    new = {p.parts[0] for p in set(after) - set(before)}
    return all(name in ("run", "new") or Path(name).suffix in (".npz", ".npy", ".png", ".csv") for name in new)


def odd_command(drawn):
    (name, option), value, run, twice = drawn
    target = "l2_vae" if name in ("fit", "describe") and run == "run" else run
    shutil.rmtree("new", ignore_errors=True)
    cheap = [word for word in CHEAP[name] if not word.startswith(f"--{option}=")]
    before = tree(".")
    attempt([name, target, *cheap, *[f"--{option}={value}"] * (2 if twice else 1)])
    after = tree(".")
    assert known_places(before, after)
    kept = ("x.npy", "file", "run/config.json", "run/checkpoint.safetensors")
    assert all(before[Path(p)][1] == after[Path(p)][1] for p in kept)


@FEW
@given(words)
def test_odd_options(place, drawn):
    odd_command(drawn)


@pytest.mark.slow
@MANY
@given(words)
def test_many_odd_options(place, drawn):
    odd_command(drawn)


LEAVES = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 10**30, 10**400, 1e308, float("inf"), float("-inf"), float("nan"),
    1.5, "", "x", "os.system", "/etc/passwd:f", "mine.py:f", "../run", "a\nb", "\u202e", "\ud800", "a\0b", "x" * 300,
    "x" * 100_000, [], [1], [-1], [0], [None], [[]], ["x"], [True], [1.5], [10**30], [4, 4], {}, {"a": 1},
    {"class_path": "os.system", "init_args": {"command": "touch owned"}}, {"": None},
]  # fmt: skip
DELETED = object()


def leaves(config, above=()):
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))


def changed(config, path, value):
    config = json.loads(json.dumps(config))
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    if value is DELETED:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return config


def run_like(folder, config=None, content=None):
    """A copy of the run with another config, or another checkpoint."""
    made = folder / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for name in ("config.json", "checkpoint.safetensors", "metrics.jsonl"):
        shutil.copy(folder / "kept" / name, made / name)
    if config is not None:
        (made / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if content is not None:
        (made / "checkpoint.safetensors").write_bytes(content)
    return made


def odd_config(place, where, value):
    config = json.loads((place / "kept/config.json").read_text())
    paths = sorted(leaves(config))
    path = paths[where % len(paths)]
    path = path if where < 3 * len(paths) else (*path[:-1], "an extra key")
    if path[-1] == "an extra key" and value is DELETED:
        return
    made = run_like(place, changed(config, path, value))
    good = state(pv.Run.open(place / "kept").pair())
    try:
        found = state(pv.Run.open(made).pair())
    except pv.InputError:
        found = good
    assert all(torch.equal(found[name], good[name]) for name in good)
    if where % 16 == 0:  # the whole way is slower
        attempt(["resume", str(made)], made)


places = st.integers(0, 400)
leaf = st.one_of(st.sampled_from([DELETED, *LEAVES]), st.integers(), st.text(max_size=9), st.floats())


@settings(FEW, max_examples=40)
@given(places, leaf)
def test_odd_configs(place, where, value):
    odd_config(place, where, value)


@pytest.mark.slow
@MANY
@given(places, leaf)
def test_many_odd_configs(place, where, value):
    odd_config(place, where, value)


WHOLE = {
    "deep": "[" * 200_000, "deep names": '{"a":' * 100_000 + "1" + "}" * 100_000, 
    "digits": '{"target": ' + "9" * 5000 + "}",
    "a million names": "{" + ",".join(f'"k{i}":1' for i in range(10**6)) + "}", "nul": "\0" * 99, "empty": "",
    "null": "null", "text": '"x"', "a list": "[]", "mark": "\ufeff{}",
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_a_config_that_is_none(place, kind):
    made = run_like(place, WHOLE[kind])
    for words in (["sample", str(made)], ["resume", str(made)]):
        assert attempt(words, made)[0] == 2


def test_a_config_larger_than_memory_is_not_read(place):
    made = run_like(place)
    os.truncate(made / "config.json", 2**40)
    assert "bytes" in attempt(["sample", str(made)], made)[1]


@pytest.mark.parametrize("name", ["config.json", "checkpoint.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "zero", "loop", "nowhere", "outside"])
def test_a_file_of_a_run_that_is_none(place, name, kind):
    made = run_like(place)
    path = made / name
    path.unlink()
    targets = {"zero": "/dev/zero", "loop": name, "nowhere": "/nowhere/x", "outside": "/etc/passwd"}
    if kind in targets:
        path.symlink_to(targets[kind])
    else:
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    assert attempt(["sample", str(made)], made)[0] == 2


ROWS = {
    "deep": "[" * 100_000, "digits": '{"step": ' + "9" * 5000 + "}", "bytes": "\0\x80" * 99, "empty": "",
    "step": {"step": 10**400}, "early": {"step": -5}, "loss": {"loss": "x"}, "no loss": {"loss": None},
    "terms": {"terms": 5}, "a term": {"terms": {"z": "x"}}, "bound": {"bound": float("inf")}, "seen": {"seen": 3},
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_metrics_that_are_none_are_left_out(place, kind):
    made, first = run_like(place), json.loads((place / "kept/metrics.jsonl").read_text().splitlines()[0])
    line = ROWS[kind] if isinstance(ROWS[kind], str) else json.dumps({**first, **ROWS[kind]})
    (made / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{line}\n")
    assert pv.Run.open(made).rows() == [first]


def test_a_run_without_metrics_goes_on(place):
    made = run_like(place)
    (made / "metrics.jsonl").write_text('{"step": 1, "bound": -1.0}\n')
    assert attempt(["resume", str(made)], made)[0] == 0


def header_of(content):
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HEADS = [
    None,
    -1,
    0,
    2**63,
    1.5,
    "x",
    "F64",
    "OBJECT",
    "BOOL",
    "C64",
    [],
    [0],
    [0, 4],
    [0, 2**62],
    [-4, 0],
    {},
    True,
    "values",
]


@st.composite
def odd_checkpoints(draw):
    """What happens to a checkpoint: bits, its end, or what its header says."""
    return draw(
        st.one_of(
            st.tuples(st.just("bit"), st.integers(0, 10**6), st.integers(0, 7)),
            st.tuples(st.just("cut"), st.integers(0, 10**6), st.just(0)),
            st.tuples(st.just("head"), st.integers(0, 10**6), st.sampled_from([DELETED, *HEADS])),
            st.tuples(st.just("value"), st.integers(0, 10**6), st.sampled_from([DELETED, *LEAVES])),
            st.tuples(st.just("bytes"), st.just(0), st.binary(max_size=60)),
        )
    )


def spoiled(content, kind, where, how):
    header, body = header_of(content)
    if kind == "bit":
        at = where % len(content)
        return content[:at] + bytes([content[at] ^ (1 << how)]) + content[at + 1 :]
    if kind == "cut":
        return content[: where % len(content)]
    if kind == "bytes":
        return how
    inside = header if kind == "head" else json.loads(header["__metadata__"]["values"])
    paths = sorted(leaves(inside))
    inside = changed(inside, paths[where % len(paths)], how)
    if kind == "head":
        return packed(inside, body)
    header["__metadata__"]["values"] = json.dumps(inside)
    return packed(header, body)


def odd_checkpoint(place, drawn):
    content = (place / "kept/checkpoint.safetensors").read_bytes()
    made = run_like(place, content=spoiled(content, *drawn))
    good = state(pv.Run.open(place / "kept").pair())
    try:
        found = state(pv.Run.open(made).pair())
    except pv.InputError:
        found = good
    for name in good:
        assert found[name].dtype == good[name].dtype and found[name].isfinite().all()
        # A bit within a number can be seen by a checksum only.
        summed = "checksum" in header_of(content)[0]["__metadata__"]
        assert torch.equal(found[name], good[name]) or (drawn[0] == "bit" and not summed) or drawn[0] == "head"
    if drawn[1] % 16 == 0:
        attempt(["resume", str(made)], made)


@settings(FEW, max_examples=40)
@given(odd_checkpoints())
def test_odd_checkpoints(place, drawn):
    odd_checkpoint(place, drawn)


@pytest.mark.slow
@MANY
@given(odd_checkpoints())
def test_many_odd_checkpoints(place, drawn):
    odd_checkpoint(place, drawn)


def of_kind(place, dtype):
    tensors, values = checkpoint.load(place / "kept/checkpoint.safetensors")
    first = next(name for name in tensors if name.endswith("weight"))
    checkpoint.save(place / "made/checkpoint.safetensors", tensors | {first: dtype(tensors[first])}, values)


@pytest.mark.parametrize("kind", ["complex64", "float8_e4m3fn", "int64", "bool", "uint8", "too large"])
def test_numbers_of_another_kind_are_refused(place, kind):
    made = run_like(place)
    of_kind(place, lambda t: t.double() + 1e300 if kind == "too large" else t.to(getattr(torch, kind)))
    with pytest.raises(pv.InputError, match=r"weight is (torch|not finite)"):
        pv.Run.open(made).pair()


@pytest.mark.parametrize("values", ["[", "[" * 100_000, "[]", "null", "5", "9" * 5000])
def test_values_of_a_checkpoint_that_are_none(place, values):
    header, body = header_of((place / "kept/checkpoint.safetensors").read_bytes())
    header["__metadata__"]["values"] = values
    made = run_like(place, content=packed(header, body))
    with pytest.raises(pv.InputError, match=r"unreadable values|changed since"):
        checkpoint.load(made / "checkpoint.safetensors")


@pytest.mark.parametrize(
    "header", [b'{"__metadata__":null}', b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"{}" + b" " * 10**6]
)
def test_headers_that_are_none(place, header):
    made = run_like(place, content=packed(header, b""))
    with pytest.raises(pv.InputError):
        pv.Run.open(made).pair()


def test_what_a_checkpoint_says_is_not_called(place):
    """Names of code among the values are values."""
    header, body = header_of((place / "kept/checkpoint.safetensors").read_bytes())
    values = json.loads(header["__metadata__"]["values"])
    values |= {"class_path": "os.system", "init_args": ["touch owned"], "__reduce__": ["os.system", ["touch owned"]]}
    header["__metadata__"]["values"] = json.dumps(values)
    made = run_like(place, content=packed(header, body))
    attempt(["sample", str(made), "--draws=2"], made)
    assert not Path("owned").exists()
