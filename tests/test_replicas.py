"""Replicas: R runs in one graph are R ordinary runs."""

import os
import signal

import pytest
import torch
from small import BINARY, sizes
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.compile import describe
from pyro_vaes.inference.shapes import EngineWarning
from pyro_vaes.inference.track import CHECKPOINT, METRICS

OPTIONS = {"steps": 100, "batch_size": 7, "progress": False, "log_every": 10}


def make(seed, name="l2_vae", **arguments):
    torch.manual_seed(seed)
    return pv.variant(name)(**sizes(name, 8, 3, (6, 5)), **arguments)


# One of each kind stays in the default run: all of them take minutes to trace.
FAST = {
    "vae", "l2_vae", "iwae_2", "ic_vae", "t_vae", "rvae", "ric_vae", "autoencoder", "cvae", "wae_gan", "m2_vae",
    "two_stage_vae", "vamp_vae",
}  # fmt: skip


def assert_equal_runs(pair, other, history, expected, atol=1e-5):
    for (name, a), b in zip(pair.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol, msg=lambda m, name=name: f"{name}: {m}")
    for row, wanted in zip(history.rows, expected.rows, strict=True):
        assert row["step"] == wanted["step"] and row["lr"] == wanted["lr"]
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4, abs=1e-5)
        assert row["terms"] == pytest.approx(wanted["terms"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in pv.VARIANTS])
def test_each_replica_is_the_run_of_its_seed(name, data):
    """Started from seed r, with the noise and the data order of seed r: equal to 1e-5 over 100 steps."""
    x = (data > 0.5).float() if name in BINARY else data
    pairs = [make(r, name) for r in range(3)]
    y = torch.arange(len(x)) % 10 if pairs[0].condition_dim else None
    histories = pv.fit(pairs, x, y, **OPTIONS, engine="graph")
    assert histories[0].engine.kind == "graph"
    for r, pair in enumerate(pairs):
        alone = make(r, name)
        expected = pv.fit(alone, x, y, **OPTIONS, seed=r, engine="eager")
        # Ten planar layers, or an LSTM in a game, magnify single rounding: in double precision these runs agree.
        loose = name in ("planar_vae", "crvae_classifier")
        assert_equal_runs(pair, alone, histories[r], expected, atol=1e-4 if loose else 1e-5)
        assert histories[r].pair is pair
    assert not torch.equal(next(pairs[0].parameters()), next(pairs[1].parameters()))


@pytest.mark.parametrize("name", ["l2_vae", pytest.param("t_vae", marks=pytest.mark.slow)])
def test_compiled_replicas(name, data):
    pairs = [make(r, name) for r in range(2)]
    histories = pv.fit(pairs, data, **OPTIONS, engine="inductor")
    assert histories[0].engine.kind == "inductor" and "compiled in" in describe(histories[0].engine)
    for r, pair in enumerate(pairs):
        alone = make(r, name)
        assert_equal_runs(pair, alone, histories[r], pv.fit(alone, data, **OPTIONS, seed=r, engine="eager"))


def test_a_number_of_replicas_copies_the_pair(data):
    pair = make(5)
    histories = pv.fit(pair, data, **OPTIONS, replicas=3, seed=10, engine="graph")
    assert histories[0].pair is pair
    for r in range(3):
        alone = make(5)
        expected = pv.fit(alone, data, **OPTIONS, seed=10 + r, engine="eager")
        assert_equal_runs(histories[r].pair, alone, histories[r], expected)


@pytest.mark.parametrize("grid", ["floor", "beta", "lr", "data"])
def test_a_grid_of_one_setting(grid, data):
    """What differs may be any tensor: a floor, beta, the learning rate, the corruption of the data."""
    floors, betas, rates = [0.05, 0.1, 0.3], [0.1, 1.0, 4.0], [1e-4, 1e-3, 5e-3]
    dirty = [pv.corrupt(data, f"impulse:{p}", shape=(2, 4)).x for p in (0.1, 0.3, 0.6)]

    def pair(r):
        floor = floors[r] if grid == "floor" else 0.1
        return make(0, "indexed_ic_vae", floor=floor, beta=betas[r] if grid == "beta" else 1.0)

    x = dirty if grid == "data" else data
    lr = rates if grid == "lr" else 1e-3
    pairs = [pair(r) for r in range(3)]
    histories = pv.fit(pairs, x, **OPTIONS, lr=lr, seed=[4, 4, 4], engine="graph")
    ends = []
    for r in range(3):
        alone = pair(r)
        rows = x[r] if grid == "data" else x
        expected = pv.fit(alone, rows, **OPTIONS, lr=lr[r] if grid == "lr" else lr, seed=4, engine="eager")
        assert_equal_runs(pairs[r], alone, histories[r], expected)
        ends.append(expected.rows[-1]["loss"])
    assert len(set(ends)) == 3


def test_schedules_dropout_and_batch_norm_in_replicas(data):
    def pair(r):
        made = make(r)
        made.guide.encoder.trunk = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3))
        # Nothing in front of the batch norm that has no gradient but rounding.
        made.guide.encoder.trunk[0].bias.data.zero_()
        made.guide.encoder.trunk[0].bias = None
        return made

    options = {**OPTIONS, "schedules": {"beta": (0.0, 1.0, 50)}}
    pairs = [pair(r) for r in range(2)]
    histories = pv.fit(pairs, data, **options, engine="graph")
    for r in range(2):
        alone = pair(r)
        assert_equal_runs(pairs[r], alone, histories[r], pv.fit(alone, data, **options, seed=r, engine="eager"))
        for a, b in zip(pairs[r].buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_augmentation_in_replicas(data):
    pairs = [make(r, "vae") for r in range(2)]
    histories = pv.fit(pairs, data, **OPTIONS, augment="binarise", engine="graph")
    for r in range(2):
        alone = make(r, "vae")
        expected = pv.fit(alone, data, **OPTIONS, augment="binarise", seed=r, engine="eager")
        assert_equal_runs(pairs[r], alone, histories[r], expected)


def test_what_a_replica_writes_is_an_ordinary_run(data, tmp_path):
    """Stopped as a replica, it goes on alone, or together again, to where it would have come anyway."""

    def stop(step):
        if step == 43:
            os.kill(os.getpid(), signal.SIGINT)

    histories = pv.fit([make(r) for r in range(2)], data, **OPTIONS, out=tmp_path, on_step=stop, engine="graph")
    assert [h.interrupted for h in histories] == [signal.SIGINT] * 2
    tensors, values = checkpoint.load(tmp_path / "replica-1" / CHECKPOINT)
    assert values["step"] == 43 and tensors["adam.0.step"].item() == 43
    together = [make(r + 7) for r in range(2)]
    again = {**OPTIONS, "resume": True}
    whole = [make(r) for r in range(2)]
    pv.fit(whole, data, **OPTIONS, engine="graph")
    (tmp_path / "copy").mkdir()
    os.system(f"cp -r {tmp_path}/replica-* {tmp_path}/copy/")
    pv.fit(together, data, **again, out=tmp_path, engine="graph")
    for a, b in zip(whole, together, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q)
    alone = make(9)
    pv.fit(alone, data, **again, seed=1, out=tmp_path / "copy" / "replica-1")
    for p, q in zip(whole[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "copy" / "replica-1" / METRICS).read_text().count("\n") == 10


def test_replicas_with_rates_of_their_own_resume_bitwise(data, tmp_path):
    def stop(step):
        if step == 43:
            os.kill(os.getpid(), signal.SIGTERM)

    options = {**OPTIONS, "lr": [1e-3, 5e-3], "engine": "graph"}
    whole, resumed = [make(r) for r in range(2)], [make(r + 5) for r in range(2)]
    pv.fit(whole, data, **options)
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path, on_step=stop)
    assert checkpoint.load(tmp_path / "replica-1" / CHECKPOINT)[0]["adam.0.step"].item() == 43
    pv.fit(resumed, data, **options, out=tmp_path, resume=True)
    for a, b in zip(whole, resumed, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q)


def test_replicas_at_different_steps_do_not_go_on_together(data, tmp_path):
    options = {**OPTIONS, "steps": 10}
    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path, engine="graph")
    path = tmp_path / "replica-1" / CHECKPOINT
    tensors, values = checkpoint.load(path)
    checkpoint.save(path, tensors, {**values, "step": 5})
    with pytest.raises(pv.InputError, match="different steps"):
        pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path, engine="graph", resume=True)


def test_replicas_leave_ordinary_pairs(data):
    pairs = [make(r) for r in range(2)]
    pv.fit(pairs, data, steps=2, progress=False, engine="graph")
    for pair in pairs:
        for p in pair.parameters():
            assert p.untyped_storage().nbytes() == p.numel() * p.element_size()
        assert not pair.training


def test_one_bad_replica_is_named_and_the_step_taken_back(data):
    class Bad(nn.Module):
        def __init__(self, net, at):
            super().__init__()
            self.net = net
            self.register_buffer("calls", torch.tensor(0.0))
            self.register_buffer("at", torch.tensor(float(at)))

        def forward(self, z):
            out = self.net(z)
            if not self.training:
                return out
            self.calls += 1
            return out / (self.calls != self.at).to(out.dtype)

    pairs = []
    for r in range(2):
        pair = make(r)
        pair.model.decoder = Bad(pair.model.decoder, 6 if r else 1e9)
        pairs.append(pair)
    taken = {}
    with pytest.raises(pv.Diverged, match=r"replica 1: step 5: the loss is"):
        pv.fit(
            pairs, data, **OPTIONS, engine="graph",
            on_step=lambda step: taken.update({step: [p.detach().clone() for p in pairs[1].parameters()]}),
        )  # fmt: skip
    for a, b in zip(taken[5], pairs[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_programs_that_cannot_be_batched_run_one_after_another(data):
    class Looks(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            return self.net(z) if z.mean() < 1e9 else z

    def pair(r):
        made = make(r)
        made.model.decoder = Looks(made.model.decoder)
        return made

    pairs = [pair(r) for r in range(2)]
    with pytest.warns(EngineWarning, match="one after another: the program looks at a value"):
        histories = pv.fit(pairs, data, steps=5, progress=False, engine="graph")
    assert histories[0].engine.kind == "eager"
    for r in range(2):
        alone = pair(r)
        pv.fit(alone, data, steps=5, progress=False, engine="eager", seed=r)
        assert histories[r].step == 5
        for a, b in zip(pairs[r].parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b)


BAD = {
    "structure": (lambda: [make(0), make(1, "ic_vae")], {}, "other tensors"),
    "numbers": (
        lambda: [make(0, "ic_vae", floor=0.1), make(1, "ic_vae", floor=0.1, width=2.0)], {},
        "width = 2.0, replica 0 1.0",
    ),
    "same pair twice": (lambda: [make(0)] * 2, {}, "needs its own"),
    "count": (lambda: [make(0), make(1)], {"replicas": 3}, "replicas is 3, but 2 pairs"),
    "none": (lambda: [], {}, "at least one"),
    "zero": (lambda: make(0), {"replicas": 0}, "replicas is 0"),
    "rates": (lambda: [make(0), make(1)], {"lr": [1e-3]}, "lr has 1 entries for 2"),
    "seeds": (lambda: [make(0), make(1)], {"seed": [1, 2, 3]}, "seed has 3 entries"),
    "bad rate": (lambda: [make(0), make(1)], {"lr": [1e-3, -1]}, "lr is -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_replicas_are_refused(case, data, tmp_path):
    pairs, options, message = BAD[case]
    with pytest.raises(pv.InputError, match=message):
        pv.fit(pairs(), data, steps=2, progress=False, engine="graph", out=tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_data_of_replicas_must_match(data):
    with pytest.raises(pv.InputError, match="one shape"):
        pv.fit([make(0), make(1)], [data, data[:5]], steps=2, progress=False)
    with pytest.raises(pv.InputError, match="list of 2"):
        pv.fit([make(0), make(1)], [data], steps=2, progress=False)
