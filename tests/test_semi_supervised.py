"""The semi-supervised VAE: the class summed out, labels that are missing, and what comes of them."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate

import pyro_vaes as pv
from pyro_vaes.inference import enumerated
from pyro_vaes.inference.enumerated import Enumerated
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.likelihood import log_likelihood
from pyro_vaes.inference.posterior import bound
from pyro_vaes.nn.conv import ConvClassifier, distorted
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
F64 = torch.float64
D, K, C = 6, 2, 3
X = (torch.rand(7, D, generator=torch.Generator().manual_seed(1)) > 0.5).to(F64)
LABELS = torch.tensor([0, -1, 2, -1, -1, 1, -1])


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    pair = pv.m2_vae(D, C, K, (5,), **arguments).double()
    with torch.no_grad():
        for p in pair.parameters():
            p += 0.3 * torch.randn_like(p)
    return pair


def loss_and_gradients(pair, total):
    return total, torch.autograd.grad(total, list(pair.parameters()), allow_unused=True)


def same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-10)
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert (one is None or other is None) or torch.allclose(one, other, rtol=1e-8, atol=1e-11)


# --- the objective ----------------------------------------------------------------------------------------------


def test_it_is_pyro_s_own_enumeration(monkeypatch, request):
    """Without labels TraceEnum_ELBO has the same sum, with sampled divergences: same noise, value and gradients."""
    pair = make()
    monkeypatch.setattr(enumerated, "turned", lambda q, p: ["z"])
    torch.manual_seed(2)
    ours = loss_and_gradients(pair, pair(X, size=70).total)
    torch.manual_seed(2)
    torch.set_default_dtype(F64)  # its sums of products make tensors of that kind
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    with pyro.get_param_store().scope():
        guide = config_enumerate(pair.guide, "parallel")
        total = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(pair.model, guide, X, size=70) / 70
    same(ours, loss_and_gradients(pair, total))


def test_the_bound_is_below_the_likelihood_with_the_class_summed_out():
    """By quadrature over z, class by class; and the likelihood estimate draws both."""
    pair = make()
    y = check_condition(pair, X, LABELS)
    axis = torch.linspace(-7, 7, 71, dtype=F64)
    z = torch.cartesian_prod(axis, axis)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * (axis[1] - axis[0]).log()
    each = []
    for label in torch.eye(C, dtype=F64):
        logits = pair.model.decoder(torch.cat([z, label.expand(len(z), C)], 1))
        log_x = torch.distributions.Bernoulli(logits=logits[:, None]).log_prob(X).sum(-1)
        each.append((weight[:, None] + log_x).logsumexp(0) - torch.tensor(float(C), dtype=F64).log())
    each = torch.stack(each, 1)
    exact = torch.where(LABELS >= 0, each.gather(1, LABELS.clamp(min=0)[:, None])[:, 0], each.logsumexp(1)).detach()
    below = [pair(X[i : i + 1].expand(1000, D), y[i : i + 1].expand(1000, C)).bound for i in range(len(X))]
    assert (torch.stack(below) < exact).all()
    found = log_likelihood(pair, X, LABELS, samples=2000)
    assert ((found.value - exact).abs() < 5 * found.se).all() and found.se.max() < 0.25


def test_labelled_data_teach_the_classifier_by_its_own_term_only():
    """Eq. 6 has no q(y | x), however many draws differ; Eq. 9 has it."""
    y = check_condition(make(), X, torch.arange(len(X)) % C)
    for weight in (0.0, 2.0):
        pair = make(classifier_weight=weight)
        pair(X, y).total.backward()
        found = [p.grad.abs().max().item() for p in pair.guide.classifier.parameters()]
        assert max(found) == 0 if weight == 0 else min(found) > 0
        assert all(p.grad.abs().max() > 0 for p in pair.guide.encoder.parameters())
        assert pair(X, y).terms["y_unobserved"] == 0
    log_q = pair.guide.classifier(X).log_softmax(-1)
    torch.testing.assert_close(pair(X, y).terms["classifier"], -2 * (y * log_q).sum(1).mean())
    assert pair(X).terms["classifier"] == 0


def test_the_classifier_is_no_part_of_the_bound_and_its_weight_is_a_setting():
    from pyro_vaes.inference.schedules import find

    pair, y = make(), check_condition(make(), X, LABELS)
    found = []
    for weight in (0.0, 5.0):
        find(pair, "classifier_weight")[0].fill_(weight)
        torch.manual_seed(3)
        found.append(pair(X, y))
    assert torch.equal(found[0].bound, found[1].bound)
    torch.testing.assert_close(found[0].total, -found[0].bound)
    assert found[1].total > found[0].total


def test_what_cannot_be_summed_over_is_refused():
    pair = make()
    for site, message in (("nope", "has no site 'nope'"), ("z", "cannot be summed over")):
        with pytest.raises(pv.InputError, match=message):
            Enumerated(site)(pair.model, pair.guide, X)
    for arguments in ({"classifier_weight": -1.0}, {"beta": float("nan")}, {"particles": 0}, {"site": 3}):
        with pytest.raises(pv.InputError):
            Enumerated(**arguments)
    with pytest.raises(pv.InputError, match="condition_dim is 0"):
        Pair(pv.l2_vae(4).model, pv.l2_vae(4).guide, partial=True)


def test_the_discrete_site_of_another_model_is_summed_over_as_well():
    """Two kinds whose names are numbers: the objective knows nothing of labels."""
    import pyro.distributions as dist
    from pyro.nn import PyroModule

    from pyro_vaes.plates import data_plate

    class Program(PyroModule):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.add_module("net" if model else "q", torch.nn.Linear(2 if model else D, D if model else 2).double())

        def forward(self, x=None, y=None, *, size=None):
            with data_plate(x, size):
                if not self.model:
                    return pyro.sample("kind", dist.Categorical(logits=self.q(x)))
                kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.25, 0.75], dtype=F64)))
                logits = self.net.weight.T[kind]
                return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    pair = Pair(Program(True), Program(False), Enumerated("kind"))
    log_x = torch.distributions.Bernoulli(logits=pair.model.net.weight.T[:, None]).log_prob(X).sum(-1)
    log_q = pair.guide.q(X).log_softmax(-1).T
    wanted = (log_q.exp() * (log_q - torch.tensor([[0.25], [0.75]], dtype=F64).log() - log_x)).sum(0).mean()
    torch.testing.assert_close(pair(X).total, wanted)
    assert "classifier" not in pair(X).terms


# --- labels that may be missing ---------------------------------------------------------------------------------


def test_labels_become_rows_and_none_becomes_zeros():
    pair = make()
    y = check_condition(pair, X, LABELS)
    assert (
        y.dtype == F64 and y.sum(1).tolist() == [1, 0, 1, 0, 0, 1, 0] and y.argmax(1)[[0, 2, 5]].tolist() == [0, 2, 1]
    )
    assert check_condition(pair, X, None).abs().sum() == 0
    assert torch.equal(check_condition(pair, X, y), y)
    for bad in (torch.full((7,), 3), torch.full((7,), -2), torch.full((7, C), 0.5), torch.ones(7, C)):
        with pytest.raises(pv.InputError):
            check_condition(pair, X, bad)
    with pytest.raises(pv.InputError, match="0 to 2"):
        check_condition(pv.cvae(D, C).double(), X, LABELS)


def test_few_labels_are_balanced_and_drawn_from_their_seed():
    y = torch.arange(60) % 3
    kept = pv.few_labels(y, 7)
    assert kept[kept >= 0].bincount().tolist() == [3, 2, 2] and torch.equal(kept[kept >= 0], y[kept >= 0])
    assert torch.equal(kept, pv.few_labels(y, 7)) and not torch.equal(kept, pv.few_labels(y, 7, seed=1))
    for count in (2, 61):
        with pytest.raises(pv.InputError, match="count is"):
            pv.few_labels(y, count)
    with pytest.raises(pv.InputError, match="whole labels"):
        pv.few_labels(torch.rand(3), 2)


@pytest.mark.parametrize("y", [LABELS, None])
def test_fit_takes_data_without_labels(y):
    found = []
    for engine in ("eager", "graph"):
        pair = make()
        history = pv.fit(pair, X, y, steps=3, batch_size=4, engine=engine, progress=False)
        assert history.engine.kind == engine
        found.append([p.clone() for p in pair.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert torch.isfinite(torch.tensor(bound(pair, X, y)))


def test_a_new_datum_has_the_class_that_was_asked_for():
    pair = make()
    with torch.no_grad():  # a decoder that shows its class, and nothing else
        pair.model.decoder[-2].weight.zero_(), pair.model.decoder[0].weight.zero_()
        pair.model.decoder[0].weight[:C, K:] = torch.eye(C) * 9
        pair.model.decoder[0].bias.zero_(), pair.model.decoder[-2].bias.fill_(-9.0)
        pair.model.decoder[-2].weight[:C, :C] = torch.eye(C) * 2
    assert pv.sample(pair, 4, 2).round().argmax(1).tolist() == [2] * 4
    drawn = pv.sample(pair, 300).round()
    assert drawn[:, :C].sum(1).eq(1).all() and drawn[:, :C].sum(0).min() > 60
    assert pv.clean(pair, X).mean.shape == X.shape


def test_classify_is_the_softmax_and_needs_a_class():
    pair = make()
    torch.testing.assert_close(pv.classify(pair, X, batch_size=3), pair.guide.classifier(X).softmax(-1).detach())
    with pytest.raises(pv.InputError, match="guesses no class"):
        pv.classify(pv.l2_vae(D, 2, (3,)), X.float())


def test_stock_pyro_trains_it_and_predicts():
    """Two clusters and one label each: Pyro's SVI with its enumeration learns which is which."""
    g = torch.Generator().manual_seed(0)
    kind = torch.arange(60) % 2
    x = torch.bernoulli(torch.where(kind[:, None] == 0, 0.05, 0.95).expand(60, D), generator=g)
    y = torch.zeros(60, 2)
    y[0, 0] = y[1, 1] = 1
    torch.manual_seed(0)
    pair = pv.m2_vae(D, 2, 2, (8,))
    with pyro.get_param_store().scope():
        svi = SVI(
            pair.model, config_enumerate(pair.guide), pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1)
        )
        losses = [svi.step(x, y) for _ in range(60)]
        guide = Predictive(pair.guide, num_samples=20)(x, y)
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        assert svi.step(x, y) > 0
    assert losses[-1] < 0.8 * losses[0]
    assert guide["y_unobserved"].shape == (20, 60, 2) and guide["z"].shape == (20, 60, 2)


def test_one_label_per_cluster_is_enough():
    kind = torch.arange(200) % 2
    x = torch.bernoulli(
        torch.where(kind[:, None] == 0, 0.1, 0.9).expand(200, D), generator=torch.Generator().manual_seed(0)
    )
    y = torch.full((200,), -1)
    y[:6] = kind[:6]
    torch.manual_seed(1)
    pair = pv.m2_vae(D, 2, 1, (8,), classifier_weight=5.0)
    pv.fit(pair, x, y, steps=150, lr=0.02, batch_size=64, progress=False)
    assert (pv.classify(pair, x).argmax(1) == kind).float().mean() > 0.97


# --- the convolutional classifier -------------------------------------------------------------------------------


def test_images_are_distorted_a_little_and_while_training_only():
    torch.manual_seed(0)
    images = torch.zeros(500, 2, 15, 15)
    images[:, :, 7, 7] = images[:, :, 3, 7] = 1  # the centre, and a point above it
    torch.testing.assert_close(distorted(images, 0.0), images, atol=1e-4, rtol=0)
    found = distorted(images, 1.0)
    assert torch.equal(found[:, 0], found[:, 1])  # channels together
    rows = torch.arange(15.0)
    centre, above = found[:, 0, 6:9], found[:, 0, :6]
    across = [(part.sum(1) * rows).sum(1) / part.sum((1, 2)).clamp(min=1e-6) - 7 for part in (centre, above)]
    # Half of a fourteenth of 15 pixels either way, and above the centre what angle and shear add to that.
    assert across[0].abs().max() < 15 / 14 + 0.6 and across[0].abs().max() > 0.6 and across[0].mean().abs() < 0.1
    assert across[1].std() > 1.2 * across[0].std()
    network = ConvClassifier((1, 4, 4), (3,), 2, distort=1.0)
    x = torch.rand(8, 16)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_the_convolutional_variant_trains_in_a_graph():
    found = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        pair = pv.m2_vae(16, C, K, (5,), classifier="cnn", filters=(3,), distort=1.0)
        x = (torch.rand(9, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
        assert pv.fit(pair, x, torch.tensor([0, 1, 2] + [-1] * 6), steps=3, engine=engine, progress=False).step == 3
        found.append([p.clone() for p in pair.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for bad in ({"classifier": "tree"}, {"hidden": ()}, {"condition_dim": 1}, {"classifier": "cnn", "data_dim": 8}):
        with pytest.raises(pv.InputError):
            pv.m2_vae(**{"data_dim": 16, **bad})
