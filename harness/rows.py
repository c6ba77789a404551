"""What a table says of a script: a row; which rows stand in one table, and what the fit says of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.results import Results, Run
from harness.statistics import Analysis, Cell, Estimate, against, analyse, flag_accuracies

PARALLEL = re.compile("_mgpu|_hvd")  # of a name: what sets it apart from its sibling on one device


@dataclass(frozen=True)
class Row:
    """A script in a table."""

    script: str  # file name
    label: str  # as the table names it
    api: str  # the label without what says that it is parallel: its siblings have the same
    runs: tuple[Run, ...]
    refused: int  # runs whose figures were none
    devices: int
    device: str  # cpu or gpu
    seconds: float  # exp of the least-squares mean of log(seconds)
    relative: Estimate | None  # to the table's fastest; None: nothing connects them
    is_reference: bool  # the table's fastest itself
    rank: int | None  # None: not ranked
    against_one: Estimate | None  # ratio of its seconds to its sibling's on one device
    epoch: float  # seconds, median without each run's first
    rate: float  # images a second without each run's first epoch
    memory: int  # bytes, the peak of all runs; 0: unknown
    gpu_memory: int  # bytes, the peak of all runs; 0: no GPU, or unknown
    accuracy: float  # mean
    flag: str | None  # why it has learnt something else than the others
    wide: bool  # whether it spreads more than the others
    disturbed: int  # runs beside which something else used the CPUs

    @property
    def speedup(self) -> float | None:
        """How many times as fast as its sibling on one device."""
        return None if self.against_one is None else 1 / self.against_one.ratio

    @property
    def efficiency(self) -> float | None:
        """The speedup for each device."""
        return None if self.speedup is None else self.speedup / self.devices


@dataclass(frozen=True)
class Table:
    """The rows of one kind and number of devices, the fastest first."""

    devices: int
    device: str  # cpu or gpu
    rows: tuple[Row, ...]
    analysis: Analysis

    @property
    def title(self) -> str:
        """What the rows have in common."""
        return f"{'one device' if self.devices == 1 else f'{self.devices} devices'}, {self.device.upper()}"


def label_of(script: str) -> str:
    """Return a script's name as tables have it."""
    return script.removesuffix(".py").removeprefix("mnist_")


def api_of(script: str) -> str:
    """Return what a script and its siblings on other numbers of devices share of their names."""
    return PARALLEL.sub("", label_of(script))


def cells_of(runs: Sequence[Run]) -> list[Cell]:
    """Return the runs as the fit sees them."""
    return [Cell(run.script, run.round, run.seconds) for run in runs]


def later_epochs(runs: Sequence[Run]) -> list[float]:
    """Return the seconds of all epochs but each run's first, which compiles and warms up; of that where there is no other."""
    return [seconds for run in runs for seconds in run.epoch_seconds[1:] or run.epoch_seconds]


def images_per_second(runs: Sequence[Run]) -> float:
    """Return the images that a second of training takes; what no full batch takes is dropped."""
    first = runs[0]
    step = first.batch_size * first.devices
    seconds = later_epochs(runs)
    return first.train_images // step * step * len(seconds) / max(sum(seconds), 0.01)


def group(runs: Sequence[Run]) -> dict[tuple[int, str], list[Run]]:
    """Return the runs by number and kind of devices, CPUs first: never GPU and CPU in one table."""
    keys = sorted({(run.device, run.devices) for run in runs})
    return {(n, kind): [run for run in runs if (run.device, run.devices) == (kind, n)] for kind, n in keys}


def flag(runs: Sequence[Run]) -> dict[str, str]:
    """Return the scripts of one table that have learnt something else, with the reason."""
    names = dict.fromkeys(run.script for run in runs)
    accuracies = {name: [run.accuracy for run in runs if run.script == name] for name in names}
    return flag_accuracies(accuracies, min(run.test_images for run in runs))


def find_siblings(analyses: dict[tuple[int, str], Analysis]) -> dict[tuple[int, str], list[tuple[str, str]]]:
    """Return by table which parallel script is compared with which on one device; what has learnt something else is not."""
    found = {}
    for (devices, kind), analysis in analyses.items():
        one = analyses.get((1, kind))
        if devices == 1 or one is None:
            continue
        siblings = {label_of(script): script for script in one.seconds if script not in one.flagged}
        scripts = [
            script for script in analysis.seconds if script not in analysis.flagged and api_of(script) in siblings
        ]
        found[devices, kind] = [(script, siblings[api_of(script)]) for script in scripts]
    return found


def compare_with_one(
    groups: dict[tuple[int, str], list[Run]], analyses: dict[tuple[int, str], Analysis]
) -> dict[str, Estimate]:
    """Return the ratio of each parallel script to its sibling on one device."""
    siblings = find_siblings(analyses)
    shown = sum(map(len, siblings.values()))
    found: dict[str, Estimate] = {}
    for (devices, kind), pairs in siblings.items():
        cells = cells_of([*groups[1, kind], *groups[devices, kind]])
        wide = (*analyses[1, kind].wide, *analyses[devices, kind].wide)
        found |= against(cells, wide, pairs, shown)
    return found


def make_row(script: str, runs: Sequence[Run], refused: int, analysis: Analysis, against_one: Estimate | None) -> Row:
    """Return the row of a script."""
    some = tuple(run for run in runs if run.script == script)
    relative = analysis.relative.get(script)
    if relative is None and script in analysis.fit.scripts and analysis.order and script != analysis.order[0]:
        relative = Estimate(analysis.seconds[script] / analysis.seconds[analysis.order[0]])  # flagged: plain
    return Row(
        script=script,
        label=label_of(script),
        api=api_of(script),
        runs=some,
        refused=refused,
        devices=some[0].devices,
        device=some[0].device,
        seconds=analysis.seconds[script],
        relative=relative,
        is_reference=analysis.order[:1] == (script,),
        rank=analysis.rank.get(script),
        against_one=against_one,
        epoch=median(later_epochs(some)),
        rate=images_per_second(some),
        memory=max(run.usage.memory for run in some),
        gpu_memory=max(run.usage.gpu_memory for run in some),
        accuracy=sum(run.accuracy for run in some) / len(some),
        flag=analysis.flagged.get(script),
        wide=script in analysis.wide,
        disturbed=sum(run.disturbed for run in some),
    )


def place(row: Row) -> tuple[bool, bool, float, str]:
    """Return what a row is sorted by: what is compared first, by seconds; then what has learnt something else."""
    return (row.flag is not None, row.relative is None and not row.is_reference, row.seconds, row.script)


def make_tables(results: Results) -> tuple[Table, ...]:
    """Return all tables of a file."""
    groups = group(results.runs)
    analyses = {key: analyse(cells_of(runs), flag(runs)) for key, runs in groups.items()}
    ratios = compare_with_one(groups, analyses)
    tables = []
    for (devices, kind), runs in groups.items():
        analysis = analyses[devices, kind]
        refused = {name: sum(x.script == name for x in results.refused) for name in analysis.seconds}
        rows = [make_row(name, runs, refused[name], analysis, ratios.get(name)) for name in analysis.seconds]
        tables.append(Table(devices, kind, tuple(sorted(rows, key=place)), analysis))
    return tuple(tables)
