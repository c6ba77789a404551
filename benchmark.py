# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "filelock==4.3.1",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pooch==1.9.0",
#     "psutil==7.2.2",
#     "pyperf==2.10.0",
#     "rich==15.0.0",
#     "scipy==1.17.1",
#     "tabulate==0.10.0",
# ]
# ///
"""Run the MNIST scripts, keep what they print in a pyperf file, and show it as report.py does.

    uv run benchmark.py                                       # all but PyTorch's, 10 epochs: more than an hour on two cores
    uv run benchmark.py --repeats 3 --output results/x.json   # three rounds; started again it completes what is missing
    uv run benchmark.py --epochs 1 --minutes 60               # as many rounds as fit into an hour

Every run is a process in the script's own environment, made by uv. Round r has the seed 42 + r - 1 and its own order.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from harness import startup

if __name__ == "__main__":
    startup.prepare()

import argparse
import datetime
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.files import as_word, shown

if TYPE_CHECKING:
    from harness.runner import Job, Session

HERE = Path(__file__).resolve().parent
EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
DEVICES = 2  # of parallel scripts
TIMEOUT = 7200  # seconds for a run
LARGEST = 100_000  # of a number on the command line
KINDS = ("mx", "tf", "torch")  # of environments


def whole_number(text: str) -> int:
    """Return a whole number from 1 on, for argparse."""
    number = int(text)
    if not 1 <= number <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not 1 to {LARGEST}")
    return number


def minutes(text: str) -> float:
    """Return a number of minutes, for argparse."""
    number = float(text)
    if not math.isfinite(number) or not 0 < number <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not above 0 and at most {LARGEST}")
    return number


def interpreter(text: str) -> tuple[str, Path]:
    """Return kind and path of an interpreter, for argparse."""
    kind, _, path = text.partition("=")
    if kind not in KINDS or not path:
        raise argparse.ArgumentTypeError("it takes mx=PATH, tf=PATH or torch=PATH")
    try:
        return kind, Path(path).expanduser().absolute()
    except RuntimeError as error:  # no such home
        raise argparse.ArgumentTypeError(f"{shown(path)}: {error}") from None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("scripts", nargs="*", metavar="SCRIPT", help="default: all mnist_*.py beside this file but PyTorch's")
    add("--all", action="store_true", help="PyTorch's too, whose packages are 5.2 GB")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--repeats", type=whole_number, metavar="R", help="rounds that the file is to have: 1")
    how_many.add_argument("--minutes", type=minutes, metavar="N", help="as many rounds as fit; the first in any case")
    add("--epochs", type=whole_number, default=EPOCHS, metavar="N", help="%(default)s")
    add("--batch-size", type=whole_number, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    add("--data-dir", type=Path, metavar="DIR", help="with mnist.npz: $MNIST_DIR, else data")
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    add("--devices", type=whole_number, default=DEVICES, metavar="N", help="of the parallel scripts: %(default)s")
    add("--python", type=interpreter, action="append", default=[], metavar="mx|tf|torch=PATH", help="instead of uv's")
    add("--timeout", type=whole_number, default=TIMEOUT, metavar="S", help="seconds for one run: %(default)s")
    add("--output", type=Path, metavar="FILE", help="completes it if it exists: results/HOST-DATE.json")
    return parser


def find_script(name: str) -> Path:
    """Return a script by its path from here or its name beside this file; ValueError if there is none that can run."""
    for path in (Path(name), HERE / name):
        if path.is_file():
            if not path.name.isprintable() or path.suffix != ".py":
                raise ValueError(f"{shown(name)} is no script that can be run: its name")
            return path.resolve()
    raise ValueError(f"no such script: {shown(name)}")


def find_scripts(names: Sequence[str], with_torch: bool) -> tuple[Path, ...]:
    """Return the scripts that are named, or all beside this file; ValueError if one is missing or named twice."""
    if names:
        found = [find_script(name) for name in names]
    else:
        found = sorted(
            path for path in HERE.glob("mnist_*.py") if with_torch or not path.name.startswith("mnist_torch")
        )
    if not found:
        raise ValueError(f"no such script: {HERE / 'mnist_*.py'}")
    if len({path.name for path in found}) < len(found):
        raise ValueError("two scripts of one name")
    return tuple(found)


def default_output() -> Path:
    now = datetime.datetime.now()
    return HERE / "results" / f"{platform.node()}-{now:%Y-%m-%d-%H%M%S}.json"


def parse_args(words: Sequence[str] | None = None) -> "Job":
    """Return what the command line asks for; what it cannot ask for ends with usage and status 2."""
    parser = make_parser()
    args = parser.parse_args(words)
    output = args.output or default_output()
    if output.suffix != ".json":  # the picture lies beside it
        parser.error(f"--output {shown(output)} has to end with .json")
    try:
        output = output.expanduser()
        scripts = find_scripts(args.scripts, args.all)
        data_dir = (args.data_dir or Path(os.environ.get("MNIST_DIR") or HERE / "data")).expanduser().absolute()
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))

    from harness.runner import Job

    return Job(
        scripts=scripts,
        repeats=args.repeats or 1,
        minutes=args.minutes,
        epochs=args.epochs,
        batch_size=args.batch_size,
        devices=args.devices,
        device=args.device,
        data_dir=data_dir,
        pythons=dict(args.python),
        timeout=args.timeout,
        output=Path(os.path.realpath(output)),  # a link stays a link
        stand_in_program=HERE / "synthetic_mnist.py",
    )


def show_report(session: "Session") -> bool:
    """Print the report of what there is, and draw the picture beside the file; return whether that was possible."""
    from harness.picture import save_picture
    from harness.reporting import describe_picture, make_report, show
    from harness.rows import make_tables

    found = session.results
    if not found.runs:
        return True
    show(make_report(found))
    picture = session.job.output.with_suffix(".png")
    try:
        save_picture(picture, make_tables(found), found.runs, describe_picture(found))
    except OSError as error:
        session.progress.say(f"error: cannot write {shown(picture)}: {error.strerror or error}")
        return False
    return True


def work(session: "Session") -> None:
    """Do the job, and leave no process and no file half written, whatever ends it."""
    from harness.runner import execute, lock

    with lock(session.job.output):
        try:
            execute(session)
        finally:
            session.progress.close()
            session.family.end()
            if not session.saved:
                session.save()  # an interruption or a full disk may have come between


def run(job: "Job") -> int:
    """Do the job, show what came of it, and return the exit status."""
    from harness.processes import Family
    from harness.progress import make_progress
    from harness.runner import Session
    from harness.signals import Stop, Stopped

    session = Session(job, make_progress(), Stop(), Family())
    try:
        session.stop.install()
        return carry_out(session)
    except Stopped as stopped:  # while the last words were said
        return stopped.status


def carry_out(session: "Session") -> int:
    """Do a session's job, show what came of it, and return the exit status. Stopped: a signal came while that was shown."""
    from harness.signals import Stopped

    status = 0
    try:
        work(session)
    except Stopped as stopped:  # from now on signals are ignored
        status = stopped.status
        session.progress.close()
        session.family.end()
        session.progress.say(
            f"interrupted: the same command with --output {as_word(session.job.output)} completes what is missing"
        )
    shown_whole = show_report(session)
    for word, found in (("failed", session.failures), ("refused", session.refused)):
        if found:
            session.progress.say(f"error: {word}: {'; '.join(f'{name}: {reason}' for name, reason in found.items())}")
    complete = session.saved and shown_whole and not session.failures and not session.refused
    return status or int(not complete)


def main(words: Sequence[str] | None = None) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for SGEMM on one core; the scripts get the user's variables
    job = parse_args(words)
    try:
        sys.exit(run(job))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
