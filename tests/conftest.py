"""A clean room for every test: seeded, one thread, Pyro's validation on, an empty parameter store."""

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_room():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def data():
    """Twenty rows of eight values in [0, 1]."""
    return torch.rand(20, 8, generator=torch.Generator().manual_seed(1))
