"""The discriminator of images: every layer by hand, what is random and what is not, what is refused."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

import pyro_vaes as pv
from pyro_vaes.nn.discriminator import BatchDiscrimination, Dropout, stages


def make(shape=(2, 9, 7), filters=(3, 4), hidden=6, kernels=5, **arguments):
    torch.manual_seed(0)
    return pv.ImageDiscriminator(shape, filters, hidden, kernels, **arguments).double()


def rows(n=6, d=126, seed=1):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_batch_discrimination_is_a_double_loop():
    torch.manual_seed(0)
    layer, h = BatchDiscrimination(4, kernels=3, dims=2).double(), torch.randn(5, 4, dtype=torch.float64)
    found, expected = layer(h), torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            for b in range(3):
                distance = sum(abs((h[i] - h[j]) @ layer.weight[:, b, c]) for c in range(2))
                expected[i, b] += math.exp(-distance.item()) / 4 if i != j else 0
    assert torch.equal(found[:, :4], h)
    torch.testing.assert_close(found[:, 4:], expected, rtol=1e-12, atol=1e-14)
    assert (layer(h[:1])[0, 4:] == 0).all()


def test_the_discriminator_by_hand():
    """5 x 5, then 3 x 3; pools that round up; a row of norm 1; the closeness of the others; a logit."""
    D, x = make().eval(), rows()
    p = dict(D.named_parameters())
    convs = [p[f"trunk.{i}.{kind}"] for i in (0, 4) for kind in ("weight", "bias")]
    assert [tuple(w.shape[-2:]) for w in convs[::2]] == [(5, 5), (3, 3)]
    h = x.reshape(6, 2, 9, 7)
    for w, b, padding in ((*convs[:2], 2), (*convs[2:], 1)):
        h = torch.relu(max_pool2d(conv2d(h, w, b, padding=padding), 2, ceil_mode=True))
    assert h.shape == (6, 4, 3, 2)
    h = h.flatten(1) @ p["linear.weight"].T + p["linear.bias"]
    h = torch.relu(h / h.square().sum(-1, keepdim=True).sqrt())
    apart = torch.einsum("na,abc->nbc", h, p["batch.weight"])
    others = [sum(torch.exp(-(apart[i] - apart[j]).abs().sum(-1)) for j in range(6) if j != i) / 5 for i in range(6)]
    expected = torch.cat([h, torch.stack(others)], -1) @ p["logit.weight"][0] + p["logit.bias"]
    torch.testing.assert_close(D(x), expected, rtol=1e-10, atol=1e-12)


def test_only_training_is_random():
    D, x = make(), rows()
    assert torch.equal(D.eval()(x), D(x))
    D.train()
    assert not torch.equal(D(x), D(x))
    assert torch.equal(make(dropout=0.0)(x), make(dropout=0.0).eval()(x))


def test_dropout_keeps_the_mean_and_drops_whole_channels():
    torch.manual_seed(0)
    h = torch.ones(4000, 3, 2, 2)
    for layer in (Dropout(0.25), Dropout(0.25, whole_channels=True)):
        found = layer(h)
        assert found.mean().item() == pytest.approx(1, abs=0.02)
        assert found.unique().tolist() == pytest.approx([0, 4 / 3])
        whole = (found.flatten(2).std(-1) == 0).float().mean().item()
        assert whole == (1 if layer.whole_channels else pytest.approx(0.75**4 + 0.25**4, abs=0.03))


def test_a_generator_that_repeats_itself_is_seen():
    """Rows that are alike have a closeness of 1, rows that differ less."""
    D = make().eval()
    h = torch.relu(D.linear(D.trunk(rows().reshape(-1, 2, 9, 7))))
    alike, others = D.batch(h[:1].expand(6, -1))[:, 6:], D.batch(h)[:, 6:]
    assert (alike == 1).all() and (others < 1).all()


def test_stages_of_the_source_s_images():
    assert [stages(*size) for size in ((64, 64), (32, 32), (28, 28), (28, 20), (14, 14))] == [4, 3, 3, 3, 2]
    D = pv.ImageDiscriminator((3, 64, 64))
    assert D.linear.in_features == 128 * 4 * 4 and D.logit.in_features == 612
    assert len(D.batch.weight[0]) == 100 and D(torch.rand(2, 3 * 64 * 64)).shape == (2,)
    assert pv.ImageDiscriminator((1, 1, 5), (2,), 3, 0, outputs=4)(torch.rand(7, 5)).shape == (7, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"filters": ()}, "one stage is the least"), ({"filters": (0,)}, "at least 1"), ({"filters": 3}, "a list"),
        ({"hidden": 0}, "at least 1"), ({"kernels": -1}, "at least 0"), ({"dropout": 1.0}, "below 1"),
        ({"outputs": 0}, "at least 1"),
    ],
)  # fmt: skip
def test_bad_sizes_are_refused(arguments, said):
    with pytest.raises(pv.InputError) as error:
        make(**arguments)
    assert said in str(error.value) and "\n" not in str(error.value)
