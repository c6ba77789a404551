"""Rows as Markdown: columns, figures with their errors, tables that fit the width of a README."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tabulate

from harness.rows import Row, Table
from harness.statistics import Estimate

tabulate.MIN_PADDING = 0  # a column is as wide as what stands in it
LONGEST_LABEL = 17  # characters: what fits beside the other columns in the 838 px of a README on GitHub
README_PX = 838  # of a README on GitHub
FONT_PX = 16  # of GitHub's tables
PADDING_PX = 27  # of a column: 13 on both sides and a border
BOLD = 1.08  # a header's width in place of a cell's
# Widths of characters in Noto Sans, rounded up, in parts of the font's size; GitHub's other fonts are narrower
EM = (
    dict.fromkeys(" .,:;'!|ijl", 0.27) | dict.fromkeys("()[]/-frt", 0.38) | {"_": 0.45} | dict.fromkeys("mwMW%…@", 0.94)
)
EM_OTHERS = 0.59
DISPENSABLE = ("images/s", "GB", "GPU GB", "speedup")  # columns that give way where a table is too wide, in this order
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


def estimate_px(text: str) -> float:
    """Return how wide a text is in a table on GitHub, roughly and rather too wide."""
    return sum(EM.get(character, EM_OTHERS) for character in text) * FONT_PX


def fill(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Return the columns in which something stands."""
    return [column for column in columns if any(column.cell(row) for row in rows)]


def estimate_table_px(columns: Sequence[Column], rows: Sequence[Row]) -> float:
    """Return how wide a table is."""
    total = 1.0
    for column in columns:
        cells = [estimate_px(column.cell(row)) for row in rows]
        total += max(*cells, estimate_px(column.header) * BOLD) + PADDING_PX
    return total


def choose_columns(table: Table, with_runs: bool) -> tuple[list[Column], list[str]]:
    """Return the columns that fit into a README, and the headers of those that do not."""
    script, *others = COLUMNS
    columns = [script, RUNS, REFUSED, *others] if with_runs else [script, REFUSED, *others]
    if table.device == "gpu":
        columns += ON_GPUS
    columns = fill(columns, table.rows)
    left_out: list[str] = []
    for header in DISPENSABLE:
        if estimate_table_px(columns, table.rows) <= README_PX:
            break
        if header in [column.header for column in columns]:
            left_out.append(header)
            columns = [column for column in columns if column.header != header]
    return columns, left_out


def make_table(table: Table, with_runs: bool) -> str:
    """Return a table as Markdown, and below it which columns found no room."""
    columns, left_out = choose_columns(table, with_runs)
    rows = [[column.cell(row) for column in columns] for row in table.rows]
    text = markdown([column.header for column in columns], rows)
    return f"{text}\n\nWithout room here: {', '.join(left_out)}." if left_out else text
