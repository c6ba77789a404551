"""Which runs, in which order, and how long they take."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from harness.results import Machine, Results, Run
from harness.rows import api_of

SEED = 42  # of the first round; round r has SEED + r - 1
EPOCH_FLOP = 60_000 * 72e6  # operations of an epoch: 24.0 MFLOP forward an image, three times that in training
EFFICIENCY = 0.5  # of SGEMM's speed, that a script reaches, roughly: to estimate the time before anything ran
AROUND = 10.0  # seconds of a process that are no training: imports, loading, evaluation, waiting


@dataclass(frozen=True)
class Round:
    """The scripts of a round that are not in the file yet, in their order."""

    number: int  # from 1
    scripts: tuple[Path, ...]

    @property
    def seed(self) -> int:
        return SEED + self.number - 1


def order_of(scripts: Sequence[Path], number: int) -> list[Path]:
    """Return the scripts in the order of a round: another one in each, the same whenever it is asked."""
    return random.Random(SEED + number - 1).sample(sorted(scripts), len(scripts))


def plan_round(scripts: Sequence[Path], number: int, results: Results) -> Round:
    """Return what a round is still to run."""
    have = {(run.script, run.round) for run in results.runs}
    missing = [script for script in order_of(scripts, number) if (script.name, number) not in have]
    return Round(number, tuple(missing))


def plan_rounds(scripts: Sequence[Path], repeats: int, results: Results) -> list[Round]:
    """Return the rounds in which something is missing."""
    rounds = [plan_round(scripts, number, results) for number in range(1, repeats + 1)]
    return [one for one in rounds if one.scripts]


@dataclass(frozen=True)
class Clockwork:
    """What is known of how long a run takes: from the runs there are, else from the machine's speed."""

    estimate: float  # seconds of a process, before anything ran

    def expect(self, script: str, runs: Sequence[Run]) -> float:
        """Return the seconds that a script's process is expected to take, by its own runs, its siblings', or all."""
        own = [process_seconds(run) for run in runs if run.script == script]
        siblings = [process_seconds(run) for run in runs if api_of(run.script) == api_of(script)]
        for known in (own, siblings, [process_seconds(run) for run in runs]):
            if known:
                return mean(known)
        return self.estimate

    def expect_all(self, scripts: Iterable[Path], runs: Sequence[Run]) -> float:
        """Return the seconds that several scripts are expected to take."""
        return sum(self.expect(script.name, runs) for script in scripts)


def process_seconds(run: Run) -> float:
    """Return the seconds of a run's whole process; an earlier file may have those of training only."""
    return max(run.usage.duration, run.seconds)


def make_clockwork(epochs: int, gflops: float, machine: Machine) -> Clockwork:
    """Return what is known before anything ran: the operations of the epochs at a part of SGEMM's speed on all cores."""
    cores: float = machine.cores or machine.cpus_used
    if machine.cpu_quota is not None:
        cores = min(cores, machine.cpu_quota)
    return Clockwork(epochs * EPOCH_FLOP / (EFFICIENCY * cores * gflops * 1e9) + AROUND)


def fits(elapsed: float, expected: float, minutes: float) -> bool:
    """Tell whether a round of so many expected seconds still fits into the minutes."""
    return elapsed + expected <= minutes * 60
