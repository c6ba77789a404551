# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2", "numpy==2.4.6", "psutil==7.2.2", "pyperf==2.10.0", "scipy==1.17.1", "tabulate==0.10.0"]
# ///
"""Run the MNIST scripts, keep what they print in a pyperf file, and have report.py show it.

    uv run benchmark.py                                       # all but PyTorch's, 10 epochs: more than an hour on two cores
    uv run benchmark.py --repeats 3 --output results/x.json   # three rounds; started again it completes what is missing

Every run is a process in the script's own environment, made by uv. Round r has the seed 42 + r - 1 and its own order.
"""

import os
import signal

INHERITED = dict(os.environ)  # for the scripts
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for measure_sgemm
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: no traceback

import argparse
import collections
import contextlib
import ctypes
import datetime
import fcntl
import hashlib
import logging
import platform
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyperf

EPOCHS, BATCH_SIZE, DEVICES, SEED = 10, 500, 2, 42  # images per device and step; of parallel scripts; first seed
TIMEOUT, ANSWER, DOWNLOAD, GRACE = 7200, 60, 3600, 10  # seconds: for a run, a command, uv or MNIST, to end if asked
IDLE, SAMPLE, IDLE_WAIT, SGEMM_SECONDS = 0.1, 0.5, 30, 2  # of the CPUs may be busy; seconds to look, to wait at most
SAME = {"sgemm_gflops": 1.3, "memory_gib": 1.05}  # ratios up to which it is the same machine
EPOCH_FLOP, EFFICIENCY = 60_000 * 72e6, 0.5  # of an epoch; of SGEMM's speed, a script's, roughly: to estimate the time
HERE = Path(__file__).resolve().parent
MNIST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # SHA-256 of its four arrays
MARK = "MNIST_BENCHMARK"  # the variable by which a run's processes are known
ENVIRONMENTS = {"mx": "MXNet 0.4 GB", "tf": "TensorFlow 1.5 GB", "torch": "PyTorch 5.2 GB"}  # by mnist_NAME_...
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
STOPPED = []  # the exit status for a signal that came: an exception that is raised in a destructor would be lost
LOSS = re.compile(r"epoch +(\d+/\d+)  loss (\d+\.\d{4})  (\d+\.\d\d) s")
OUTPUT = re.compile(
    r"(?P<script>.+?): (?P<versions>(?:[^\s,]+ [^\s,]+, )+python [^\s,]+), (?P<devices>[1-9]\d*) x (?P<device>cpu|gpu), "
    r"(?P<threads>\d+) threads, batch (?P<per>\d+) x (?P<batch_size>\d+), seed (?P<seed>\d+)\n"
    rf"(?P<epochs>(?:{LOSS.pattern}\n)+)duration: (?P<duration>\d+\.\d\d) s\naccuracy: (?P<accuracy>[01]\.\d{{4}})"
)
CPU = {"cpu_family": "CPU family", "cpu_model": "Model", "cpu_stepping": "Stepping", "cpu_flags": "Flags"}
CPU |= {f"cpu_{name.lower()}": f"{name} cache" for name in ("L1d", "L1i", "L2", "L3")}  # as lscpu has it
HARDWARE = "hostname", "cpu_model_name", *CPU, "cpu_count", "cpus_used", "memory_gib", "gpu", "gpu_driver"
SETTINGS = "platform", "os", "epochs", "batch_size", "environment", "data", "data_sha256"
SCRIPT = ["sha256", "devices", "device", "threads", "python_version"]  # are the same in all runs of a script
TUNING = re.compile(r"(OMP|OPENBLAS|MKL|KMP|GOMP|DNNL|ONEDNN|MXNET|TF_ENABLE|TF_XLA|XLA|TORCH|CUDA|NCCL|MALLOC)_")
say = logging.info  # to stderr, as stdout is for the report; if that is closed or full, it does not matter


def find_pythons(args, failures):
    """Return the interpreter of every script: the one given, or of the environment that uv makes for it."""
    pythons = {path: str(args.python[name].absolute()) for path, name in args.kinds.items() if name in args.python}
    for script in (path for path in args.scripts if path not in pythons):
        say(f"environment of {script.name}")
        for mode in [], ["--offline"]:  # without network, uv's cache may do
            status, _, reason = ask("uv", "sync", "--quiet", *mode, "--script", script, timeout=DOWNLOAD)
            if status in (124, 127):
                sys.exit(f"error: {reason}: install uv, or name the interpreters by --python")
            if not status:
                pythons[script] = ask("uv", "python", "find", "--script", script)[1]
                break
        else:
            failures[script.name] = f"uv cannot make its environment: {reason}"
    if not pythons:
        sys.exit(f"error: {failures[script.name]}\nwithout network, name other interpreters: --python mx=PATH")
    return pythons


def find_data(folder, script, python):
    """Return the folder of the data and what the file says of it: MNIST, fetched if need be, or stand-in digits."""
    if not (folder / "mnist.npz").is_file():
        say(f"fetching MNIST into {folder}")
        program = "import runpy, sys; runpy.run_path(sys.argv[1])['load_mnist'](sys.argv[2])"
        status, _, reason = ask(python, "-c", program, script, folder, timeout=DOWNLOAD)
        if status and not reason.startswith("cannot download"):
            sys.exit(f"error: cannot get MNIST: {reason}")
        if status:
            say(f"WARNING: {reason}\nWARNING: going on with stand-in digits, not MNIST: the accuracies mean nothing")
            folder /= "stand-in"
            if not (folder / "mnist.npz").is_file() and ask(python, HERE / "synthetic_mnist.py", folder)[0]:
                sys.exit(f"error: synthetic_mnist.py cannot draw stand-in digits into {folder}")
    try:
        with np.load(folder / "mnist.npz") as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
        found = {"data_sha256": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()}
        found |= {"train_images": len(arrays[1]), "test_images": len(arrays[3]), "data": "MNIST"}
    except Exception as error:  # noqa: BLE001 - what a damaged file raises depends on where it is damaged
        sys.exit(f"error: cannot use {folder / 'mnist.npz'}: {error!r:.200}")
    if found["data_sha256"] != MNIST:
        found["data"] = "stand-in digits, not MNIST" if folder.name == "stand-in" else "not MNIST"
    return folder, found


def describe_machine():
    """Return what the result file says of hardware and system; nothing that another boot changes."""
    # the rest of what pyperf finds tells of this process and its Python, not of the script's
    kept = "hostname", "platform", "cpu_model_name", "cpu_count", "perf_version"
    machine = {name: value for name, value in pyperf.Run([1.0]).get_metadata().items() if name in kept}
    machine["os"] = platform.freedesktop_os_release()["PRETTY_NAME"]
    lscpu = dict(re.findall(r"(?m)^ *([^:\n]+): +(.*)$", ask("lscpu", env=os.environ | {"LC_ALL": "C"})[1]))
    machine |= {key: lscpu.get(name, "unknown") for key, name in CPU.items()}
    status, out, _ = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    gpus = [line.rsplit(", ", 1) for line in out.splitlines() if ", " in line and not status]  # a name may have commas
    counts = collections.Counter(name for name, _ in gpus).items()
    machine["gpu"] = ", ".join(f"{count} x {name}" for name, count in counts) or "none"
    tuning = " ".join(f"{name}={value}" for name, value in sorted(INHERITED.items()) if TUNING.match(name))
    machine |= {"gpu_driver": gpus[0][1] if gpus else "none", "environment": tuning or "nothing set"}
    return machine | {"cpus_used": len(os.sched_getaffinity(0)), "memory_gib": psutil.virtual_memory().total / 2**30}


def measure_sgemm():
    """Return the speed of NumPy's SGEMM on one core in GFLOP/s: by CPU time, the fastest, as others may be at work too."""
    matrix, best, end = np.ones((512, 512), np.float32), 9e9, time.monotonic() + SGEMM_SECONDS
    while time.monotonic() < end:
        began = time.thread_time()
        matrix @ matrix
        best = min(best, time.thread_time() - began)
    return round(2 * 512**3 / best / 1e9, 1)


def check_same(benches, new, path):
    """Raise RuntimeError if a run with the metadata new must not be in one file with the benchmarks there."""
    for old in (bench.get_runs()[0].get_metadata() for bench in benches.values()):
        checked = [*HARDWARE, *SETTINGS, *(key for key in old if key.endswith("_version") and key != "python_version")]
        checked += ["sgemm_gflops"] if "name" not in new else SCRIPT if old["name"] == new["name"] else []  # may drift
        checked += ["devices"] if min(old["devices"], new.get("devices", 1)) > 1 else []
        for key in (key for key in checked if key in new and key in old):
            here, there, ratio = new[key], old[key], SAME.get(key)
            if not 1 / ratio < here / there < ratio if ratio else here != there:
                what = f"{key} of {new.get('name', 'this machine')} is {here} here, {there} there"[:300]
                raise RuntimeError(f"cannot add to {path}: {what}; name another --output")


def run(command, timeout, log):
    """Run a command in a session of its own; leave no process; return its lines and use. RuntimeError: it failed."""
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # horovodrun has helpers there
    environment = INHERITED | {"PATH": path, MARK: f"{os.getpid()} {psutil.Process().create_time()}"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, "start_new_session": True}
    options["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: if this is killed
    lines, peak, before, began = [], 0, cpu_clock(), time.perf_counter()

    def read(pipe):
        while line := pipe.readline(10_000):
            log.append(line.decode(errors="replace").rstrip("\n")[:300])
            if pipe is process.stdout and len(lines) < 200_000:
                lines.append(re.sub(r"^\[\d+\]<stdout>:", "", log[-1]))  # horovodrun's prefix
                if LOSS.fullmatch(lines[-1]):
                    say(f"  {lines[-1]}")

    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        readers = [threading.Thread(target=read, args=(p,), daemon=True) for p in (process.stdout, process.stderr)]
        for reader in readers:
            reader.start()
        while process.poll() is None:  # not until the end of its output, which a daemon may hold open
            if STOPPED or time.perf_counter() - began > timeout:
                raise KeyboardInterrupt(*STOPPED) if STOPPED else RuntimeError(f"not done after --timeout {timeout} s")
            with contextlib.suppress(psutil.Error):  # a child may end meanwhile
                peak = max(peak, sum(p.memory_info().rss for p in psutil.Process().children(recursive=True)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        seconds = time.perf_counter() - began
        for reader in readers:
            reader.join(1)
    except OSError as error:
        raise RuntimeError(f"cannot start {command[0]}: {error.strerror}") from None
    finally:
        stop_children()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}")
    busy, steal, cpu, own = (after - then for after, then in zip(cpu_clock(), before, strict=True))
    usage = {"cpu_seconds": cpu, "cpu_seconds_of_others": max(busy - cpu - own, 0.0), "steal_seconds": steal}
    return lines, usage | {"duration": seconds, "mem_max_rss": peak}  # pyperf's names, here of the whole tree


def cpu_clock():
    """Return seconds so far: the CPUs in use busy, and stolen by the hypervisor; used by ended children, and here."""
    cpus = [times for i, times in enumerate(psutil.cpu_times(percpu=True)) if i in os.sched_getaffinity(0)]
    own = psutil.Process().cpu_times()
    busy, steal = sum(t.user + t.nice + t.system + t.irq + t.softirq for t in cpus), sum(t.steal for t in cpus)
    return busy, steal, own.children_user + own.children_system, own.user + own.system


def wait_until_idle(what):
    """Wait for an idle machine, but not for ever; return how many CPUs are busy."""
    cpus, end, told = len(os.sched_getaffinity(0)), time.monotonic() + IDLE_WAIT, False
    while True:
        before, began = cpu_clock()[0], time.monotonic()
        time.sleep(SAMPLE)
        busy = (cpu_clock()[0] - before) / (time.monotonic() - began)
        if busy <= IDLE * cpus or time.monotonic() > end:
            return round(busy, 2)
        if not told:
            told = not say(f"{busy:.1f} of {cpus} CPUs busy: {what} waits for an idle machine, {IDLE_WAIT} s at most")


def stop_children():
    """End all processes that came from this one: ask, as horovodrun then ends its ranks within 5 s, wait, kill."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 2), (signal.SIGKILL, 2)):
        children = psutil.Process().children(recursive=number == signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.send_signal(number)
        psutil.wait_procs(children, patience)


def run_script(script, python, args, benches, common, log):
    """Run a script once; return its pyperf.Run. RuntimeError says why it failed."""
    metadata = {"name": script.name, "unit": "second", "loops": 1, "date": str(datetime.datetime.now())} | common
    metadata |= {"sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    check_same(benches, metadata, args.output)
    metadata |= {"cpus_busy_before": wait_until_idle(script.name), "load_avg_1min": os.getloadavg()[0]}
    settings = {"--epochs": args.epochs, "--batch-size": args.batch_size, "--data-dir": args.data_dir}
    settings |= {"--device": args.device, "--seed": common["seed"]}
    n = args.devices if "_mgpu" in script.name or "_hvd" in script.name else 1
    settings |= {"--devices": n} if "_mgpu" in script.name else {}
    command = [Path(python).with_name("horovodrun"), "-np", n, "-H", f"localhost:{n}"] * ("_hvd" in script.name)
    command += [python, script, *(word for setting in settings.items() for word in setting)]
    lines, usage = run([str(word) for word in command], args.timeout, log)
    expected = {"script": script.name, "devices": n, "per": n, "batch_size": args.batch_size, "seed": common["seed"]}
    found, numbers = OUTPUT.fullmatch("\n".join(lines)), [f"{i + 1}/{args.epochs}" for i in range(args.epochs)]
    epochs = list(zip(*LOSS.findall(found["epochs"]), strict=True)) if found else [[]]
    if not found or any(found[key] != str(value) for key, value in expected.items()) or [*epochs[0]] != numbers:
        raise RuntimeError(f"malformed output: {str(lines[:30])[:300]}")
    seconds, accuracy, elapsed = float(found["duration"]), float(found["accuracy"]), usage["duration"]
    if not 0 < seconds <= elapsed or sum(map(float, epochs[2])) > seconds + 0.01 * args.epochs + 0.01 or accuracy > 1:
        raise RuntimeError(f"impossible figures in {elapsed:.2f} s: {str(lines)[:300]}")
    metadata |= {f"{name}_version": version for name, version in map(str.split, found["versions"].split(", "))}
    metadata |= {"devices": n, "device": found["device"], "threads": int(found["threads"]), "accuracy": accuracy}
    metadata |= usage | {"epoch_losses": " ".join(epochs[1]), "epoch_seconds": " ".join(epochs[2])}
    check_same(benches, metadata, args.output)
    return pyperf.Run([seconds], metadata=metadata, collect_metadata=False)


def run_all(rounds, pythons, args, common, benches, failures):
    """Run all that is missing; add to benches, which the file then holds, and to failures."""
    count, done, start = sum(len(scripts) for _, scripts in rounds), 0, time.monotonic()
    for number, scripts in rounds:
        common |= {"round": number, "seed": SEED + number - 1, "sgemm_gflops": measure_sgemm()}
        for order, script in enumerate(scripts, 1):
            left = datetime.timedelta(seconds=round((time.monotonic() - start) / max(done, 1) * (count - done)))
            done += 1
            if script.name in failures:  # once is enough
                continue
            say(f"run {done}/{count} {script.name}, round {number}" + f", about {left} left" * (done > 1))
            log = collections.deque(maxlen=1000)
            try:
                result = run_script(script, pythons[script], args, benches, common | {"order": order}, log)
            except RuntimeError as error:
                failures[script.name] = str(error)
                say("\n  ".join([f"{script.name} failed: {error}; its last lines:", *list(log)[-15:]]))
                with contextlib.suppress(OSError), open(args.output.with_suffix(".log"), "a", errors="replace") as file:
                    print(f"{datetime.datetime.now()} {script.name} failed: {error}", *log, sep="\n", file=file)
                continue
            say(f"{script.name}: {result.values[0]:.2f} s, accuracy {result.get_metadata()['accuracy']:.4f}")
            old = benches[script.name].get_runs() if script.name in benches else ()
            benches[script.name] = pyperf.Benchmark([*old, result])
            save(args.output, benches)


def save(path, benches):
    """Write the result file, at once and whole or not at all; return whether that was possible."""
    try:
        new = path.with_name(f".{path.name}.new")  # on one disk the renaming is atomic
        pyperf.BenchmarkSuite(list(benches.values())).dump(str(new), replace=True)
        if path.exists():
            new.chmod(path.stat().st_mode)
        new.replace(path)
    except OSError as error:
        say(f"WARNING: cannot write {path}: {error.strerror}: going on; it is tried again after the next run")
        return False
    return True


def lock(path):
    """Return a file that holds the result file for this process until it is closed; the second is told who has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(f".{path.name}.lock"), "a+")  # noqa: SIM115 - it stays open
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(bytes(100_000 + 2 * (path.stat().st_size if path.exists() else 0)))  # a full disk is told now
        new.unlink()
        file.truncate(0)
        print(f"process {os.getpid()} on {platform.node()}", file=file, flush=True)
    except BlockingIOError:
        file.seek(0)
        sys.exit(f"error: {path} is in use by {file.read().strip()}: name another --output")
    except OSError as error:
        sys.exit(f"error: cannot write {path}: {error.strerror}: name an --output in another folder")
    return file


def ask(*command, timeout=ANSWER, env=None):
    """Run a short command; return status, stdout, last line of stderr. No such command: 127, no answer: 124."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env, "start_new_session": True}
    try:
        process = subprocess.Popen(map(str, command), stdin=subprocess.DEVNULL, text=True, errors="replace", **options)
        out, errors = process.communicate(timeout=timeout)
    except OSError as error:
        return 127, "", f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        process.kill()  # and no waiting: with a broken driver it does not end
        say(f"WARNING: {command[0]} does not answer in {timeout} s")
        return 124, "", f"{command[0]} does not answer"
    return process.returncode, out.strip(), (errors.strip().splitlines() or ["?"])[-1].removeprefix("error: ")[:300]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, data_dir = parser.add_argument, os.environ.get("MNIST_DIR") or HERE / "data"
    output = HERE / "results" / f"{platform.node()}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}.json"
    add("scripts", nargs="*", metavar="SCRIPT", help="default: all mnist_*.py beside this file but PyTorch's")
    add("--all", action="store_true", help="PyTorch's too, whose packages are 5.2 GB")
    add("--repeats", type=int, default=1, metavar="R", help="rounds that the file is to have: %(default)s")
    add("--epochs", type=int, default=EPOCHS, metavar="N", help="%(default)s")
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    add("--data-dir", type=Path, default=data_dir, metavar="DIR", help="with mnist.npz: $MNIST_DIR, else data")
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    add("--devices", type=int, default=DEVICES, metavar="N", help="of the parallel scripts: %(default)s")
    add("--python", action="append", default=[], metavar="mx|tf|torch=PATH", help="interpreter instead of uv's")
    add("--timeout", type=int, default=TIMEOUT, metavar="S", help="seconds for one run: %(default)s")
    add("--output", type=Path, default=output, metavar="FILE", help="completes it if it exists: results/HOST-DATE.json")
    args = parser.parse_args()
    if not all(1 <= n <= 100_000 for n in (args.repeats, args.epochs, args.batch_size, args.devices, args.timeout)):
        parser.error("--repeats, --epochs, --batch-size, --devices and --timeout take 1 to 100000")
    found = [path for path in sorted(HERE.glob("mnist_*.py")) if args.all or not path.name.startswith("mnist_torch")]
    args.scripts = [next(filter(Path.is_file, (Path(x), HERE / x)), Path(x)).resolve() for x in args.scripts] or found
    missing = [path for path in args.scripts or [HERE / "mnist_*.py"] if not path.is_file()]
    if missing or len({path.name for path in args.scripts}) < len(args.scripts):
        parser.error(f"no such script: {missing[0]}" if missing else "two scripts of one name")
    args.kinds = {path: f"{path.stem}__".split("_")[1] for path in args.scripts}  # mnist_KIND_...: the environment
    args.python = {name: Path(path) for name, _, path in (text.partition("=") for text in args.python)}
    if not args.python.keys() <= ENVIRONMENTS.keys() or args.output.suffix != ".json":  # the plot lies beside it
        parser.error(f"--python takes mx=PATH, tf=PATH or torch=PATH; --output {args.output} has to end with .json")
    args.output, args.data_dir = Path(os.path.realpath(args.output)), args.data_dir.absolute()  # a link stays a link
    return args


def benchmark(args, benches, failures):
    """Prepare everything, say what it brings, run everything; add what is done to benches and to the file."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            pid, began = process.environ().get(MARK, "").split()
            if not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).create_time() != float(began):
                say(f"ending process {process.pid}, {process.name()}: a killed benchmark.py left it, it would disturb")
                process.kill()
    try:
        if args.output.exists():
            benches |= {bench.get_name(): bench for bench in pyperf.BenchmarkSuite.load(str(args.output))}
        rounds, have = [], {(name, r.get_metadata()["round"]) for name, b in benches.items() for r in b.get_runs()}
        for number in range(1, args.repeats + 1):
            order = random.Random(SEED + number - 1).sample(sorted(args.scripts), len(args.scripts))
            if missing := [script for script in order if (script.name, number) not in have]:
                rounds.append((number, missing))
        common = describe_machine() | {"epochs": args.epochs, "batch_size": args.batch_size}
        gflops, runs = measure_sgemm(), sum(len(scripts) for _, scripts in rounds)
        check_same(benches, common | {"sgemm_gflops": gflops}, args.output)
        minutes = runs * (args.epochs * EPOCH_FLOP / (EFFICIENCY * common["cpus_used"] * gflops * 1e9) + 10) / 60
        say(f"{runs} runs, epochs {args.epochs}: some {minutes:.0f} minutes if on CPUs ({gflops:.0f} GFLOP/s a core)")
        brings = [text for name, text in ENVIRONMENTS.items() if name in {*args.kinds.values()} - {*args.python}]
        brings += ["Horovod, built in 2 minutes"] * ("_hvd" in str(args.scripts) and "mx" not in args.python)
        brings += ["MNIST 12 MB"] * (not (args.data_dir / "mnist.npz").is_file())
        say(f"to be downloaded first, what is not there yet of these: {', '.join(brings) or 'nothing'}")
        pythons = find_pythons(args, failures)
        args.data_dir, found = find_data(args.data_dir, *next(iter(pythons.items())))
        check_same(benches, common | found, args.output)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        other = f"{args.output} is no result file of this benchmark.py ({error!r:.100}): name another --output"
        sys.exit(f"error: {error if isinstance(error, RuntimeError) else other}")
    run_all(rounds, pythons, args, common | found, benches, failures)


def main():
    while (null := os.open(os.devnull, os.O_RDWR)) < 3:  # a closed stream's number would go to the next file opened
        os.set_inheritable(null, True)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.raiseExceptions = False  # nobody may be reading
    args = parse_args()

    def interrupt(number, _):
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # the cleaning up is not to be interrupted
        STOPPED.append(128 + number)
        raise KeyboardInterrupt(*STOPPED)

    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup is to hold
            signal.signal(number, interrupt)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: processes that lose their parents become our children
    benches, failures, status, held = {}, {}, 0, lock(args.output)
    try:
        benchmark(args, benches, failures)
    except KeyboardInterrupt as interruption:
        status = interruption.args[0]
        say(f"interrupted: the same command with --output {args.output} completes what is missing")
    finally:
        stop_children()
        Path(held.name).unlink(missing_ok=True)
    saved = not benches or save(args.output, benches)  # an interruption or a full disk may have come between
    if benches:  # shown too if it cannot be saved
        command = [sys.executable, HERE / "report.py", args.output if saved else "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as report, contextlib.suppress(OSError):
            pyperf.BenchmarkSuite(list(benches.values())).dump(report.stdin)
        status = status or report.returncode
    if failures:
        say("error: failed: " + "; ".join(f"{name}: {reason}" for name, reason in failures.items()))
    sys.exit(status or bool(failures) or not saved)


if __name__ == "__main__":
    main()
