# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2", "numpy==2.4.6", "pyperf==2.10.0", "scipy==1.17.1", "tabulate==0.10.0"]
# ///
"""Show result files of benchmark.py: verdict, tables, picture, README, comparison.

    uv run report.py results/x.json                                  # prints it, draws results/x.png
    uv run report.py results/x.json --readme                         # puts it into README.md too, between its markers
    uv run report.py results/x.json results/y.json                   # and ends with a table by machine
    uv run report.py results/x.json --csv x.csv                      # one line a run, for other tools
    uv run report.py new.json --compare old.json --fail-above 5      # exit status 1 if a script is slower by more than 5 %

The unit of all statistics is the run, one process; rounds are blocks.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from harness import startup

if __name__ == "__main__":
    startup.prepare()

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.files import shown

if TYPE_CHECKING:
    from harness.results import Results

README = Path(__file__).resolve().with_name("README.md")
STDIN = Path("-")


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files of benchmark.py; - is stdin")
    parser.add_argument("--readme", action="store_true", help="put all into README.md too, between its markers")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write one line a run into this file too")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="say what is slower or faster than in this file")
    parser.add_argument("--fail-above", type=float, metavar="PERCENT", help="with --compare: if slower, exit status 1")
    args = parser.parse_args(words)
    if args.compare and len(args.files) > 1:
        parser.error("--compare takes one file")
    if args.fail_above is not None and not (args.compare and math.isfinite(args.fail_above)):
        parser.error("--fail-above goes with --compare and takes a number")
    if [*args.files, args.compare].count(STDIN) > 1:
        parser.error("- can be read once")
    if args.csv is not None and args.csv.suffix in (".json", ".png"):
        parser.error("--csv takes a file of its own, no result file and no picture")
    if STDIN in args.files and args.readme:
        parser.error("--readme takes files, to which the README can link")
    for path in [*args.files, args.compare]:
        if (
            path is not None and path != STDIN and path.suffix != ".json"
        ):  # the picture goes beside it, by the same name
            parser.error(f"{shown(path)} does not end with .json")
    return args


def read_stdin() -> str:
    """Return what stdin holds; UserError if it cannot be read."""
    if sys.stdin is None:
        raise UserError("cannot read stdin: it is closed")
    try:
        return sys.stdin.buffer.read().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read stdin: {shown(error)}") from None


def load(path: Path) -> "Results":
    """Return a file's results; stdin's for -."""
    from harness import results

    return results.load(path, read_stdin() if path == STDIN else None)


def draw(path: Path, results: "Results") -> None:
    """Draw a file's picture beside it."""
    from harness.picture import save_picture
    from harness.reporting import describe_picture
    from harness.rows import make_tables

    try:
        save_picture(path.with_suffix(".png"), make_tables(results), results.runs, describe_picture(results))
    except OSError as error:
        raise UserError(f"cannot write {shown(path.with_suffix('.png'))}: {error.strerror or error}") from None


def write_csv(path: Path, files: Mapping[Path, "Results"]) -> None:
    from harness.export import make_csv
    from harness.files import write_whole

    try:
        write_whole(path, make_csv(files))
    except OSError as error:
        raise UserError(f"cannot write {shown(path)}: {error.strerror or error}") from None


def compare(new: "Results", old: "Results", old_path: Path, fail_above: float | None) -> None:
    """Print what has changed; UserError, which is exit status 1, as --fail-above says."""
    from harness import comparison
    from harness.reporting import describe, show

    changes = comparison.compare(old, new, old_path)
    if fail_above is not None:
        comparison.check_enough_runs(changes)
    show("\n" + comparison.make_comparison(changes, old, new, old_path))
    for there, here in zip(describe(old.runs, None), describe(new.runs, None), strict=True):
        if there != here:
            show(f"- here {here}\n- there {there}")
    if fail_above is None:
        return
    reasons = {
        f"slower by more than {fail_above:g} %": comparison.find_slower(changes, fail_above),
        "learnt something else": [change.script for change in changes if change.flagged],
    }
    if any(reasons.values()):
        raise UserError("; ".join(f"{reason}: {', '.join(scripts)}" for reason, scripts in reasons.items() if scripts))


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks, in this order: read all, print, draw, write. A picture's error comes after all else."""
    from harness.reporting import make_reports, show, write_readme

    files = {path: load(path) for path in args.files}
    old = None if args.compare is None else load(args.compare)
    show(make_reports(files))
    faults = []
    for path, results in files.items():
        try:
            if path != STDIN:
                draw(path, results)
        except UserError as error:
            faults.append(error)
    if args.csv is not None:
        write_csv(args.csv, files)
    if args.readme:
        write_readme(README, files)
    if old is not None:
        compare(files[args.files[0]], old, args.compare, args.fail_above)
    if faults:
        raise faults[0]


def main(words: Sequence[str] | None = None) -> None:
    args = parse_args(words)
    try:
        run(args)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
