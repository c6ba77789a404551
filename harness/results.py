"""A run, a machine, a result file: what is kept, how it is read, checked and written, and what may join a file.

The file is pyperf's (https://pyperf.readthedocs.io), one benchmark a script, one value a run. What a run records beside its seconds
stands in its metadata, under the names of the fields below. What is written is checked by the same code that reads it.
"""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyperf

from harness.errors import RunRefused, UserError
from harness.files import shown, write_whole

MNIST_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # of the bytes of its four arrays
STAND_IN = "stand-in digits, not MNIST"
LARGEST_LOSS = 1e6  # what has a larger one has diverged
LARGEST_FIGURE = 1e15  # of any: seconds, bytes, counts
LARGEST_COUNT = 10**9
SHORTEST = 1e-6  # seconds: what is printed with two decimals is not shorter
BUSY_BEFORE = 0.1  # of the CPUs: a run that began beside more than this is marked
LOST = 0.02  # of the CPUs' time: a run from which others took more than this is marked
LOST_AT_LEAST = 0.3  # CPU seconds: less is not told from the system's own work
SPEED_RATIO = 1.3  # of SGEMM's speed, up to which it may be the same processor
MEMORY_RATIO = 1.05  # of the memory, up to which it may be the same machine: kernels keep different parts of it

MACHINE_KEYS = (
    "hostname", "cpu_model_name", "cpu_family", "cpu_model", "cpu_stepping", "cpu_flags", "cpu_l1d", "cpu_l1i", "cpu_l2",
    "cpu_l3", "cpu_count", "cpus_used", "cores", "cpu_quota", "gpu", "gpu_driver", "platform", "os", "environment",
)  # fmt: skip
WORK_KEYS = ("epochs", "batch_size", "data", "data_sha256", "train_images", "test_images")
SCRIPT_KEYS = ("sha256", "devices", "device", "threads", "python_version")  # are the same in all runs of a script
NO_QUOTA = "none"
NOTHING_SET = "nothing set"  # of the variables that tune a framework

Value = str | int | float


@dataclass(frozen=True)
class Machine:
    """Hardware, system and tuning variables, as far as another boot does not change them."""

    hostname: str
    cpu_model_name: str
    cpu_count: int  # logical CPUs that are online
    cpus_used: int  # logical CPUs in the affinity mask
    cores: int | None  # physical cores in the affinity mask; None: an earlier file does not say
    cpu_quota: float | None  # CPUs that the container's limit pays for; None: no limit
    memory_gib: float | None  # GiB; None: an earlier file has a text
    memory: str  # as it is shown, with unit
    gpu: str  # number and names, or "none"
    gpu_driver: str
    platform: str  # kernel and C library
    os: str  # the distribution
    environment: str  # tuning variables, or NOTHING_SET
    cpu_details: Mapping[str, str]  # lscpu's family, model, stepping, flags and caches, under cpu_...

    def to_metadata(self) -> dict[str, Value]:
        """Return what the file says of the machine."""
        flat = {key: value for key, value in asdict(self).items() if key not in ("memory", "cpu_details")}
        flat["cpu_quota"] = NO_QUOTA if self.cpu_quota is None else self.cpu_quota
        return {**{key: value for key, value in flat.items() if value is not None}, **self.cpu_details}


@dataclass(frozen=True)
class Usage:
    """What a run used of the machine, over all its processes, and what others took from it."""

    duration: float  # seconds from start to end of the process, imports and evaluation included
    cpu_seconds: float
    cpu_seconds_of_others: float
    steal_seconds: float  # CPU seconds that the hypervisor gave to others
    memory: int  # bytes, the peak; 0: unknown
    memory_kind: str  # "PSS", shared pages once, or "RSS" in earlier files
    gpu_memory: int  # bytes, the peak over all GPUs; 0: no GPU, or unknown


@dataclass(frozen=True)
class Run:
    """One process of a script."""

    script: str  # file name
    sha256: str  # of the script
    round: int  # from 1; 0: an earlier file, without rounds
    date: str  # begin, local time
    seconds: float  # of training, as printed
    accuracy: float  # of the test images, 0 to 1
    losses: tuple[float, ...]  # mean of each epoch
    epoch_seconds: tuple[float, ...]
    epochs: int
    batch_size: int  # images per device and step
    devices: int
    device: str  # cpu or gpu
    threads: int | None  # None: unknown
    python_version: str
    versions: tuple[tuple[str, str], ...]  # of the frameworks
    data: str  # "MNIST", by the hash only, or what else it is
    data_sha256: str | None
    train_images: int
    test_images: int
    usage: Usage
    cpus_busy_before: float | None  # CPUs that others used just before the run
    load_before: float  # load average of a minute
    sgemm_gflops: float | None  # GFLOP/s of one core before the round
    machine: Machine
    metadata: Mapping[str, Value] = field(repr=False, compare=False)  # all of it, as the file has it

    @property
    def disturbed(self) -> bool:
        """Whether something else used the CPUs before or during the run."""
        busy = self.cpus_busy_before
        if busy is None:  # an earlier file has the load average only, and in it the run before
            busy = self.load_before - self.machine.cpus_used
        lost = max(self.usage.steal_seconds, self.usage.cpu_seconds_of_others)
        at_most = max(LOST * self.machine.cpus_used * self.usage.duration, LOST_AT_LEAST)
        return busy > BUSY_BEFORE * self.machine.cpus_used or lost > at_most


@dataclass(frozen=True)
class Refusal:
    """A run that ended with figures that are none."""

    script: str
    round: int
    reason: str


@dataclass(frozen=True)
class Results:
    """What a result file holds."""

    runs: tuple[Run, ...]
    refused: tuple[Refusal, ...] = ()

    def with_run(self, run: Run) -> "Results":
        """Return these results and one more run, which takes the place of a refused one."""
        rest = tuple(x for x in self.refused if (x.script, x.round) != (run.script, run.round))
        return Results((*self.runs, run), rest)

    def with_refusal(self, refusal: Refusal) -> "Results":
        """Return these results and one more refused run."""
        rest = tuple(x for x in self.refused if (x.script, x.round) != (refusal.script, refusal.round))
        return Results(self.runs, (*rest, refusal))

    def scripts(self) -> list[str]:
        """Return the names of the scripts that have runs, in the order of the file."""
        return list(dict.fromkeys(run.script for run in self.runs))


class Damaged(ValueError):
    """A value that does not belong where it stands."""


class Fields:
    """The metadata of a run, asked value by value; Damaged where one is missing or is not what it has to be."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self.metadata = metadata

    def has(self, key: str) -> bool:
        return key in self.metadata

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text that can be shown in one line."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise Damaged(f"{key} is {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None, largest: float = LARGEST_FIGURE) -> float:
        """Return a finite number from 0 on."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= largest:
            raise Damaged(f"{key} is {value!r:.60}")
        return float(value)

    def count(self, key: str, default: int | None = None, least: int = 1, largest: int = LARGEST_COUNT) -> int:
        """Return a whole number."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < largest:
            raise Damaged(f"{key} is {value!r:.60}")
        return value

    def numbers(self, key: str, largest: float) -> tuple[float, ...]:
        """Return numbers that are separated by blanks."""
        text = self.text(key)
        try:
            values = tuple(float(word) for word in text.split())
        except ValueError:
            values = (math.nan,)
        if not all(0 <= value <= largest for value in values):
            raise Damaged(f"{key} is {text!r:.60}")
        return values


def read_machine(fields: Fields) -> Machine:
    """Return the machine that a run's metadata describe; Damaged if they do not."""
    details = {
        key: fields.text(key) for key in MACHINE_KEYS if re.match("cpu_(family|model|st|fl|l)", key) and fields.has(key)
    }
    details.pop("cpu_model_name", None)
    memory_gib = fields.number("memory_gib", largest=1e9) if fields.has("memory_gib") else None
    memory = fields.text("memory", "unknown") if memory_gib is None else f"{memory_gib:.0f} GiB"
    limited = fields.has("cpu_quota") and fields.metadata["cpu_quota"] != NO_QUOTA
    used = fields.count("cpus_used", 1)
    return Machine(
        hostname=fields.text("hostname", "unknown"),
        cpu_model_name=fields.text("cpu_model_name", "CPU"),
        cpu_count=fields.count("cpu_count", used),
        cpus_used=used,
        cores=fields.count("cores") if fields.has("cores") else None,
        cpu_quota=fields.number("cpu_quota") if limited else None,
        memory_gib=memory_gib,
        memory=memory,
        gpu=fields.text("gpu", "none"),
        gpu_driver=fields.text("gpu_driver", "none"),
        platform=fields.text("platform"),
        os=fields.text("os"),
        environment=fields.text("environment", NOTHING_SET),
        cpu_details=details,
    )


def read_usage(fields: Fields) -> Usage:
    """Return what a run used; Damaged if a figure is none."""
    kind = "PSS" if fields.has("mem_max_pss") else "RSS"
    return Usage(
        duration=fields.number("duration", 0),
        cpu_seconds=fields.number("cpu_seconds", 0),
        cpu_seconds_of_others=fields.number("cpu_seconds_of_others", 0),
        steal_seconds=fields.number("steal_seconds", 0),
        memory=fields.count(f"mem_max_{kind.lower()}", 0, least=0, largest=10**15),
        memory_kind=kind,
        gpu_memory=fields.count("gpu_mem_max", 0, least=0, largest=10**15),
    )


def name_data(fields: Fields) -> str:
    """Return what the data are: MNIST by the hash of its arrays only."""
    name = fields.text("data")
    if name != "MNIST" or fields.metadata.get("data_sha256") == MNIST_SHA256:
        return name
    return "not MNIST" if fields.has("data_sha256") else "MNIST by name: an earlier file, without hash"


def read_run(metadata: Mapping[str, Value], seconds: float) -> Run:
    """Return a run of its metadata and seconds; Damaged if they are not as the runner writes them."""
    fields = Fields(metadata)
    if not SHORTEST < seconds < LARGEST_FIGURE:
        raise Damaged(f"seconds are {seconds!r:.60}")
    run = Run(
        script=fields.text("name"),
        sha256=fields.text("sha256", "unknown"),
        round=fields.count("round", 0, least=0),
        date=fields.text("date"),
        seconds=seconds,
        accuracy=fields.number("accuracy", largest=1),
        losses=fields.numbers("epoch_losses", LARGEST_LOSS),
        epoch_seconds=fields.numbers("epoch_seconds", LARGEST_FIGURE),
        epochs=fields.count("epochs"),
        batch_size=fields.count("batch_size"),
        devices=fields.count("devices"),
        device=fields.text("device"),
        threads=fields.count("threads") if fields.has("threads") else None,
        python_version=fields.text("python_version"),
        versions=read_versions(fields),
        data=name_data(fields),
        data_sha256=fields.text("data_sha256") if fields.has("data_sha256") else None,
        train_images=fields.count("train_images"),
        test_images=fields.count("test_images", 10_000),
        usage=read_usage(fields),
        cpus_busy_before=fields.number("cpus_busy_before") if fields.has("cpus_busy_before") else None,
        load_before=fields.number("load_avg_1min", 0),
        sgemm_gflops=fields.number("sgemm_gflops") if fields.has("sgemm_gflops") else None,
        machine=read_machine(fields),
        metadata=dict(metadata),
    )
    if run.device not in ("cpu", "gpu"):
        raise Damaged(f"device is {run.device:.60}")
    if not len(run.losses) == len(run.epoch_seconds) == run.epochs:
        raise Damaged(f"epochs are {run.epochs}, with {len(run.losses)} losses and {len(run.epoch_seconds)} times")
    return run


def read_versions(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Return names and versions of the frameworks."""
    keys = [
        key for key in fields.metadata if key.endswith("_version") and key not in ("perf_version", "python_version")
    ]
    return tuple((key.removesuffix("_version"), fields.text(key)) for key in sorted(keys))


def check_run(metadata: Mapping[str, Value], seconds: float) -> Run:
    """Return a run that is to be written; RunRefused says why it must not be: a reader would refuse the file."""
    try:
        return read_run(metadata, seconds)
    except Damaged as error:
        raise RunRefused(str(error)) from None


def read_refused(fields: Fields) -> tuple[Refusal, ...]:
    """Return the refused runs, which the metadata of every run list, in JSON."""
    if not fields.has("refused"):
        return ()
    try:
        entries = json.loads(fields.text("refused"))
        return tuple(Refusal(shown(name), int(number), shown(reason)) for name, number, reason in entries)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Damaged(f"refused is {fields.metadata['refused']!r:.60}") from None


def check_same_work(runs: Sequence[Run]) -> None:
    """Raise Damaged if the runs of a file did different work, as after joining files by hand: no table may mix them."""
    firsts: dict[str, Run] = {}
    for run in runs:
        own = firsts.setdefault(run.script, run)
        for key, first in [*((key, runs[0]) for key in WORK_KEYS), *((key, own) for key in SCRIPT_KEYS)]:
            here, there = run.metadata.get(key), first.metadata.get(key)
            if None not in (here, there) and here != there:
                raise Damaged(f"{key} is {here!s:.60} in a run of {shown(run.script)}, {there!s:.60} in another run")


def parse(text: str) -> Results:
    """Return what a result file's text holds; Damaged if it is none of this benchmark."""
    try:
        suite = pyperf.BenchmarkSuite.loads(text)
        found = [(run.get_metadata(), tuple(map(float, run.values))) for bench in suite for run in bench.get_runs()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"{error!r:.100}") from None  # pyperf does not check what it reads
    if not all(len(values) == 1 for _, values in found):
        raise Damaged("a run has not one value")
    runs = tuple(read_run(metadata, values[0]) for metadata, values in found)
    check_same_work(runs)
    return Results(runs, read_refused(Fields(found[0][0])))


def load(path: Path, text: str | None = None) -> Results:
    """Return what a result file holds, or a text that stands for it; UserError if it cannot be read."""
    try:
        return parse(path.read_text() if text is None else text)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # Damaged, or not UTF-8
        reason = f"{error!s:.200}"
    raise UserError(f"cannot read {shown(path)} as a result file of benchmark.py: {shown(reason)}")


def dump(results: Results) -> bytes:
    """Return the text of a result file; there must be a run."""
    extra: dict[str, Value] = {}
    if results.refused:
        extra = {"refused": json.dumps([[x.script, x.round, x.reason] for x in results.refused])}
    benches = []
    for script in results.scripts():
        some = [run for run in results.runs if run.script == script]
        kept = [{key: value for key, value in run.metadata.items() if key != "refused"} | extra for run in some]
        pairs = zip(some, kept, strict=True)
        benches.append(
            pyperf.Benchmark([pyperf.Run([x.seconds], metadata=m, collect_metadata=False) for x, m in pairs])
        )
    text = io.StringIO()
    pyperf.BenchmarkSuite(benches).dump(text)
    return text.getvalue().encode()


def save(path: Path, results: Results) -> None:
    """Write a result file, whole or not at all; OSError if it cannot be written."""
    write_whole(path, dump(results))


def differs(key: str, here: object, there: object) -> bool:
    """Tell whether two values of one key say that they are of different machines or work."""
    ratio = {"sgemm_gflops": SPEED_RATIO, "memory_gib": MEMORY_RATIO}.get(key)
    if ratio is None or not isinstance(here, (int, float)) or not isinstance(there, (int, float)):
        return here != there
    return not there / ratio < here < there * ratio


def keys_that_must_agree(old: Run, new: Mapping[str, Value]) -> list[str]:
    """Return the keys that must have one value in a run of the file and in what is to join it."""
    versions = [f"{name}_version" for name, _ in old.versions]
    keys = [*MACHINE_KEYS, "memory_gib", *WORK_KEYS, *versions]
    if "name" not in new:  # the machine before the first run; later its speed may drift
        keys.append("sgemm_gflops")
    if new.get("name") == old.script:
        keys += SCRIPT_KEYS
    devices = new.get("devices", 1)
    if isinstance(devices, int) and min(old.devices, devices) > 1:  # the parallel scripts share one table
        keys.append("devices")
    return keys


def check_join(results: Results, new: Mapping[str, Value], path: Path) -> None:
    """Raise UserError if what has the metadata new must not be in one file with the runs there.

    A value that one side does not have is not compared, except the quota: an earlier file says nothing where there was none.
    """
    for old in results.runs:
        there = {"cpu_quota": NO_QUOTA, **old.metadata}
        for key in keys_that_must_agree(old, new):
            if key in new and key in there and differs(key, new[key], there[key]):
                what = f"{key} of {new.get('name', 'this machine')} is {new[key]} here, {there[key]} there"
                raise UserError(f"cannot add to {shown(path)}: {what:.300}; name another --output")


def check_has_rounds(results: Results, path: Path) -> None:
    """Raise UserError if a file has no rounds: an earlier runner made it, and nothing can complete it."""
    if any(run.round == 0 for run in results.runs):
        raise UserError(f"cannot add to {shown(path)}: its runs have no rounds; name another --output")
