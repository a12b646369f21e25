"""Programs that a graph could get wrong without a word: each trains as it does without an engine, or says why not."""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import pyro_vaes as pv
from pyro_vaes.inference.shapes import EngineWarning

OPTIONS = {"steps": 40, "batch_size": 7, "progress": False, "lr": 1e-2}
COUNT = {"n": 0}


class Odd(nn.Module):
    """A decoder with a habit."""

    def __init__(self, net, habit):
        super().__init__()
        self.net, self.habit = net, habit
        self.seen, self._seen, self.log = 0, 0, [0]
        self.register_buffer("ema", torch.zeros(8))

    def forward(self, z):
        return getattr(self, self.habit)(self.net(z)) if self.training else self.net(z)

    def counts(self, out):
        self.seen += 1
        return out * (1 if self.seen < 20 else 0.5)

    def counts_in_private(self, out):
        self._seen += 1
        return out * (1 if self._seen < 20 else 0.5)

    def counts_slowly(self, out):
        self._seen += 1
        return out * (0.5 + self._seen / 2000)

    def counts_in_a_list(self, out):
        self.log[0] += 1
        return out * (1 if self.log[0] < 20 else 0.5)

    def counts_in_a_global(self, out):
        COUNT["n"] += 1
        return out * (1 if COUNT["n"] < 20 else 0.5)

    def tosses_a_coin(self, out):
        return out if random.random() < 0.9 else 0.5 * out

    def draws_from_numpy(self, out):
        return out * (1 if np.random.rand() < 0.9 else 0.5)  # noqa: NPY002 (what users do)

    def replaces_a_buffer(self, out):
        self.ema = 0.9 * self.ema + 0.1 * out.mean(0).detach()
        return out + 0.01 * self.ema

    def moves_a_buffer(self, out):
        self.ema.mul_(0.9).add_(out.mean(0).detach(), alpha=0.1)
        return out + 0.01 * self.ema

    def decays_its_weights(self, out):
        with torch.no_grad():
            self.net[0].bias.mul_(0.999)
        return out

    def adds_in_place(self, out):
        h = torch.zeros(out.shape)
        h += out
        h[:, :2] = out[:, :2] * 0.5
        return h


HABITS = [name for name in vars(Odd) if not name.startswith("_") and name != "forward"]
FINE = {"moves_a_buffer", "decays_its_weights", "adds_in_place"}


def make(habit=None, seed=0):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    COUNT["n"] = 0
    pair = pv.l2_vae(8, 3, (6,))
    if habit is not None:
        pair.model.decoder = Odd(pair.model.decoder, habit)
    return pair


def tensors(pair):
    return {**dict(pair.named_parameters()), **dict(pair.named_buffers())}


def assert_same(one, other, atol=1e-5):
    for name, value in tensors(one).items():
        torch.testing.assert_close(value, tensors(other)[name], rtol=1e-5, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def fitted(pair, data, engine, **options):
    """Train, and give the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EngineWarning)
        pv.fit(pair, data, **{**OPTIONS, **options}, engine=engine)
    return [str(w.message) for w in caught if issubclass(w.category, EngineWarning)]


@pytest.mark.parametrize("habit", HABITS)
def test_a_graph_is_the_program_or_steps_down(habit, data):
    expected = make(habit)
    pv.fit(expected, data, **OPTIONS, engine="eager")
    pair = make(habit)
    said = fitted(pair, data, "graph")
    assert len(said) == (0 if habit in FINE else 1), said
    assert_same(pair, expected)


@pytest.mark.parametrize(
    "habit", ["counts_in_a_list", "replaces_a_buffer", "moves_a_buffer", "adds_in_place", "decays_its_weights"]
)
def test_replicas_are_the_programs_or_step_down(habit, data):
    pairs = [make(habit, seed) for seed in range(2)]
    fitted(pairs, data, "graph")
    for seed, pair in enumerate(pairs):
        alone = make(habit, seed)
        pv.fit(alone, data, **OPTIONS, engine="eager", seed=seed)
        assert_same(pair, alone)


def test_hooks_on_gradients_are_kept(data):
    """The usual way to clip, where nothing is clipped in the first batch."""

    def hooked(c):
        pair = make()
        for p in pair.parameters():
            p.register_hook(lambda g: g.clamp(-c, c))
        return pair

    plain = make()
    pv.fit(plain, data, **OPTIONS, engine="eager")
    for engine in ("graph", "inductor"):
        expected, pair = hooked(0.01), hooked(0.01)
        pv.fit(expected, data, **OPTIONS, engine="eager")
        assert fitted(pair, data, engine) == []
        assert_same(pair, expected, atol=1e-4)
        assert (next(pair.parameters()) - next(plain.parameters())).abs().max() > 1e-3


def test_an_objective_that_counts_in_a_closure(data):
    def objective():
        calls, inner = [0], pv.ELBO()

        def count(*args, **kwargs):
            calls[0] += 1
            loss = inner(*args, **kwargs)
            return loss._replace(total=loss.total * (1.0 if calls[0] < 20 else 0.1))

        return count

    expected, pair = make(), make()
    expected.objective, pair.objective = objective(), objective()
    pv.fit(expected, data, **OPTIONS, engine="eager")
    said = fitted(pair, data, "graph")
    assert len(said) == 1 and "calls" in said[0]
    assert_same(pair, expected)


def test_replicas_whose_numbers_differ_out_of_sight_are_refused(data):
    class Flooded:
        def __init__(self, level):
            self.settings, self.inner = {"level": level}, pv.ELBO()

        def __call__(self, *args, **kwargs):
            loss = self.inner(*args, **kwargs)
            return loss._replace(total=(loss.total - self.settings["level"]).abs() + self.settings["level"])

    def weighted(*args, weight, **kwargs):
        loss = pv.ELBO()(*args, **kwargs)
        return loss._replace(total=weight * loss.total)

    for objectives in (
        [Flooded(0.0), Flooded(5.0)],
        [functools.partial(weighted, weight=1.0), functools.partial(weighted, weight=2.0)],
    ):
        pairs = [make(), make()]
        for pair, objective in zip(pairs, objectives, strict=True):
            pair.objective = objective
        with pytest.raises(pv.InputError, match="only tensors may differ"):
            pv.fit(pairs, data, **OPTIONS, engine="graph")


def test_replicas_whose_tensors_share_memory_are_refused(data):
    pairs = [make(), make()]
    for pair in pairs:
        pair.register_buffer("watch", pair.model.decoder[0].weight.data)
    with pytest.raises(pv.InputError, match="shares memory"):
        pv.fit(pairs, data, **OPTIONS, engine="graph")


def test_a_parameter_with_gaps_is_refused(data):
    pair = make()
    pair.model.decoder[0].weight = nn.Parameter(torch.randn(6, 6)[:, ::2])
    with pytest.raises(pv.InputError, match=r"model.decoder.0.weight is a view with gaps"):
        pv.fit(pair, data, **OPTIONS, engine="eager")


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_parameter_that_is_replaced_is_found(engine, data):
    pair = make()

    def replace(step):
        if step == 20:
            pair.model.decoder[0].weight.data = torch.zeros(6, 3)

    with pytest.raises(pv.InputError, match="was replaced during training"):
        pv.fit(pair, data, **OPTIONS, engine=engine, on_step=replace)


def test_a_program_changed_on_the_way_is_traced_anew(data):
    """Block by block: a callback may not rewrite the program between two steps unnoticed."""
    pair = make()
    pair.guide.encoder.trunk.append(nn.Dropout(0.5))

    def change(step):
        if step == 100:
            pair.guide.encoder.trunk[-1].p = 0.0

    said = fitted(pair, data, "graph", steps=250, on_step=change)
    assert len(said) == 1 and "trunk.2.p was changed during training" in said[0]
    expected = make()
    expected.guide.encoder.trunk.append(nn.Dropout(0.5))
    pv.fit(expected, data, **{**OPTIONS, "steps": 250}, engine="eager", on_step=lambda step: (
        setattr(expected.guide.encoder.trunk[-1], "p", 0.0) if step == 100 else None))  # fmt: skip
    assert_same(pair, expected)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_program_may_change_its_batch_but_never_the_data(engine, data):
    class Centred(pv.ELBO):
        def forward(self, model, guide, x, y=None, *, size=None):
            return super().forward(model, guide, x.sub_(0.25), y, size=size)

    before = data.clone()
    expected, pair = make(), make()
    expected.objective, pair.objective = Centred(), Centred()
    pv.fit(expected, data, **OPTIONS, engine="eager")
    assert fitted(pair, data, engine) == []
    assert torch.equal(before, data)
    assert_same(pair, expected)


def test_checkpointed_modules_become_a_graph(data):
    class Saved(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            return checkpoint(self.net, z, use_reentrant=False)

    expected, pair = make(), make()
    for one in (expected, pair):
        one.model.decoder = Saved(one.model.decoder)
    pv.fit(expected, data, **OPTIONS, engine="eager")
    fitted(pair, data, "graph")
    assert_same(pair, expected)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "LSTMCell"])
def test_recurrent_encoders_train(cell, data):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(4, 6) if cell == "LSTMCell" else getattr(nn, cell)(4, 6, batch_first=True)

        def forward(self, x):
            if cell != "LSTMCell":
                return self.cell(x.reshape(-1, 2, 4))[0][:, -1]
            state = None
            for part in x.split(4, -1):
                state = self.cell(part, state)
            return state[0]

    def built():
        pair = make()
        torch.manual_seed(1)
        pair.guide.encoder.trunk = Recurrent()
        return pair

    expected, pair = built(), built()
    pv.fit(expected, data, **OPTIONS, engine="eager")
    said = fitted(pair, data, "graph")
    assert len(said) <= (cell != "LSTMCell")
    assert_same(pair, expected)


def test_sparse_gradients_and_empty_parameters(data):
    class Table(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.table = net, nn.Embedding(4, 8, sparse=True)
            self.nothing = nn.Parameter(torch.zeros(0))

        def forward(self, z):
            return self.net(z) + 0.1 * self.table((z[..., 0] > 0).long())

    expected, pair = make(), make()
    for one in (expected, pair):
        torch.manual_seed(2)
        one.model.decoder = Table(one.model.decoder)
    pv.fit(expected, data, **OPTIONS, engine="eager")
    fitted(pair, data, "graph")
    assert_same(pair, expected)


def test_one_interruption_stops_all_replicas(data):
    import os
    import signal

    def stop(step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    histories = pv.fit([make(seed=s) for s in range(3)], data, **OPTIONS, engine="eager", on_step=stop)
    assert [h.step for h in histories] == [10, 10, 10]


def test_a_schedule_that_spoils_the_loss_is_named_with_its_site(data):
    with pytest.raises(pv.Diverged, match="step 10: the loss is nan at site 'z'"):
        pv.fit(make(), data, **OPTIONS, engine="eager", schedules={"beta": lambda s: float("nan") if s == 10 else 1.0})


def test_a_replica_that_cannot_be_batched_for_one_shape(data):
    """Only the ragged batch looks at values: everything goes on, nothing starts again."""

    class Shy(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            out = self.net(z)
            return out * 2 if len(z) == 6 and z.mean() > 100 else out

    def built(seed):
        pair = make(seed=seed)
        pair.model.decoder = Shy(pair.model.decoder)
        return pair

    pairs = [built(s) for s in range(2)]
    assert len(fitted(pairs, data, "graph")) == 1
    for seed, pair in enumerate(pairs):
        alone = built(seed)
        pv.fit(alone, data, **OPTIONS, engine="eager", seed=seed)
        assert_same(pair, alone)


BAD = {
    "schedule of words": ({"schedules": {"beta": lambda s: "x"}}, "schedule of beta at step 0 is 'x'"),
    "schedule that raises": ({"schedules": {"beta": lambda s: 1 / 0}}, "schedule of beta cannot run"),
    "schedules as a list": ({"schedules": [("beta", 1)]}, "must name settings"),
    "callback": ({"on_step": 5}, "on_step is 5"),
    "resume": ({"resume": "no"}, "resume is 'no'"),
    "device": ({"device": ["cpu"]}, "cannot be used"),
    "augmentation that gives nothing": ({"augment": lambda x: None}, "gives NoneType"),
    "augmentation that raises": ({"augment": lambda x: 1 / 0}, "augmentation cannot run"),
    "augmentation of other rows": ({"augment": lambda x: x[:1]}, "must keep both"),
    "rates": ({"lr": [1e-3, 1e-3]}, "is for replicas"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused_before_any_work(case, data, tmp_path):
    options, message = BAD[case]
    with pytest.raises(pv.InputError, match=message):
        pv.fit(make(), data, **{**OPTIONS, "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_bad_places_and_pairs_are_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(pv.InputError, match="is a file"):
            pv.fit(make(), data, **OPTIONS, out=out)
    with pytest.raises(pv.InputError, match="a Pair is needed"):
        pv.fit(5, data, **OPTIONS)
    with pytest.raises(pv.InputError, match="x is list"):
        pv.fit(make(), [data], **OPTIONS)
    with pytest.raises(pv.InputError, match="must be tensors"):
        pv.fit([make(), make()], [None, None], **OPTIONS)
