"""PyTorch's processes, started by the script itself or by torchrun, judged by what they print and how they end."""

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    ON_TWO_CPUS,
    ROOT,
    TWO_CPUS,
    check_failure,
    cores,
    error_line,
    needs_two_cores,
    processes,
    python_of,
    read_stat,
)

SCRIPT = "mnist_torch_mgpu.py"


def alone(number, *arguments):
    """Return the command by which the script starts its own processes."""
    return "python", SCRIPT, "--devices", number, *arguments


def torchrun(number, *arguments):
    return "torchrun", "--standalone", "--nproc-per-node", number, SCRIPT, *arguments


def workers(job):
    """Return the numbers of the processes that train, in the order of their start."""
    found = []
    for number in sorted(processes(job.mark)):
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if b"spawn_main" in words or (
            SCRIPT.encode() in words and b"torchrun" not in words and b"--devices" not in words
        ):
            found.append(number)
    return found


def check_report(job, number, batch, epochs, threads):
    """The job ends cleanly, after one report."""
    status, out, err = job.finish(timeout=120)
    assert status == 0, "\n".join(err)
    assert not any(word in line.lower() for word in ("traceback", "error", "exception") for line in err), "\n".join(err)
    versions = r"torch \d[\d.]*(?:\+\w+)?, python 3\.\d+\.\d+"
    settings = f"{number} x (?:cpu|gpu), {threads} threads, batch {number} x {batch}, seed 42"
    assert re.fullmatch(rf"{re.escape(SCRIPT)}: {versions}, {settings}", out[0]), out
    assert len(out) == epochs + 3, out
    for i in range(1, epochs + 1):
        assert re.fullmatch(rf"epoch +{i}/{epochs}  loss \d+\.\d{{4}}  \d+\.\d\d s", out[i]), out
    assert re.fullmatch(r"duration: \d+\.\d\d s", out[-2]), out
    assert re.fullmatch(r"accuracy: [01]\.\d{4}", out[-1]), out


@pytest.mark.alone
@pytest.mark.parametrize("number", [2, 3])
def test_it_starts_its_processes(launch, few_digits, number):
    """Three processes have images for 4, 4 and 3 batches: they take the same three steps, none waits for ever."""
    job = launch(few_digits, *alone(number, "--epochs", 2, "--batch-size", 40))
    check_report(job, number, 40, 2, max(1, cores() // number))


def test_torchrun(launch, few_digits):
    """Which sets one thread a process, unless the user says otherwise."""
    check_report(launch(few_digits, *torchrun(2, "--epochs", 2, "--batch-size", 40)), 2, 40, 2, 1)


@pytest.mark.alone
def test_two_hosts(launch, few_digits):
    """Two launchers, as on two hosts, with one process each: each has all cores of its host, and the first reports."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    where = f"--nnodes 2 --nproc-per-node 1 --master-addr localhost --master-port {port}"
    run = f"torchrun {where} --node-rank %d {SCRIPT} --epochs 2 --batch-size 40"
    job = launch(few_digits, "sh", "-c", f"{run % 1} & {run % 0}; status=$?; wait $!; exit $status")
    check_report(job, 2, 40, 2, cores())


@functools.cache
def stop(number):
    """Return what sends a signal to the first process of a job."""
    return lambda job, workers: job.process.send_signal(number)


@functools.cache
def kill(rank):
    """Return what kills a worker."""
    return lambda job, workers: os.kill(workers[rank], signal.SIGKILL)


STOPPED = {signal.SIGTERM: 1, signal.SIGINT: 2, signal.SIGKILL: 3}  # jobs of so many processes
ENDLESS = "--epochs", 9999, "--batch-size", 40


def stopped(live, number):
    """Return the life of a job on CPUs of two cores that a signal ended."""
    return live(workers, stop(number), *ON_TWO_CPUS, *alone(STOPPED[number], *ENDLESS))


@pytest.mark.alone
@needs_two_cores
@pytest.mark.parametrize("number", STOPPED)
def test_processes_share_the_cores(live, number):
    """Each is bound to its own; one process has both; three take turns."""
    count, shares = STOPPED[number], stopped(live, number).shares
    assert len(shares) == count
    assert set.union(*shares) == set(TWO_CPUS)
    assert sum(map(len, shares)) == max(count, 2)


@pytest.mark.alone
@pytest.mark.parametrize("number", STOPPED)
def test_first_process_stopped(live, number):
    """Not its group, as a terminal does (test_user.py): the first process alone. The others end with it."""
    life = stopped(live, number)
    assert life.status == -number
    assert not any("Traceback" in line for line in life.err), "\n".join(life.err)


@pytest.mark.alone
@pytest.mark.parametrize("start", [alone, torchrun])
@pytest.mark.parametrize("rank", [0, 1])
def test_process_killed(live, start, rank):
    """The others end within seconds, and the job says what happened."""
    life = live(workers, kill(rank), "env", "OMP_NUM_THREADS=3", *start(2, *ENDLESS))
    check_failure(life.status, life.out, life.err, "SIGKILL" if start == torchrun else "error: process ")
    assert life.seconds < 20


@pytest.mark.alone
@pytest.mark.parametrize("start", [alone, torchrun])
def test_threads_of_the_user(live, start):
    life = live(workers, kill(0), "env", "OMP_NUM_THREADS=3", *start(2, *ENDLESS))
    assert ", 2 x cpu, 3 threads, batch 2 x 40, " in life.first_line


def test_first_process_killed_before_the_others_are_ready(launch, few_digits):
    """While they load PyTorch they cannot know; then the data that it was to hand them is missing, and they end."""
    job = launch(few_digits, *alone(2, "--epochs", 999, "--batch-size", 40))
    while len(workers(job)) < 2:
        assert job.process.poll() is None
        time.sleep(0.05)
    job.process.kill()
    deadline = time.monotonic() + 30
    while processes(job.mark):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.1)


def test_process_that_comes_too_late():
    """One whose parent ended before it could ask the kernel to end with it does not begin."""
    program = f"import {SCRIPT[:-3]} as script; from types import SimpleNamespace as Fake\n"
    program += "script.torch.multiprocessing.parent_process = lambda: Fake(is_alive=lambda: False)\n"
    program += "script.start(0, None)"
    done = subprocess.run(
        [python_of(SCRIPT), "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and error_line(done.stderr) == "error: the process that started this one has ended"


def test_process_that_cannot_read_its_data(launch, few_digits, tmp_path):
    """The one line of the process that fails is there, and the other does not wait for it."""
    damaged = shutil.copytree(few_digits, tmp_path / "damaged") / "mnist.npz"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    of_rank_1 = f"[ $RANK = 0 ] || export MNIST_DIR={damaged.parent}; exec python {SCRIPT} --batch-size 40"
    command = "torchrun", "--standalone", "--nproc-per-node", 2, "--no-python", "sh", "-c", of_rank_1
    launch(few_digits, *command).check_failure(f"error: cannot use {damaged}: ")


@pytest.mark.parametrize("script", ["mnist_torch.py", SCRIPT])
def test_memory_is_kept(launch, few_digits, script):
    """Ten or more further steps touch next to no new memory; glibc's own way costs tens of thousands of page faults each."""

    def faults():
        stats = {number: read_stat(Path(f"/proc/{number}/stat")) for number in processes(job.mark)}
        return {number: int(fields[7]) for number, fields in stats.items() if fields}

    job = launch(few_digits, "python", script, "--epochs", 9999, "--batch-size", 200, script=script)
    job.train()
    before = faults()
    for _ in range(10):
        assert job.process.stdout.readline().startswith("epoch "), job.finish()
    after = faults()
    assert after.keys() == before.keys()
    assert sum(after.values()) - sum(before.values()) < 100_000


ERRORS = """
import sys, torch
import mnist_torch_mgpu as script
script.dist.is_torchelastic_launched = lambda: True
sys.argv[1:] = []
for error in (
    torch.OutOfMemoryError("CUDA out of memory.\\nTried"),
    torch.distributed.DistBackendError("NCCL error: it broke\\nMore"),
    torch.distributed.DistStoreError("wait timeout after 300000ms"),
    RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
    RuntimeError("a fault"),
):
    def run(_):
        raise error
    script.run = run
    try:
        script.main()
    except BaseException as end:
        print(repr(end))
"""


def test_errors_of_the_machine_under_torchrun():
    """They end with one line as they do without it; a fault of the script's own shows its traceback."""
    command = [python_of(SCRIPT), "-c", ERRORS]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "SystemExit('error: CUDA out of memory.')",
        "SystemExit('error: NCCL error: it broke')",
        "SystemExit('error: wait timeout after 300000ms')",
        "SystemExit('error: [gloo/transport/tcp/pair.cc:534] Connection closed by peer')",
        "RuntimeError('a fault')",
    ], done.stderr
