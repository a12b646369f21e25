"""A clean room for every test: seeded, one thread, Pyro's validation on, an empty parameter store."""

from importlib.util import find_spec

import pyro
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Without a C++ compiler there is nothing that inductor could be tested with."""
    from pyro_vaes.inference.compiler import compiler

    if not compiler(torch.device("cpu")):
        for item in items:
            if "inductor" in item.name or "compiled" in item.name:
                item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))
    # Splines are an extra: without it, what is named after them does not run.
    if not find_spec("zuko"):
        for item in items:
            if "spline" in item.nodeid.rpartition("::")[2]:
                item.add_marker(pytest.mark.skip(reason="needs zuko"))


@pytest.fixture(autouse=True)
def clean_room():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True, scope="session")
def state_of_nobody(tmp_path_factory):
    """What tests train with is not noted as trusted by whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def data():
    """Twenty rows of eight values in [0, 1]."""
    return torch.rand(20, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_this_process(monkeypatch):
    """Cells of experiments are computed one after another here, and never on a GPU."""

    def in_turn(cell, settings, *, done, **_):
        for setting in settings:
            done(setting, cell(*setting))

    monkeypatch.setattr("pyro_vaes.experiments.cells.side_by_side", in_turn)
    monkeypatch.setattr("pyro_vaes.experiments.cells._gpu", lambda: False)
