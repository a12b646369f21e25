"""Count what the tests said: by operator, by room, and what nobody saw."""

from collections import Counter
from pathlib import Path
from typing import Any

from pyro_vaes.experiments.record import markdown_table, record

from .mutant import Mutant
from .room import ROOMS, ROOT, room_of
from .run import all_mutants, results

HERE = Path(__file__).parent
# Undecided: no test saw it, but within the budget not all that run its line were asked.
OUTCOMES = ("made", "caught", "timeout", "equivalent", "survived", "undecided", "not run")


def equivalents(path: Path = HERE / "equivalent.txt") -> dict[tuple[str, str], str]:
    """Mutants that change nothing one could observe, by file and words, each with the reason."""
    found = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            file, words, reason = (part.strip() for part in line.split(" | "))
            found[f"pyro_vaes/{file}", words] = reason
    return found


def outcome(mutant: Mutant, found: dict[str, dict[str, Any]], same: dict[tuple[str, str], str]) -> str:
    """Of one mutant; a file that has changed since has not been run."""
    row = found.get(mutant.key, {"outcome": "not run"})
    if row["outcome"] in ("survived", "unseen") and (mutant.file, mutant.words) in same:
        return "equivalent"
    if row["outcome"] == "survived" and row["asked"] < row["covering"]:
        return "undecided"
    return {"unseen": "survived", "broken": "not run"}.get(row["outcome"], row["outcome"])


def counted(made: list[Mutant], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    same = equivalents()
    rooms: dict[str, Counter[str]] = {room: Counter() for room in ROOMS}
    operators: dict[str, Counter[str]] = {}
    left: dict[str, list[dict[str, Any]]] = {"survived": [], "undecided": []}
    total: Counter[str] = Counter()
    for mutant in made:
        word = outcome(mutant, found, same)
        if word == "unfit":  # no program: what has no default cannot be left out
            continue
        for counts in (rooms[room_of(mutant.path)], operators.setdefault(mutant.operator, Counter()), total):
            counts.update(["made", word])
        if word in left:
            row = found[mutant.key]
            tests = f"{row['asked']} of {row['covering']}"
            left[word].append({"file": mutant.file, "line": mutant.line, "mutant": mutant.words, "tests asked": tests})
    return {
        "total": table_of(total),
        "rooms": {name: table_of(c) for name, c in rooms.items()},
        "operators": {name: table_of(c) for name, c in operators.items()},
        "survivors": left["survived"],
        "undecided": left["undecided"],
        "equivalent": [
            {"file": file, "mutant": words, "reason": reason} for (file, words), reason in sorted(same.items())
        ],
    }


def table_of(counts: Counter[str]) -> dict[str, int]:
    return {word: counts[word] for word in OUTCOMES}


def table(result: dict[str, Any]) -> str:
    rows = [[name, *c.values()] for group in ("rooms", "operators") for name, c in result[group].items()]
    return markdown_table(["", *OUTCOMES], [*rows, ["**all**", *result["total"].values()]])


def write(budget: float) -> None:
    """Write results/mutants.quick.json, and print the table and the survivors."""
    result = {"settings": {"seeds": [0], "seconds of tests per mutant": budget}, **counted(all_mutants(), results())}
    path = record(ROOT / "results", "mutants", "quick", result, {})
    show(result)
    print(f"\nwrote {path.relative_to(ROOT)}")


def show(result: dict[str, Any]) -> None:
    """Print the table and what nobody saw."""
    print(table(result))
    for word in ("survivors", "undecided"):
        print(f"\n{word}:")
        for row in result[word]:
            print(f"{row['file']}:{row['line']}: {row['mutant']} ({row['tests asked']} tests)")
