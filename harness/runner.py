"""All of it in order: what is there, the environments, the data, the rounds."""

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from harness import data, environments, machine, output, plan, processes, results
from harness.errors import RunFailed, RunRefused, UserError
from harness.files import check_writable, neighbour, shown
from harness.progress import Progress, Step, format_left, stamp
from harness.results import Refusal, Results, Run, Value
from harness.rows import PARALLEL, make_tables
from harness.signals import Stop
from harness.startup import USER_ENVIRONMENT
from harness.statistics import expect_widest, widest
from harness.tables import format_percent

LOG_SHOWN = 15  # last lines of a failed run that are said


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    scripts: tuple[Path, ...]
    repeats: int  # rounds that the file is to have
    minutes: float | None  # as many rounds as fit in place of repeats
    epochs: int
    batch_size: int  # images per device and step
    devices: int  # of the parallel scripts
    device: str  # auto, cpu or gpu
    data_dir: Path
    pythons: Mapping[str, Path]  # interpreters that the user names, by kind of environment
    timeout: float  # seconds for a run
    output: Path
    stand_in_program: Path  # synthetic_mnist.py


@dataclass(frozen=True)
class Setting:
    """What all runs have in common, once it has been found."""

    interpreters: Mapping[Path, str]
    data: data.Data
    metadata: Mapping[str, Value]
    has_gpu: bool
    clockwork: plan.Clockwork


class Session:
    """What has come of the runs so far. It is the one thing here that changes: an interruption may come at any time."""

    def __init__(self, job: Job, progress: Progress, stop: Stop, family: processes.Family) -> None:
        self.job = job
        self.progress = progress
        self.stop = stop
        self.family = family
        self.results = Results(())
        self.failures: dict[str, str] = {}  # script: why it failed; it is not tried again
        self.refused: dict[str, str] = {}  # script and round: why the run was refused
        self.saved = True
        self.began = time.monotonic()
        self.done = 0  # runs
        self.spent = 0.0  # seconds of the processes of this session's runs
        self.running = 0.0  # seconds from the first run's begin to the last one's end

    def save(self) -> None:
        """Write the result file; say so if that is not possible, and go on."""
        if not self.results.runs:
            return
        self.saved = False
        try:
            results.save(self.job.output, self.results)
            self.saved = True
        except OSError as error:
            reason = error.strerror or str(error)
            self.progress.say(
                f"WARNING: cannot write {self.job.output}: {reason}: going on; it is tried again after the next run"
            )


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the error that says why a result file cannot be written."""
    reason = error.strerror or str(error)
    return UserError(f"cannot write {shown(path)}: {reason}: name an --output in another folder")


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the result file for this process; UserError says who holds it, or why it cannot be written."""
    name = neighbour(path, "lock")
    held = filelock.FileLock(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except filelock.Timeout:
        holder = machine.read_text(name) or "another benchmark.py"
        raise UserError(f"{shown(path)} is in use by {shown(holder)}: name another --output") from None
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        try:
            check_writable(path)  # now that no other runner writes there
        except OSError as error:
            raise cannot_write(path, error) from None
        with contextlib.suppress(OSError):
            name.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        name.unlink(missing_ok=True)
        held.release()


def prepare(session: Session) -> Setting:
    """Find out what there is, say what will be done, and make environments and data; UserError if that cannot be."""
    job, say = session.job, session.progress.say
    if job.output.exists():
        session.results = results.load(job.output)
        results.check_has_rounds(session.results, job.output)
    if leftovers := processes.find_leftovers():
        say(processes.say_leftovers(leftovers))
    here = machine.describe_machine(processes.ask)
    metadata: dict[str, Value] = {**here.to_metadata(), "epochs": job.epochs, "batch_size": job.batch_size}
    gflops = machine.measure_sgemm()
    results.check_join(session.results, {**metadata, "sgemm_gflops": gflops}, job.output)
    clockwork = plan.make_clockwork(job.epochs, gflops, here)
    say_plan(session, clockwork, gflops)
    interpreters = find_interpreters(session)
    found = data.find_data(job.data_dir, job.stand_in_program, say)
    metadata |= found.to_metadata()
    results.check_join(session.results, metadata, job.output)
    return Setting(interpreters, found, metadata, here.gpu != "none", clockwork)


def say_plan(session: Session, clockwork: plan.Clockwork, gflops: float) -> None:
    """Say how many runs there are, how long they take, and what is downloaded first."""
    job = session.job
    known = session.results.runs
    if job.minutes is None:
        rounds = plan.plan_rounds(job.scripts, job.repeats, session.results)
        scripts = [script for one in rounds for script in one.scripts]
        some = format_left(clockwork.expect_all(scripts, known))
        how_many = f"{len(scripts)} runs, epochs {job.epochs}: some {some}"
    else:
        some = format_left(clockwork.expect_all(job.scripts, known))
        how_many = f"rounds of {len(job.scripts)} runs, epochs {job.epochs}, as many as fit into {job.minutes:g} min"
        how_many += f": one takes some {some}"
    source = "by the runs in the file" if known else f"if on CPUs ({gflops:.0f} GFLOP/s a core)"
    session.progress.say(f"{how_many} {source}")
    brings = environments.list_downloads(job.scripts, job.pythons)
    if not data.is_there(job.data_dir):
        brings.append(f"MNIST {data.MEGABYTES} MB")
    session.progress.say(f"to be downloaded first, what is not there yet of these: {', '.join(brings) or 'nothing'}")


def find_interpreters(session: Session) -> dict[Path, str]:
    """Return every script's interpreter; a script without is among the failures. UserError if all are."""
    found = {}
    job = session.job
    for script in job.scripts:
        kind = environments.kind_of(script)
        if kind in job.pythons:
            found[script] = str(job.pythons[kind])
            continue
        session.progress.say(f"environment of {script.name}")
        python, reason = environments.make_environment(script)
        session.stop.check()
        if python is None:
            session.failures[script.name] = reason
            session.progress.say(f"{script.name}: {reason}")
        else:
            found[script] = python
    if not found:
        reason = next(iter(session.failures.values()))
        raise UserError(f"{reason}; without network, name other interpreters: --python mx=PATH")
    return found


def is_parallel(script: Path) -> bool:
    """Tell whether a script runs on several devices."""
    return PARALLEL.search(script.name) is not None


def make_command(job: Job, script: Path, python: str, data_dir: Path, seed: int) -> list[str]:
    """Return the words by which a script is run."""
    devices = job.devices if is_parallel(script) else 1
    settings: dict[str, object] = {
        "--epochs": job.epochs,
        "--batch-size": job.batch_size,
        "--data-dir": data_dir,
        "--device": job.device,
        "--seed": seed,
    }
    if "_mgpu" in script.name:
        settings["--devices"] = devices
    launcher: list[object] = []
    if "_hvd" in script.name:
        launcher = [Path(python).with_name("horovodrun"), "-np", devices, "-H", f"localhost:{devices}"]
    words = [*launcher, python, script, *(word for setting in settings.items() for word in setting)]
    return [str(word) for word in words]


def run_environment(python: str) -> dict[str, str]:
    """Return the variables for a script: the user's, with its interpreter's folder first, where horovodrun has helpers."""
    folder = str(Path(python).parent)
    return {**USER_ENVIRONMENT, "PATH": f"{folder}{os.pathsep}{USER_ENVIRONMENT['PATH']}"}


def read_gpu_memory() -> int:
    return machine.read_gpu_memory(processes.ask)


def run_script(
    session: Session, setting: Setting, script: Path, log: processes.Log, metadata: Mapping[str, Value]
) -> Run:
    """Run a script once and return its run. RunFailed or RunRefused say why there is none."""
    job = session.job
    own: dict[str, Value] = {**metadata, "sha256": hash_of(script)}
    check_join(session, own)
    own["cpus_busy_before"] = machine.wait_until_idle(session.progress.say, script.name)
    own["load_avg_1min"] = os.getloadavg()[0]
    python = setting.interpreters[script]
    seed = int(metadata["seed"])
    command = make_command(job, script, python, setting.data.folder, seed)
    read_gpu = read_gpu_memory if setting.has_gpu else None
    began = time.monotonic()
    try:
        usage = processes.run(
            command, run_environment(python), job.timeout, log, session.family, session.stop, read_gpu
        )
    finally:  # what a run takes that fails is no slowness of this program
        session.spent += time.monotonic() - began
    devices = job.devices if is_parallel(script) else 1
    expected = output.Expected(script.name, devices, job.batch_size, seed, job.epochs)
    found = output.parse(log.lines, expected, usage.duration)
    own |= describe_output(found, devices) | describe_usage(usage)
    check_join(session, own)
    return results.check_run(own, found.seconds)


def hash_of(script: Path) -> str:
    """Return the SHA-256 of a script; RunFailed if it is no longer there."""
    try:
        return hashlib.sha256(script.read_bytes()).hexdigest()
    except OSError as error:
        raise RunFailed(f"cannot read {shown(script)}: {error.strerror}") from None


def check_join(session: Session, metadata: Mapping[str, Value]) -> None:
    """Raise RunFailed if a run must not be in one file with the runs there: the other scripts may."""
    try:
        results.check_join(session.results, metadata, session.job.output)
    except UserError as error:
        raise RunFailed(str(error)) from None


def describe_output(found: output.Output, devices: int) -> dict[str, Value]:
    """Return what the file says of what a script printed."""
    return {
        **{f"{name}_version": version for name, version in found.versions},
        "python_version": found.python_version,
        "devices": devices,
        "device": found.device,
        "threads": found.threads,
        "accuracy": found.accuracy,
        "epoch_losses": " ".join(found.losses),
        "epoch_seconds": " ".join(found.epoch_seconds),
    }


def describe_usage(usage: results.Usage) -> dict[str, Value]:
    """Return what the file says of what a run used; duration is pyperf's name."""
    figures: dict[str, Value] = asdict(usage)
    del figures["memory"], figures["memory_kind"], figures["gpu_memory"]
    if usage.memory:
        figures["mem_max_pss"] = usage.memory
    if usage.gpu_memory:
        figures["gpu_mem_max"] = usage.gpu_memory
    return figures


def keep_log(session: Session, title: str, log: processes.Log) -> None:
    """Say that a run came to nothing, with its last lines, and add all of them to the log beside the result file."""
    session.progress.end("\n  ".join([f"{title}; its last lines:", *list(log.last)[-LOG_SHOWN:]]))
    path = session.job.output.with_suffix(".log")
    with contextlib.suppress(OSError), path.open("a", errors="replace") as file:
        print(f"{stamp()} {title}", *log.last, sep="\n", file=file)


def run_once(session: Session, setting: Setting, script: Path, metadata: Mapping[str, Value]) -> None:
    """Run a script once; its run, its refusal or its failure goes into the session."""
    log = processes.Log(lambda line: session.progress.epoch(line) if output.EPOCH.fullmatch(line) else None)
    try:
        run = run_script(session, setting, script, log, metadata)
    except RunFailed as error:
        session.failures[script.name] = str(error)
        keep_log(session, f"{script.name} failed: {error}", log)
    except RunRefused as error:
        number = int(metadata["round"])
        session.refused[f"{script.name} round {number}"] = str(error)
        session.results = session.results.with_refusal(Refusal(script.name, number, shown(error)))
        session.save()
        keep_log(session, f"{script.name} refused: {error}", log)
    else:
        session.results = session.results.with_run(run)
        session.save()  # before a word is said: nobody may be reading, and an interruption come meanwhile
        session.progress.end(f"{script.name}: {run.seconds:.2f} s, accuracy {run.accuracy:.4f}")


def slowdown(session: Session) -> float:
    """Return how much longer this session's runs took in all than their processes: SGEMM, idle waiting, writing."""
    return max(session.running / session.spent, 1.0) if session.spent else 1.0


def make_step(
    session: Session, setting: Setting, one: plan.Round, place: int, later: Sequence[plan.Round], total: int
) -> Step:
    """Return what is known of a run that is about to begin."""
    known = session.results.runs
    expect = setting.clockwork.expect_all
    ahead = [x for x in one.scripts[place:] if x.name not in session.failures]
    ahead += [x for other in later for x in other.scripts if x.name not in session.failures]
    return Step(
        number=session.done + 1,
        total=total,
        script=one.scripts[place].name,
        round=one.number,
        seconds=expect([one.scripts[place]], known),
        left=expect(ahead, known) * slowdown(session),
        rest=tuple(script.name for script in one.scripts[place + 1 :]),
    )


def run_round(session: Session, setting: Setting, one: plan.Round, later: Sequence[plan.Round], total: int) -> None:
    """Run what is missing of a round."""
    began = time.monotonic()
    before = session.running
    common: dict[str, Value] = {"round": one.number, "seed": one.seed, "sgemm_gflops": machine.measure_sgemm()}
    for place, script in enumerate(one.scripts):
        if script.name not in session.failures:  # once is enough
            session.progress.begin(make_step(session, setting, one, place, later, total))
            own: dict[str, Value] = {
                "name": script.name,
                "unit": "second",
                "loops": 1,
                "date": stamp(),
                "order": place + 1,
            }
            run_once(session, setting, script, {**own, **setting.metadata, **common})
        session.done += 1
        session.running = before + time.monotonic() - began


def say_widths(session: Session, number: int) -> None:
    """Say how wide the widest interval is after a round, and what one more is expected to bring."""
    if not session.results.runs:
        return
    analyses = [table.analysis for table in make_tables(session.results)]
    widths = [
        (width, expect_widest(analysis) or width) for analysis in analyses if (width := widest(analysis)) is not None
    ]
    if not widths:
        session.progress.say(f"after round {number}: no intervals yet, as these need two rounds that share two scripts")
        return
    now, then = max(widths)
    text = f"the widest interval is {format_percent(now)}; a further round is expected to bring {format_percent(then)}"
    session.progress.say(f"after round {number}: {text}")


def rounds_of(session: Session, setting: Setting) -> Iterator[tuple[plan.Round, list[plan.Round]]]:
    """Return the rounds in which something is missing, each with those that follow: so many, or as many as fit."""
    job = session.job
    if job.minutes is None:
        rounds = plan.plan_rounds(job.scripts, job.repeats, session.results)
        for i, one in enumerate(rounds):
            if any(script.name not in session.failures for script in one.scripts):
                yield one, rounds[i + 1 :]
        return
    number = 0
    while True:
        number += 1
        one = plan.plan_round(job.scripts, number, session.results)
        scripts = [script for script in one.scripts if script.name not in session.failures]
        if not scripts:
            if number > max((run.round for run in session.results.runs), default=0):
                return  # nothing is left that runs
            continue  # the file has this round
        expected = setting.clockwork.expect_all(scripts, session.results.runs) * slowdown(session)
        learnt = session.done > 0 or session.results.runs  # the first is run in any case
        if learnt and not plan.fits(time.monotonic() - session.began, expected, job.minutes):
            session.progress.say(
                f"round {number} would take some {format_left(expected)}: more than is left of {job.minutes:g} min"
            )
            return
        yield one, []


def run_rounds(session: Session, setting: Setting) -> None:
    """Run all rounds."""
    for one, later in rounds_of(session, setting):
        total = session.done + len(one.scripts) + sum(len(other.scripts) for other in later)
        run_round(session, setting, one, later, total)
        say_widths(session, one.number)


def execute(session: Session) -> None:
    """Do the job: what comes of it is in the session and in the result file. UserError if it cannot begin."""
    setting = prepare(session)
    run_rounds(session, setting)
