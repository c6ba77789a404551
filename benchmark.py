# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2", "psutil==7.2.2", "pyperf==2.10.0", "rich==15.0.0"]
# ///
"""Run the MNIST scripts, print the table of their results, draw it and keep it as a pyperf file.

    uv run benchmark.py                                     # all scripts, 10 epochs: more than an hour on two cores
    uv run benchmark.py --epochs 1                          # the quick look: minutes
    uv run benchmark.py --repeats 3 --output results/x.json # three rounds; once more with the same file adds to it
    uv run benchmark.py mnist_mx_gluon.py mnist_mx_gluon_mgpu.py
    uv run benchmark.py --report results/x.json --readme    # run nothing: table, plot and README from the file
    uv run benchmark.py --report new.json --compare old.json --fail-above 5

Every run is a process of its own in the script's own environment, which uv makes on first use. The result file is read by
`pyperf stats`, `compare_to`, `metadata` and `hist` too: one benchmark per script, one run per process, in seconds.
"""

import argparse
import collections
import contextlib
import ctypes
import datetime
import gzip
import hashlib
import io
import itertools
import math
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import psutil
import pyperf
from pyperf._utils import is_significant  # the test of `pyperf compare_to`, which has no public name; pyperf is pinned
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
DEVICES = 2  # of a parallel script
TIMEOUT = 7200  # seconds for one run
GRACE = 10  # seconds between asking a process to end and killing it; horovodrun needs up to 5 to end its ranks
LOG_LINES = 15  # of a failed run's log are shown
HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
MNIST = {  # file: SHA-256
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
STAND_IN = "stand-in"  # folder below the data's
HEADER = re.compile(
    r"(?P<script>\S+): (?P<versions>(?:[^\s,]+ [^\s,]+, )+python [^\s,]+), (?P<devices>[1-9]\d*) x (?P<device>cpu|gpu), "
    r"(?P<threads>\d+) threads, batch (?P<per>\d+) x (?P<batch_size>\d+)"
)
EPOCH = re.compile(r"epoch +(\d+)/(\d+)  loss (\d+\.\d{4})  (\d+\.\d\d) s")
RESULT = re.compile(r"duration: (\d+\.\d\d) s\naccuracy: ([01]\.\d{4})")
# what must be the same for all runs in one file, and for all runs of a script
MACHINE = "hostname", "cpu_model_name", "cpu_count", "cpus_used", "memory", "gpu", "gpu_driver", "platform", "os"
SETTINGS = "epochs", "batch_size", "omp_num_threads", "data", "train_images", *(f"sha256 {name}" for name in MNIST)
SCRIPT = "sha256", "devices", "device", "threads", "python_version"
SAME_WORK = "devices", "device", "threads"  # of a script, in two files to be compared


# -- the scripts and what they need --


def find_scripts(names):
    """Return the paths of the scripts named, all mnist_*.py beside this file if none is."""
    scripts = [next((path for path in (Path(name), HERE / name) if path.is_file()), None) for name in names]
    if None in scripts:
        fail(f"no such script: {names[scripts.index(None)]}", 2)
    scripts = [script.resolve() for script in scripts] or sorted(HERE.glob("mnist_*.py"))
    if len({script.name for script in scripts}) < len(scripts):
        fail("two scripts have the same name", 2)
    return scripts


def find_python(script, args):
    """Return the interpreter for a script: the one named on the command line, or of its own environment made by uv.

    Raises RuntimeError with what uv says if it cannot make it.
    """
    given = args.mx_python if "_mx_" in script.name else args.tf_python if "_tf_" in script.name else None
    if given:
        return str(given.absolute())  # not resolved: the link's place is the environment
    found = "nothing"
    for command in ["uv", "sync", "--quiet"], ["uv", "python", "find"]:
        status, found, errors = ask(*command, "--script", script)
        if status == 127:
            fail(f"{errors}; install uv, or use --mx-python and --tf-python")
        if status:
            raise RuntimeError(errors)
    return found


def find_data(folder, script, python):
    """Return the folder of the data: the one named, MNIST fetched if need be, or stand-in digits below it."""
    if all((folder / name).is_file() for name in MNIST):
        return folder
    say(f"fetching MNIST into {folder}")
    program = "import runpy, sys; runpy.run_path(sys.argv[1])['load_mnist'](sys.argv[2])"
    status, _, errors = ask(python, "-c", program, script, folder)
    if not status:
        return folder
    reason = errors.splitlines()[-1].removeprefix("error: ") if errors else f"exit status {status}"
    if "error: cannot download" not in errors:
        fail(f"cannot get MNIST: {reason}")
    say(f"\nWARNING: {reason}\nWARNING: going on with stand-in digits, not MNIST: the accuracies mean nothing\n")
    folder = folder / STAND_IN
    if not all((folder / name).is_file() for name in MNIST):
        status, _, errors = ask(python, HERE / "synthetic_mnist.py", folder)
        if status:
            say(errors)
            fail("cannot draw stand-in digits with synthetic_mnist.py")
    return folder


def describe_data(folder):
    """Return what the result file says of the data: what it is, its number of training images, its files' SHA-256."""
    try:
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MNIST}
        with gzip.open(folder / "train-labels-idx1-ubyte.gz") as labels:
            images = int.from_bytes(labels.read(8)[4:])  # IDX: the number of items follows the magic number
    except (OSError, EOFError, zlib.error) as error:
        fail(f"cannot read the data in {folder}: {error}")
    data = "MNIST" if found == MNIST else f"not the published MNIST: {images:,} training images"
    if folder.name == STAND_IN:
        data = "stand-in digits, not MNIST"
    return {"data": data, "train_images": images} | {f"sha256 {name}": value for name, value in found.items()}


def describe_machine():
    """Return what the result file says of hardware and system, mostly by pyperf."""
    # pyperf's platform names the libc of its own Python, which need not be the scripts'
    machine = {"platform": f"{platform.system()}-{platform.release()}-{platform.machine()}", "os": platform.system()}
    with contextlib.suppress(OSError):
        machine["os"] = platform.freedesktop_os_release()["PRETTY_NAME"]
    query = "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
    gpus = [line.split(", ") for line in ask(*query)[1].splitlines() if ", " in line]
    names = collections.Counter(name for name, _ in gpus)
    machine["gpu"] = ", ".join(f"{count} x {name}" for name, count in names.items()) or "none"
    machine["gpu_driver"] = gpus[0][1] if gpus else "none"
    machine["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    machine["cpus_used"] = len(os.sched_getaffinity(0))
    _, commit, _ = ask("git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    machine |= {"git_commit": commit} if commit else {}
    # the rest of what pyperf finds tells of this process and its Python, not of the script's
    kept = "hostname", "cpu_model_name", "cpu_machine", "cpu_count", "cpu_config"
    return {name: value for name, value in pyperf.Run([1.0]).get_metadata().items() if name in kept} | machine


# -- the runs --


def is_parallel(name):
    """Return whether a script by its name uses several devices."""
    return "_mgpu" in name or "_hvd" in name


def make_command(script, python, args):
    """Return the command line of one run."""
    command = [python, str(script), "--epochs", str(args.epochs), "--batch-size", str(args.batch_size)]
    command += ["--data-dir", str(args.data_dir), "--device", args.device]
    n = str(args.devices)
    if "_hvd" in script.name:
        return [str(Path(python).with_name("horovodrun")), "-np", n, "-H", f"localhost:{n}", *command]
    return command + (["--devices", n] if is_parallel(script.name) else [])


def run(command, timeout, log):
    """Yield the lines a command prints to stdout, log all it prints; RuntimeError says why it failed.

    When this ends, or is closed, no process of the run is left.
    """
    out_of_time = threading.Event()
    timer = threading.Timer(timeout, lambda: (out_of_time.set(), stop_children()))
    timer.daemon = True
    # horovodrun looks for its helpers in PATH
    environment = os.environ | {"PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    # a session of its own: Ctrl-C is for this process, which then ends the others in order
    options = {"env": environment, "text": True, "errors": "replace", "start_new_session": True}
    try:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
        process = subprocess.Popen(command, **pipes, **options)
        timer.start()
        with process.stdout:
            for line in process.stdout:
                log.write(line)
                log.flush()
                yield re.sub(r"^\[\d+\]<stdout>:", "", line.rstrip("\n"))  # horovodrun's prefix
        status = process.wait()
    except OSError as error:
        raise RuntimeError(f"cannot start {command[0]}: {error.strerror}") from None
    finally:
        timer.cancel()
        if timer.is_alive():  # it is ending the processes: let it, lest it ends those of the next run
            timer.join()
        stop_children()
    if out_of_time.is_set():
        raise RuntimeError(f"not done after --timeout {timeout} s")
    if status:
        raise RuntimeError(f"exit status {status}")


def stop_children():
    """End all processes that came from this one: ask, wait, kill. Those who lost their parents are our children too."""
    children = psutil.Process().children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            # horovodrun ends its ranks, which have sessions of their own, if it is asked and not killed
            os.killpg(child.pid, signal.SIGTERM) if os.getpgid(child.pid) == child.pid else child.terminate()
    psutil.wait_procs(children, GRACE)
    while rest := psutil.Process().children(recursive=True):
        for child in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(rest, 1)


def read_header(line, name, args):
    """Return what the first line of a script says as metadata; RuntimeError if it is not as agreed."""
    found = HEADER.fullmatch(line)
    n = args.devices if is_parallel(name) else 1
    expected = {"script": name, "devices": f"{n}", "per": f"{n}", "batch_size": f"{args.batch_size}"}
    if not found or not expected.items() <= found.groupdict().items():
        raise RuntimeError(f"malformed first line: {line!r}")
    versions = dict(item.split(" ") for item in found["versions"].split(", "))
    metadata = {"devices": n, "device": found["device"], "threads": int(found["threads"])}
    return metadata | {f"{package}_version": version for package, version in versions.items()}


def read_results(lines, epochs, elapsed):
    """Return the duration in seconds and the metadata of the lines after the first; elapsed: seconds of the process."""
    found = [EPOCH.fullmatch(line) for line in lines[:epochs]]
    result = RESULT.fullmatch("\n".join(lines[epochs:]))
    numbers = [(int(line[1]), int(line[2])) for line in found if line]
    if not result or numbers != [(i + 1, epochs) for i in range(epochs)]:
        raise RuntimeError(f"malformed output: {lines!r}")
    duration, accuracy, seconds = float(result[1]), float(result[2]), [float(line[4]) for line in found]
    # each printed figure is rounded to 0.01
    if not 0 < duration <= elapsed or sum(seconds) > duration + 0.01 * (epochs + 1) or accuracy > 1:
        raise RuntimeError(f"impossible figures in {elapsed:.2f} s: {lines!r}")
    metadata = {"accuracy": accuracy, "duration": elapsed}  # pyperf: duration is of the whole process
    metadata["epoch_seconds"] = " ".join(line[4] for line in found)
    return duration, metadata | {"epoch_losses": " ".join(line[3] for line in found)}


def packages(metadata):
    """Return the frameworks' versions in a run's metadata."""
    names = [name for name in metadata if name.endswith("_version") and name not in ("perf_version", "python_version")]
    return {name: metadata[name] for name in names}


def check_same(benches, new, path):
    """Raise RuntimeError if a run with the metadata new must not be in one file with the benchmarks there."""
    for old in (bench.get_runs()[0].get_metadata() for bench in benches.values()):
        checked = [*MACHINE, *SETTINGS, *packages(old)]
        if old["name"] == new.get("name"):
            checked += SCRIPT
        elif "devices" in new:
            checked += ["devices"] if min(old["devices"], new["devices"]) > 1 else []
            checked += ["device"] if old["devices"] == new["devices"] else []
        for key in checked:
            if key in old and key in new and old[key] != new[key]:
                what = f"{key} of {new.get('name', 'this benchmark')} is {new[key]} here, {old[key]} there"
                raise RuntimeError(f"cannot add to {path}: {what}; name another --output")


def refuse_other(benches, new, path):
    """End the program where check_same raises RuntimeError: nothing has run yet."""
    try:
        check_same(benches, new, path)
    except RuntimeError as error:
        fail(error)


def run_script(script, python, args, benches, common, log, tell):
    """Run a script once; return its pyperf.Run. RuntimeError says why it failed; tell is called with every epoch line."""
    metadata = {"name": script.name, "unit": "second", "loops": 1, "date": str(datetime.datetime.now())}
    metadata |= common | {"load_avg_1min": os.getloadavg()[0]}
    metadata["sha256"] = hashlib.sha256(script.read_bytes()).hexdigest()
    lines, began = [], time.perf_counter()
    with contextlib.closing(run(make_command(script, python, args), args.timeout, log)) as output:
        for line in output:
            if not lines:
                metadata |= read_header(line, script.name, args)
                check_same(benches, metadata, args.output)
            elif EPOCH.fullmatch(line):
                tell(line)
            lines.append(line)
    seconds, results = read_results(lines[1:], args.epochs, time.perf_counter() - began)
    return pyperf.Run([seconds], metadata=metadata | results, collect_metadata=False)


def run_all(scripts, pythons, args, common, benches, failures):
    """Run all scripts args.repeats times, interleaved; add to benches, which the file then holds, and to failures."""
    left = TextColumn("epochs"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *left
    # the estimate is from all epochs so far, not from rich's last 30 seconds; without a terminal, lines
    terminal, console = sys.stderr.isatty(), Console(stderr=True)
    progress = Progress(*columns, console=console, disable=not terminal, speed_estimate_period=math.inf)
    rounds = [(number, script) for number in range(1, args.repeats + 1) for script in scripts]
    task = progress.add_task("", total=len(rounds) * args.epochs)

    def tell(line):
        progress.update(task, advance=1, description=f"{title} {line.partition('  loss')[0]}")
        if not terminal:
            seconds = progress.tasks[0].time_remaining
            say(f"  {line}", f"  about {datetime.timedelta(seconds=seconds)} left" if seconds else "")

    with progress:
        for number, (round_number, script) in enumerate(rounds, 1):
            if script.name in failures:  # once is enough
                continue
            title = f"run {number}/{len(rounds)} {script.name}"
            progress.update(task, description=title)
            if not terminal:
                say(title)
            with tempfile.TemporaryFile("a+", errors="replace") as log:
                try:
                    done = run_script(script, pythons[script], args, benches, common, log, tell)
                except RuntimeError as error:
                    failures[script.name] = str(error)
                    log.seek(0)
                    keep(log.read(), args.output, f"{script.stem}-{round_number}", error)
                    lost = args.epochs * (args.repeats - round_number + 1)
                    progress.update(task, total=progress.tasks[0].total - lost)
                    continue
            if script.name in benches:
                benches[script.name].add_run(done)
            else:
                benches[script.name] = pyperf.Benchmark([done])
            save(args.output, benches)
            say(f"{script.name}: {done.values[0]:.2f} s, accuracy {done.get_metadata()['accuracy']:.4f}")


def save(path, benches):
    """Write the result file."""
    with whole(path) as unfinished:
        pyperf.BenchmarkSuite(list(benches.values())).dump(str(unfinished))


def keep(log, output, name, reason):
    """Keep the log of what failed in a folder beside the result file, and show its end."""
    path = output.with_suffix(".logs") / f"{name}.log"
    with whole(path) as unfinished:
        unfinished.write_text(log)
    say(f"{name} failed: {reason}; the end of its log, {path}:", *log.splitlines()[-LOG_LINES:], sep="\n  ")


# -- the report --


def summarize(benches):
    """Return one row per script as dictionaries: by kind, by number of devices, then by median duration in seconds."""
    rows = []
    for bench in benches.values():
        runs = [run.get_metadata() for run in bench.get_runs()]
        row = runs[0] | {"seconds": bench.get_values(), "median": bench.median()}
        row["group"] = is_parallel(row["name"]), row["devices"]
        rates = []
        for run in runs:
            times = [float(seconds) for seconds in run["epoch_seconds"].split()]
            times = times[1:] or times  # the first compiles and warms up
            step = run["batch_size"] * run["devices"]
            rates.append(run["train_images"] // step * step * len(times) / max(sum(times), 0.01))
        row["rate"] = statistics.median(rates)
        row["accuracy"] = statistics.median(run["accuracy"] for run in runs)
        rows.append(row)
    rows.sort(key=lambda row: (row["group"], row["median"]))
    for above, row in zip([None, *rows], rows, strict=False):
        neighbours = above and above["group"] == row["group"]
        row["tie"] = neighbours and differ(above["seconds"], row["seconds"]) is False
        single = next((one for one in rows if one["name"] == re.sub("_mgpu|_hvd", "", row["name"])), None)
        if single and single["devices"] < row["devices"] and single["device"] == row["device"]:
            row["speedup"] = single["median"] / row["median"]
    return rows


def differ(old, new):
    """Return whether two series of seconds differ by pyperf's test, None where one run allows no test."""
    n = min(len(old), len(new))  # the test wants as many of each: the first of both
    if n < 2:
        return None
    try:
        return is_significant(old[:n], new[:n])[0]
    except ZeroDivisionError:  # no spread at all
        return old[:n] != new[:n]


def markdown(header, rows):
    """Return a Markdown table that is aligned in a terminal too; the first column holds names, the others figures."""
    table = Table(box=box.MARKDOWN)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=1000, markup=False, highlight=False, emoji=False, color_system=None)
    console.print(table)
    lines = [line.strip() for line in console.file.getvalue().splitlines() if line.strip()]
    first, *others = lines[1].strip("|").split("|")
    lines[1] = "|".join(["", first, *(f"{dashes[:-1]}:" for dashes in others), ""])  # ---: is right alignment
    return "\n".join(lines)


def make_report(benches, failures):
    """Return machine and tables, one device and several apart, as Markdown."""
    rows = summarize(benches)
    parts = [f"**{rows[0]['data']}**"] if rows and rows[0]["data"] != "MNIST" else []
    parts += ["\n".join(f"- {line}" for line in describe(benches))] if rows else []
    for title, several in ("One device", False), ("Several devices", True):
        header = ["script", "devices", "runs", "seconds", "spread", "tie", "images/s", "accuracy"]
        header += ["speedup", "efficiency"] if several else []
        cells = []
        for row in (row for row in rows if is_parallel(row["name"]) == several):
            seconds, speedup = row["seconds"], row.get("speedup")
            spread = f"{min(seconds):.2f}–{max(seconds):.2f}" if len(seconds) > 1 else ""
            line = [row["name"], f"{row['devices']} x {row['device']}", str(len(seconds)), f"{row['median']:.2f}"]
            line += [spread, "above" if row["tie"] else "", f"{row['rate']:,.0f}", f"{row['accuracy']:.4f}"]
            cells.append(line + ([f"{speedup:.2f}", f"{speedup / row['devices']:.0%}"] if speedup else []))
        failed = [name for name in failures if name not in benches and is_parallel(name) == several]
        cells += [[name, "failed"] for name in failed]
        if cells:
            parts += [f"### {title}", markdown(header, cells)]
    notes = [f"{name} failed: {reason[:100]}" for name, reason in failures.items()] + (make_notes(rows) if rows else [])
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])


def make_notes(rows):
    """Return what the figures in the tables mean, one sentence an item."""
    notes = ["seconds: duration of the training, median over the runs; spread: from the fastest to the slowest run"]
    if any(len(row["seconds"]) > 1 for row in rows):
        notes.append("tie: the runs cannot tell the script from the one above (pyperf's t-test, 95 %)")
    if any(len(row["seconds"]) == 1 for row in rows):
        notes.append("a single run has no spread: it was not tested for ties")
    which = "without the first epoch, which" if rows[0]["epochs"] > 1 else "of the only epoch, which also"
    notes.append(f"images/s: {which} compiles and warms up")
    if any("speedup" in row for row in rows):
        notes.append("speedup: seconds on one device over these; efficiency: speedup over number of devices")
    if any(row["devices"] > 1 and row["device"] == "cpu" for row in rows):
        cores = f"the same {rows[0]['cpus_used']} cores"
        notes.append(f"devices of a CPU share {cores}: a second device adds no computing power")
    return notes


def describe(benches):
    """Return framework, system, hardware and settings of a result file, one line each."""
    runs = [run.get_metadata() for bench in benches.values() for run in bench.get_runs()]
    one = runs[0]
    versions = {f"{key.removesuffix('_version')} {value}" for run in runs for key, value in packages(run).items()}
    python = ", ".join(sorted({run["python_version"] for run in runs}))
    cpu = one.get("cpu_model_name") or one.get("cpu_machine", "CPU")
    gpu = "no GPU" if one["gpu"] == "none" else f"{one['gpu']}, driver {one['gpu_driver']}"
    first, last = min(run["date"] for run in runs)[:10], max(run["date"] for run in runs)[:10]
    days = first if first == last else f"{first} to {last}"
    return [
        f"Framework: {', '.join(sorted(versions))}",
        f"System: {one['os']}, {one['platform']}, Python {python}",
        f"Hardware: {cpu}, {one['cpus_used']} cores; {one['memory']} memory; {gpu}",
        f"Settings: {one['data']}; epochs: {one['epochs']}; batch per device: {one['batch_size']}; {days}",
    ]


def draw(benches, path):
    """Draw the durations into a PNG: a bar per script, grouped and ordered as in the table."""
    import matplotlib  # here, as it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = summarize(benches)
    groups = [list(group) for _, group in itertools.groupby(rows, lambda row: row["group"])]
    size = 10, 2 + 0.4 * len(rows) + 0.5 * len(groups)  # inches
    grid = {"sharex": True, "squeeze": False, "height_ratios": [len(group) for group in groups]}
    figure, axes = plt.subplots(len(groups), figsize=size, layout="constrained", **grid)
    for axis, group in zip(axes[:, 0], groups, strict=True):
        for y, row in enumerate(group):
            seconds, median = row["seconds"], row["median"]
            axis.barh(y, median, 0.65, color="#f0a95c" if "_tf_" in row["name"] else "#7aa6d2")
            if len(seconds) > 1:
                whiskers = [median - min(seconds)], [max(seconds) - median]
                axis.errorbar(median, y, xerr=whiskers, color="#222222", capsize=6)
                axis.plot(seconds, [y] * len(seconds), "o", color="#222222", markersize=5, markeredgecolor="white")
            text = f"{median:.1f} s, accuracy {row['accuracy']:.4f}"
            axis.annotate(text, (max(seconds), y), (9, 0), textcoords="offset points", va="center", fontsize=9)
        axis.set_yticks(range(len(group)), [row["name"].removesuffix(".py") for row in group])
        devices = sorted({f"{row['devices']} x {row['device']}" for row in group})
        axis.set_title(", ".join(devices), loc="left", fontsize=10, fontweight="bold")
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_xlim(0, 1.35 * max(max(row["seconds"]) for row in rows))  # room for the words
    axes[-1, 0].set_xlabel(f"seconds of training, epochs: {rows[0]['epochs']}", fontsize=9)
    legend = "Bars: medians; whiskers: from the fastest to the slowest run; dots: single runs"
    title = "MNIST benchmark" + ("" if rows[0]["data"] == "MNIST" else f" ({rows[0]['data']})")
    caption = "\n".join([legend, *describe(benches)])
    figure.suptitle(f"{title}: shorter is faster", fontsize=11)
    figure.supxlabel(caption, fontsize=8, x=0.01, ha="left", linespacing=1.4)
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=150, metadata={"Title": title, "Description": caption})
    plt.close(figure)


def split_readme():
    """Return the README before and after the block of results."""
    text = README.read_text() if README.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end or BEGIN in rest:
        fail(f"{README} needs one line {BEGIN} and one line {END} below it")
    return before + begin, end + after


def name_in_readme(path):
    """Return how the README names a result file."""
    if not path.resolve().is_relative_to(HERE):
        fail(f"{path} is not below the folder of the README, which is to name it")
    return path.resolve().relative_to(HERE).as_posix()


def write_readme(results):
    """Put machine, tables and plots of result files {path: benchmarks} between the markers of the README."""
    before, after = split_readme()
    parts = []
    for path, benches in results.items():
        name = name_in_readme(path)
        parts.append(f"Made from [{name}]({name}) by `uv run benchmark.py --report {name} --readme`.")
        parts.append(make_report(benches, {}))
        parts.append(f"![Seconds of training, a bar per script]({Path(name).with_suffix('.png').as_posix()})")
    with whole(README) as unfinished:
        unfinished.write_text("\n\n".join([before, *parts, after]))


def compare(old_path, old, new, fail_above):
    """Print per script whether new is faster or slower than old; return the names of those slower by too much."""
    old, new = ({row["name"]: row for row in summarize(benches)} for benches in (old, new))
    before, now = (dict(collections.ChainMap(*rows.values())) for rows in (old, new))  # with all frameworks' versions
    check_comparable(old_path, before, now, SETTINGS)
    for name in old.keys() & new.keys():
        check_comparable(old_path, old[name], new[name], SAME_WORK)
    cells, slower = [], []
    for name in old | new:
        if name not in old or name not in new:
            cells.append([name, *(f"{rows[name]['median']:.2f}" if name in rows else "" for rows in (old, new))])
            continue
        a, b = old[name]["median"], new[name]["median"]
        percent = (b / a - 1) * 100
        verdict = "slower" if b > a else "faster" if b < a else "no difference"
        significant = differ(old[name]["seconds"], new[name]["seconds"])
        if significant is None:
            verdict += ", not tested: one run"
        elif not significant:
            verdict = "no difference"
        # a single run counts: a check that lets everything pass would be worse than a false alarm
        if significant is not False and fail_above is not None and percent > fail_above:
            slower.append(name)
        cells.append([name, f"{a:.2f}", f"{b:.2f}", f"{percent:+.1f} %", verdict])
    table = markdown(["script", "old (s)", "new (s)", "change", "verdict"], cells)
    print(f"\n### Compared with {old_path}\n\n{table}")
    for key in [*MACHINE, *(packages(before) | packages(now))]:
        if before.get(key) != now.get(key):
            print(f"\n- {key} is {now.get(key)} here, {before.get(key)} there")
    return slower


def check_comparable(old_path, old, new, keys):
    """End the program if one of the keys that both metadata have differs."""
    for key in keys:
        if key in old and key in new and old[key] != new[key]:
            what = f"{key} of {new['name']}" if key in SAME_WORK else key
            fail(f"cannot compare with {old_path}: {what} is {new[key]} here, {old[key]} there")


# -- odds and ends --


@contextlib.contextmanager
def whole(path):
    """Give a path to write to; what is written there becomes the file at path, at once and whole, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # on the same disk: the renaming is atomic
            yield Path(folder, path.name)
            if Path(folder, path.name).exists():
                Path(folder, path.name).replace(path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}; name a file in another folder")


def load(path):
    """Return the benchmarks of a result file by name; a file that is none, or not of this program, ends the program."""
    try:
        benches = {bench.get_name(): bench for bench in pyperf.BenchmarkSuite.load(str(path))}
        describe(benches), summarize(benches)  # needs all that a report needs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"cannot read {path} as a result file of benchmark.py: {error!r}")
    return benches


def ask(*command):
    """Run a short command; return exit status, stdout and stderr; a command that is not there: 127, as in a shell."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return 127, "", f"{command[0]}: {error.strerror}"
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def say(*words, sep=" "):
    """Print to stderr: stdout is for the tables."""
    print(*words, sep=sep, file=sys.stderr, flush=True)


def fail(message, status=1):
    """End the program with one line on stderr."""
    say(f"error: {message}")
    sys.exit(status)


def positive(text):
    """Return the whole number in text; argparse reports the ValueError of anything below 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse_args():
    """Return the flags; a mistake in them exits with status 2."""
    data_dir = os.environ.get("MNIST_DIR") or HERE / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message}; see --help", 2)
    add = parser.add_argument
    add("scripts", nargs="*", metavar="SCRIPT", help="default: all mnist_*.py beside this file")
    add("--repeats", type=positive, default=1, metavar="R", help="rounds, the scripts interleaved: %(default)s")
    add("--epochs", type=positive, default=EPOCHS, metavar="N", help="%(default)s")
    add("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    add("--data-dir", type=Path, default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    add("--devices", type=positive, default=DEVICES, metavar="N", help="of the parallel scripts: %(default)s")
    add("--mx-python", type=Path, metavar="PYTHON", help="interpreter for the MXNet scripts, instead of uv's")
    add("--tf-python", type=Path, metavar="PYTHON", help="interpreter for the TensorFlow scripts, instead of uv's")
    add("--timeout", type=positive, default=TIMEOUT, metavar="S", help="seconds for one run: %(default)s")
    add("--output", type=Path, metavar="FILE", help="adds to it if it exists: results/HOST-DATE.json")
    add("--report", nargs="+", type=Path, metavar="FILE", help="run nothing: table and plot of result files")
    add("--readme", action="store_true", help="put table, machine and plot into README.md, between its markers")
    add("--compare", type=Path, metavar="OLD", help="say what is faster or slower than in this result file")
    add("--fail-above", type=float, metavar="PERCENT", help="with --compare: exit 1 if something is slower by more")
    args = parser.parse_args()
    if args.report and (args.scripts or args.output):
        parser.error("--report runs nothing: it goes with neither scripts nor --output")
    if args.compare and args.report and len(args.report) > 1:
        parser.error("--compare takes one file to --report")
    if args.fail_above is not None and not args.compare:
        parser.error("--fail-above goes with --compare")
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    args.output = args.output or HERE / "results" / f"{socket.gethostname()}-{stamp}.json"
    if args.output.suffix != ".json":  # the plot lies beside it, by the same name
        parser.error(f"--output {args.output} does not end with .json")
    args.data_dir = args.data_dir.absolute()
    return args


def benchmark(args, benches, failures):
    """Prepare everything, run everything; add what is done to benches and to the file."""
    scripts = find_scripts(args.scripts)
    common = describe_machine() | {"epochs": args.epochs, "batch_size": args.batch_size}
    common |= {"omp_num_threads": os.environ.get("OMP_NUM_THREADS", "not set"), "perf_version": pyperf.__version__}
    benches |= load(args.output) if args.output.exists() else {}
    refuse_other(benches, common, args.output)
    with whole(args.output.with_suffix(".test")):  # fails now rather than after the first run
        pass
    say("preparing environments and data; making an environment for the first time takes minutes")
    pythons = {}
    for script in scripts:
        try:
            pythons[script] = find_python(script, args)
        except RuntimeError as error:
            failures[script.name] = "uv cannot make its environment"
            keep(str(error), args.output, f"{script.stem}-uv", failures[script.name])
    if not pythons:
        return
    scripts = list(pythons)
    args.data_dir = find_data(args.data_dir, scripts[0], pythons[scripts[0]])
    common |= describe_data(args.data_dir)
    refuse_other(benches, common, args.output)
    run_all(scripts, pythons, args, common, benches, failures)


def interrupt(number, _):
    """Turn a signal into an exception, and ignore those that follow: the cleaning up is not to be interrupted."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(128 + number)


def main():
    """Run and report, or only report."""
    args = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup is to hold
            signal.signal(number, interrupt)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: processes that lose their parents become our children
    old = load(args.compare) if args.compare else {}
    if args.readme:
        split_readme()  # fails now rather than after an hour, like the following
        for path in args.report or [args.output]:
            name_in_readme(path)
    if old and not args.report:
        settings = {"epochs": args.epochs, "batch_size": args.batch_size}
        check_comparable(args.compare, next(iter(old.values())).get_metadata(), settings, settings)
    results = {path: load(path) for path in args.report} if args.report else {args.output: {}}
    benches, failures, status = results[next(iter(results))], {}, 0
    try:
        if not args.report:
            benchmark(args, benches, failures)
    except KeyboardInterrupt as interruption:
        status = interruption.args[0]
        if benches:  # it may have come between a run's end and the file
            save(args.output, benches)
        say(f"interrupted; the same command with --output {args.output} adds to what is done")
    finally:
        stop_children()
    for path, found in results.items():
        if found or failures:
            print(*([f"## {path}\n"] if len(results) > 1 else []), make_report(found, failures), sep="\n", flush=True)
    for path, found in results.items():
        if found and not status:
            draw(found, path.with_suffix(".png"))
            say(f"plot: {path.with_suffix('.png')}")
    if args.readme and all(results.values()) and not failures and not status:  # a README without a row says too little
        write_readme(results)
    slower = compare(args.compare, old, benches, args.fail_above) if old and benches and not status else []
    if slower:
        say(f"error: slower by more than {args.fail_above:g} %: {', '.join(slower)}")
    if failures:
        say(f"error: failed: {', '.join(failures)}")
    sys.exit(status or bool(slower or failures))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as interruption:  # while nothing runs
        sys.exit(*(interruption.args or [130]))
