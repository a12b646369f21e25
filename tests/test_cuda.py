"""What only a GPU can show; skipped without one."""

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.inference.compile import Engine
from pyro_vaes.inference.interruption import Interruption
from pyro_vaes.inference.loop import Loop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def make(name="l2_vae", **arguments):
    torch.manual_seed(0)
    return pv.variant(name)(data_dim=8, latent_dim=2, hidden=(16,), **arguments).cuda().train()


@pytest.mark.parametrize("name", ["l2_vae", "ic_vae", "t_vae", "ric_vae"])
@pytest.mark.parametrize("kind", ["graph", "inductor"])
def test_a_captured_step_is_the_program(name, kind):
    x = torch.rand(32, 8, device="cuda")
    results = {}
    for engine_kind in ("eager", kind):
        engine = Engine(engine_kind, make(name), size=64)
        torch.manual_seed(1)
        results[engine_kind] = torch.stack([engine.step(x) for _ in range(5)])
    assert engine.shapes[0].captured and not engine.fell
    torch.testing.assert_close(results[kind], results["eager"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["graph", "inductor"])
def test_replays_draw_anew(kind):
    engine = Engine(kind, make(), size=64, lr=1e-30)
    x = torch.rand(32, 8, device="cuda")
    losses = torch.stack([engine.step(x)[0] for _ in range(200)])
    assert len(set(losses.tolist())) > 190
    program = torch.stack([engine.pair(x, size=64).total.detach() for _ in range(400)])
    assert (losses.mean() - program.mean()).abs() < 4 * program.std() * (1 / 200 + 1 / 400) ** 0.5
    assert 0.8 < losses.std() / program.std() < 1.25


def test_a_captured_step_follows_schedules_and_rates():
    results = {}
    x = torch.rand(64, 8, device="cuda")
    for kind in ("eager", "inductor"):
        pair = make("ic_vae")
        history = pv.fit(
            pair, x, steps=50, batch_size=32, engine=kind, progress=False, log_every=1,
            schedules={"beta": (0.0, 2.0, 30)},
        )  # fmt: skip
        results[kind] = torch.tensor([row["loss"] for row in history.rows])
    torch.testing.assert_close(results["inductor"], results["eager"], rtol=2e-3, atol=2e-3)


def test_a_block_never_waits_for_the_device(monkeypatch):
    x = torch.rand(640, 8, device="cuda")
    loops = []
    original = Loop._read

    def read(self, pending):
        torch.cuda.set_sync_debug_mode("default")
        return original(self, pending)

    def block(self, *arguments):
        if loops:  # the first block traces and captures
            torch.cuda.set_sync_debug_mode("error")
        loops.append(self)
        return whole(self, *arguments)

    whole = Loop.block
    monkeypatch.setattr(Loop, "_read", read)
    monkeypatch.setattr(Loop, "block", block)
    try:
        pv.fit(make(), x, steps=300, batch_size=64, engine="graph", progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(loops) == 3
    assert Interruption.signal is None


def test_data_on_the_host_train_on_the_device():
    x = torch.rand(100, 8)
    pair = make()
    pv.fit(pair, x, steps=20, batch_size=32, device="cuda", progress=False)
    assert next(pair.parameters()).is_cuda


def test_replicas_on_the_device():
    x = torch.rand(64, 8, device="cuda")
    pairs = [make() for _ in range(4)]
    histories = pv.fit(pairs, x, steps=30, batch_size=32, engine="graph", progress=False)
    for r in range(4):
        alone = make()
        expected = pv.fit(alone, x, steps=30, batch_size=32, engine="eager", seed=r, progress=False)
        assert histories[r].rows[-1]["loss"] == pytest.approx(expected.rows[-1]["loss"], rel=1e-3)


def test_measures_of_codes_and_samples_are_those_of_the_cpu():
    from pyro_vaes.evaluation.aggregated import aggregated, prior_draws, traversal
    from pyro_vaes.evaluation.neighbours import nearest_distances
    from pyro_vaes.evaluation.normality import gap, mmd_to, moments, quantile_error
    from pyro_vaes.evaluation.prdc import prdc

    x = torch.rand(300, 8, device="cuda")
    found = aggregated(make(), x, draws=400, batch_size=64)
    assert {t.device.type for t in (found.draws, found.rows, found.mean, found.variance, found.used)} == {"cuda"}
    z = found.draws
    assert gap(z) == pytest.approx(gap(z.cpu())) and mmd_to(z) == pytest.approx(mmd_to(z.cpu()), nan_ok=True)
    torch.testing.assert_close(quantile_error(z), quantile_error(z.cpu()))
    torch.testing.assert_close(moments(z).kurtosis.cpu(), moments(z.cpu()).kurtosis)
    assert prior_draws(make(), "z", 5).is_cuda and traversal(make(), x[0], 0, [-1.0, 1.0]).is_cuda
    samples = torch.rand(200, 8, device="cuda")
    assert prdc(x, samples, block=64) == pytest.approx(prdc(x.cpu(), samples.cpu()))
    torch.testing.assert_close(nearest_distances(samples, x, block=64).cpu(), nearest_distances(samples.cpu(), x.cpu()))
