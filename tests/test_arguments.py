"""Every argument of every variant arrives where it says something."""

import functools
import inspect

import pytest
import torch
from small import BINARY, sizes

import pyro_vaes as pv

D = 16
# A value that is neither the default nor what makes the small pairs small.
OTHER = {
    "latent_dim": 6, "hidden": (7, 3), "activation": "relu", "beta": 0.25, "corruption": "salt_and_pepper:0.5",
    "particles": 3, "alpha": 0.5, "estimator": "stl", "middle": 5, "middle_hidden": (6,), "latent_dims": (5, 2),
    "shape": (2, 8), "flows": 1, "width": 8, "bins": 4, "components": 4, "grey": 0.25, "classes": 7, "condition_dim": 7,
    "minimum": 0.05, "head": "course_report", "real": True, "points": torch.linspace(0, 1, 3 * D).reshape(3, D),
    "floor": 0.25, "broad": 4.0, "passes": 3, "test_passes": 4, "recycle_grad": True, "l1": 0.5, "affine": True,
    "weight": 0.75, "kernel": "rbf", "discriminator_hidden": 7, "rate": 0.25, "second_hidden": (7,), "scale": "diagonal",
    "classifier": "cnn", "filters": (5,), "distort": 0.5, "classifier_weight": 0.5, "sd": 0.25, "blocks": 4,
    "mean": "dense", "recurrence": "inference", "units": 7, "preset": "repo", "fakes": "prior", "threshold": 0.6,
    "discriminator_filters": (5,), "draws": 3, "layers": 2,
}  # fmt: skip
OF_ONE = {("wae_gan", "discriminator_hidden"): (7,)}
# What an argument goes with, where no small pair takes it as it is.
BESIDE = {("m2_vae", what): {"classifier": "cnn"} for what in ("filters", "distort", "shape")}
BLOCKS = {"bcvae", "crvae", "crvae_gan", "crvae_classifier"}
ARGUMENTS = [
    pytest.param(name, argument, id=f"{name}-{argument}")
    for name, make in pv.VARIANTS.items()
    for argument in inspect.signature(make).parameters
    if argument != "data_dim" and (name, argument) != ("memoriser", "latent_dim")  # which has one code
]


@functools.cache
def what_it_is(name, given):
    """All that can be told of a pair from outside: its modules, its numbers, and a loss."""
    torch.manual_seed(3)
    pair = pv.variant(name)(**dict(given))
    torch.manual_seed(5)
    x, y = torch.rand(6, D), pair.first_condition(6)
    x = x.round() if pair.name in BINARY else x
    tensors = (*pair.named_parameters(), *pair.named_buffers())
    numbers = [(n, t.shape, t.sum().item(), t.square().sum().item()) for n, t in tensors]
    more = {n: getattr(pair.objective, n, None) for n in ("rate_factors", "draws")}
    loss = pair(x, y).total.item()
    return [str(pair), pair.range, pair.passes, pair.condition_dim, pair.partial, more, numbers, loss]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_every_argument_changes_the_pair(name, argument):
    """One that a variant takes and forgets would leave the pair of the default."""
    small = (
        sizes(name, D, 3, (6, 5)) | ({"latent_dim": 64} if name in BLOCKS else {}) | BESIDE.get((name, argument), {})
    )
    wide = 32 if name in BLOCKS else 8 if "shape" in small else OTHER["latent_dim"]
    small.pop(argument, None)
    other = wide if argument == "latent_dim" else OF_ONE.get((name, argument), OTHER.get(argument))
    small, other = tuple(small.items()), ((argument, other),)
    assert what_it_is(name, small) != what_it_is(name, small + other)
