"""One command and its whole tree: start, watch, end. Other processes are left alone."""

import collections
import contextlib
import ctypes
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from harness.errors import RunFailed
from harness.machine import read_clock, use_between
from harness.results import Usage
from harness.signals import Stop

ANSWER = 60.0  # seconds that a short command may take
GRACE = 10.0  # seconds that a process has to end when asked; horovodrun ends its ranks within 5
KILLED = 2.0  # seconds until a killed process is gone
READ_LATER = 1.0  # seconds for the rest of the output, whose pipe a daemon may hold open
LONGEST_LINE = 10_000  # bytes that are read as one line
KEPT_OF_LINE = 300  # characters
MOST_LINES = 200_000  # of a script's stdout
LOG_LINES = 1000  # of stdout and stderr together
FIRST_LOOK = 0.5  # seconds between the first looks at a run's memory
LAST_LOOK = 5.0  # seconds between later ones: a long run changes slowly, and a look costs CPU time
PSS_EVERY = 10.0  # seconds between readings of PSS, some 30 ms a GB; at the beginning more often
GPU_EVERY = 10.0  # seconds between questions to the GPUs; at the beginning more often: a run there may be short
SET_DEATH_SIGNAL = 1  # prctl: PR_SET_PDEATHSIG
SET_SUBREAPER = 36  # prctl: PR_SET_CHILD_SUBREAPER
MARK = "MNIST_BENCHMARK"  # the variable by which a runner's processes are known


def ask(*command: object, timeout: float = ANSWER, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a short command; return status, stdout and stderr. No such command: 127, no answer in time: 124."""
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        out, errors = process.communicate(timeout=timeout)
    except OSError as error:
        return 127, "", f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        process.kill()  # and no waiting: with a broken driver it does not end
        return 124, "", f"{words[0]} does not answer in {timeout:g} s"
    return process.returncode, out.strip(), errors.strip()


def start_ticks(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot, which no step of the clock changes; None: there is none."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def own_mark() -> str:
    """Return the value by which this runner's processes are known."""
    return f"{os.getpid()} {start_ticks(os.getpid())}"


@dataclass(frozen=True)
class Leftover:
    """A process that a killed runner may have left behind."""

    pid: int
    name: str
    runner: int  # process number of the runner, perhaps of another pid namespace


def find_leftovers() -> list[Leftover]:
    """Return the processes that a runner started which is not seen from here. It may be alive in another pid namespace."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            pid, ticks = process.environ().get(MARK, "").split()
            if start_ticks(int(pid)) != ticks:
                found.append(Leftover(process.pid, process.name(), int(pid)))
    return found


def say_leftovers(leftovers: Sequence[Leftover]) -> str:
    """Return the line that names them, with the command that ends them."""
    each = ", ".join(f"{process.pid} ({process.name})" for process in leftovers)
    command = f"kill {' '.join(str(process.pid) for process in leftovers)}"
    return f"processes that a killed benchmark.py may have left behind, which would disturb: {each}; if so, end them: {command}"


class Family:
    """The processes that come from this one. Those that were its children before it became a runner are not among them."""

    def __init__(self) -> None:
        self.strangers = {process.pid for process in psutil.Process().children()}
        ctypes.CDLL(None).prctl(SET_SUBREAPER, 1, 0, 0, 0)  # processes that lose their parents become our children

    def children(self, recursive: bool) -> list[psutil.Process]:
        """Return the runner's children, or all that came from them."""
        found = []
        for child in psutil.Process().children():
            if child.pid in self.strangers:
                continue
            found.append(child)
            if recursive:
                with contextlib.suppress(psutil.Error):
                    found += child.children(recursive=True)
        return found

    def end(self) -> None:
        """End them all: ask, as horovodrun then ends its ranks, wait, kill."""
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, KILLED), (signal.SIGKILL, KILLED)):
            children = self.children(recursive=number == signal.SIGKILL)
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.send_signal(number)
            psutil.wait_procs(children, patience)


class Memory:
    """The peak memory of a family: PSS, in which shared pages count once, read where RSS says that there is a new peak."""

    def __init__(self, family: Family, read_gpu: Callable[[], int] | None) -> None:
        self.family = family
        self.read_gpu = read_gpu
        self.peak = 0  # bytes
        self.gpu_peak = 0  # bytes above what was in use before
        self.gpu_before = read_gpu() if read_gpu else 0
        self.rss_read = 0  # bytes: RSS at the last reading of PSS
        self.next_pss = 0.0  # seconds from the run's begin
        self.next_gpu = 0.0

    def look(self, elapsed: float) -> None:
        """Take a look, so many seconds after the run's begin."""
        processes = self.family.children(recursive=True)
        rss = sum_over(processes, lambda process: process.memory_info().rss)
        if rss > self.rss_read and elapsed >= self.next_pss:
            self.rss_read = rss
            self.peak = max(self.peak, sum_over(processes, read_pss))
            self.next_pss = elapsed + min(elapsed, PSS_EVERY)
        if self.read_gpu is not None and elapsed >= self.next_gpu:
            self.gpu_peak = max(self.gpu_peak, self.read_gpu() - self.gpu_before)
            self.next_gpu = elapsed + min(max(elapsed / 2, FIRST_LOOK), GPU_EVERY)


def sum_over(processes: Sequence[psutil.Process], read: Callable[[psutil.Process], int]) -> int:
    """Return the sum of a figure over processes, of which any may end meanwhile."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            total += read(process)
    return total


def read_pss(process: psutil.Process) -> int:
    """Return a process's PSS in bytes; its RSS where the kernel does not say."""
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", 0) or full.rss)


@dataclass
class Log:
    """What a run printed, cut to what can be kept."""

    on_line: Callable[[str], None]  # is told every line of stdout
    lines: list[str] = field(default_factory=list)  # of stdout
    last: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=LOG_LINES))  # of both streams

    def read(self, pipe: IO[bytes], is_stdout: bool) -> None:
        """Take in a stream until it ends."""
        while line := pipe.readline(LONGEST_LINE):
            text = line.decode(errors="replace").rstrip("\n")[:KEPT_OF_LINE]
            self.last.append(text)
            if is_stdout and len(self.lines) < MOST_LINES:
                self.lines.append(re.sub(r"^\[\d+\]<stdout>:", "", text))  # horovodrun's prefix
                self.on_line(self.lines[-1])


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; RunFailed if it cannot be started."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: little may happen between that and the command's start
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, MARK: own_mark()},
            start_new_session=True,
            # threads or not, nothing else lets the kernel end the run if this program is killed
            preexec_fn=lambda: prctl(SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509
        )
    except OSError as error:
        raise RunFailed(f"cannot start {command[0]}: {error.strerror}") from None


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process, at most so many seconds; return whether it has ended. No polling, which costs CPU time."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # a kernel before 5.3
        time.sleep(min(seconds, FIRST_LOOK))
        return process.poll() is not None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    return process.poll() is not None


def watch(process: subprocess.Popen[bytes], memory: Memory, timeout: float, stop: Stop) -> float:
    """Wait until a run has ended; return its seconds. RunFailed if it takes longer than timeout seconds."""
    began = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - began
        if elapsed > timeout:
            raise RunFailed(f"not done after --timeout {timeout:g} s")
        memory.look(elapsed)
        pause = min(max(FIRST_LOOK, elapsed / 10), LAST_LOOK, timeout - elapsed + 0.01)
        if wait(process, pause):  # not until the end of its output, which a daemon may hold open
            return time.perf_counter() - began
        stop.check()


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout: float,
    log: Log,
    family: Family,
    stop: Stop,
    read_gpu: Callable[[], int] | None = None,
) -> Usage:
    """Run a command and leave no process of it; fill the log and return what it used. RunFailed: it ended otherwise."""
    before = read_clock()
    memory = Memory(family, read_gpu)
    try:
        process = start(command, environment)
        readers = [
            threading.Thread(target=log.read, args=(pipe, pipe is process.stdout), daemon=True)
            for pipe in (process.stdout, process.stderr)
            if pipe is not None
        ]
        for reader in readers:
            reader.start()
        seconds = watch(process, memory, timeout, stop)
        for reader in readers:
            reader.join(READ_LATER)
    finally:
        family.end()
    if process.returncode:
        raise RunFailed(f"exit status {process.returncode}")
    use = use_between(before, read_clock(), os.sched_getaffinity(0))
    return Usage(seconds, use.children, use.others, use.steal, memory.peak, "PSS", memory.gpu_peak)
