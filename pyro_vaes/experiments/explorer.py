"""Two small pairs for the interactive page: weights to ship, and the posterior of some images, by guide and by NUTS.

Protocol: ``vae`` on MNIST (28 x 28, binarised anew at every step, in the test images once) and ``gamma_vae`` on Frey
faces (28 x 20, grey), so that a Bernoulli and a Gaussian likelihood both appear; a code of six entries and one hidden
layer, that the decoder is small enough for a web page. Adam, at a rate that falls along a cosine.

The digits shown are the first test image of each class; the faces are spread evenly over those of the film that are
held out (a random part of its frames, so that each has near twins among those trained on). For each of them: mean and
standard deviation of the guide; NUTS on the code with the decoder fixed; both moments from draws of the guide under
Pareto-smoothed weights, and their k-hat. Whether guide and NUTS agree is judged by the limits of
:meth:`~pyro_vaes.analysis.compare.Compared.finding`, here over the entries of one datum. An entry of the code is used
where the variance of its mean over test data is above 0.01 (Burda et al. 2016), pruned otherwise.

Beside the numbers stands one file per pair, ``explorer.<scale>.<data>.bin``: weights and biases of the decoder in the
order in which they are applied, images, draws, and codes with the images and the log p(x, z) that the trained pair
itself gave, to test a decoder against that is written anew. The JSON says under ``tensors`` what lies where.

One seed: the page shows two trainings and claims nothing of others. No claim is judged.
"""

import base64
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vaes.analysis.compare import BIAS, FACTOR
from pyro_vaes.analysis.nuts import Chains, nuts
from pyro_vaes.analysis.psis import LIMIT, psis, reweighted
from pyro_vaes.data import load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.evaluation.aggregated import aggregated
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.explorer_figures import posterior_figure
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.inference.posterior import bound
from pyro_vaes.nn.mlp import ACTIVATIONS
from pyro_vaes.pair import Pair

NAME = "explorer"
SETS = ("digits", "faces")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "steps": 8_000, "batch_size": 128, "lr": 1e-3, "latent_dim": 6, "hidden": [128], "test": 1000, "faces": 10,
        "chains": 4, "samples": 250, "warmup": 200, "depth": 7, "draws": 4000, "kept": 200, "probes": 6, "seeds": [0],
    },
    "paper": {
        "steps": 120_000, "batch_size": 128, "lr": 1e-3, "latent_dim": 6, "hidden": [128], "test": 10_000, "faces": 10,
        "chains": 4, "samples": 2000, "warmup": 1000, "depth": 9, "draws": 20_000, "kept": 200, "probes": 6,
        "seeds": [0],
    },
}  # fmt: skip
PAIRS = {"digits": "vae", "faces": "gamma_vae"}
HELD_OUT = 365  # faces
MOST = 5.0  # an infinite k-hat is written as this one: JSON knows no infinity


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers, figures and weights."""
    plan = SCALES[scale]
    for name in SETS:  # a missing data set stops it before anything is trained
        images(name, plan, str(root))
    cells = Cells(out / f"{NAME}.{scale}.cells", {**plan, "pairs": PAIRS}, root)
    settings = [(name, seed) for name in SETS for seed in plan["seeds"]]
    made = partial(cell, plan=plan, root=str(root))
    found = compute(made, settings, cells, desc=NAME, steps=lambda _: plan["steps"])
    models, figures = {}, {}
    for name in SETS:
        value = found[name, plan["seeds"][0]]
        data = base64.b64decode(value.pop("data"))
        file = f"{NAME}.{scale}.{name}.bin"
        write_atomically(out / file, data)
        models[name] = {"file": file, **value}
        figures[name] = posterior_figure(models[name], unpacked(models[name], data), scale)
    result = {
        "settings": plan,
        "seconds": cells.seconds(),
        "limits": {"bias": BIAS, "factor": FACTOR, "khat": LIMIT},
        "models": models,
    }
    path = record(out, NAME, scale, result, figures)
    cells.discard()
    return path


def images(name: str, plan: Mapping[str, Any], root: str) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor, list[str]]:
    """Give training data, test data, the shape of an image, and which test data are shown and what they are called."""
    if name == "faces":
        data = load("frey", root=root)
        order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
        frames = order[:HELD_OUT].sort().values
        shown = torch.linspace(0, len(frames) - 1, plan["faces"]).round().long()
        return data.x[order[HELD_OUT:]], data.x[frames], data.shape, shown, [f"frame {int(frames[i])}" for i in shown]
    data = load("mnist", root=root)
    test = load("mnist", root=root, split="test", limit=plan["test"])
    assert test.y is not None
    shown = torch.stack([(test.y == label).nonzero()[0, 0] for label in range(10)])
    return data.x, binarised(test, "static").x, data.shape, shown, [f"digit {label}" for label in range(10)]


def cell(name: str, seed: int, plan: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Train a pair, and ask for the posterior of the images that are shown."""
    x, test, shape, shown, labels = images(name, plan, root)
    pair = untrained(PAIRS[name], x.shape[1], {"latent_dim": plan["latent_dim"], "hidden": plan["hidden"]}, seed)
    how: dict[str, Any] = {key: plan[key] for key in ("steps", "batch_size", "lr")}
    dynamic: dict[str, Any] = {"augment": "dynamic"} if name == "digits" else {}
    pair = train(pair, x, seed=seed, **how, **dynamic)
    few = test[shown]
    codes = aggregated(pair, test, seed=seed)
    chains = nuts(pair, few, **{key: plan[key] for key in ("chains", "samples", "warmup", "depth")}, seed=seed)
    weights = psis(pair, few, draws=plan["draws"], seed=seed)
    both = reweighted(pair, few, _moments, draws=plan["draws"], seed=seed).mean
    tensors = {**layers(pair), **kept(pair, few, chains, plan, seed)}
    data, where = packed(tensors)
    mean, sd = codes.mean[shown].double(), codes.variance[shown].double().sqrt()
    return {
        "pair": PAIRS[name],
        "likelihood": "Gaussian" if name == "faces" else "Bernoulli",
        "activation": activation(pair),
        "sd": float(_sd(pair)) if name == "faces" else None,
        "shape": list(shape),
        "names": chains.names,
        "bound": round(bound(pair, test, seed=seed), 2),
        "activity": _rounded(codes.activity),
        "used": codes.used.tolist(),
        "divergences": chains.divergences,
        "images": [
            {"label": labels[i], **summary(i, mean, sd, chains), "khat": _khat(weights.khat[i]),
             "importance ess": round(float(weights.ess[i]), 1), "weighted mean": _rounded(both[i, 0]),
             "weighted sd": _rounded((both[i, 1] - both[i, 0].square()).clamp(min=0).sqrt())}
            for i in range(len(few))
        ],
        "tensors": where,
        "data": base64.b64encode(data).decode(),
    }  # fmt: skip


def summary(i: int, mean: Tensor, sd: Tensor, chains: Chains) -> dict[str, Any]:
    """The guide beside NUTS for one datum; the verdict by the limits of ``compare``, "no reference" without mixing."""
    bias, width = (mean[i] - chains.mean[i]) / chains.sd[i], sd[i] / chains.sd[i]
    limits = torch.tensor([BIAS, math.log2(FACTOR)], dtype=torch.float64)
    errors = torch.stack([bias.abs(), width.log2().abs()])
    off = [bool((errors.quantile(q, dim=1) > limits).any()) for q in (0.5, 0.9)]
    verdict = "no reference" if not chains.mixed[i] else "bad" if off[0] else "caution" if off[1] else "good"
    return {
        "guide mean": _rounded(mean[i], 6), "guide sd": _rounded(sd[i], 6), "nuts mean": _rounded(chains.mean[i]),
        "nuts sd": _rounded(chains.sd[i]), "rhat": _rounded(chains.rhat[i]), "ess": _rounded(chains.ess[i], 0),
        "bias": _rounded(bias), "width": _rounded(width), "verdict": verdict,
    }  # fmt: skip


def layers(pair: Pair) -> dict[str, Tensor]:
    """Weights and biases of the decoder, in the order in which they are applied: W (out, in) and b (out)."""
    model: Any = pair.model
    linear = [module for module in model.decoder.modules() if isinstance(module, nn.Linear)]
    each = [(f"weight {i}", one.weight) for i, one in enumerate(linear)]
    biases = [(f"bias {i}", one.bias) for i, one in enumerate(linear)]
    return {name: value.detach() for pairs in zip(each, biases, strict=True) for name, value in pairs}


def activation(pair: Pair) -> str:
    """What stands between the layers: ``tanh`` or ``relu``; after the last there is a sigmoid."""
    model: Any = pair.model
    (found,) = {name for module in model.decoder for name, kind in ACTIVATIONS.items() if type(module) is kind}
    return str(found)


def kept(pair: Pair, few: Tensor, chains: Chains, plan: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Images, draws of NUTS spread over all chains, and codes with what the trained pair makes of them.

    The probes are the origin, both ends of the sliders, the guide's mean of the first image, and draws of the prior;
    log p(x, z) is that of the first image.
    """
    flat = chains.states.transpose(0, 1).flatten(0, 1)
    draws = flat[torch.linspace(0, len(flat) - 1, plan["kept"]).round().long()].transpose(0, 1)
    model, guide = pair.model, pair.guide
    assert isinstance(model, nn.Module) and isinstance(guide, nn.Module)
    with torch.no_grad():
        first: Any = guide.get_submodule("encoder")(few[:1])
        k = plan["latent_dim"]
        ends = torch.tensor([0.0, -3.0, 3.0])[:, None].expand(3, k)
        free = torch.randn(max(0, plan["probes"] - 4), k, generator=torch.Generator().manual_seed(seed))
        z = torch.cat([ends, first[0], free])
        out = model.get_submodule("decoder")(z)
        if pair.name == "vae":
            mean, fit = out.sigmoid(), torch.distributions.Bernoulli(logits=out).log_prob(few[0])
        else:
            mean, fit = out, torch.distributions.Normal(out, _sd(pair)).log_prob(few[0])
        joint = fit.sum(1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    pixels = (few * 255).round().to(torch.uint8)
    return {"draws": draws.float(), "probe codes": z, "probe images": mean, "probe log joint": joint, "images": pixels}


def packed(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[dict[str, Any]]]:
    """Tensors one after the other, little-endian, and where each lies; float32 before bytes, so that all are aligned.

    >>> data, where = packed({"a": torch.ones(2, 3), "b": torch.zeros(5, dtype=torch.uint8)})
    >>> len(data), where[1]
    (29, {'name': 'b', 'type': 'uint8', 'shape': [5], 'offset': 24})
    """
    parts, where, offset = list[bytes](), [], 0
    for name, value in tensors.items():
        kind = "uint8" if value.dtype == torch.uint8 else "float32"
        if kind == "float32" and offset % 4:
            raise ValueError(f"{name} would begin at {offset}: put bytes last")
        array = np.ascontiguousarray(value.detach().cpu().numpy(), "<f4" if kind == "float32" else "u1")
        where.append({"name": name, "type": kind, "shape": list(value.shape), "offset": offset})
        parts.append(array.tobytes())
        offset += len(parts[-1])
    return b"".join(parts), where


def unpacked(model: Mapping[str, Any], data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a ``.bin`` file by name.

    >>> data, where = packed({"a": torch.arange(3.0)})
    >>> unpacked({"tensors": where}, data)["a"].tolist()
    [0.0, 1.0, 2.0]
    """
    found = {}
    for entry in model["tensors"]:
        kind, count = "<f4" if entry["type"] == "float32" else "u1", math.prod(entry["shape"])
        found[entry["name"]] = np.frombuffer(data, kind, count, entry["offset"]).reshape(entry["shape"])
    return found


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: a row per pair."""
    rows = list[list[object]]()
    for name, model in result["models"].items():
        shown = model["images"]
        mixed = [image for image in shown if image["verdict"] != "no reference"]
        low = sum(image["khat"] <= result["limits"]["khat"] for image in shown)
        pruned = ", ".join(f"`{n}`" for n, used in zip(model["names"], model["used"], strict=True) if not used)
        rows.append([
            name, f"`{model['pair']}`", f"{-model['bound']:.1f}", pruned or "none",
            f"{len(mixed)} of {len(shown)}", f"{max(max(image['rhat']) for image in shown):.2f}",
            f"{np.median([image['width'] for image in mixed]):.2f}" if mixed else "-",
            f"{np.median(np.abs([image['bias'] for image in mixed])):.2f}" if mixed else "-",
            f"{low} of {len(shown)}",
        ])  # fmt: skip
    header = "data, pair, -ELBO, pruned, mixed, worst R-hat, width, bias, k-hat up to 0.7"
    settings = result["settings"]
    end = (
        f"-ELBO in nats per test datum; the others of the {len(shown)} images shown. *mixed*: R-hat of all entries "
        f"up to 1.05, from {settings['chains']} chains of {settings['samples']} draws. Width sd(guide) / sd(NUTS) and "
        "bias in standard deviations of NUTS, medians over images that have mixed and entries."
    )
    return f"{markdown_table(header.split(', '), rows)}\n\n{end}"


def _moments(drawn: Any) -> Tensor:
    z = drawn.values["z"]
    return torch.stack([z, z.square()], 2)


def _sd(pair: Pair) -> Tensor:
    model: Any = pair.model
    with torch.no_grad():
        scale: Tensor = model.scale()
    return scale


def _khat(value: Tensor) -> float:
    return round(min(float(value), MOST), 2)


def _rounded(values: Tensor, digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]
