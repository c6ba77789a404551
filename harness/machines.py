"""The same scripts on several machines: one table per number of devices, ratios only. Seconds of machines are never averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from harness.files import shown
from harness.results import Machine, Results
from harness.rows import Row, Table, label_of, make_tables
from harness.statistics import pair_of
from harness.tables import format_ratio, markdown, shorten


@dataclass(frozen=True)
class Column:
    """A machine in the comparison: one file, its results and tables."""

    letter: str
    path: Path
    results: Results
    tables: tuple[Table, ...]


def describe_hardware(machine: Machine) -> str:
    """Return a machine in one line."""
    cores = machine.cores or machine.cpus_used
    text = f"{machine.cpu_model_name}, {cores} core{'s' if cores > 1 else ''}"
    if machine.cores is not None and machine.cpus_used != machine.cores:
        text += f", {machine.cpus_used} CPUs"
    if machine.cpu_quota is not None:
        text += f", a quota of {machine.cpu_quota:g} CPUs"
    gpu = "no GPU" if machine.gpu == "none" else f"{machine.gpu}, driver {machine.gpu_driver}"
    return f"{text}; {machine.memory} memory; {gpu}; {machine.os}, {machine.platform}"


def find_obstacle(first: Results, other: Results) -> str | None:
    """Return why two files cannot stand in one table, or None."""
    a, b = first.runs[0], other.runs[0]
    for what, here, there in (
        ("data", a.data_sha256 or a.data, b.data_sha256 or b.data),
        ("epochs", a.epochs, b.epochs),
        ("batch", a.batch_size, b.batch_size),
    ):
        if here != there:
            return f"its {what} {'are' if what != 'batch' else 'is'} another: {there!s:.20}, not {here!s:.20}"
    if not set(first.scripts()) & set(other.scripts()):
        return "it has none of these scripts"
    runs_on = [{(run.script, run.devices, run.device) for run in results.runs} for results in (first, other)]
    if not runs_on[0] & runs_on[1]:
        return "its scripts ran on other devices"
    return find_changed(first, other)


def find_changed(first: Results, other: Results) -> str | None:
    """Return which scripts two files have in other versions, or None."""
    hashes = {run.script: run.sha256 for run in first.runs}
    changed = sorted({run.script for run in other.runs if hashes.get(run.script, run.sha256) != run.sha256})
    return f"other versions of {', '.join(changed)}" if changed else None


def choose(files: Mapping[Path, Results]) -> tuple[list[Column], list[str]]:
    """Return the files that can stand beside the first one, and for each other one a line that says why not."""
    first = next(iter(files.values()))
    columns: list[Column] = []
    left_out = []
    for path, results in files.items():
        obstacle = find_obstacle(first, results) or next(
            (changed for column in columns if (changed := find_changed(column.results, results))), None
        )
        if obstacle is None:
            letter = ascii_uppercase[len(columns)] if len(columns) < len(ascii_uppercase) else str(len(columns))
            columns.append(Column(letter, path, results, make_tables(results)))
        else:
            left_out.append(f"{shown(path)} is not in these tables: {obstacle}")
    return columns, left_out


def can_compare(files: Mapping[Path, Results]) -> bool:
    """Tell whether at least two files are of the same work: data, epochs, batch and scripts."""
    return len(choose(files)[0]) > 1


def format_cell(row: Row | None) -> str:
    """Return what stands for a script on a machine."""
    if row is None:
        return ""
    if row.is_reference:
        return "1.00"
    if row.flag is not None or row.relative is None:
        return "not compared"
    return format_ratio(row.relative)


def find_table(column: Column, devices: int, kind: str) -> Table | None:
    """Return a machine's table of a number and kind of devices."""
    return next((table for table in column.tables if (table.devices, table.device) == (devices, kind)), None)


def find_reversals(tables: Mapping[str, Table]) -> list[str]:
    """Return the pairs of scripts whose order differs: both intervals exclude 1, in opposite directions."""
    found = []
    scripts = sorted({script for table in tables.values() for script in table.analysis.order})
    for i, a in enumerate(scripts):
        for b in scripts[i + 1 :]:
            pairs = {m: pair_of(t.analysis, a, b) for m, t in tables.items() if {a, b} <= set(t.analysis.order)}
            slower = [machine for machine, pair in pairs.items() if pair.above]
            faster = [machine for machine, pair in pairs.items() if pair.below]
            if slower and faster:
                first, second = label_of(a), label_of(b)
                found.append(
                    f"{first} is faster than {second} on {', '.join(faster)} and slower on {', '.join(slower)}"
                )
    return found


def order_of(script: str, tables: Mapping[str, Table]) -> tuple[float, str]:
    """Return what the rows are sorted by: the mean of the ratios, which are without unit."""
    ratios = [
        t.analysis.seconds[script] / t.analysis.seconds[t.analysis.order[0]]
        for t in tables.values()
        if script in t.analysis.order
    ]
    return (sum(ratios) / len(ratios) if ratios else float("inf"), script)


def make_machine_table(columns: Sequence[Column], devices: int, kind: str) -> str:
    """Return the table of one number and kind of devices, and below it where the order differs."""
    tables = {column.letter: t for column in columns if (t := find_table(column, devices, kind)) is not None}
    rows_of = {letter: {row.script: row for row in table.rows} for letter, table in tables.items()}
    scripts = sorted(
        {script for rows in rows_of.values() for script in rows}, key=lambda script: order_of(script, tables)
    )
    cells = [[shorten(label_of(s)), *(format_cell(rows_of[letter].get(s)) for letter in tables)] for s in scripts]
    title = f"{'One device' if devices == 1 else f'{devices} devices'}, {kind.upper()}, by machine"
    differing = find_reversals(tables)
    told = (
        f"The order differs: {'; '.join(differing)}."
        if differing
        else "No two scripts are told apart in opposite orders."
    )
    return f"### {title}\n\n{markdown(['script', *tables], cells)}\n\n{told}"


def make_machines(files: Mapping[Path, Results]) -> str:
    """Return the section of several machines, or why there is none."""
    columns, left_out = choose(files)
    lines = [f"- {c.letter}: {describe_hardware(c.results.runs[0].machine)} ({shown(c.path.name)})" for c in columns]
    lines += [f"- {line}" for line in left_out]
    keys = dict.fromkeys((table.devices, table.device) for column in columns for table in column.tables)
    parts = ["## By machine", "Ratios to each machine's fastest; intervals at 95 % for each table.", "\n".join(lines)]
    for devices, kind in sorted(keys, key=lambda key: (key[1], key[0])):
        if sum(find_table(column, devices, kind) is not None for column in columns) > 1:
            parts.append(make_machine_table(columns, devices, kind))
    return "\n\n".join(parts)
