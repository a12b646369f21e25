"""Run the mutants: ``python -m tests.mutants``. What was found is kept, and the same command goes on."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def main() -> None:
    from . import report
    from .run import KEPT, Plan, all_mutants, asked, results

    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="parts of file names, such as inference/wae")
    parser.add_argument("--sample", type=int, help="this many mutants, evenly over files and operators")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests per mutant, as unmutated")
    parser.add_argument("--again", action="store_true", help="ask again of those that survived")
    parser.add_argument("--nothing", action="store_true", help="mutants that are the same in other words: all survive")
    parser.add_argument("--tests", nargs="*", help="ask these test files alone")
    parser.add_argument("--out", type=Path, default=KEPT, help="where to keep what was found; elsewhere, only printed")
    parser.add_argument("--measure", action="store_true", help="only find out which test runs which line")
    parser.add_argument("--report", action="store_true", help="only write the report")
    given = parser.parse_args()
    if not given.report:
        plan = {name: value for name, value in vars(given).items() if name not in ("report", "tests", "out")}
        asked(Plan(**plan | {"only": tuple(given.only)}), given.tests, given.out)
    if not given.measure and given.out == KEPT:
        report.write(given.budget)
    elif not given.measure:
        report.show(report.counted(all_mutants(tuple(given.only)), results(given.out)))


if __name__ == "__main__":
    main()
