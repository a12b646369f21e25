"""The loop: resume, interruption, the guard, the data order."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.batches import Order
from pyro_vaes.inference.track import CHECKPOINT, METRICS
from pyro_vaes.plates import data_plate


def make(name="ic_vae"):
    torch.manual_seed(0)
    return pv.variant(name)(data_dim=8, latent_dim=2, hidden=(6,))


def state(pair):
    return {name: p.detach().clone() for name, p in pair.named_parameters()}


def assert_equal(one, other):
    for name in one:
        assert torch.equal(one[name], other[name]), name


OPTIONS = {"steps": 23, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}


@pytest.mark.parametrize(
    ("name", "engine"),
    [("ic_vae", "eager"), ("ric_vae", "eager"), ("t_vae", "eager"), ("autoencoder", "eager"), ("t_vae", "graph"),
     ("ric_vae", "graph"), pytest.param("ic_vae", "inductor", marks=pytest.mark.slow)],
)  # fmt: skip
@pytest.mark.parametrize("stop", [3, 10, 22])
def test_resume_is_bitwise(name, engine, stop, data, tmp_path):
    whole = make(name)
    pv.fit(whole, data, **OPTIONS, engine=engine, out=tmp_path / "whole")

    def interrupt(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    history = pv.fit(make(name), data, **OPTIONS, engine=engine, out=tmp_path / "cut", on_step=interrupt)
    assert (history.step, history.interrupted) == (stop, signal.SIGINT)
    torch.rand(17)  # what happens in between does not matter
    resumed = make(name)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.normal_()
    # The engine is taken up from the checkpoint, without being named again.
    assert pv.fit(resumed, data, **OPTIONS, out=tmp_path / "cut", resume=True).engine.kind == engine
    assert_equal(state(whole), state(resumed))

    def rows(folder):
        lines = [json.loads(line) for line in (tmp_path / folder / METRICS).read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in lines]

    assert rows("whole") == rows("cut")
    one, other = (checkpoint.load(tmp_path / folder / CHECKPOINT) for folder in ("whole", "cut"))
    assert_equal(*(c[0] for c in (one, other)))
    assert one[1] == other[1]


@pytest.mark.slow
def test_resume_after_a_hard_kill(tmp_path):
    script = textwrap.dedent(
        f"""
        import torch, pyro_vaes as pv
        torch.set_num_threads(1)
        torch.manual_seed(0)
        x = torch.rand(20, 8, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(0)
        pair = pv.ic_vae(8, 2, (6,))
        pv.fit(pair, x, steps=100000, progress=False, out={str(tmp_path / "run")!r}, checkpoint_every=1, batch_size=7)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 300  # a busy machine takes its time to import torch
    while not (tmp_path / "run" / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # it saves at every step, so the kill falls into a save more often than not
    process.kill()
    process.wait()
    _, values = checkpoint.load(tmp_path / "run" / CHECKPOINT)
    step = values["step"]
    assert step > 0
    x = torch.rand(20, 8, generator=torch.Generator().manual_seed(1))
    plan = {"steps": 100000, "batch_size": 7, "progress": False}
    whole, resumed = make(), make()
    stop = {"at": step + 5}

    def interrupt(taken):
        if taken == stop["at"]:
            os.kill(os.getpid(), signal.SIGTERM)

    pv.fit(whole, x, **plan, on_step=interrupt)
    history = pv.fit(resumed, x, **plan, out=tmp_path / "run", resume=True, on_step=interrupt)
    assert history.interrupted == signal.SIGTERM
    assert_equal(state(whole), state(resumed))


def test_a_signal_between_two_blocks(data, tmp_path, monkeypatch):
    """It may come while a block takes its snapshot, before its first step."""
    from pyro_vaes.inference.loop import Loop

    whole = Loop._snapshot

    def snapshot(self):
        if self.taken == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self)

    monkeypatch.setattr(Loop, "_snapshot", snapshot)
    history = pv.fit(make(), data, **OPTIONS, out=tmp_path)
    assert (history.step, history.interrupted) == (4, signal.SIGTERM)
    assert checkpoint.load(tmp_path / CHECKPOINT)[1]["step"] == 4


def test_handlers_are_given_back(data):
    before = signal.getsignal(signal.SIGINT)
    pv.fit(make(), data, steps=1, progress=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_fit_leaves_the_callers_randomness_alone(data):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    pv.fit(make_without_rng(), data, steps=3, progress=False)
    assert torch.equal(torch.rand(3), expected)


def make_without_rng():
    with torch.random.fork_rng():
        return make()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 0.5}, "lr was 0.001, is 0.5"), ({"steps": 24}, "steps was 23"), ({"seed": 1}, "seed was 0, is 1")],
)
def test_resume_of_another_plan_is_refused(change, message, data, tmp_path):
    pv.fit(make(), data, **OPTIONS, out=tmp_path)
    with pytest.raises(pv.InputError, match=message):
        pv.fit(make(), data, **{**OPTIONS, **change}, out=tmp_path, resume=True)


def test_resume_with_other_data_is_refused(data, tmp_path):
    pv.fit(make(), data, **OPTIONS, out=tmp_path)
    with pytest.raises(pv.InputError, match="data checksum"):
        pv.fit(make(), data.flip(0), **OPTIONS, out=tmp_path, resume=True)


class Poisoned(torch.nn.Module):
    """A decoder that turns bad at one call: nan forward, or an infinite gradient. It counts in a buffer, as graphs
    do."""

    def __init__(self, net, at, kind):
        super().__init__()
        self.net, self.at, self.kind = net, at, kind
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, z):
        out = self.net(z)
        if not self.training:
            return out
        self.calls += 1
        good = (self.calls != self.at).to(out.dtype)
        if self.kind == "loss":
            return out / good + 0 * z.sum() / good
        # sqrt has an infinite slope at 0 and a finite value.
        return out + ((out - out.detach()).abs() + good).sqrt() - good


@pytest.mark.parametrize("engine", ["eager", "graph", "inductor"])
@pytest.mark.parametrize(("kind", "message"), [("loss", "step 4: the loss is"), ("gradient", "step 4: .* gradient")])
def test_the_guard_takes_back_the_step(kind, message, engine, data, tmp_path):
    pair = make("l2_vae")
    pair.model.decoder = Poisoned(pair.model.decoder, 5, kind)
    taken = {}
    with pytest.raises(pv.Diverged, match=message):
        pv.fit(
            pair, data, steps=50, checkpoint_every=2, progress=False, out=tmp_path, engine=engine,
            on_step=lambda step: taken.update({step: state(pair)}),
        )  # fmt: skip
    assert max(taken) == 6  # found at the end of its block
    assert_equal(taken[4], state(pair))
    tensors, values = checkpoint.load(tmp_path / CHECKPOINT)
    assert values["step"] == 4
    assert all(torch.isfinite(t).all() for name, t in tensors.items() if name.startswith("pair."))
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert all(row["step"] <= 4 for row in rows)


def test_the_order_of_the_data():
    """Every datum once per epoch, and another order in each."""
    order = Order(20, 7, 0, torch.device("cpu"))
    epochs = [torch.cat([order(3 * epoch + i) for i in range(3)]) for epoch in range(3)]
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(20))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(order(1), epochs[0][7:14])


def test_bytes_are_pixels(data):
    grey = (data * 255).round().to(torch.uint8)
    one, other = make(), make()
    pv.fit(one, grey, steps=4, progress=False)
    pv.fit(other, grey.float() / 255, steps=4, progress=False)
    assert_equal(state(one), state(other))


def test_memory_mapped_data_train(data, tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", data.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    one, other = make(), make()
    pv.fit(one, mapped, steps=4, progress=False)
    pv.fit(other, data, steps=4, progress=False)
    assert_equal(state(one), state(other))


@pytest.mark.parametrize(
    "estimator", ["Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "RenyiELBO"]
)
def test_pyros_own_objectives_train(estimator, data):
    pair = make("l2_vae")
    options = {"alpha": 0.0, "num_particles": 3} if estimator == "RenyiELBO" else {}
    pair.objective = pv.Stock(getattr(pyro.infer, estimator)(**options))
    before = state(pair)
    pv.fit(pair, data, steps=3, batch_size=7, progress=False)
    assert not [name for name, value in state(pair).items() if torch.equal(value, before[name])]


def test_training_learns():
    """A plane in eight dimensions: the affine structure is found, whatever the start."""
    torch.manual_seed(1)
    x = (0.5 + 0.15 * torch.randn(500, 2) @ torch.randn(2, 8)).clamp(0, 1)
    pair = pv.gamma_vae(8, 2, (32,))
    pv.fit(pair, x, steps=1500, lr=3e-3, progress=False)
    error = (pv.clean(pair, x, draws=2).mean - x).square().mean()
    assert error < 0.25 * x.var(0).mean()


BAD = {
    "nan": (
        lambda x: x.clone().index_put_((torch.tensor(3), torch.tensor(5)), torch.tensor(float("nan"))),
        "row 3, column 5",
    ),
    "inf": (lambda x: x.clone().fill_(float("inf")), "row 0, column 0"),
    "range": (lambda x: x * 3, r"ic_vae models values in \[0, 1\]"),
    "columns": (lambda x: x[:, :5], "5 entries per datum, but ic_vae was made for 8"),
    "empty": (lambda x: x[:0], "empty"),
    "one dimension": (lambda x: x[0], r"shape \(N, d\)"),
    "images": (lambda x: x.reshape(20, 2, 4), r"shape \(N, d\)"),
    "integers": (lambda x: x.long(), "dtype torch.int64"),
    "no tensor": (lambda x: x.numpy(), "ndarray"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_before_any_work(case, data, tmp_path):
    spoil, message = BAD[case]
    pair = make()
    before = state(pair)
    with pytest.raises(pv.InputError, match=message):
        pv.fit(pair, spoil(data), steps=1, out=tmp_path / "run", progress=False)
    assert_equal(before, state(pair))
    assert not (tmp_path / "run").exists()


def test_grey_values_are_refused_by_the_bernoulli_likelihood(data):
    with pytest.raises(pv.InputError, match="0 or 1; binarise"):
        pv.fit(make("vae"), data, steps=1, progress=False)


@pytest.mark.parametrize(
    "plan",
    [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"schedule": "linear"}, {"seed": -1},
     {"checkpoint_every": 0}, {"log_every": 0}, {"resume": True}],
)  # fmt: skip
def test_bad_plans_are_refused(plan, data):
    with pytest.raises(pv.InputError, match=next(iter(plan))):
        pv.fit(make(), data, progress=False, **plan)


def test_warm_start_copies_and_refuses():
    trained, fresh = make("ic_vae"), make("ric_vae")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1.0)
    pv.warm_start(fresh, trained)
    assert torch.equal(fresh.model.decoder[0].weight, trained.model.decoder[0].weight)
    with pytest.raises(pv.InputError, match="needs"):
        pv.warm_start(pv.ric_vae(8, 3, (6,)), trained)


def test_a_latent_that_cannot_be_reparameterised_is_named(data):
    from pyro.nn import PyroModule

    from pyro_vaes.plates import data_plate

    class Model(PyroModule):
        def forward(self, x=None, y=None, *, size=None):
            with data_plate(x, size):
                k = pyro.sample("k", dist.Categorical(torch.ones(3)))
                return pyro.sample(
                    "x", dist.Normal(k.float().unsqueeze(-1).expand(*k.shape, 8), 1.0).to_event(1), obs=x
                )

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x=None, y=None, *, size=None):
            with data_plate(x, size):
                pyro.sample("k", dist.Categorical(logits=self.logits))

    pair = pv.Pair(Model(), Guide())
    with pytest.raises(pv.InputError, match="site 'k' cannot be reparameterised"):
        pair(data)
    pair.objective = pv.Stock(pyro.infer.TraceGraph_ELBO())
    assert pv.fit(pair, data, steps=2, progress=False).step == 2


@pytest.mark.parametrize(
    "spoil",
    [
        "moment shape",
        "moment missing",
        "moment extra",
        "no moments",
        "no randomness",
        "step",
        "negative step",
        "weights",
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_changes(spoil, data, tmp_path):
    def stop(step):
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    pv.fit(make(), data, **OPTIONS, out=tmp_path, on_step=stop)
    tensors, values = checkpoint.load(tmp_path / CHECKPOINT)
    if spoil == "moment shape":
        tensors["adam.0.exp_avg"] = torch.zeros(1)
    elif spoil == "moment missing":
        del tensors["adam.2.exp_avg_sq"]
    elif spoil == "moment extra":
        tensors["adam.99.step"] = torch.tensor(1.0)
    elif spoil == "no moments":
        tensors = {name: t for name, t in tensors.items() if not name.startswith("adam.")}
    elif spoil == "no randomness":
        tensors["random.cpu"] = torch.zeros(3, dtype=torch.uint8)
    elif spoil == "weights":
        tensors["pair.model.decoder.0.weight"].fill_(float("nan"))
    else:
        values["step"] = 10**6 if spoil == "step" else -5
    checkpoint.save(tmp_path / CHECKPOINT, tensors, values)
    pair = make()
    before, metrics = state(pair), (tmp_path / METRICS).read_bytes()
    with pytest.raises(pv.InputError, match=r"checkpoint\.safetensors"):
        pv.fit(pair, data, **OPTIONS, out=tmp_path, resume=True)
    assert_equal(before, state(pair))
    assert (tmp_path / METRICS).read_bytes() == metrics


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[]\n", b"5\n", b"{}\n", b'{"step": "x"}\n', b"{"])
def test_garbage_in_the_metrics_is_dropped(garbage, data, tmp_path):
    def stop(step):
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    pv.fit(make(), data, **OPTIONS, out=tmp_path, on_step=stop)
    with open(tmp_path / METRICS, "ab") as file:
        file.write(garbage)
    history = pv.fit(make(), data, **OPTIONS, out=tmp_path, resume=True)
    assert [row["step"] for row in history.rows] == list(range(1, 24))


def test_a_pair_and_data_of_two_precisions_are_refused(data, tmp_path):
    with pytest.raises(pv.InputError, match=r"float64 but ic_vae has torch\.float32"):
        pv.fit(make(), data.double(), steps=1, out=tmp_path / "r", progress=False)
    with pytest.raises(pv.InputError, match=r"float32 but ic_vae has torch\.float64"):
        pv.clean(make().double(), data)
    assert pv.fit(make().double(), data.double(), steps=1, progress=False).step == 1


def test_changes_anywhere_in_the_data_are_seen(tmp_path):
    x = torch.rand(3000, 8)
    pv.fit(make(), x, steps=1, out=tmp_path, progress=False)
    x[2999, 7] = 0.5
    with pytest.raises(pv.InputError, match="data checksum"):
        pv.fit(make(), x, steps=1, out=tmp_path, resume=True, progress=False)


def test_a_folder_with_a_checkpoint_is_never_trained_over(data, tmp_path):
    pv.fit(make(), data, **OPTIONS, out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(pv.InputError, match="already holds a checkpoint"):
        pv.fit(make(), data, **OPTIONS, out=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_counts_with_a_largest_value_are_checked_for_any_number_of_data():
    """The bound of a binomial's support has the shape of the rehearsal, which was of two data."""

    class Points(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(2, 4)

        def forward(self, x=None, y=None, *, size=None):
            with data_plate(x, size):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Binomial(16, logits=self.decoder(z)).to_event(1), obs=x)

    pair = pv.Pair(Points(), pv.l2_vae(4, 2, (5,)).guide)
    x = torch.randint(17, (9, 4)).float()
    assert pv.fit(pair, x, steps=2, progress=False).step == 2
    x[7, 1] = 17
    with pytest.raises(pv.InputError, match="row 7, column 1"):
        pv.fit(pair, x, steps=2, progress=False)
