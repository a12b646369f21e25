"""Hostile input to what is about generation, stages and few labels: refused in one line, or harmless."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.data.labels import few_labels
from pyro_vaes.inference.adversarial import players
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.mmd import mmd
from pyro_vaes.inference.stagewise import Stagewise
from pyro_vaes.inference.wae import WAE
from pyro_vaes.variants import VARIANTS


def says(call, message):
    with pytest.raises(pv.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("options", [{"filters": (3,)}, {"shape": (2, 2)}, {"distort": 1.0}])
def test_what_only_a_cnn_has_is_refused_of_an_mlp(options):
    says(lambda: pv.m2_vae(4, hidden=(3,), **options), "are of classifier 'cnn': 'mlp' has none")


@pytest.mark.parametrize("filters", [0, "ab", [0], [1.5], [True], [10**12]])
def test_filters_are_a_list_of_whole_numbers(filters):
    says(lambda: pv.m2_vae(4, hidden=(3,), classifier="cnn", filters=filters), "filters")


def test_sets_that_have_no_discrepancy_are_refused():
    a = torch.ones(3, 2)
    for b in (a.double(), a.numpy(), a[:, :0], None):
        says(lambda b=b: mmd(a, b), "they must be")
    says(lambda: mmd(a.long(), a.long()), "floating point")
    says(lambda: mmd(a[:, :0], a[:, :0]), "must be .n, k.")
    says(lambda: mmd(a, a, bandwidth=torch.ones(3)), "bandwidth has shape .3,.")


class Says(nn.Module):
    """A discriminator that answers with anything."""

    def __init__(self, answer):
        super().__init__()
        self.linear, self.answer = nn.Linear(2, 1), answer

    def forward(self, z):
        return self.answer(self.linear(z))


def test_a_discriminator_gives_a_tensor_of_logits():
    a = torch.ones(3, 2)
    says(lambda: players(lambda z: z, a, a), "a function: it must be a module")
    for answer, kind in ((lambda v: None, "NoneType"), (lambda v: (v,), "tuple")):
        says(lambda answer=answer: players(Says(answer), a, a), kind)
        pair = pv.l2_vae(4, 2, (3,))
        pair.objective = WAE("gan", discriminator=Says(answer))
        says(lambda pair=pair: pv.fit(pair, torch.rand(6, 4), steps=1, progress=False), kind)


@pytest.mark.parametrize("name", ["l2_vae", "ic_vae", "t_vae", "affine_ic_vae"])
def test_stages_need_a_code_below_another(name):
    pair = VARIANTS[name](data_dim=4, latent_dim=2, hidden=(3,))
    pair.objective = Stagewise()
    says(lambda: pair(torch.rand(3, 4)), "Stagewise needs .*sites above")


def test_labels_of_a_strange_kind_are_refused():
    pair = pv.m2_vae(4, condition_dim=3, latent_dim=2, hidden=(3,))
    says(lambda: check_condition(pair, torch.ones(3, 4), torch.eye(3).to_sparse()), "y is sparse")
    says(lambda: few_labels(torch.tensor([1j, 0j]), 2), "whole labels")
