"""Out of memory in evaluation: chunks are halved, and what comes out is still right."""

import warnings

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import annealed, densities, likelihood, posterior
from pyro_vaes.inference.memory import Chunk, out_of_memory

KINDS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you "
                                "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"),
    "python": MemoryError,
}  # fmt: skip


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return pv.gaussian_vae(data_dim=8, latent_dim=2, hidden=(6,)).eval()


def limited(monkeypatch, home, name, size_of, most, kind="cpu"):
    """Let a function fail above a size, and note the sizes with which it was called."""
    real, sizes = getattr(home, name), []

    def run(*given, **options):
        size = size_of(*given)
        if size > most:
            raise KINDS[kind]()
        sizes.append(size)
        return real(*given, **options)

    monkeypatch.setattr(home, name, run)
    return sizes


def test_what_torch_says_when_a_cpu_has_no_memory_left():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_is_halved_once_and_stays_so(kind):
    done = []

    def work(start, count):
        if count > 3:
            raise KINDS[kind]()
        done.append((start, count))
        return count

    chunk = Chunk("chunk", 16)
    with pytest.warns(pv.FaultWarning, match="out of memory with chunk 11: going on with 5, and less") as caught:
        assert sum(chunk.over(11, work)) == 11
    assert len(caught) == 1 and chunk.size == 2
    assert done == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 1)]


def test_other_errors_pass_and_one_at_a_time_is_the_end():
    def wrong(start, count):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        Chunk("chunk", 4).over(4, wrong)

    def never(start, count):
        raise MemoryError("2 GiB")

    with pytest.warns(pv.FaultWarning), pytest.raises(MemoryError, match=r"not enough for rows 1 \(2 GiB\)"):
        Chunk("rows", 4).over(4, never)


@pytest.mark.parametrize("method", ["is", "ais"])
def test_the_likelihood_is_still_an_estimate_of_the_same(method, pair, data, monkeypatch):
    """With halved chunks the numbers are those of a run that was asked for such chunks."""
    home, name = (likelihood, "draw_and_weigh") if method == "is" else (annealed, "forward")
    count = (lambda *a: a[3]) if method == "is" else (lambda *a: len(a[1].z if hasattr(a[1], "z") else a[1]))
    options = {"samples": 40, "method": method, "batch_size": 20}
    options |= {"annealing": pv.Annealing(4, leapfrog=2)} if method == "ais" else {}
    small = pv.log_likelihood(pair, data, chunk=5, **options)
    sizes = limited(monkeypatch, home, name, count, 9)
    with pytest.warns(pv.FaultWarning, match="chunk 20") as caught:
        found = pv.log_likelihood(pair, data, chunk=20, **options)
    assert len(caught) == 1 and set(sizes) == {5}
    if method == "is":  # no number of theirs depends on the size that failed
        assert torch.equal(found.value, small.value)
    apart = (found.value - small.value).abs()
    assert bool((apart < 6 * (found.se.square() + small.se.square()).sqrt() + 1e-9).all())


def test_draws_are_never_made_twice(pair, data, monkeypatch):
    """Every part has a stream of its own, however often the chunk was halved: S draws are S different ones."""
    seen, real = [], likelihood.draw_and_weigh

    def watched(pair, x, y, count):
        if (count > 4 and len(seen) < 2) or count > 9:
            raise MemoryError
        seen.append(real(pair, x, y, count))
        return seen[-1]

    monkeypatch.setattr(likelihood, "draw_and_weigh", watched)
    with pytest.warns(pv.FaultWarning):
        pv.log_likelihood(pair, data, samples=40, chunk=32, batch_size=20)
    weights = torch.cat(seen)
    assert weights.shape == (40, 20) and len(weights[:, 0].unique()) == 40


def test_batches_are_halved_where_one_draw_is_too_much(pair, data, monkeypatch):
    sizes = limited(monkeypatch, likelihood, "draw_and_weigh", lambda *a: len(a[1]), 6)
    with pytest.warns(pv.FaultWarning) as caught:
        found = pv.log_likelihood(pair, data, samples=4, chunk=4, batch_size=20)
    assert max(sizes) == 5 and found.value.isfinite().all()
    assert [str(w.message).split(":")[0] for w in caught] == [
        "out of memory with chunk 4", "out of memory with batch_size 20",
    ]  # fmt: skip


def test_cleaning_and_the_rest_of_an_evaluation(pair, data, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = pv.clean(pair, data), posterior.ordinary_residual(pair, data), pv.bound(pair, data)
        units = posterior.active_units(pair, data)
    sizes = limited(monkeypatch, posterior, "reconstructed", lambda *a: len(a[1]), 7)
    with pytest.warns(pv.FaultWarning, match="batch_size 20: going on with 10"):
        found = pv.clean(pair, data)
    assert max(sizes) == 5
    torch.testing.assert_close(found.mean, before[0].mean)  # the guide's mean code: no draw
    assert ((found.sd - before[0].sd).abs() / before[0].sd).mean() < 0.3
    with pytest.warns(pv.FaultWarning, match="rows 20"):
        assert posterior.ordinary_residual(pair, data) == pytest.approx(before[1], rel=1e-6)
    limited(monkeypatch, posterior, "_code_means", lambda *a: len(a[1]), 9)
    with pytest.warns(pv.FaultWarning, match="rows 20"):
        assert posterior.active_units(pair, data) == units
    limited(monkeypatch, type(pair), "forward", lambda *a: len(a[1]), 9)
    with pytest.warns(pv.FaultWarning, match="batch_size 20"):
        assert abs(pv.bound(pair, data) - before[2]) < 3


def test_parts_of_the_bound_and_the_posterior_file(pair, data, monkeypatch, tmp_path):
    from pyro_vaes.analysis.target import Target
    from pyro_vaes.evaluation import decomposition

    whole = pv.decompose(pair, data, draws=200)
    real = densities.run
    with monkeypatch.context() as patch:
        limited(patch, decomposition, "run", lambda *a: len(a[1]) * a[3], 160)
        with pytest.warns(pv.FaultWarning):
            halved = pv.decompose(pair, data, draws=200)
    assert densities.run is real and abs(halved.kl - whole.kl) < 0.3
    sizes = limited(monkeypatch, Target, "draw", lambda *a: a[1], 6)
    with pytest.warns(pv.FaultWarning, match="chunk 20"):
        tree = pv.to_datatree(pair, data, draws=20, replicates=8, chunk=20)
    assert max(sizes) == 5
    assert tree["posterior"]["z"].shape[1] == 20 and tree["posterior_predictive"]["x"].shape[1] == 8


def test_the_command_line_says_it_once_and_ends_in_words(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    small = ["--limit", "20", "--steps", "2", "--engine", "eager", "--hidden", "[4]"]
    assert main(["fit", "gaussian_vae", *small, "--out", out]) == 0
    capsys.readouterr()
    real = likelihood.draw_and_weigh
    limited(monkeypatch, likelihood, "draw_and_weigh", lambda *a: a[3], 8)
    assert main(["evaluate", out, "--likelihood", "40"]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert said == ["pyro-vaes: out of memory with chunk 40: going on with 20, and less if need be"]
    monkeypatch.setattr(likelihood, "draw_and_weigh", real)
    limited(monkeypatch, likelihood, "draw_and_weigh", lambda *a: 1, 0, "cuda")
    assert main(["evaluate", out, "--likelihood", "40"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("pyro-vaes: out of memory: not enough for")
