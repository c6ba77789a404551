"""Rows as Markdown: columns, figures with their errors, tables that fit the width of a README."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tabulate

from harness.rows import Row, Table
from harness.statistics import Estimate

tabulate.MIN_PADDING = 0  # a column is as wide as what stands in it
LONGEST_LABEL = 17  # characters: what fits beside the other columns in the 838 px of a README on GitHub
LOPSIDED = 0.02  # of a ratio: where an interval reaches further up than down by more, both ends are shown


def format_ratio(estimate: Estimate) -> str:
    """Return a ratio with its interval: 1.03 ± 0.02, or 1.60 (1.00–2.56) if that is lopsided, or 1.12 without one.

    The error is rounded up, so that it is never 0.00; where two decimals would hide that the interval excludes 1, there are three.
    """
    ratio, low, high = estimate.ratio, estimate.low, estimate.high
    if low is None or high is None:
        return f"{ratio:.2f}"
    if high - ratio - (ratio - low) > LOPSIDED:
        return f"{ratio:.2f} ({low:.2f}–{high:.2f})"
    for digits in (2, 3):
        error = max(math.ceil(round((high - low) / 2 * 10**digits, 6)), 1) / 10**digits
        if not estimate.told_apart or abs(round(ratio, digits) - 1) > error:
            break
    return f"{ratio:.{digits}f} ± {error:.{digits}f}"


def format_percent(part: float) -> str:
    """Return a half-width as it is said: ± 3.6 %."""
    return f"± {max(part * 100, 0.1):.1f} %" if part < 10 else "± more than 1000 %"


def shorten(label: str) -> str:
    """Return a label that leaves room for the other columns."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


@dataclass(frozen=True)
class Column:
    """A column: its header, and what stands in it for a row."""

    header: str
    cell: Callable[[Row], str]


def format_relative(row: Row) -> str:
    if row.is_reference:
        return "1.00"
    return "" if row.relative is None else format_ratio(row.relative)


def format_seconds(row: Row) -> str:
    return f"{row.seconds:,.2f}" + ("*" if row.disturbed else "")


def format_gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}" if count else ""


COLUMNS = (
    Column("script", lambda row: shorten(row.label)),
    Column("seconds", format_seconds),
    Column("relative", format_relative),
    Column("rank", lambda row: "" if row.rank is None else str(row.rank)),
    Column("images/s", lambda row: f"{row.rate:,.0f}"),
    Column("GB", lambda row: format_gigabytes(row.memory)),
    Column("GPU GB", lambda row: format_gigabytes(row.gpu_memory)),
    Column("accuracy", lambda row: f"{row.accuracy:.4f}"),
    Column("to one", lambda row: "" if row.against_one is None else format_ratio(row.against_one)),
)
ON_GPUS = (
    Column("speedup", lambda row: "" if row.speedup is None else f"{row.speedup:.2f}"),
    Column("eff.", lambda row: "" if row.efficiency is None else f"{row.efficiency:.0%}"),
)
RUNS = Column("runs", lambda row: str(len(row.runs)))
REFUSED = Column("refused", lambda row: str(row.refused) if row.refused else "")


def escape(text: str) -> str:
    """Return a text that ends no cell of a Markdown table and is no markup in it."""
    return text.replace("|", "/").replace("*", "\\*").replace("<", "\\<").replace("`", "'")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without empty columns; all but the first are right-aligned."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    cells = [[escape(row[i]) for i in kept] for row in rows]
    align = ["left", *["right"] * (len(kept) - 1)]
    return str(tabulate.tabulate(cells, [header[i] for i in kept], "pipe", colalign=align, disable_numparse=True))


def same_runs(tables: Sequence[Table]) -> int | None:
    """Return the number of runs that all rows have, or None if they differ: then it stands in the tables."""
    counts = {len(row.runs) for table in tables for row in table.rows}
    return counts.pop() if len(counts) == 1 else None


def make_table(table: Table, with_runs: bool) -> str:
    """Return a table as Markdown."""
    script, *others = COLUMNS
    columns = [script, RUNS, REFUSED, *others] if with_runs else [script, REFUSED, *others]
    if table.device == "gpu":
        columns += ON_GPUS
    return markdown(
        [column.header for column in columns], [[column.cell(row) for column in columns] for row in table.rows]
    )
