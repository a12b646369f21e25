"""A discriminator with a class head: who learns from what, what labels are worth, and what comes of them."""

import json

import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference.classifier_gan import cross_entropy
from pyro_vaes.inference.guard import check_condition

D, C = 16, 3
LABELS = torch.tensor([0, -1, 2, -1, -1, 1, -1])
X = torch.rand(7, D, generator=torch.Generator().manual_seed(1))


def make(name="vae_classifier", seed=0, **arguments):
    torch.manual_seed(seed)
    small = {"latent_dim": 3, "hidden": (4,), "filters": (5,), "condition_dim": C}
    return pv.variant(name)(D, **(small | arguments))


def loss_of(pair, labels, seed=2):
    torch.manual_seed(seed)
    return pair(X, check_condition(pair, X, labels))


def players_of(pair):
    """The parameters of generator and discriminator."""
    theirs = list(pair.objective.network.parameters())
    return [*pair.model.parameters(), *pair.guide.parameters()], theirs


# --- the objective ----------------------------------------------------------------------------------------------


def test_the_class_is_learned_from_the_labelled_rows_only():
    pair = make(classifier_weight=2.0)
    log_q = pv.classify(pair, X).log()
    wanted = -2 * (log_q[0, 0] + log_q[2, 2] + log_q[5, 1]) / 3
    torch.testing.assert_close(loss_of(pair, LABELS).terms["classifier"].detach(), wanted)
    assert loss_of(pair, None).terms["classifier"] == 0
    # Rows without a label have no part in it, whatever they are.
    x = X.clone().requires_grad_()
    y = check_condition(pair, X, LABELS)
    (gradient,) = torch.autograd.grad(cross_entropy(pair.objective.network(x)[1], y), x)
    assert (gradient.abs().amax(1) > 0).tolist() == (LABELS >= 0).tolist()


def test_only_the_classifier_knows_of_labels():
    pair = make()
    one, other = loss_of(pair, LABELS), loss_of(pair, None)
    assert set(one.terms) == {"x", "z", "generator", "discriminator", "classifier"}
    assert torch.equal(one.bound, other.bound)
    for term in set(one.terms) - {"classifier"}:
        assert torch.equal(one.terms[term], other.terms[term]), term
    assert one.terms["classifier"] > 0


def test_each_player_learns_from_its_own_terms():
    pair = make()
    pair.eval()  # so that no running statistic differs between the calls
    generator, network = players_of(pair)
    for term, learner, other in (
        ("generator", generator, network), ("discriminator", network, generator), ("classifier", network, generator)
    ):  # fmt: skip
        value = loss_of(pair, LABELS).terms[term]
        found = torch.autograd.grad(value, learner, retain_graph=True, allow_unused=True)
        assert sum(g is not None and bool(g.abs().max() > 0) for g in found) >= len(learner) - 3, term
        theirs = torch.autograd.grad(value, other, allow_unused=True)
        assert all(g is None or g.abs().max() == 0 for g in theirs), term


def test_one_step_is_that_of_two_players_apart():
    """The generator steps on its terms with D held, D on its terms with data and reconstructions held."""
    pair, x = make(weight=0.7).double().eval(), X.double()
    y = check_condition(pair, x, LABELS)
    generator, network = players_of(pair)
    torch.manual_seed(2)
    ours = torch.autograd.grad(pair(x, y).total, [*generator, *network])
    torch.manual_seed(2)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    mu = pair.model.decoder(z)
    D_ = pair.objective.network
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(1)
    beta, sd = 1e-4 * D / (8 * 0.1**2), pair.model.scale.value.double()
    bound = ((x - mu) ** 2 / (2 * sd**2)).sum(1) + beta * kl
    first = bound.mean() - 0.7 * D_(mu)[0].sigmoid().log().mean()
    real, classes = D_(x)
    second = -real.sigmoid().log().mean() - (-D_(mu.detach())[0]).sigmoid().log().mean()
    second = second - sum(classes.log_softmax(-1)[i, k] for i, k in ((0, 0), (2, 2), (5, 1))) / 3
    wanted = torch.autograd.grad(first, generator, retain_graph=True) + torch.autograd.grad(second, network)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_without_weight_the_generator_is_the_plain_pair():
    pair = make(weight=0.0)
    plain = pv.Pair(pair.model, pair.guide, pair.objective.objective)
    torch.manual_seed(4)
    alone = plain(X).total
    generator, _ = players_of(pair)
    expected = torch.autograd.grad(alone, generator)
    torch.manual_seed(4)
    found = torch.autograd.grad(pair(X, check_condition(pair, X, LABELS)).total, generator)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_more_particles_are_more_fakes():
    pair = make()
    pair.objective.objective.particles = 4
    seen = []
    pair.objective.network.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
    loss = loss_of(pair, LABELS)
    assert sorted(seen) == [7, 28, 28] and torch.isfinite(loss.total)


def test_bad_parts_are_refused():
    heads = pv.TwoHeads((1, 4, 4), (3,), C)
    for arguments in (("elbo", heads), (pv.ELBO(), abs), (pv.ELBO(), heads, -1.0), (pv.ELBO(), heads, 1.0, -1.0)):
        with pytest.raises(pv.InputError):
            pv.ClassifierGAN(*arguments)
    pair = make()
    pair.objective = pv.ClassifierGAN(pv.ELBO(), nn.Linear(D, 1))
    with pytest.raises(pv.InputError, match="one head"):
        loss_of(pair, LABELS)
    pair.objective = pv.ClassifierGAN(pv.ELBO(), pv.TwoHeads((1, 4, 4), (3,), C + 1))
    with pytest.raises(pv.InputError, match="4 classes, but the labels are of 3"):
        loss_of(pair, LABELS)
    for bad in ({"condition_dim": 1}, {"filters": (0,)}, {"layers": 0}, {"sd": 0.0}, {"hidden": ()}, {"rate": 0.0}):
        with pytest.raises(pv.InputError):
            make(**bad)


def test_the_trunk_does_not_mix_the_images_of_a_batch():
    torch.manual_seed(0)
    network, x = pv.TwoHeads((2, 5, 3), (4, 6), C, layers=2), torch.rand(3, 30)
    together = network(x)
    for i in range(3):
        for a, b in zip(together, network(x[i]), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-6)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.trunk) == 4


# --- training ---------------------------------------------------------------------------------------------------


def test_the_graph_is_the_program_and_an_interruption_leaves_no_trace(tmp_path):
    options = {"batch_size": 4, "lr": 1e-3, "progress": False, "log_every": 1, "checkpoint_every": 3}
    pairs = [make() for _ in range(2)]
    rows = [
        pv.fit(pair, X, LABELS, steps=5, **options, engine=engine).rows
        for pair, engine in zip(pairs, ("eager", "graph"), strict=True)
    ]
    for a, b in zip(*(pair.parameters() for pair in pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert set(rows[1][-1]["terms"]) == set(rows[0][-1]["terms"]) and set(rows[1][-1]["seen"]) == {"accuracy"}

    class Cut(Exception):
        pass

    def cut(step):
        if step == 4:
            raise Cut

    with pytest.raises(Cut):
        pv.fit(make(), X, LABELS, steps=5, **options, engine="graph", out=tmp_path, on_step=cut)
    resumed = make(seed=1)
    pv.fit(resumed, X, LABELS, steps=5, **options, engine="graph", out=tmp_path, resume=True)
    for a, b in zip(resumed.parameters(), pairs[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_discriminator_has_a_rate_of_its_own():
    """With no rate to speak of, D stays where it is, while p and q move."""
    pair = make(rate=1e-12)
    before = [p.detach().clone() for p in pair.parameters()]
    pv.fit(pair, X, LABELS, steps=2, lr=1e-2, progress=False)
    moved = {n.split(".")[0] for (n, p), b in zip(pair.named_parameters(), before, strict=True)
             if not torch.allclose(p, b, atol=1e-9)}  # fmt: skip
    assert moved == {"model", "guide"}


@pytest.fixture(scope="module")
def digits():
    data = pv.load("digits")
    return data.x[:1300], data.y[:1300], data.x[1300:], data.y[1300:]


@pytest.mark.slow
@pytest.mark.parametrize("permuted", [False, True], ids=["labels", "permuted labels"])
def test_few_labels_teach_the_classes_and_permuted_ones_do_not(digits, permuted):
    x, y, test, truth = digits
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))] if permuted else y
    torch.manual_seed(0)
    pair = pv.vae_classifier(64, 8, (4,), filters=(8, 16))
    pv.fit(pair, x, pv.few_labels(y, 200), steps=200, batch_size=64, lr=3e-3, progress=False)
    accuracy = (pv.classify(pair, test).argmax(1) == truth).float().mean().item()
    # Chance is 0.1 of ten classes, give or take 0.1: what looks alike is guessed alike, right or wrong.
    assert accuracy < 0.3 if permuted else accuracy > 0.6, accuracy


def test_from_the_command_line(tmp_path):
    run = str(tmp_path / "run")
    words = ["fit", "vae_classifier", "--data", "digits", "--labels", "60", "--limit", "200", "--steps", "6",
             "--hidden", "[4]", "--filters", "[6]", "--latent_dim", "3", "--out", run]  # fmt: skip
    assert main(words) == 0
    assert main(["evaluate", run]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 <= found["accuracy of the classifier, 140 data with unseen labels"] <= 1
    assert pv.classify(pv.Run.open(run).pair(), pv.load("digits", limit=5).x).shape == (5, 10)
