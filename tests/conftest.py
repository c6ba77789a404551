"""What the tests share: the scripts, their environments, stand-in digits, real MNIST, launched jobs and how a mistake ends.

pytest-xdist runs them in as many workers as there are physical cores, at most MOST_WORKERS. Every test has one of the cores to
itself, so that workers don't slow one another down. Those that are marked "alone" come last: each has all cores, and nothing
runs beside it. With `-n 0` all run one after the other, with all cores.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# OpenBLAS's threads spin while they wait for one another: with two, the reference takes five times as long on cores
# that are busy. It reads this when it is loaded; the scripts under test shall not see it.
openblas_threads = os.environ.get("OPENBLAS_NUM_THREADS")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pytest

from benchmark import interpreter

os.environ.pop("OPENBLAS_NUM_THREADS")
if openblas_threads is not None:
    os.environ["OPENBLAS_NUM_THREADS"] = openblas_threads

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("mnist_*.py"))
ARRAYS = "x_train", "y_train", "x_test", "y_test"
MNIST_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # of the four arrays' bytes

# What started the tests may ignore these signals (nohup, a shell's background job): the scripts under test would inherit it
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.environ.pop("OMP_NUM_THREADS", None)  # the number that a user may have set: tests that ask about one set it
# Hundreds of processes import the same packages: kept bytecode halves the time that each needs to start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


MOST_WORKERS = 4  # a probe takes 2 GB


def find_cores():
    """Return the CPUs of each physical core that this process may use."""
    of_cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        of_cores.setdefault(path.read_text() if path.exists() else cpu, set()).add(cpu)
    return list(of_cores.values())


CORES = find_cores()
GROUPS = "MNIST_TESTS_GROUPS"  # the variable that names a file: every test's group; its lock is that of all cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    import loky  # knows a container's quota

    return min(loky.cpu_count(only_physical_cores=True), len(CORES), MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker gets whole groups, in the order in which the workers collected them.

    pytest-xdist's own loadgroup would do, but that of 3.8.0 tells the groups by an attribute that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        @functools.cached_property
        def groups(self):
            return json.loads(Path(os.environ[GROUPS]).read_text())

        def _split_scope(self, nodeid):
            return self.groups[nodeid]

    return ByGroup(config, log)


def pytest_configure(config):
    """Make the file that this run's workers share; they inherit its name."""
    config.addinivalue_line("markers", "alone: has all cores, and no other test runs beside it")
    if not is_worker(config):
        handle, path = tempfile.mkstemp(prefix="mnist-tests-")
        os.close(handle)
        os.environ[GROUPS] = path
        config.add_cleanup(Path(path).unlink)


def is_worker(config):
    return hasattr(config, "workerinput")


def is_alone(item):
    """Return whether a test is marked as such."""
    return item.get_closest_marker("alone") is not None


def group_of_test(item):
    """Return the name of the tests that a worker runs together: those of a file, those of one probe, or all that are alone."""
    if is_alone(item):
        return "alone"
    return "{script} {devices}".format(**item.callspec.params) if "probe" in item.fixturenames else item.path.stem


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Put those that are alone last, whatever else changes the order, and write the groups for pytest-xdist's scheduler."""
    yield
    items.sort(key=is_alone)
    if is_worker(config):
        Path(os.environ[GROUPS]).write_text(json.dumps({item.nodeid: group_of_test(item) for item in items}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Beside other workers a test has one core, or waits until it has all of them."""
    if not is_worker(item.config) or item.config.workerinput["workercount"] == 1:
        return (yield)
    alone = is_alone(item)
    core = CORES[int(item.config.workerinput["workerid"].removeprefix("gw")) % len(CORES)]
    with open(os.environ[GROUPS], "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        os.sched_setaffinity(0, set.union(*CORES) if alone else core)
        try:
            return (yield)
        finally:
            os.sched_setaffinity(0, set.union(*CORES))
            fcntl.flock(lock, fcntl.LOCK_UN)  # even if a child process holds it open


def pytest_addoption(parser):
    """Let test_gpu.py's environments be named as those of benchmark.py are."""
    how = {"type": interpreter, "action": "append", "default": [], "metavar": "mx|tf|torch=PATH"}
    parser.addoption("--python", help="interpreter of test_gpu.py's scripts, instead of uv's", **how)


@functools.cache
def python_of(script):
    """Return the interpreter of the environment that a script's header describes; uv makes it on first use, with all cores.

    Without network uv's cache has to do.
    """
    script = Path(os.environ.get("ENVIRONMENTS_OF", ROOT), script)  # tests/mutants.py tests copies of the scripts
    all_cores = "taskset", "-c", ",".join(map(str, set.union(*CORES)))
    sync = [*all_cores, "uv", "sync", "--quiet", "--script", script]
    if subprocess.run(sync, check=False).returncode:
        subprocess.run([*sync, "--offline"], check=True)
    find = ["uv", "python", "find", "--script", script]
    return subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()


def group_of(script):
    """Return the scripts that one process can load beside a script: the frameworks take seconds to start."""
    if "_hvd" in script:
        return (script,)
    framework = next(word for word in ("_mx_", "_tf_", "_torch") if word in script)
    return tuple(name for name in SCRIPTS if framework in name and "_hvd" not in name)


def python_of_group(group):
    """Return an interpreter that has what all scripts of a group need: keras-mxnet's has Gluon and Module, too."""
    return python_of(next((script for script in group if "_mx_keras" in script), group[0]))


@functools.cache
def count_cores(cpus):
    """Return how many physical cores a process has that is bound to these CPUs, as loky counts them."""
    command = [python_of("mnist_mx_gluon.py"), "-c", "import loky; print(loky.cpu_count(only_physical_cores=True))"]
    done = subprocess.run(["taskset", "-c", ",".join(map(str, cpus)), *command], check=True, stdout=subprocess.PIPE)
    return int(done.stdout)


def cores():
    """Return how many physical cores this test may use, as loky counts them: the scripts' own number of threads."""
    return count_cores(frozenset(os.sched_getaffinity(0)))


TWO_CPUS = sorted(min(cpus) for cpus in CORES)[:2]
ON_TWO_CPUS = "taskset", "-c", ",".join(map(str, TWO_CPUS))
needs_two_cores = pytest.mark.skipif(len(TWO_CPUS) < 2, reason="needs two physical cores")


def error_line(err, alone=False):
    """Return the one line that a mistake ends with; others may have chattered before it, unless it stands alone."""
    lines = err.splitlines() if isinstance(err, str) else err
    assert not any("Traceback" in line for line in lines), "\n".join(lines)
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], "\n".join(lines)
    assert len(lines) == 1 or not alone, "\n".join(lines)
    return lines[-1]


def usage_error(err):
    """Return the one line that follows the usage where argparse refuses the command line."""
    lines = err.splitlines() if isinstance(err, str) else err
    start = next((i for i, line in enumerate(lines) if line.startswith("usage: ")), None)
    assert start is not None, "\n".join(lines)
    assert all(line.startswith(" ") for line in lines[start + 1 : -1]), "\n".join(lines)  # the usage, folded
    assert ": error: " in lines[-1], "\n".join(lines)
    return lines[-1]


def draw_digits(folder, train, test):
    """Write stand-in digits into folder and return it."""
    command = [sys.executable, ROOT / "synthetic_mnist.py", folder, "--train", str(train), "--test", str(test)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Return a folder of stand-in digits: 5,000 for training and 1,003, which nothing divides, for the test."""
    return draw_digits(tmp_path_factory.mktemp("digits"), 5000, 1003)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """Return a folder of 479 stand-in digits: every third from the first makes 160, from the third only 159."""
    return draw_digits(tmp_path_factory.mktemp("few_digits"), 479, 103)


@pytest.fixture(scope="session")
def mnist():
    """Return the folder of real MNIST that MNIST_DIR names; skip where it names none."""
    path = Path(os.environ.get("MNIST_DIR", ""), "mnist.npz")
    if not path.is_file():
        pytest.skip("needs real MNIST: set MNIST_DIR to the folder of its mnist.npz")
    with np.load(path) as file:
        found = hashlib.sha256(b"".join(file[name].tobytes() for name in ARRAYS)).hexdigest()
    if found != MNIST_SHA256:
        pytest.skip(f"needs real MNIST: the arrays in {path} are others")
    return path.parent


def processes(*variables):
    """Return the numbers of the processes that have all of these variables in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            if {os.fsencode(variable) for variable in variables} <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return found


def finish(process, timeout=120):
    """Return the exit status, the lines on stdout and stderr; no process of the session that process leads may be left."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it hangs:\n{out}\n{err}")
    deadline = time.monotonic() + 10
    while members(process.pid):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.05)
    return process.returncode, (out or "").splitlines(), err.splitlines()


def read_stat(path):
    """Return the fields of a process's or thread's stat file, from its state on (proc_pid_stat(5)); none if it has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def members(session):
    """Return the folders in /proc of a session's processes that have not ended; one that nobody has waited for has."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = read_stat(path)
        if fields and int(fields[3]) == session and fields[0] not in "ZX":
            found.append(path.parent)
    return found


def cpu_seconds(session):
    """Return the CPU seconds of every thread of a session's processes, by the thread's number and the time of its start."""
    seconds = {}
    for process in members(session):
        for path in process.glob("task/*/stat"):
            if fields := read_stat(path):
                ticks = int(fields[11]) + int(fields[12])
                seconds[path.parent.name, fields[19]] = ticks / os.sysconf("SC_CLK_TCK")
    return seconds


def spent_seconds(process, seconds=1):
    """Return the CPU seconds of each thread of a session in some seconds of the clock, and those of the clock."""
    before, start = cpu_seconds(process.pid), time.monotonic()
    time.sleep(seconds)
    after, clock = cpu_seconds(process.pid), time.monotonic() - start
    return [value - before.get(thread, 0) for thread, value in after.items()], clock


def busy_threads(process):
    """Return how many threads of a session compute: those with at least 0.4 of the CPU time of the busiest."""
    spent, _ = spent_seconds(process)
    return sum(x > 0.4 * max(spent) for x in spent)


def cores_in_use(process):
    """Return how many cores the threads of a session keep busy together: their CPU seconds over those of the clock.

    Threads that take turns count as one. On a machine that is busy with other things it is less, never more.
    """
    spent, clock = spent_seconds(process)
    return sum(spent) / clock


class Job:
    """A launched command in an empty folder with a copy of a script; its processes are known by their environment."""

    def __init__(self, folder, script, data, command):
        shutil.copy(ROOT / script, folder)
        self.mark = f"TEST_FOLDER={folder}"
        path = f"{Path(python_of(script)).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "TEST_FOLDER": str(folder), "HOME": str(folder), "MNIST_DIR": str(data)}
        environment["CUDA_VISIBLE_DEVICES"] = ""  # PyTorch's packages could use a GPU, and auto would
        self.process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self):
        """Wait until the first epoch has ended; return the lines on stdout until then."""
        lines = []
        while not lines or "epoch" not in lines[-1]:
            lines.append(self.process.stdout.readline())
            assert lines[-1], self.process.communicate()
        return lines

    def kill(self, variable):
        """Kill the one process that has this variable, with SIGKILL."""
        (number,) = processes(self.mark, variable)
        os.kill(number, signal.SIGKILL)

    def finish(self, timeout=60):
        """Return the exit status and the lines on stdout and stderr; the job must end in time and leave no process."""
        out, err = self.process.communicate(timeout=timeout)
        deadline = time.monotonic() + 10
        while processes(self.mark):
            assert time.monotonic() < deadline, "a process is left behind"
            time.sleep(0.1)
        return self.process.returncode, out.splitlines(), err.splitlines()

    def check_failure(self, *words):
        """The job ends within a minute, not with status 0, and says why."""
        check_failure(*self.finish(), *words)

    def clean(self):
        """End what is left of the job."""
        while numbers := processes(self.mark):
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.1)
        self.process.communicate()


def check_failure(status, out, err, *words):
    """A job has not ended with status 0, and says why."""
    assert status != 0, "\n".join(out + err)
    for word in words:
        assert any(word in line for line in out + err), "\n".join(out + err)


@pytest.fixture
def launch(tmp_path, request):
    """Return a function that launches a command as a Job of a script; no process of it outlives the test."""
    jobs = []

    def start(data, *command, script=None):
        jobs.append(Job(tmp_path, script or request.module.SCRIPT, data, command))
        return jobs[-1]

    yield start
    for job in jobs:
        job.clean()


@dataclasses.dataclass(frozen=True)
class Life:
    """What was seen of a job that was ended after its first epoch."""

    first_line: str
    shares: list  # the CPUs of each of its ranks or processes
    status: int
    out: list  # lines after the first epoch's
    err: list
    seconds: float  # from its end's cause to its end


@pytest.fixture(scope="module")
def live(tmp_path_factory, request, few_digits):
    """Return a function that launches a command as a Job, looks at its processes once it trains, and ends it.

    Once for all tests. find(job) gives the processes' numbers, end(job, numbers) ends it.
    """

    @functools.cache
    def run(find, end, *command):
        job = Job(tmp_path_factory.mktemp("life"), request.module.SCRIPT, few_digits, command)
        try:
            first_line = job.train()[0].rstrip("\n")
            numbers = find(job)
            shares = [os.sched_getaffinity(number) for number in numbers]
            end(job, numbers)
            began = time.monotonic()
            return Life(first_line, shares, *job.finish(), time.monotonic() - began)
        finally:
            job.clean()

    return run
