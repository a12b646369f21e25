"""Same seed, same device, same numbers: to the bit, whatever ran before, and in another process."""

import hashlib
import os
import subprocess
import sys

import pytest
import ranks_cases as cases
import torch

import pyro_vaes as pv
from pyro_vaes.inference.state import state


def bits(pair):
    """One number for every bit of a pair's tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(state(pair).items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_a_training_is_a_function_of_its_seed(name):
    one, first = cases.noisy(name, None)
    torch.rand(7)  # what others draw in between is no concern of a training
    other, second = cases.noisy(name, None)
    assert bits(one) == bits(other)
    assert [row["terms"] for row in first.rows] == [row["terms"] for row in second.rows]
    assert bits(cases.noisy(name, None, seed=1)[0]) != bits(one)


def test_a_graph_is_too():
    found = [bits(cases.noisy("t_vae", None, engine="graph", steps=6)[0]) for _ in range(2)]
    assert found[0] == found[1]


def test_a_training_leaves_the_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pair, x = cases.pair_of("l2_vae"), torch.full((8, cases.D), 0.5)
    torch.manual_seed(5)
    pv.fit(pair, x, steps=2, progress=False)
    assert torch.equal(torch.rand(3), expected)


DRAWING = {
    "log_likelihood": lambda pair, x: pv.log_likelihood(pair, x, samples=20).value,
    "bound": lambda pair, x: torch.tensor(pv.bound(pair, x)),
    "clean": lambda pair, x: pv.clean(pair, x).sd,
    "sample": lambda pair, x: pv.sample(pair, 4, seed=0),
    "impute": lambda pair, x: pv.impute(pair, x, x > 0.5, samples=20).mean,
}


@pytest.mark.parametrize("call", DRAWING)
def test_what_is_drawn_afterwards_is_a_function_of_its_seed(call):
    pair = cases.noisy("gaussian_vae", None)[0].eval()
    x = torch.rand(5, cases.D, generator=torch.Generator().manual_seed(0))
    found = []
    for before in (1, 2):
        torch.manual_seed(before)
        expected = torch.random.get_rng_state()
        found.append(DRAWING[call](pair, x))
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert torch.equal(found[0], found[1])


@pytest.mark.slow
def test_another_process_and_another_order_of_sets_change_nothing():
    code = "import ranks_cases as c, test_determinism as t; print([t.bits(c.noisy(n, None)[0]) for n in NAMES])"
    code = code.replace("NAMES", "('t_vae', 'crvae', 'vae_gan', 'iwae_2', 'ric_vae')")
    found = set()
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
