"""The API reference: every public name on one page of its topic, and the programs and networks they are made of."""

import dataclasses
import importlib
import inspect
import pkgutil

import pyro_vaes as pv

# Topic -> (what it is, the modules whose public names stand there).
TOPICS = {
    "variants": ("Variants", "One function per variant: what generates, what approximates, what is optimised.",
                 ["pyro_vaes.variants"]),
    "pair": ("Pairs", "A model and a guide that fit, and errors in words.", ["pyro_vaes.pair", "pyro_vaes.errors"]),
    "objectives": ("Objectives", "What is minimised: a loss, its terms by site, and the bound it shows.", [
        "objective", "importance", "denoised", "recycled", "stock", "wae", "adversarial", "mmd", "enumerated",
        "classifier_gan", "vae_gan", "masked", "empirical"]),
    "fit": ("Training", "One loop for all pairs, its engines, settings that change, and runs in a folder.", [
        "fit", "stagewise", "stages", "plan", "compile", "schedules", "state", "guard", "trackers", "run", "sweep",
        "ranks", "pyro_vaes.meeting"]),
    "posterior": ("Using a trained pair", "Clean, sample, complete, impute, classify.", [
        "posterior", "complete", "condition", "impute", "classify", "outliers"]),
    "likelihood": ("Likelihood", "log p(x) by importance sampling and by annealing, from both sides.", [
        "likelihood", "annealed", "sandwich"]),
    "data": ("Data", "Data sets by name or file, corruptions, labels.", ["pyro_vaes.data"]),
    "evaluation": ("Evaluation", "Detection, samples, codes, blocks.", ["pyro_vaes.evaluation"]),
    "analysis": ("Analysis", "The posterior for ArviZ, and whether it can be believed.", ["pyro_vaes.analysis"]),
}  # fmt: skip
# Rooms whose modules are shown whole: people read and edit these programs.
ROOMS = {
    "models": ("Models: every p", "pyro_vaes.models"),
    "guides": ("Guides: every q", "pyro_vaes.guides"),
    "nn": ("Networks", "pyro_vaes.nn"),
}


def home(module: str) -> str:
    return module if module.startswith("pyro_vaes.") else f"pyro_vaes.inference.{module}"


def names(modules: list[str]) -> list[str]:
    """The public names that live in these modules, or below them, in the order of the package's own list."""
    homes = [home(module) for module in modules]
    inside = [where for where in pv._HOMES if any(where == h or where.startswith(f"{h}.") for h in homes)]
    return [name for where in inside for name in pv._HOMES[where]]


def entry(name: str) -> str:
    """The directive that documents one public name."""
    thing = getattr(pv, name)
    where = f"{pv._HOME_OF[name]}.{name}"
    if isinstance(thing, dict):
        return f"```{{eval-rst}}\n.. py:data:: {where}\n\n   All variants by name, in the order of the gallery.\n```\n"
    kind = "autoexception" if inspect.isclass(thing) and issubclass(thing, BaseException) else (
        "autoclass" if inspect.isclass(thing) else "autofunction")  # fmt: skip
    members = "\n   :members:" if kind == "autoclass" else ""
    # The docstring's own list of attributes says more than their names.
    fields = ", ".join(
        [f.name for f in dataclasses.fields(thing)]
        if dataclasses.is_dataclass(thing)
        else getattr(thing, "_fields", ())
    )
    exclude = f"\n   :exclude-members: {fields}" if fields else ""
    return f"```{{eval-rst}}\n.. {kind}:: {where}{members}{exclude}\n```\n"


def topic_page(title: str, what: str, modules: list[str]) -> str:
    entries = "\n".join(entry(name) for name in names(modules))
    return f"# {title}\n\n{what}\n\n{entries}"


def room_page(title: str, package: str) -> str:
    """All modules of a room, whole."""
    path = importlib.import_module(package).__path__
    modules = sorted(m.name for m in pkgutil.iter_modules(path))
    parts = [f"## {m}\n\n```{{eval-rst}}\n.. automodule:: {package}.{m}\n   :members:\n```\n" for m in modules]
    return f"# {title}\n\n" + "\n".join(parts)


def pages() -> dict[str, str]:
    """Every page of the reference by its name."""
    made = {f"api/{key}.md": topic_page(*value) for key, value in TOPICS.items()}
    made |= {f"api/{key}.md": room_page(*value) for key, value in ROOMS.items()}
    rows = "\n".join(f"| [{title}]({key}.md) | {what} |" for key, (title, what, _) in TOPICS.items())
    rooms = "\n".join(f"| [{title}]({key}.md) | whole modules of `{room}` |" for key, (title, room) in ROOMS.items())
    toc = "\n".join([*TOPICS, *ROOMS])
    made["api/index.md"] = (
        "# API reference\n\nEverything here is `import pyro_vaes as pv`, then `pv.NAME`; the last three pages show the "
        f"programs and networks that pairs are made of.\n\n| page | holds |\n|---|---|\n{rows}\n{rooms}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    )
    return made
