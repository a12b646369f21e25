"""The check of a pair, in words."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vaes as pv
from pyro_vaes.plates import data_plate


class Program(PyroModule):
    """A program from a function of (x, size), with a network to train."""

    def __init__(self, body, **networks):
        super().__init__()
        self.body = body
        for name, network in networks.items():
            setattr(self, name, network)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return self.body(self, x)


def normal(k):
    return dist.Normal(torch.zeros(k), 1.0).to_event(1)


def model_body(self, x):
    z = pyro.sample("z", normal(2))
    return pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


def make_model():
    return Program(model_body, net=torch.nn.Linear(2, 4))


def guide(body, **networks):
    return Program(body, **networks)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda self, x: None, r"guide lacks site 'z' of shape \(2,\), which the model samples"),
        (
            lambda self, x: (pyro.sample("z", normal(2).expand([len(x)])), pyro.sample("u", normal(1))),
            r"guide samples \['u'\], which the model lacks; it has \['z'\]",
        ),
        (
            lambda self, x: pyro.sample("z", normal(3).expand([len(x)])),
            r"site 'z' has shape \(2, 2\) in the model but \(2, 3\) in the guide",
        ),
    ],
)
def test_sites_that_do_not_fit(body, message):
    with pytest.raises(pv.InputError, match=message):
        pv.Pair(make_model(), guide(body))


def test_observation_must_be_called_x():
    model = Program(lambda self, x: pyro.sample("image", normal(4), obs=x))
    with pytest.raises(pv.InputError, match="no site 'x'"):
        pv.Pair(model, guide(lambda self, x: None))


def test_vectors_must_end_in_to_event():
    def body(self, x):
        z = pyro.sample("z", normal(2))
        with pyro.plate("pixels", 4, dim=-2):
            return pyro.sample("x", dist.Normal(self.net(z).T, 1.0), obs=x)

    def flat(self, x):
        z = pyro.sample("z", normal(2))
        return pyro.sample("x", dist.Normal(self.net(z).sum(-1), 1.0), obs=x)

    for wrong in (body, flat):
        with pytest.raises(pv.InputError, match=r"to_event|x of shape"):
            pv.Pair(Program(wrong, net=torch.nn.Linear(2, 4)), guide(lambda self, x: None))


def test_a_model_that_does_not_observe_is_refused():
    model = Program(lambda self, x: pyro.sample("x", normal(4)))
    with pytest.raises(pv.InputError, match="obs=x"):
        pv.Pair(model, guide(lambda self, x: None))


def test_bound_methods_are_refused():
    pair = pv.l2_vae(4)
    with pytest.raises(pv.InputError, match="modules"):
        pv.Pair(pair.model.forward, pair.guide.forward)


def test_two_networks_of_one_name_are_refused():
    # Stock Pyro would replace one network by the other without a word.
    other = guide(
        lambda self, x: pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1)), net=torch.nn.Linear(4, 2)
    )
    with pytest.raises(pv.InputError, match=r"parameter 'net\.weight' of their own"):
        pv.Pair(make_model(), other)


def test_the_check_leaves_nothing_behind():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    norm = torch.nn.BatchNorm1d(4)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 4), norm)
    with torch.random.fork_rng():
        model = Program(model_body, net=decoder)
        encode = guide(
            lambda self, x: pyro.sample("z", dist.Normal(self.enc(x), 1.0).to_event(1)), enc=torch.nn.Linear(4, 2)
        )
    torch.manual_seed(5)
    pair = pv.Pair(model, encode)
    assert torch.equal(torch.rand(3), expected)
    assert norm.num_batches_tracked == 0
    assert pair.training
    assert len(pyro.get_param_store()) == 0


def test_describe_reads_the_traces():
    text = pv.ic_vae(data_dim=4, latent_dim=2, hidden=(5,)).describe()
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()[1:]]
    assert rows == [
        ["site", "p", "q", "shape"],
        ["z", "Normal", "Normal", "(2,)"],
        ["mu", "recorded", "-", "(4,)"],
        ["scale", "recorded", "-", "(4,)"],
        ["s", "Jeffreys", "Delta", "(4,)"],
        ["x", "Normal", "data", "(4,)"],
    ]


def test_two_pairs_in_one_process_train_as_if_alone(data):
    def train(seed):
        torch.manual_seed(seed)
        pair = pv.ic_vae(8, 2, (6,))
        pv.fit(pair, data, steps=5, progress=False)
        return pair

    alone = {n: p.detach().clone() for n, p in train(2).named_parameters()}
    first, second = train(1), train(2)
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, alone[name]), name
    assert not set(map(id, first.parameters())) & set(map(id, second.parameters()))


def test_a_parameter_made_in_passing_is_refused():
    """It would start anew at every step."""
    import pyro
    import pyro.distributions as dist
    from pyro.nn import PyroModule

    from pyro_vaes.plates import data_plate

    class Model(PyroModule):
        def forward(self, x=None, y=None, *, size=None):
            scale = pyro.param("scale", torch.ones(4), constraint=dist.constraints.positive)
            with data_plate(x, size):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), scale).to_event(1), obs=x)

    with pytest.raises(pv.InputError, match=r"pyro.param\('scale'\) of Model would never be learned: .*PyroParam"):
        pv.Pair(Model(), pv.l2_vae(4, 2, (3,)).guide)
