"""One command and its whole tree: what is read of it, measured, ended, and what is left alone."""

import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from harness import processes
from harness.errors import RunFailed
from harness.machine import Clock, CpuTimes
from harness.processes import Log, Memory
from harness.signals import Stop


@pytest.fixture
def family():
    """Return the family of the tests' own process, which is no subreaper afterwards."""
    import ctypes

    yield processes.Family()
    ctypes.CDLL(None).prctl(processes.SET_SUBREAPER, 0, 0, 0, 0)


def run(family, program, timeout=60.0, stop=None, log=None):
    """Run Python code as a run is run."""
    log = log or Log(lambda _: None)
    return processes.run([sys.executable, "-c", program], dict(os.environ), timeout, log, family, stop or Stop())


def test_memory_and_cpu_are_of_all_processes(family):
    """The child holds 300 MB more, the parent takes a CPU for 0.6 s."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; x = b\"x\" * 300_000_000; time.sleep(3)'])"
    usage = run(
        family,
        f"import subprocess, sys, time; p = {child}; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass\np.wait()",
    )
    assert 3.0e8 < usage.memory < 4.5e8
    assert 0.6 < usage.cpu_seconds < 3
    assert 3 < usage.duration < 30


def test_shared_pages_count_once(family):
    """Two processes share 200 MB: 200 MB and not 400."""
    program = "import os, time; x = b'x' * 200_000_000; pid = os.fork(); time.sleep(3); pid or os._exit(0); os.wait()"
    assert 2.0e8 < run(family, program).memory < 3.0e8


class Sizes:
    """Processes whose RSS follows a list, and which count the readings of their PSS."""

    def __init__(self, sizes):
        self.sizes = iter(sizes)
        self.pss_read = 0

    def children(self, recursive):
        self.size = next(self.sizes)
        return [self]

    def memory_info(self):
        return type("Info", (), {"rss": self.size})

    def memory_full_info(self):
        self.pss_read += 1
        return type("Info", (), {"rss": self.size, "pss": self.size // 2})


def test_pss_is_read_at_new_peaks_and_every_ten_seconds_at_most():
    sizes = Sizes([100, 200, 150, 300, 400, 500, 400])
    memory = Memory(sizes, None)
    for elapsed, readings in ((20, 1), (29, 1), (31, 2), (32, 2), (38, 2), (43, 3), (60, 3)):
        memory.look(elapsed)
        assert sizes.pss_read == readings, elapsed
    assert memory.peak == 250


def test_gpu_memory_is_what_the_run_added():
    readings = iter([100, 700, 400])
    memory = Memory(Sizes([1, 1]), lambda: next(readings))
    memory.look(0)
    memory.look(20)
    assert memory.gpu_peak == 600


def test_gpu_memory_is_asked_for_more_often_at_the_beginning():
    """A run on a GPU may last few seconds; in a long one a question every ten is enough."""
    now, asked = -1.0, []
    memory = Memory(Sizes([1] * 121), lambda: asked.append(now) or 0)
    asked.clear()  # it has asked what was in use before
    for now in np.arange(0, 60.5, 0.5):
        memory.look(now)
    assert asked[:6] == [0, 0.5, 1, 1.5, 2.5, 4]
    assert max(np.diff(asked)) == 10
    assert len(asked) < 16


def test_each_use_goes_where_it_belongs(family, monkeypatch):
    """CPU 0 was busy for 30 s, of which 12 were children's, 1 our own, and gave 5 s to the hypervisor's others."""
    clocks = iter([Clock({0: CpuTimes(0, 0)}, 0, 0), Clock({0: CpuTimes(30, 5)}, 12, 1)])
    monkeypatch.setattr(processes, "read_clock", lambda: next(clocks))
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0})
    usage = run(family, "pass")
    assert (usage.cpu_seconds, usage.cpu_seconds_of_others, usage.steal_seconds) == (12, 17, 5)


def test_memory_that_may_not_be_read_counts_as_rss():
    class Guarded(Sizes):
        def memory_full_info(self):
            raise psutil.AccessDenied(1)

    memory = Memory(Guarded([100]), None)
    memory.look(0)
    assert memory.peak == 100


def test_lines_of_both_streams_are_kept_and_stdout_is_told():
    told = []
    log = Log(told.append)
    read, write = os.pipe()
    with os.fdopen(write, "wb") as out:
        out.write(b"[0]<stdout>:first\n\xff\n" + b"x" * 400 + b"\n")
    log.read(os.fdopen(read, "rb"), is_stdout=True)
    assert log.lines == told == ["first", "�", "x" * 300]


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), 9)", "raise ValueError('the reason')"])
def test_how_it_ended(family, ending):
    log = Log(lambda _: None)
    status = {"s": "3", "o": "-9", "r": "1"}[ending[0]]
    with pytest.raises(RunFailed, match=f"exit status {status}"):
        run(family, f"import os, sys; {ending}", log=log)
    assert (list(log.last)[-1:] == ["ValueError: the reason"]) == (ending[0] == "r")


def test_what_cannot_be_started(family):
    with pytest.raises(RunFailed, match="cannot start /none: No such file"):
        processes.run(["/none"], {}, 1, Log(lambda _: None), family, Stop())


def test_a_run_that_will_not_go_is_ended_with_all_it_started(family, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    log = Log(lambda _: None)
    daemon = "d = subprocess.Popen(['sleep', '3210'], start_new_session=True)"
    program = f"import os, signal, subprocess, time; signal.signal(15, signal.SIG_IGN); {daemon}; print(d.pid, os.getpid(), flush=True); time.sleep(99)"
    with pytest.raises(RunFailed, match="not done after --timeout 1 s"):
        run(family, program, timeout=1.0, log=log)
    assert not any(psutil.pid_exists(int(pid)) for pid in log.lines[0].split())


def test_a_daemon_that_holds_stdout_does_not_hold_the_run(family):
    log = Log(lambda _: None)
    began = time.monotonic()
    run(
        family,
        "import subprocess; d = subprocess.Popen(['sleep', '3210'], start_new_session=True); print(d.pid); d.returncode = 0",
        log=log,
    )
    assert time.monotonic() - began < 20
    assert not psutil.pid_exists(int(log.lines[0]))


def test_children_from_before_are_left_alone():
    """A shell that ends in exec leaves its background jobs as our children."""
    before = subprocess.Popen(["sleep", "60"])
    program = (
        "import subprocess, sys; before = subprocess.Popen(['sleep', '60'])\n"
        "from harness.processes import Family\nfamily = Family(); own = subprocess.Popen(['sleep', '60']); family.end()\n"
        "import psutil; print(before.poll(), psutil.pid_exists(own.pid)); before.kill()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=processes.__file__.rsplit("/", 2)[0],
    )
    assert done.stdout.split() == ["None", "False"]
    assert before.poll() is None
    before.kill()
    before.wait()


def test_leftovers_are_named_with_the_command_that_ends_them():
    """A runner that is not seen from here may be alive elsewhere: nothing is ended."""
    marks = {"gone": "999999999 5", "another time": f"{os.getpid()} 5", "ours": processes.own_mark()}
    started = {
        what: subprocess.Popen(["sleep", "60"], env={**os.environ, processes.MARK: mark})
        for what, mark in marks.items()
    }
    try:
        found = {leftover.pid for leftover in processes.find_leftovers()}
        assert {what for what, process in started.items() if process.pid in found} == {"gone", "another time"}
        text = processes.say_leftovers([processes.Leftover(7, "python", 3), processes.Leftover(8, "sleep", 3)])
        assert "7 (python), 8 (sleep); if so, end them: kill 7 8" in text
        assert all(process.poll() is None for process in started.values())
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def test_start_ticks_are_the_kernels():
    """Since boot, which no step of the clock changes."""
    ticks = int(processes.start_ticks(os.getpid()))
    began = psutil.Process().create_time() - psutil.boot_time()
    assert ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(began, abs=2)
    assert processes.start_ticks(999_999_999) is None


@pytest.mark.parametrize(
    ("command", "status"), [(["sh", "-c", "exit 3"], 3), (["/none/such"], 127), (["sleep", "9"], 124)]
)
def test_short_commands(command, status):
    found, _, errors = processes.ask(*command, timeout=0.3 if command[0] == "sleep" else 30)
    assert found == status
    assert (errors == "") == (status == 3)
