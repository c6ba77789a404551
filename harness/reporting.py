"""The whole report of a file or several as Markdown, and what of it goes into the README."""

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.files import as_link, as_word, shown, write_whole
from harness.machines import can_compare, describe_hardware, make_machines
from harness.results import NOTHING_SET, Results, Run
from harness.rows import Table, make_tables
from harness.statistics import LEVEL
from harness.tables import make_table, same_runs
from harness.verdict import describe_occasion, find_limits, find_warnings, make_sentence, make_verdict, say_refused

RESULTS_BEGIN = "<!-- results:begin -->"
RESULTS_END = "<!-- results:end -->"
SENTENCE_BEGIN = "<!-- sentence:begin -->"
SENTENCE_END = "<!-- sentence:end -->"
PICTURE = "Seconds of training"
EAGER = ("mnist_torch.py", "mnist_torch_mgpu.py")  # a variant beside them may be compiled
PICTURES = re.compile(r"(!\[Seconds of training[^]]*\]\([^)]*\)\n*)+")  # an earlier report called them otherwise


def describe(runs: Sequence[Run], runs_each: int | None) -> list[str]:
    """Return versions, hardware and settings, which are the same for all rows."""
    first = runs[0]
    versions = sorted({pair for run in runs for pair in run.versions})
    pythons = sorted({run.python_version for run in runs})
    days = sorted({run.date[:10] for run in runs})
    speeds = [run.sgemm_gflops for run in runs if run.sgemm_gflops]
    hardware = describe_hardware(first.machine)
    if speeds:
        hardware += f"; SGEMM {max(speeds):.0f} GFLOP/s a core"
    threads = sorted({run.threads for run in runs if run.threads is not None})
    settings = [
        first.data,
        f"{first.epochs} epoch{'s' if first.epochs > 1 else ''}",
        f"batch {first.batch_size} per device",
        f"threads {', '.join(map(str, threads))}" if threads else "",
        f"{runs_each} run{'s' if runs_each > 1 else ''} each" if runs_each else "",
        f"variables {first.machine.environment}" if first.machine.environment != NOTHING_SET else "",
        " to ".join(dict.fromkeys([days[0], days[-1]])),
    ]
    return [
        f"Versions: {', '.join(' '.join(pair) for pair in versions)}; Python {', '.join(pythons)}",
        f"Hardware: {hardware}",
        f"Settings: {'; '.join(filter(None, settings))}",
    ]


def explain(tables: Sequence[Table]) -> list[str]:
    """Return what the columns mean, of those that are there."""
    rows = [row for table in tables for row in table.rows]
    kinds = sorted({row.runs[0].usage.memory_kind for row in rows if row.memory})
    lines = ["seconds: exp of the script's mean of log(seconds), every round with equal weight"]
    if any(row.relative is not None and row.relative.low is not None for row in rows):
        lines.append(
            f"relative: to the fastest; intervals hold at {LEVEL * 100:.0f} % for the table (rounds as blocks, Tukey-Kramer)"
        )
        lines.append("rank: what cannot be told from the first of a rank shares it")
    lines.append("images/s: without each run's first epoch")
    if kinds:
        lines.append(f"GB: peak memory of all its processes ({', '.join(kinds)})")
    if any(row.gpu_memory for row in rows):
        lines.append("GPU GB: the most that was seen in a few looks, which may miss the peak")
    if any(row.against_one is not None for row in rows):
        lines.append(
            f"to one: its seconds over those on one device; intervals hold at {LEVEL * 100:.0f} % for all of these (Bonferroni)"
        )
    if eager := [row.label for row in rows if row.script in EAGER]:
        lines.append(f"PyTorch ({', '.join(eager)}) runs eager, and its scripts tell glibc to keep freed memory")
    return lines


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def make_report(results: Results, heading: str = "###", known: Collection[str] = ()) -> str:
    """Return a file's report: verdict, what limits it, machine, tables, what the columns mean.

    Of the last the known lines are left out: a report above this one has them.
    """
    tables = make_tables(results)
    runs_each = same_runs(tables)
    if any(row.refused for table in tables for row in table.rows):
        runs_each = None
    limits = [*find_limits(tables, results.runs), *say_refused(results)]
    parts = [make_verdict(tables), *find_warnings(tables, results.runs)]
    parts += [bullets(limits)] if limits else []
    parts.append(bullets(describe(results.runs, runs_each)))
    for table in tables:
        parts.append(f"{heading} {table.title[0].upper()}{table.title[1:]}")
        parts.append(make_table(table, with_runs=runs_each is None))
    lines = explain(tables)
    new = [line for line in lines if line not in known]
    parts.append(bullets([*new, "the other columns: as above"] if len(new) < len(lines) else new))
    return "\n\n".join(parts)


def make_reports(files: Mapping[Path, Results]) -> str:
    """Return the reports of one file or several, and at the end of several the tables by machine."""
    if len(files) == 1:
        return make_report(next(iter(files.values())))
    parts = [f"## {shown(path)}\n\n{make_report(results)}" for path, results in files.items()]
    return "\n\n".join([*parts, make_machines(files)])


def describe_picture(results: Results) -> str:
    """Return what a picture's metadata say of the data and the machine."""
    return "\n".join(describe(results.runs, None))


def replace_between(text: str, begin: str, end: str, new: str) -> str:
    """Return a text with new lines between two markers; ValueError if these are not there once each, in this order."""
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{new}{end}{after}"


def make_picture(name: str, results: Results) -> str:
    """Return the Markdown of a file's picture, which lies beside it; for who cannot see it, what it is of."""
    occasion = describe_occasion(results, make_tables(results))
    return f"![{PICTURE}: {occasion}]({as_link(name.removesuffix('.json'))}.png)"


def make_block(files: Mapping[str, Results], pictures: Mapping[str, str]) -> str:
    """Return what stands between the README's markers of results: of several files each under a heading of its own."""
    several = len(files) > 1
    parts: list[str] = []
    known: set[str] = set()
    for name, results in files.items():
        tables = make_tables(results)
        if several:
            parts.append(f"### {describe_occasion(results, tables)}")
        parts.append(make_report(results, heading="####" if several else "###", known=known))
        known.update(explain(tables))
        parts.append(f"[Result file]({as_link(name)}), shown by `uv run report.py {as_word(name)}`.")
        parts += [pictures[name]] if name in pictures else []
    paths = {Path(name): results for name, results in files.items()}
    if several and can_compare(paths):
        parts.append(make_machines(paths))
    return "\n\n".join(["", *parts, ""])


def edit_readme(text: str, files: Mapping[str, Results]) -> str:
    """Return the README's text with the results of files, by their names from its folder; ValueError without markers."""
    pictures = {name: make_picture(name, results) for name, results in files.items()}
    before, marker, rest = text.partition(RESULTS_BEGIN)
    first_name = next(iter(files))
    before, moved = PICTURES.subn(lambda _: f"{pictures[first_name]}\n\n", before, count=1)
    if moved:  # the first file's picture stands above the block
        del pictures[first_name]
    block = make_block(files, pictures)
    text = replace_between(before + marker + rest, RESULTS_BEGIN, RESULTS_END, block)
    if SENTENCE_BEGIN not in text and SENTENCE_END not in text:
        return text
    first = files[first_name]
    return replace_between(text, SENTENCE_BEGIN, SENTENCE_END, f"\n{make_sentence(first, make_tables(first))}\n")


def write_readme(readme: Path, files: Mapping[Path, Results]) -> None:
    """Put sentence, verdict, tables and pictures of result files between the README's markers; UserError if that cannot be."""
    folder = readme.resolve().parent
    try:
        names = {path.resolve().relative_to(folder).as_posix(): results for path, results in files.items()}
        text = readme.read_bytes().decode()
        newline = "\r\n" if "\r\n" in text else "\n"
        text = edit_readme(text.replace("\r\n", "\n"), names)
        write_whole(readme, text.replace("\n", newline).encode())
    except (OSError, ValueError) as error:  # not there, not text, markers not once each, a result file elsewhere
        what = ", ".join(shown(path) for path in files)
        raise UserError(f"cannot put {what} into {shown(readme)}: {shown(error)}") from None


def show(text: str) -> None:
    """Print on stdout; nobody may be reading, and the terminal may not know all characters."""
    if sys.stdout is None:
        return
    if "utf" not in (sys.stdout.encoding or "utf-8").lower():
        text = text.replace("±", "+-").replace("–", "-").replace("…", "...").encode("ascii", "replace").decode()
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
