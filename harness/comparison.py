"""Two files, old and new: which scripts are slower or faster. They share no rounds, so each script is tested for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import geometric_mean, median

from harness.errors import UserError
from harness.files import shown
from harness.results import Results, Run
from harness.rows import flag, group, label_of
from harness.statistics import COMPARED_RUNS, Estimate, welch
from harness.tables import markdown, shorten


@dataclass(frozen=True)
class Change:
    """A script in both files."""

    script: str
    old: float  # seconds, geometric mean
    new: float  # seconds, geometric mean
    estimate: Estimate  # of new / old
    flagged: bool  # whether it has learnt something else than the others of its table, in either file

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.flagged:
            return "none: it has learnt something else"
        if self.estimate.low is None:
            return f"none: {COMPARED_RUNS} runs each are needed"
        if self.estimate.above:
            return "slower"
        return "faster" if self.estimate.below else "no difference"

    @property
    def percent(self) -> str:
        """The change as it is shown."""
        text = f"{(self.estimate.ratio - 1) * 100:+.1f} %"
        if self.estimate.low is None or self.estimate.high is None:
            return text
        return f"{text} ({(self.estimate.low - 1) * 100:+.1f} to {(self.estimate.high - 1) * 100:+.1f})"


def check_alike(old: Run, new: Run, old_path: PurePath) -> None:
    """Raise UserError if two runs of one script did not do the same work."""
    for key in ("epochs", "batch_size", "data", "data_sha256", "train_images", "devices", "device", "threads"):
        here, there = getattr(new, key), getattr(old, key)
        if None not in (here, there) and here != there:
            raise UserError(f"{key} of {new.script} is {here} here, {there} in {shown(old_path)}: cannot compare")


def find_flagged(results: Results) -> dict[str, str]:
    """Return the scripts of a file that have learnt something else than the others of their table."""
    return {script: reason for runs in group(results.runs).values() for script, reason in flag(runs).items()}


def compare(old: Results, new: Results, old_path: PurePath) -> list[Change]:
    """Return what has changed of every script that both files have, in the new file's order; UserError if nothing compares."""
    there = {script: [run for run in old.runs if run.script == script] for script in old.scripts()}
    here = {script: [run for run in new.runs if run.script == script] for script in new.scripts()}
    both = [script for script in here if script in there]
    if not both:
        raise UserError(f"{shown(old_path)} has none of these scripts")
    flagged = find_flagged(old) | find_flagged(new)
    changes = []
    for script in both:
        check_alike(there[script][0], here[script][0], old_path)
        before, after = ([run.seconds for run in runs[script]] for runs in (there, here))
        means = geometric_mean(before), geometric_mean(after)
        changes.append(Change(script, *means, welch(before, after), script in flagged))
    return changes


def make_comparison(changes: Sequence[Change], old: Results, new: Results, old_path: PurePath) -> str:
    """Return the comparison as Markdown: first how all scripts moved together."""
    alike = [change for change in changes if not change.flagged] or changes
    together = (median(change.estimate.ratio for change in alike) - 1) * 100
    rows = [[shorten(label_of(x.script)), f"{x.old:.2f}", f"{x.new:.2f}", x.percent, x.verdict] for x in changes]
    alone = sorted(set(old.scripts()) ^ set(new.scripts()))
    scripts = "script" if len(alike) == 1 else f"median of {len(alike)} scripts"
    parts = [
        f"### Compared with {shown(old_path)}",
        f"All scripts together: {together:+.1f} % ({scripts}); what moves all alike is the machine's or the data's, not a script's.",
        markdown(["script", "old (s)", "new (s)", "change", "verdict"], rows),
        "- change: with its 95 % interval by Welch's test, every script for itself",
        f"- only in one of the files: {', '.join(alone) or 'none'}",
    ]
    return "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:])


def check_enough_runs(changes: Sequence[Change]) -> None:
    """Raise UserError if a script has too few runs for --fail-above."""
    for change in changes:
        if change.estimate.low is None:
            raise UserError(f"--fail-above needs {COMPARED_RUNS} runs of {change.script} in both files")


def find_slower(changes: Sequence[Change], percent: float) -> list[str]:
    """Return the scripts that are slower by more than so many percent, by the lower end of the interval."""
    measured = [x for x in changes if x.estimate.low is not None and not x.flagged]
    return [x.script for x in measured if x.estimate.low is not None and (x.estimate.low - 1) * 100 > percent]
