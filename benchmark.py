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
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
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
    r"(?P<script>\S+): (?P<versions>\S+ \S+(?:, \S+ \S+)*), (?P<devices>[1-9]\d*) x (?P<device>cpu|gpu), "
    r"(?P<threads>\d+) threads, batch (?P<per>\d+) x (?P<batch_size>\d+)"
)
EPOCH = re.compile(r"epoch +(\d+)/(\d+)  loss (\d+\.\d{4})  (\d+\.\d\d) s")
RESULT = re.compile(r"duration: (\d+\.\d\d) s\naccuracy: ([01]\.\d{4})")
# What must not differ between the runs of one file; for parallel scripts and for one and the same script, more
MACHINE = "hostname", "cpu_model_name", "cpu_count", "cpus_used", "memory", "gpu", "gpu_driver", "platform", "os"
SETTINGS = "epochs", "batch_size", "data", "train_images", *(f"sha256 {name}" for name in MNIST)
SCRIPT = "sha256", "devices", "device", "threads", "python_version"


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
    """Return the interpreter for a script: the one named on the command line, or of its own environment made by uv."""
    given = args.mx_python if "_mx_" in script.name else args.tf_python if "_tf_" in script.name else None
    if given:
        return str(given.absolute())  # not resolved: the link's place is the environment
    try:
        for command in ("sync", "--quiet"), ("python", "find"):
            done = subprocess.run(["uv", *command, "--script", script], capture_output=True, text=True)
            if done.returncode:
                fail(f"uv cannot make the environment of {script.name}: {tail(done.stderr)}")
    except FileNotFoundError:
        fail("uv, which makes the scripts' environments, is not there: see docs.astral.sh/uv, or use --mx-python")
    return done.stdout.strip()


def find_data(folder, script, python):
    """Return the folder of the data: the one named, MNIST fetched if need be, or stand-in digits below it."""
    if all((folder / name).is_file() for name in MNIST):
        return folder
    say(f"fetching MNIST into {folder}")
    program = "import runpy, sys; runpy.run_path(sys.argv[1])['load_mnist'](sys.argv[2])"
    done = subprocess.run([python, "-c", program, script, folder], capture_output=True, text=True)
    if not done.returncode:
        return folder
    if "error: cannot download" not in done.stderr:
        fail(f"cannot get MNIST: {tail(done.stderr).removeprefix('error: ')}")
    say(f"\nWARNING: {tail(done.stderr).removeprefix('error: ')}")
    say("WARNING: the benchmark goes on with stand-in digits, not MNIST: its accuracies mean nothing\n")
    folder = folder / STAND_IN
    if not all((folder / name).is_file() for name in MNIST):
        done = subprocess.run([python, HERE / "synthetic_mnist.py", folder], capture_output=True, text=True)
        if done.returncode:
            fail(f"cannot draw stand-in digits: {tail(done.stderr).removeprefix('error: ')}")
    return folder


def describe_data(folder):
    """Return what the result file says of the data: what it is, its number of training images, its files' SHA-256."""
    try:
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MNIST}
        with gzip.open(folder / "train-labels-idx1-ubyte.gz") as labels:
            images = int.from_bytes(labels.read(8)[4:])  # IDX: the number of items follows the magic number
    except (OSError, EOFError) as error:
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
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        names = collections.Counter(line.split(", ")[0] for line in gpus)
        machine["gpu"] = ", ".join(f"{count} x {name}" for name, count in names.items()) or "none"
        machine["gpu_driver"] = gpus[0].split(", ")[-1] if gpus else "none"
    machine["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    machine["cpus_used"] = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        describe = ["git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
        machine |= {"git_commit": commit} if commit else {}
    # the rest of what pyperf finds tells of this process and its Python, not of the script's
    names = "hostname", "cpu_model_name", "cpu_machine", "cpu_count", "cpu_config", "aslr"
    found = pyperf.Run([1.0]).get_metadata()
    return {"gpu": "none", "gpu_driver": "none"} | {name: found[name] for name in names if name in found} | machine


# -- the runs --


def make_command(script, python, args):
    """Return the command line of one run."""
    command = [python, str(script), "--epochs", str(args.epochs), "--batch-size", str(args.batch_size)]
    command += ["--data-dir", str(args.data_dir), "--device", args.device]
    if "_hvd" in script.stem:
        n = str(args.devices)
        return [str(Path(python).with_name("horovodrun")), "-np", n, "-H", f"localhost:{n}", *command]
    return command + (["--devices", str(args.devices)] if "_mgpu" in script.stem else [])


def run_once(command, args, log, on_line):
    """Run a command, give every line of its stdout to on_line; RuntimeError says why it is a failure.

    stdout and stderr go to log. When this returns, no process of the run is left.
    """
    # horovodrun starts its helpers by the names in PATH
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    out_of_time = threading.Event()
    timer = threading.Timer(args.timeout, lambda: (out_of_time.set(), stop_children()))
    timer.daemon = True
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )
        timer.start()
        with process.stdout:
            for line in process.stdout:
                log.write(line)
                log.flush()
                on_line(re.sub(r"^\[\d+\]<stdout>:", "", line.rstrip("\n")))  # what horovodrun puts before
        status = process.wait()
    except OSError as error:
        raise RuntimeError(f"cannot start {command[0]}: {error.strerror}") from None
    finally:
        timer.cancel()
        stop_children()
    if out_of_time.is_set():
        raise RuntimeError(f"not done after {args.timeout:g} s, --timeout")
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


def read_header(script, line, args):
    """Return what the first line of a script says as metadata; RuntimeError if it is not as agreed."""
    found = HEADER.fullmatch(line)
    parallel = "_mgpu" in script.stem or "_hvd" in script.stem
    devices = str(args.devices if parallel else 1)
    expected = {"script": script.name, "devices": devices, "per": devices, "batch_size": str(args.batch_size)}
    if not found or not expected.items() <= found.groupdict().items():
        raise RuntimeError(f"malformed first line: {line!r}")
    versions = dict(item.split(" ") for item in found["versions"].split(", "))
    metadata = {"devices": int(devices), "device": found["device"], "threads": int(found["threads"])}
    return metadata | {f"{name}_version": version for name, version in versions.items()}


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


def check_same(suite, new):
    """End the program if the run with the metadata new must not be in one file with the runs of suite."""
    for old in (run.get_metadata() for bench in suite or () for run in bench.get_runs()):
        packages = [key for key in old if key.endswith("_version") and key not in ("perf_version", "python_version")]
        checked = [*MACHINE, *SETTINGS, *packages]
        if old["name"] == new.get("name"):
            checked += SCRIPT
        elif "devices" in new:
            checked += ["devices"] if min(old["devices"], new["devices"]) > 1 else []
            checked += ["device"] if old["devices"] == new["devices"] else []
        for key in checked:
            if key in old and key in new and old[key] != new[key]:
                what = f"{key.replace('_', ' ')} {old[key]} there, {new[key]} here"
                fail(f"{suite.filename} does not go with this run of {new.get('name', 'the benchmark')}: {what}")


def run_all(scripts, pythons, common, suite, args, failures):
    """Run all scripts args.repeats times, interleaved; yield the suite after every run; add to failures."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    left = TextColumn("epochs"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *left
    # the speed is that of all epochs so far, not rich's last 30 seconds
    progress = Progress(*columns, console=console, disable=not sys.stderr.isatty(), speed_estimate_period=math.inf)
    rounds = [script for _ in range(args.repeats) for script in scripts]
    with progress:
        task = progress.add_task("", total=len(rounds) * args.epochs)
        for number, script in enumerate(rounds):
            total = progress.tasks[0].total
            if script.name in failures:  # once is enough
                progress.update(task, total=total - args.epochs)
                continue
            name = f"run {number + 1}/{len(rounds)} {script.name}"
            progress.update(task, description=name)
            if progress.disable:
                say(name)
            lines = []
            metadata = common | {
                "name": script.name,
                "unit": "second",
                "loops": 1,
                "date": f"{datetime.datetime.now()}",
            }
            metadata["sha256"] = hashlib.sha256(script.read_bytes()).hexdigest()
            metadata["load_avg_1min"] = os.getloadavg()[0]

            def on_line(line, script=script, name=name, lines=lines, metadata=metadata):
                if not lines:
                    metadata |= read_header(script, line, args)
                    check_same(suite, metadata)
                lines.append(line)
                if epoch := EPOCH.fullmatch(line):
                    progress.update(task, advance=1, description=f"{name} epoch {epoch[1]}/{epoch[2]}")
                    left = progress.tasks[0].time_remaining
                    if progress.disable:
                        left = "" if left is None else f", about {datetime.timedelta(seconds=int(left))} left"
                        say(f"  {line}{left}")

            with tempfile.TemporaryFile("a+", errors="replace") as log:
                began = time.perf_counter()
                try:
                    run_once(make_command(script, pythons[script], args), args, log, on_line)
                    seconds, results = read_results(lines[1:], args.epochs, time.perf_counter() - began)
                except RuntimeError as error:
                    failures[script.name] = str(error)
                    kept = args.output.with_suffix(".logs") / f"{script.stem}-{number // len(scripts) + 1}.log"
                    kept.parent.mkdir(exist_ok=True)
                    log.seek(0)
                    kept.write_text(log.read())
                    say(f"{script.name} failed: {error}; the end of its log, {kept}:")
                    say(*(f"  {line}" for line in kept.read_text().splitlines()[-LOG_LINES:]), sep="\n")
                    finished = sum(bool(EPOCH.fullmatch(line)) for line in lines)
                    progress.update(task, total=total - args.epochs + min(finished, args.epochs))
                    continue
            run = pyperf.Benchmark([pyperf.Run([seconds], metadata=metadata | results, collect_metadata=False)])
            if suite:
                suite.add_runs(run)
            else:
                suite = pyperf.BenchmarkSuite([run], filename=str(args.output))
            say(f"{script.name}: {seconds:.2f} s, accuracy {results['accuracy']:.4f}")
            yield suite


# -- the report --


def summarize(suite):
    """Return one row per script as dictionaries, sorted by number of devices, then by median duration in seconds."""
    rows = []
    for bench in suite:
        runs = [run.get_metadata() for run in bench.get_runs()]
        row = dict(runs[0], seconds=bench.get_values(), median=bench.median())
        rates = []
        for run in runs:
            times = [float(seconds) for seconds in run["epoch_seconds"].split()]
            times = times[1:] or times  # the first compiles and warms up
            step = run["batch_size"] * run["devices"]
            rates.append(run["train_images"] // step * step * len(times) / max(sum(times), 0.01))
        row["rate"] = statistics.median(rates)
        row["accuracy"] = statistics.median(run["accuracy"] for run in runs)
        rows.append(row)
    rows.sort(key=lambda row: (row["devices"], row["median"]))
    for above, row in itertools.pairwise(rows):
        same = above["devices"] == row["devices"]
        row["tie"] = same and differ(above["seconds"], row["seconds"]) is False
    siblings = {(row["name"], row["device"]): row for row in rows if row["devices"] == 1}
    for row in rows:
        sibling = siblings.get((re.sub("_mgpu|_hvd", "", row["name"]), row["device"]))
        if sibling and row["devices"] > 1:
            row["speedup"] = sibling["median"] / row["median"]
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
    lines[1] = re.sub(r"-(?=\|.)", ":", lines[1]).replace(":", "-", 1)[:-2] + ":|"  # Markdown's right alignment
    return "\n".join(lines)


def make_tables(suite, failures=()):
    """Return the tables as Markdown, one device and several apart, with what a reader must know of them."""
    rows = summarize(suite) if suite else []
    parts = []
    if rows and rows[0]["data"] != "MNIST":
        parts.append(f"**{rows[0]['data']}**")
    header = ["script", "devices", "duration (s)", "spread (s)", "tie", "images/s", "accuracy"]
    for several in (False, True):
        group = [row for row in rows if (row["devices"] > 1) == several]
        if not group:
            continue
        cells = []
        for row in group:
            low, high, n = min(row["seconds"]), max(row["seconds"]), len(row["seconds"])
            spread = f"{low:.2f} to {high:.2f}, {n} runs" if n > 1 else "one run"
            tie = "= above" if row.get("tie") else ""
            name = row["name"] + (" (later failed)" if row["name"] in failures else "")
            line = [name, f"{row['devices']} x {row['device']}", f"{row['median']:.2f}", spread, tie]
            line += [f"{row['rate']:,.0f}", f"{row['accuracy']:.4f}"]
            if several:
                speedup = row.get("speedup")
                line += [f"{speedup:.2f}", f"{speedup / row['devices']:.0%}"] if speedup else ["", ""]
            cells.append(line)
        parts.append("### Several devices" if several else "### One device")
        parts.append(markdown(header + (["speedup", "efficiency"] if several else []), cells))
    failed = [name for name in failures if name not in [row["name"] for row in rows]]
    if failed:
        parts.append(markdown(["script", "result"], [[name, f"failed: {failures[name][:80]}"] for name in failed]))
    if rows:
        parts.append("\n".join(f"- {note}" for note in make_notes(rows)))
    return "\n\n".join(parts)


def make_notes(rows):
    """Return what the tables' figures mean, one sentence an item."""
    yield "duration: median over the runs of the seconds of training; spread: the fastest to the slowest run"
    if any(len(row["seconds"]) > 1 for row in rows):
        yield "tie: the runs cannot tell the row from the one above (pyperf's t-test, 95 %)"
    if any(len(row["seconds"]) == 1 for row in rows):
        yield "one run shows no spread: its neighbours were not tested for ties"
    if rows[0]["epochs"] > 1:
        yield "images/s: without the first epoch, which compiles and warms up"
    else:
        yield "images/s: of the only epoch, which compiles and warms up"
    if rows[-1]["devices"] > 1:
        yield "speedup: the duration on one device over this one; efficiency: speedup over devices"
        if any(row["devices"] > 1 and row["device"] == "cpu" for row in rows):
            cpus = rows[0]["cpus_used"]
            yield f"the devices of a CPU share the same {cpus} cores: a second one adds no computing power"


def make_description(suite):
    """Return framework, system, hardware and settings of a result file as a Markdown list."""
    runs = [run.get_metadata() for bench in suite for run in bench.get_runs()]
    first = runs[0]
    versions = {}  # in the order of the runs, each once
    for run in runs:
        for key, value in run.items():
            if key.endswith("_version") and key not in ("perf_version", "python_version"):
                versions[f"{key.removesuffix('_version')} {value}"] = None
    python = ", ".join(sorted({run["python_version"] for run in runs}))
    cpu = first.get("cpu_model_name", first.get("cpu_machine", "unknown CPU"))
    gpu = f"; {first['gpu']}, driver {first['gpu_driver']}" if first["gpu"] != "none" else "; no GPU"
    dates = sorted({run["date"][:10] for run in runs})
    counts = sorted({len(bench.get_values()) for bench in suite})
    return "\n".join(
        [
            f"- Framework: {', '.join(sorted(versions))}",
            f"- System: {first['os']}, {first['platform']}, Python {python}",
            f"- Hardware: {cpu}, {first['cpus_used']} cores; {first['memory']} memory{gpu}",
            f"- Settings: {first['data']}, {first['epochs']} epochs, batch {first['batch_size']} per device; "
            f"runs per script: {' to '.join(map(str, counts))}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
        ]
    )


def draw(suite, path):
    """Draw the durations of a suite into a PNG: a bar per script, grouped and ordered as in the table."""
    import matplotlib  # here, as it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = summarize(suite)
    groups = [list(group) for _, group in itertools.groupby(rows, lambda row: row["devices"])]
    figure, axes = plt.subplots(
        len(groups),
        sharex=True,
        squeeze=False,
        figsize=(10, 2 + 0.45 * len(rows) + 0.4 * len(groups)),
        height_ratios=[len(group) for group in groups],
        layout="constrained",
    )
    longest = max(max(row["seconds"]) for row in rows)
    for axis, group in zip(axes[:, 0], groups, strict=True):
        medians = [row["median"] for row in group]
        low = [row["median"] - min(row["seconds"]) for row in group]
        high = [max(row["seconds"]) - row["median"] for row in group]
        colors = ["#f0a050" if "_tf_" in row["name"] else "#6a9fd0" for row in group]
        names = [row["name"].removesuffix(".py") for row in group]
        axis.barh(names, medians, 0.65, color=colors, xerr=(low, high), ecolor="#333333", capsize=5)
        for y, row in enumerate(group):
            if len(row["seconds"]) > 1:
                axis.plot(row["seconds"], [y] * len(row["seconds"]), "o", color="#333333", markersize=4, alpha=0.7)
            text = f"{row['median']:.1f} s   accuracy {row['accuracy']:.4f}"
            axis.annotate(text, (max(row["seconds"]), y), (10, 0), textcoords="offset points", va="center", fontsize=9)
        device = " or ".join(sorted({row["device"] for row in group}))
        axis.set_title(f"{group[0]['devices']} x {device}", loc="left", fontsize=10, fontweight="bold")
        axis.invert_yaxis()
        axis.set_xlim(0, longest * 1.4)  # room for the words beside the longest bar
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel(
        "seconds of training: median, whiskers from the fastest to the slowest run, dots single runs"
    )
    first = rows[0]
    mark = "" if first["data"] == "MNIST" else f"\n{first['data']}"
    figure.suptitle(f"MNIST CNN, {first['epochs']} epochs, batch {first['batch_size']} per device{mark}")
    figure.supxlabel(make_description(suite).replace("- ", ""), fontsize=7, x=0.01, ha="left", linespacing=1.5)
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
    plt.close(figure)


def write_readme(paths, suites):
    """Put tables, machines and plots of result files between the markers of the README; nothing else changes."""
    text = README.read_text() if README.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        fail(f"{README} needs one line {BEGIN} and below it one line {END}")
    parts = []
    for path, suite in zip(paths, suites, strict=True):
        if not path.resolve().is_relative_to(HERE):
            fail(f"{path} is not below the README's folder: the README could not name it")
        name = path.resolve().relative_to(HERE).as_posix()
        png = Path(name).with_suffix(".png").as_posix()
        parts += [f"From [{name}]({name}) by `benchmark.py --report {name} --readme`:", make_description(suite)]
        parts += [make_tables(suite), f"![Seconds of training, a bar per script]({png})"]
    with whole(README) as unfinished:
        unfinished.write_text("\n\n".join([before + begin, *parts, end + after]))


def compare(old, new, fail_above):
    """Print per script whether new is faster or slower than old; return the names that are so by too much."""
    old_rows, new_rows = ({row["name"]: row for row in summarize(suite)} for suite in (old, new))
    first, second = next(iter(old_rows.values())), next(iter(new_rows.values()))
    for key in SETTINGS:
        if first[key] != second[key]:
            fail(f"cannot compare with {old.filename}: {key} {first[key]} there, {second[key]} here")
    other = [f"{key} {first[key]} there, {second[key]} here" for key in MACHINE if first.get(key) != second.get(key)]
    cells, slower = [], []
    for name in dict.fromkeys([*old_rows, *new_rows]):
        if name not in new_rows or name not in old_rows:
            cells.append(
                [name, *[f"{r[name]['median']:.2f}" if name in r else "" for r in (old_rows, new_rows)], "", ""]
            )
            continue
        a, b = old_rows[name], new_rows[name]
        percent = (b["median"] / a["median"] - 1) * 100
        significant = differ(a["seconds"], b["seconds"])
        verdict = "slower" if percent > 0 else "faster" if percent < 0 else "no difference"
        if significant is None and percent:
            verdict += "? one run: not tested"
        elif significant is False:
            verdict = "no difference"
        # one run cannot be tested, but a check that lets all pass would be worse than a false alarm
        if significant is not False and fail_above is not None and percent > fail_above:
            slower.append(name)
        cells.append([name, f"{a['median']:.2f}", f"{b['median']:.2f}", f"{percent:+.1f} %", verdict])
    print(f"\n### Compared with {old.filename}\n")
    print(markdown(["script", "old (s)", "new (s)", "change", "verdict"], cells))
    for difference in other:
        print(f"\nnot the same machine: {difference}")
    return slower


def report(paths, suites, failures=(), plot=True):
    """Print the tables of result files and draw the plots beside them."""
    for i, (path, suite) in enumerate(zip(paths, suites, strict=True)):
        title = [f"## {path}", ""] if len(paths) > 1 else []
        print(*([""] if i else []), *title, make_tables(suite, failures), sep="\n", flush=True)
        if plot and suite:
            draw(suite, path.with_suffix(".png"))
            say(f"plot: {path.with_suffix('.png')}")


# -- odds and ends --


@contextlib.contextmanager
def whole(path):
    """Give a path to write to; what is written there becomes the file at path, at once and whole, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # on the same disk: the renaming is atomic
            yield Path(folder, path.name)
            Path(folder, path.name).replace(path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}; name another file with --output")


def load(path):
    """Return the suite in a result file; a file that is none, or not of this program, ends the program."""
    try:
        suite = pyperf.BenchmarkSuite.load(str(path))
        for run in (run.get_metadata() for bench in suite for run in bench.get_runs()):
            if not {"accuracy", "epoch_seconds", "devices", "data"} <= run.keys():
                raise ValueError("not of benchmark.py")
        return suite
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"cannot read {path} as a result file: {error}")


def tail(text):
    """Return the last line of a text."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def say(*words, sep=" "):
    """Print to stderr: stdout is for the tables."""
    print(*words, sep=sep, file=sys.stderr, flush=True)


def fail(message, status=1):
    """End the program with one line on stderr."""
    say(f"error: {message}")
    sys.exit(status)


def positive(text, kind=int):
    """Return the number in text, 1 or more; argparse reports the ValueError of anything else."""
    if not kind(text) >= 1:
        raise ValueError
    return kind(text)


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
    add("--timeout", type=lambda text: positive(text, float), default=TIMEOUT, metavar="S", help="seconds for a run")
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
    args.data_dir = args.data_dir.absolute()
    return args


def benchmark(args, failures, suites):
    """Prepare everything, run everything; suites[0] is what there is so far, on disk too."""
    scripts = find_scripts(args.scripts)
    suites[0] = load(args.output) if args.output.exists() else None
    settings = {"epochs": args.epochs, "batch_size": args.batch_size, "perf_version": pyperf.__version__}
    common = describe_machine() | settings
    check_same(suites[0], common)
    with whole(args.output.with_suffix(".writable")) as path:  # better now than after the first run
        path.touch()
    args.output.with_suffix(".writable").unlink()
    say("preparing environments and data")
    pythons = {script: find_python(script, args) for script in scripts}
    args.data_dir = find_data(args.data_dir, scripts[0], pythons[scripts[0]])
    common |= describe_data(args.data_dir)
    check_same(suites[0], common)
    for suites[0] in run_all(scripts, pythons, common, suites[0], args, failures):
        with whole(args.output) as path:
            suites[0].dump(str(path))


def interrupt(number, _):
    """Turn the first of the signals into an exception, and ignore the others: what follows ends soon."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(128 + number)


def main():
    """Run and report, or only report."""
    args = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: processes that lose their parents become our children
    old = load(args.compare) if args.compare else None
    failures, status = {}, 0
    paths, suites = (args.report, [load(path) for path in args.report]) if args.report else ([args.output], [None])
    try:
        if not args.report:
            benchmark(args, failures, suites)
    except KeyboardInterrupt as interruption:
        status = interruption.args[0]
    finally:
        stop_children()
    if status:
        say(f"interrupted; go on with --output {args.output}" if suites[0] else "interrupted")
    if suites[0] or failures:
        report(paths, suites, failures, plot=not status)
    if not status and args.readme and all(suites):
        write_readme(paths, suites)
    if not status and old and suites[0]:
        if slower := compare(old, suites[0], args.fail_above):
            fail(f"slower by more than {args.fail_above:g} %: {', '.join(slower)}")
    if failures and not status:
        fail(f"failed: {', '.join(failures)}")
    sys.exit(status)


if __name__ == "__main__":
    main()
