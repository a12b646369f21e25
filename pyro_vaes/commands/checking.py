"""The command check: what of a trained run can be trusted."""

import json
from typing import Any

from pyro_vaes.commands.files import check_writable, condition_for, data_of, finite, modelled, write_figure
from pyro_vaes.commands.labels import seen_labels
from pyro_vaes.errors import whole


def do_check(
    run: str,
    split: str | None = None,
    rows: int = 64,
    nuts: int = 8,
    draws: int = 500,
    simulations: int = 300,
    samples: int = 150,
    warmup: int = 150,
    seed: int = 0,
) -> None:
    """Test the guide and the model of a trained run at a small budget, and say what can be trusted.

    Args:
        run: the run folder; check.json, check.txt and check.png are written into it.
        split: another part of the data set than the run was trained on, such as test, whole.
        rows: how many data are looked at, evenly spread.
        nuts: of these, data whose posterior is sampled by four chains; 0 leaves that out. It takes most of the time.
        draws: of the guide, for each datum.
        simulations: of the calibration.
        samples: that a chain keeps.
        warmup: steps of a chain before the first that counts.
        seed: of the draws.
    """
    from pyro_vaes.analysis.check import Budget, check
    from pyro_vaes.analysis.check_plot import verdicts_figure
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.run import Run

    whole("seed", seed, low=0)
    budget = Budget(rows=rows, nuts=nuts, draws=draws, simulations=simulations, samples=samples, warmup=warmup)
    folder = Run.open(run)
    check_writable(folder.path)
    pair = folder.pair()
    dataset, x, mask = data_of(folder, split)
    condition = folder.config["condition"]
    if mask is not None:
        mask = modelled(condition, dataset, mask)[0]
    x, labels, shape = modelled(condition, dataset, x)
    y = condition_for(pair, condition, x, seen_labels(folder, pair, labels, split), dataset.name)
    found = check(pair, x, y, shape=shape, mask=mask, budget=budget, seed=seed, progress=True)
    where = f"{dataset.name}{'' if split is None else f' ({split})'}"
    text = f"{where}: {found}"
    print(text)
    content: dict[str, Any] = {
        "pair": found.pair, "data": dataset.name, "split": split, "rows": found.data, "seed": seed,
        "budget": vars(budget), "findings": [{**vars(f), "numbers": dict(f.numbers)} for f in found.findings],
        "uses": {use: {"answer": answer, "because": why} for use, (answer, why) in found.uses().items()},
        "seconds": dict(found.seconds), "versions": folder.config.get("versions"),
    }  # fmt: skip
    for name, data in (("check.json", json.dumps(finite(content), indent=2)), ("check.txt", text)):
        write_atomically(folder.path / name, (data + "\n").encode())
        print(f"wrote {folder.path / name}")
    write_figure(folder.path / "check.png", verdicts_figure(found, title=f"{found.pair}, {where}: {found.data} data"))
