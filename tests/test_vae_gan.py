"""The bound beside an adversarial loss: every term by hand, who moves whom, and a discriminator that really skips."""

import math
import os
import signal

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.optimiser import rule, skips
from pyro_vaes.inference.track import CHECKPOINT

OPTIONS = {"steps": 13, "batch_size": 10, "lr": 0.01, "progress": False, "log_every": 1, "checkpoint_every": 4}
D = 16
# Between 1/2 and the accuracies that a fresh discriminator reaches, so that some of the steps are skipped.
SOMETIMES = 0.53


def make(seed=0, name="l2_vae", beta=1.0, **arguments):
    torch.manual_seed(seed)
    pair = pv.variant(name)(D, 3, (6, 5))
    discriminator = pv.ImageDiscriminator((1, 4, 4), (4,), hidden=6, kernels=2, dropout=0.25)
    pair.objective = pv.VAEGAN(beta, discriminator, **({"weight": 2.0, "rate": 5.0} | arguments))
    return pair


@pytest.fixture
def x():
    return torch.rand(30, D, generator=torch.Generator().manual_seed(5))


def split(pair):
    """The parameters of the two players."""
    own = set(map(id, pair.objective.discriminator.parameters()))
    return [p for p in pair.parameters() if id(p) not in own], list(pair.objective.discriminator.parameters())


@pytest.mark.parametrize("saturating", [False, True])
@pytest.mark.parametrize("fakes", ["posterior", "prior", "both"])
def test_every_term_by_hand(fakes, saturating, x):
    pair, x = make(beta=0.5, fakes=fakes, saturating=saturating, threshold=SOMETIMES).double(), x[:9].double()
    torch.manual_seed(1)
    loss = pair(x)
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    images = [pair.model.decoder(z)] if fakes != "prior" else []
    images += [pair.model.decoder(torch.randn_like(z))] if fakes != "posterior" else []
    generator, discriminator, right, d = 0.0, 0.0, [], pair.objective.discriminator
    for fake in images:  # dropout draws anew in each of the three calls
        to_generator, on_real, on_fake = d(fake), d(x), d(fake)
        sign = torch.log(1 - torch.sigmoid(to_generator)) if saturating else -torch.log(torch.sigmoid(to_generator))
        generator = generator + sign.mean()
        discriminator = discriminator - torch.log(torch.sigmoid(on_real)).mean()
        discriminator = discriminator - torch.log(1 - torch.sigmoid(on_fake)).mean()
        right += [(on_real > 0).double().mean(), (on_fake <= 0).double().mean()]
    accuracy = sum(right) / len(right)
    learns = float(accuracy <= SOMETIMES)
    expected = {
        "x": (0.5 * (x - pair.model.decoder(z)).square().sum(-1) + D / 2 * math.log(2 * math.pi)).mean(),
        "z": 0.5 * 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1).mean(),
        "gan": 2.0 * generator,
        "discriminator": learns * discriminator / len(images),
    }
    assert set(loss.terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.total, sum(expected.values()))
    assert loss.seen["accuracy"] == accuracy and loss.seen["skipped"] == 1 - learns


def test_the_loss_is_that_of_the_paper_in_other_units(x):
    """mean((2x - 2mu)^2) + alpha KL + beta_D (L_q + L_p), times C H W / (8 sd^2)."""
    sd, alpha, beta_d = 0.25, 0.003, 0.01
    unit, x = D / (8 * sd**2), x[:9].double()
    torch.manual_seed(0)
    plain = pv.l2_vae(D, 3, (6, 5))
    model = type(plain.model)(plain.model.prior, plain.model.decoder, pv.variant("gamma_vae")(D, 3, (6, 5)).model.scale)
    model.scale = type(plain.model.scale)(sd)
    d = pv.ImageDiscriminator((1, 4, 4), (3,), hidden=5, kernels=2, dropout=0.0)
    pair = pv.Pair(model, plain.guide, pv.VAEGAN(alpha * unit, d, weight=beta_d * unit)).double()
    torch.manual_seed(1)
    loss = pair(x)
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    fakes = [model.decoder(z), model.decoder(torch.randn_like(z))]
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1).mean()
    paper = ((2 * x - 1) - (2 * fakes[0] - 1)).square().mean() + alpha * kl
    paper = paper + beta_d * sum(softplus(-d(fake)).mean() for fake in fakes)
    ours = loss.total - loss.terms["discriminator"]
    for a, b in zip(*(torch.autograd.grad(t, split(pair)[0]) for t in (ours, unit * paper)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fakes", ["posterior", "prior", "both"])
def test_no_player_moves_the_other(fakes, x):
    pair = make(fakes=fakes, threshold=1.0)
    terms, (ours, theirs) = pair(x[:9]).terms, split(pair)
    guide = list(pair.guide.parameters())
    for name, own, other in (("gan", list(pair.model.parameters()), theirs), ("discriminator", theirs, ours)):
        found = torch.autograd.grad(terms[name], [*own, *other], allow_unused=True, retain_graph=True)
        assert all(g is not None and g.abs().max() > 0 for g in found[: len(own)])
        assert all(g is None for g in found[len(own) :])
    # Only a reconstruction is the encoder's to improve.
    found = torch.autograd.grad(terms["gan"], guide, allow_unused=True)
    assert all((g is None) == (fakes == "prior") for g in found)


@pytest.mark.parametrize("who", [0, 1])
def test_after_a_step_a_player_is_where_the_other_s_loss_does_not_matter(who, x):
    """Another weight of the generator's side leaves the discriminator's first step as it was, and the other way."""
    found = []
    for change in (False, True):
        pair = make(threshold=1.0)
        if change and who == 1:
            pair.objective.weight.fill_(7.0)
        if change and who == 0:
            pair.objective.threshold.fill_(0.0)
        pv.fit(pair, x, steps=1, batch_size=9, progress=False)
        found.append([p.detach().clone() for p in split(pair)[who]])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
def test_a_skipped_step_leaves_no_trace(optimiser):
    """As if it had not been, to the bit: values, moments, count."""
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(2, 2), torch.randn(4)]
    gated = rule(optimiser)([p.clone() for p in start], 0.05, skips=["", "off", "off"])
    alone = rule(optimiser)([p.clone() for p in start[:1]], 0.05)
    others = rule(optimiser)([p.clone() for p in start[1:]], 0.05)
    for step in range(8):
        gradients, off = [torch.randn_like(p) for p in start], step in (0, 3, 4, 7)
        gated.step(gradients, {"off": torch.tensor(float(off))})
        alone.step(gradients[:1])
        if not off:
            others.step(gradients[1:])
    assert all(map(torch.equal, gated.parameters, [*alone.parameters, *others.parameters]))
    assert all(map(torch.equal, gated.moments()[:1], alone.moments()[:1]))
    assert all(map(torch.equal, gated.state().values(), [*alone.state().values(), *others.state().values()]))


@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_the_skip_rule_really_skips(engine, optimiser, x):
    """The discriminator is bit for bit what it was after exactly the steps that say so; all else goes on."""
    pair, seen = make(threshold=SOMETIMES), []
    seen.append([p.detach().clone() for p in pair.parameters()])
    history = pv.fit(pair, x, **OPTIONS, engine=engine, optimiser=optimiser,
                     on_step=lambda _: seen.append([p.detach().clone() for p in pair.parameters()]))  # fmt: skip
    own = [n.startswith("objective.discriminator.") for n, _ in pair.named_parameters()]
    said = [bool(row["seen"]["skipped"]) for row in history.rows]
    assert 2 < sum(said) < 11, "some are skipped, some are not"
    assert said == [row["seen"]["accuracy"] > SOMETIMES for row in history.rows]
    for skipped, before, after in zip(said, seen, seen[1:], strict=False):
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(s for s, o in zip(same, own, strict=True) if o) == skipped
        assert not all(s for s, o in zip(same, own, strict=True) if not o)
    if optimiser == "adam":
        counts = {own[i]: t.item() for i, t in enumerate(history.engine.optimiser.steps)}
        assert counts == {False: 13, True: 13 - sum(said)}


def test_a_threshold_of_one_never_skips_and_of_zero_always(x):
    for threshold, said in ((1.0, 0.0), (0.0, 1.0)):
        pair = make(threshold=threshold)
        before = [p.detach().clone() for p in split(pair)[1]]
        rows = pv.fit(pair, x, **OPTIONS).rows
        assert {row["seen"]["skipped"] for row in rows} == {said}
        assert any(row["terms"]["discriminator"] for row in rows) == (not said)
        assert all(map(torch.equal, before, split(pair)[1])) == bool(said)


class Always(torch.nn.Module):
    """A discriminator that knows: real images are white."""

    def forward(self, images):
        return images.mean(1) - 0.99


def test_at_the_threshold_itself_a_step_is_not_skipped():
    """All right is an accuracy of 1, and the threshold 1 is the one that never skips."""
    pair = pv.variant("l2_vae")(D, 3, (6, 5))
    for threshold, skipped in ((1.0, 0.0), (0.99, 1.0)):
        pair.objective = pv.VAEGAN(1.0, Always(), threshold=threshold)
        seen = pair(torch.ones(6, D)).seen
        assert (seen["accuracy"], seen["skipped"]) == (1.0, skipped)


def test_a_rule_that_the_loss_does_not_show_is_refused(x):
    pair = make()
    assert set(skips(pair)) == {"", "skipped"} and skips(pv.l2_vae(4)) == []
    pair.objective.skip_rules = {"discriminator": "asleep"}
    with pytest.raises(pv.InputError, match="'asleep', which the loss does not show"):
        pv.fit(pair, x, steps=1, progress=False)
    pair.objective.skip_rules = {"nobody": "skipped"}
    with pytest.raises(pv.InputError, match="has no parameter that learns"):
        pv.fit(pair, x, steps=1, progress=False)


def test_the_graph_is_the_program(x):
    pairs = [make(threshold=SOMETIMES) for _ in range(2)]
    histories = [pv.fit(p, x, **OPTIONS, engine=e) for p, e in zip(pairs, ("eager", "graph"), strict=True)]
    assert histories[1].engine.kind == "graph"
    for a, b in zip(*(p.parameters() for p in pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for row, other in zip(*(h.rows for h in histories), strict=True):
        assert row["terms"] == pytest.approx(other["terms"], rel=1e-4) and row["seen"] == pytest.approx(other["seen"])


@pytest.mark.slow
def test_compiled_is_the_program(x):
    pairs = [make(threshold=SOMETIMES) for _ in range(2)]
    histories = [pv.fit(p, x, **OPTIONS, engine=e) for p, e in zip(pairs, ("eager", "inductor"), strict=True)]
    assert histories[1].engine.kind == "inductor"
    for a, b in zip(*(p.parameters() for p in pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [r["seen"]["skipped"] for r in histories[0].rows] == [r["seen"]["skipped"] for r in histories[1].rows]


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_interrupted_is_uninterrupted(engine, x, tmp_path):
    whole, cut = make(threshold=SOMETIMES), make(1, threshold=SOMETIMES)
    pv.fit(whole, x, **OPTIONS, engine=engine, out=tmp_path / "whole")

    def interrupt(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    pv.fit(make(threshold=SOMETIMES), x, **OPTIONS, engine=engine, out=tmp_path / "cut", on_step=interrupt)
    pv.fit(cut, x, **OPTIONS, engine=engine, out=tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    one, other = (checkpoint.load(tmp_path / folder / CHECKPOINT)[0] for folder in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())
    counts = {t.item() for name, t in one.items() if name.endswith(".step")}
    assert len(counts) == 2 and max(counts) == 13, "the discriminator counts the steps it took"


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_replicas_are_single_runs_and_skip_when_each_must(engine, x):
    pairs, seen = [make(r, threshold=SOMETIMES) for r in range(2)], []
    histories = pv.fit(pairs, x, **OPTIONS, engine=engine, on_step=lambda _: seen.append(
        [[p.detach().clone() for p in split(pair)[1]] for pair in pairs]))  # fmt: skip
    assert histories[0].engine.kind == engine
    said = [[bool(row["seen"]["skipped"]) for row in h.rows] for h in histories]
    assert said[0] != said[1]
    for r, pair in enumerate(pairs):
        for step in range(1, 13):
            same = all(map(torch.equal, seen[step - 1][r], seen[step][r]))
            assert same == said[r][step]
        alone = make(r, threshold=SOMETIMES)
        rows = pv.fit(alone, x, **OPTIONS, seed=r, engine="eager").rows
        assert [bool(row["seen"]["skipped"]) for row in rows] == said[r]
        for a, b in zip(pair.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_bound_and_everything_else_are_those_of_the_plain_vae(x):
    pair = make(beta=0.25)
    for draw in (
        lambda: pair(x).bound,
        lambda: pv.sample(pair, 3),
        lambda: pv.clean(pair, x[:3], draws=3).mean,
        lambda: pv.log_likelihood(pair, x[:3], samples=5).value,
        lambda: pv.bound(pair, x[:3]),
    ):
        found, adversarial = [], pair.objective
        for objective in (adversarial, pv.ELBO()):
            pair.objective = objective
            torch.manual_seed(3)
            found.append(torch.as_tensor(draw()))
        pair.objective = adversarial
        assert torch.equal(*found)


def test_a_weight_per_site(x):
    """As with alpha per time step: the terms are those of the plain bound, each times its own weight."""
    pair = make(name="ladder_vae", beta={"z_1": 0.25, "z_2": 3.0})
    x = (x[:9] > 0.5).float()
    torch.manual_seed(1)
    terms = pair(x).terms
    pair.objective = pv.ELBO()
    torch.manual_seed(1)
    plain = pair(x).terms
    for site, weight in (("z_1", 0.25), ("z_2", 3.0), ("x", 1.0)):
        torch.testing.assert_close(terms[site], weight * plain[site])
    with pytest.raises(pv.InputError, match="beta names the site 'z'"):
        make(name="ladder_vae", beta={"z": 1.0})(x)


def test_settings_can_follow_a_schedule(x):
    schedules = {"weight": (0.0, 1.0, 4), "beta": (0.0, 1.0, 4), "threshold": (0.0, 1.0, 1)}
    rows = pv.fit(make(), x, steps=3, schedules=schedules, engine="graph", progress=False, log_every=1).rows
    assert rows[0]["terms"]["gan"] == rows[0]["terms"]["z"] == 0 < rows[2]["terms"]["gan"]
    assert [row["seen"]["skipped"] for row in rows] == [1, 0, 0]


def test_a_prior_that_cannot_be_drawn(x):
    class Flat(dist.Normal):
        def __init__(self):
            super().__init__(torch.zeros(3), torch.ones(3))

        def expand(self, *_):
            return self

        def rsample(self, *_):
            raise NotImplementedError

    for fakes in ("prior", "posterior"):
        pair = make(fakes=fakes)
        pair.model.prior.forward = lambda: Flat().to_event(1)
        if fakes == "prior":
            with pytest.raises(pv.InputError, match="fakes must be 'posterior'"):
                pair(x[:9])
        else:
            assert torch.isfinite(pair(x[:9]).total)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"discriminator": None}, "needs a discriminator"), ({"discriminator": lambda x: x}, "needs a discriminator"),
        ({"fakes": "posteriors"}, "did you mean 'posterior'"), ({"fakes": None}, "unknown fakes"),
        ({"weight": -1.0}, "at least 0"), ({"weight": math.nan}, "finite"), ({"threshold": 1.5}, "at most 1"),
        ({"threshold": -0.1}, "at least 0"), ({"threshold": "0.9"}, "finite"), ({"rate": 0.0}, "above 0"),
        ({"saturating": 1}, "True or False"), ({"beta": -1.0}, "at least 0"), ({"beta": {1: 0.5}}, "names of sites"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(arguments, said):
    given = {"discriminator": torch.nn.Linear(D, 1)} | arguments
    with pytest.raises(pv.InputError) as error:
        pv.VAEGAN(**given)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_discriminator_of_other_images_is_refused(x):
    pair = make()
    pair.objective = pv.VAEGAN(discriminator=torch.nn.Linear(D, 2))
    with pytest.raises(pv.InputError, match="one logit each"):
        pv.fit(pair, x, steps=1, progress=False)


def test_the_objective_reads_as_it_was_made():
    objective = make(beta={"z": 0.5}, fakes="prior", threshold=0.8, saturating=True, rate=0.5).objective
    names = {"VAEGAN": pv.VAEGAN, "ImageDiscriminator": pv.ImageDiscriminator}
    assert repr(eval(repr(objective), names)) == repr(objective)
    assert "threshold=0.8" in repr(objective) and "kernels=2" in repr(objective)


SMALL = {"hidden": (4,), "discriminator_filters": (3,), "discriminator_hidden": 5, "weight": 2.0}
CR = {"latent_dim": 32, "blocks": 2, "units": 4}


def build(name, **arguments):
    torch.manual_seed(0)
    return pv.variant(name)(64, **(SMALL | (CR if name == "crvae_gan" else {}) | arguments))


@pytest.fixture
def images():
    return torch.rand(12, 64, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", ["vae_gan", "crvae_gan"])
def test_the_pair_alone_is_the_plain_vae(name, images):
    """The same parameters, the same bound, and none of the discriminator's in p or q."""
    pair, own = build(name), CR if name == "crvae_gan" else {}
    plain = pv.variant({"vae_gan": "conv_vae", "crvae_gan": "crvae"}[name])(64, hidden=(4,), sd=0.1, **own)
    ours = {n: p for n, p in pair.state_dict().items() if not n.startswith("objective.")}
    assert ours.keys() == plain.state_dict().keys()
    plain.load_state_dict(ours)
    found = []
    for one in (pair, plain):
        torch.manual_seed(2)
        found.append(one(images).bound)
    assert torch.equal(*found)
    assert pair.describe().splitlines()[1:] == plain.describe().splitlines()[1:]


def test_a_weight_per_time_step(images):
    """Alpha per block, as in the authors' code, from the argument to the term."""
    pair, plain = build("crvae_gan", beta=[3.0, 0.5]), build("crvae_gan")
    plain.load_state_dict(pair.state_dict())
    terms = []
    for one in (pair, plain):
        torch.manual_seed(2)
        terms.append(one(images).terms)
    torch.testing.assert_close(terms[0]["z_1"], 3 * terms[1]["z_1"])
    torch.testing.assert_close(terms[0]["z_2"], 0.5 * terms[1]["z_2"])
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in ("x", "gan", "discriminator"))


def test_the_recurrent_pair_runs_as_a_graph(images):
    pairs = [build("crvae_gan", threshold=0.53, rate=5.0) for _ in range(2)]
    options = OPTIONS | {"steps": 4, "batch_size": 12}
    histories = [pv.fit(p, images, **options, engine=e) for p, e in zip(pairs, ("eager", "graph"), strict=True)]
    assert histories[1].engine.kind == "graph"
    for row, other in zip(*(h.rows for h in histories), strict=True):
        assert row["terms"] == pytest.approx(other["terms"], rel=1e-3) and row["seen"] == pytest.approx(other["seen"])


def test_the_default_weight_is_the_paper_s():
    assert pv.vae_gan(64, sd=0.2).objective.weight.item() == pytest.approx(0.01 * 64 / (8 * 0.04))
    assert pv.crvae_gan(64, weight=0.0).objective.weight == 0


@pytest.mark.parametrize("name", ["vae_gan", "crvae_gan"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sd": None}, "sd is None"), ({"sd": 0.0}, "at least 1e-06"), ({"weight": -1.0}, "at least 0"),
        ({"fakes": "none"}, "unknown fakes"), ({"threshold": 2}, "at most 1"), ({"rate": 0}, "above 0"),
        ({"discriminator_filters": ()}, "one stage"), ({"discriminator_hidden": (5,)}, "whole number"),
        ({"shape": (3, 3)}, "data_dim is 64"), ({"beta": [1.0]}, "beta"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(name, arguments, said):
    with pytest.raises(pv.InputError) as error:
        build(name, **arguments)
    assert said in str(error.value) and "\n" not in str(error.value)
