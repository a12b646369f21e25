"""Schedules, augmentation, prefetching: what feeds a step."""

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.data.augment import augmentation
from pyro_vaes.inference.batches import Order, Prefetched, Resident
from pyro_vaes.inference.schedules import Linear, find, read, settings


def make(name="l2_vae", **arguments):
    torch.manual_seed(0)
    return pv.variant(name)(data_dim=8, latent_dim=2, hidden=(6,), **arguments)


@pytest.mark.parametrize("engine", ["eager", "graph", "inductor"])
def test_a_schedule_is_followed_and_given_back(engine, data):
    """Beta is zero, then one, then zero: the loss shows the KL term or not."""
    pair = make()
    history = pv.fit(
        pair, data, steps=9, progress=False, log_every=1, engine=engine,
        schedules={"beta": lambda step: float(3 <= step < 6)},
    )  # fmt: skip
    for i, row in enumerate(history.rows):
        assert (row["terms"]["z"] != 0) == (3 <= i < 6)
        assert row["loss"] == pytest.approx(sum(row["terms"].values()), rel=1e-5)
    assert find(pair, "beta")[0] == 1


def test_a_floor_can_be_annealed(data):
    pair = make("ic_vae", floor=0.3)
    pv.fit(pair, data, steps=5, progress=False, schedules={"floor": (0.3, 0.1, 5)})
    assert find(pair, "floor")[0].item() == pytest.approx(0.3)


def test_settings_of_a_pair():
    assert set(settings(make("ic_vae"))) == {"objective.beta.z"}
    assert set(settings(make("l2_vae"))) == {"objective.beta", "model.scale.value"}
    assert set(settings(make("ric_vae", floor=0.1))) == {"objective.objective.beta", "model.floor.value"}


@pytest.mark.parametrize(
    ("schedules", "message"),
    [({"bata": (0, 1, 5)}, "unknown setting 'bata': .*known: .*objective.beta"), ({"beta": 3}, "start, end, steps"),
     ({"beta": (0, 1)}, "start, end, steps"), ({"beta": (0, float("nan"), 4)}, "end is nan"),
     ({"beta": (0, 1, 0)}, "steps of a schedule is 0"), ({"beta": "warm"}, "start, end, steps")],
)  # fmt: skip
def test_bad_schedules_are_refused(schedules, message, data, tmp_path):
    with pytest.raises(pv.InputError, match=message):
        pv.fit(make(), data, steps=2, schedules=schedules, out=tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()


def test_linear():
    assert read({"beta": [0, 2, 4.0]}) == {"beta": Linear(0, 2, 4)}
    assert [Linear(1, 0, 4)(s) for s in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]


def test_a_resumed_run_must_have_the_same_schedule_and_augmentation(data, tmp_path):
    plan = {"steps": 4, "progress": False, "out": tmp_path}
    pv.fit(make(), data, **plan, schedules={"beta": (0, 1, 4)}, augment="impulse:0.1")
    with pytest.raises(pv.InputError, match="schedule of beta was"):
        pv.fit(make(), data, **plan, resume=True, schedules={"beta": (0, 1, 5)}, augment="impulse:0.1")
    with pytest.raises(pv.InputError, match="augmentation was"):
        pv.fit(make(), data, **plan, resume=True, schedules={"beta": (0, 1, 4)}, augment="impulse:0.2")
    with pytest.raises(pv.InputError, match="schedule of beta"):
        pv.fit(make(), data, **plan, resume=True)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_dynamic_binarisation_draws_anew(engine, data):
    """Grey values train a Bernoulli likelihood; a bound on them does not collapse onto one draw."""
    pair = make("vae")
    grey = data * 0.5 + 0.25
    history = pv.fit(pair, grey, steps=40, progress=False, log_every=1, augment="binarise", engine=engine, lr=1e-30)
    assert len({row["loss"] for row in history.rows}) == 40
    with pytest.raises(pv.InputError, match="0 or 1; binarise"):
        pv.fit(make("vae"), grey, steps=1, progress=False)


def test_augmentations_do_what_they_say():
    x = torch.full((200, 50), 0.3)
    binary = augmentation("binarise")(x)
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert binary.mean().item() == pytest.approx(0.3, abs=0.02)
    dirty = augmentation("impulse:0.25")(x)
    changed = dirty != 0.3
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert dirty[changed].mean().item() == pytest.approx(0.5, abs=0.03)
    for spec, message in {"binarize": "did you mean 'binarise'", "impulse": "FRACTION", "impulse:2": "in"}.items():
        with pytest.raises(pv.InputError, match=message):
            augmentation(spec)


def test_augmentation_takes_pixels_only(data):
    with pytest.raises(pv.InputError, match=r"augmentation takes values in \[0, 1\]"):
        pv.fit(make("vae"), data * 2, steps=1, augment="binarise", progress=False)


@pytest.mark.parametrize("kind", ["float", "bytes", "map"])
def test_prefetched_batches_are_the_resident_ones(kind, tmp_path):
    x = torch.rand(50, 8)
    if kind == "bytes":
        x = (x * 255).to(torch.uint8)
    if kind == "map":
        np.save(tmp_path / "x.npy", x.numpy())
        x = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    cpu = torch.device("cpu")
    resident, ahead = Resident(x, [Order(50, 7, 3, cpu)]), Prefetched(x, [Order(50, 7, 3, cpu)], cpu)
    for step in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 30, 31]:  # back, as after a bad block, and on
        batch = ahead(step)
        assert torch.equal(batch, resident(step)) and batch.dtype == x.dtype
    ahead.close()


def test_training_on_large_data_is_training(data, monkeypatch):
    monkeypatch.setattr("pyro_vaes.inference.batches.LARGE", 1)
    one, other = make(), make()
    pv.fit(one, data, steps=8, batch_size=7, progress=False)
    monkeypatch.undo()
    pv.fit(other, data, steps=8, batch_size=7, progress=False)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_device_that_is_not_there_is_refused(data):
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(pv.InputError, match=f"device '{device}' cannot be used"):
            pv.fit(make(), data, steps=1, device=device, progress=False)
