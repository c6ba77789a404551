"""Rows as sentences: what is fastest by how much, and what limits that."""

import datetime
from collections.abc import Sequence

from harness.results import Results, Run
from harness.rows import Row, Table, cells_of
from harness.statistics import (
    MOST_ROUNDS,
    SPREAD_ROUNDS,
    RoundEffect,
    find_round_effects,
    rounds_to_tell,
)
from harness.tables import format_ratio


def join(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def full_name(row: Row) -> str:
    """Return a script's name without its ending, as a person looks for it."""
    return row.script.removesuffix(".py")


def names(rows: Sequence[Row]) -> str:
    return join([full_name(row) for row in rows])


def say_ranked(table: Table) -> str:
    """Return who is fastest, who cannot be told from it, who is next and who is last."""
    ranked = [row for row in table.rows if row.rank is not None]
    first = [row for row in ranked if row.rank == 1]
    following = [row for row in ranked if row.rank == 2]
    text = f"the fastest is {names(first)} with {first[0].seconds:.2f} s"
    if len(first) > 1:
        text = f"{names(first)} cannot be told apart, {first[0].seconds:.2f} to {first[-1].seconds:.2f} s"
    if not following:
        return text
    text = f"{text}; {say_following(following)}"
    if len(first) > 1:
        text += f" as {full_name(first[0])}"
    return text if ranked[-1].rank == 2 else f"{text}; last is {full_name(ranked[-1])}, {times(ranked[-1])} as long"


def say_following(rows: Sequence[Row]) -> str:
    """Return who comes after the fastest: a script, or several that cannot be told from the first of them."""
    if len(rows) == 1:
        return f"next is {full_name(rows[0])}, {times(rows[0])} as long"
    first, last = rows[0].relative, rows[-1].relative
    ratios = f"{format_ratio(first)} to {times(rows[-1])}" if first and last else ""
    return f"next are {names(rows)}, which cannot be told apart, {ratios} as long"


def times(row: Row) -> str:
    """Return a row's ratio to the fastest, in words."""
    return f"{format_ratio(row.relative)} times" if row.relative is not None else ""


def say_unranked(table: Table) -> str:
    """Return the plain figures where there is no interval yet, and what is missing."""
    compared = [row for row in table.rows if row.is_reference or (row.relative is not None and row.flag is None)]
    if len(compared) == 1:
        return f"{full_name(compared[0])} took {compared[0].seconds:.2f} s, with no other to compare"
    text = f"the shortest is {compared[0].seconds:.2f} s, {full_name(compared[0])}"
    if compared[1].relative is not None:
        text += f"; next is {full_name(compared[1])}, {format_ratio(compared[1].relative)} times as long"
    return f"{text}; no ranks and no intervals yet, as these need two rounds that share two scripts"


def say_table(table: Table) -> str:
    """Return a table's verdict."""
    flagged = [row for row in table.rows if row.flag is not None]
    reasons = [f"{full_name(row)} has learnt something else ({row.flag}) and is not compared" for row in flagged]
    alone = [row for row in table.rows if row.flag is None and row.relative is None and not row.is_reference]
    if not table.analysis.order:
        parts = ["no script has learnt what it should"]
    elif table.analysis.rank:
        parts = [say_ranked(table)]
    else:
        parts = [say_unranked(table)]
    parts += reasons
    if alone:
        parts.append(f"{names(alone)} shared no rounds with the others, so no ratio says how they compare")
    return f"On {table.title}: {'; '.join(parts)}."


def say_more_rounds(table: Table) -> str:
    """Return how many rounds would tell the first two apart; nothing if they are told apart or are not compared."""
    rounds = rounds_to_tell(table.analysis)
    if rounds is None:
        return ""
    number = f"more than {MOST_ROUNDS:,}" if rounds > MOST_ROUNDS else f"{rounds:,}"
    first, second = (name.removesuffix(".py") for name in table.analysis.order[:2])
    have = len(table.analysis.fit.rounds)
    return f"If {first} and {second} differ as measured, {number} rounds would tell them apart; these are {have}."


def say_against_one(tables: Sequence[Table]) -> str:
    """Return what several devices take in place of one, from the smallest ratio to the largest."""
    sentences = []
    for kind in ("cpu", "gpu"):
        rows = [row for table in tables if table.device == kind for row in table.rows]
        ratios = {
            full_name(x): x.against_one for x in rows if x.against_one is not None and x.against_one.low is not None
        }
        if not ratios:
            continue
        ends = dict.fromkeys(
            [min(ratios, key=lambda name: ratios[name].ratio), max(ratios, key=lambda name: ratios[name].ratio)]
        )
        each = [f"{format_ratio(ratios[name])} ({name})" for name in ends]
        what = "Several devices on one CPU share its cores and take" if kind == "cpu" else "Several GPUs take"
        sentences.append(f"{what} {' to '.join(each)} times as long as one.")
    return " ".join(sentences)


def make_verdict(tables: Sequence[Table]) -> str:
    """Return the paragraph that a report begins with."""
    parts = [part for table in tables for part in (say_table(table), say_more_rounds(table))]
    return " ".join(part for part in [*parts, say_against_one(tables)] if part)


def say_round(effect: RoundEffect, rounds: int) -> str:
    """Return what the fit found about a round."""
    percent = abs(effect.ratio - 1) * 100
    word = "slower" if effect.ratio > 1 else "faster"
    others = "the other" if rounds == 2 else "the others"
    where = "in all scripts" if effect.all_scripts else "on average over the scripts"
    return f"round {effect.round} was {percent:.0f} % {word} than {others} {where}; the ratios do not contain it"


def find_limits(tables: Sequence[Table], runs: Sequence[Run]) -> list[str]:
    """Return what limits the verdict, in short lines."""
    found = []
    for kind in dict.fromkeys(table.device for table in tables):
        some = cells_of([run for run in runs if run.device == kind])
        rounds = len({cell.round for cell in some})
        found += [say_round(effect, rounds) for effect in find_round_effects(some)]
    if wide := [row for table in tables for row in table.rows if row.wide]:
        found.append(f"{names(wide)} spread more than the others: their intervals are from their own differences")
    if any(
        table.analysis.rank and len(table.analysis.fit.scripts) > 2 and not table.analysis.spread_checked
        for table in tables
    ):
        found.append(
            f"whether a script spreads more than the others was not checked: that needs {SPREAD_ROUNDS} rounds"
        )
    if disturbed := [f"{full_name(row)} {row.disturbed}" for table in tables for row in table.rows if row.disturbed]:
        found.append(f"\\*: something else used the CPUs before or during runs: {', '.join(disturbed)}")
    return found


def find_warnings(tables: Sequence[Table], runs: Sequence[Run]) -> list[str]:
    """Return what a reader must not miss, in bold."""
    data = runs[0].data
    found = []
    if not data.startswith("MNIST"):
        found.append(f"**{data}: the accuracies say nothing about MNIST**")
    slow = [row for table in tables for row in table.rows if row.device == "cpu" and row.runs[0].machine.gpu != "none"]
    if slow:
        gpu = slow[0].runs[0].machine.gpu
        advice = (
            "`uv run` brings CPU packages: install the GPUs' and add `--device gpu --python mx=PATH` (README, GPUs)."
        )
        found.append(f"**WARNING: the machine has {gpu}, but these ran on its CPU: {names(slow)}.** {advice}")
    return found


def say_refused(results: Results) -> list[str]:
    """Return which runs were refused and why."""
    lines = [f"{x.script.removesuffix('.py')} round {x.round} ({x.reason})" for x in results.refused]
    return [f"refused, as their figures are none: {'; '.join(lines)}"] if lines else []


def format_day(date: str) -> str:
    """Return a date as it is written in a sentence; what is none stays as it is."""
    try:
        day = datetime.date.fromisoformat(date[:10])
    except ValueError:
        return date[:10]
    return f"{day.day} {day:%B %Y}"


def describe_occasion(results: Results, tables: Sequence[Table]) -> str:
    """Return on what and when a file's first table was measured: epochs and data; GPU or CPU; day."""
    run = results.runs[0]
    cores = run.machine.cores or run.machine.cpus_used
    where = (
        run.machine.gpu
        if tables[0].device == "gpu"
        else f"{run.machine.cpu_model_name}, {cores} core{'s' if cores > 1 else ''}"
    )
    epochs = f"{run.epochs} epoch{'s' if run.epochs > 1 else ''} of {run.data}"
    return f"{epochs}; {where}; {format_day(max(run.date for run in results.runs))}"


def make_sentence(results: Results, tables: Sequence[Table]) -> str:
    """Return one sentence: which script is fastest by how much, on what, of which date."""
    return f"{say_table(tables[0]).removesuffix('.')} ({describe_occasion(results, tables)})."
