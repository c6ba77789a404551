"""DataLoader's workers and the shared memory that they need: what is missing or killed is said, at once and in one line."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, error_line, processes, python_of

SCRIPTS = "mnist_mx_gluon_ds.py", "mnist_mx_gluon_ds_mgpu.py"
MEBIBYTE = 2**20
IN_OWN_SHM = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


@pytest.fixture(scope="module")
def many_digits(tmp_path_factory):
    """Return a folder of 6,000 random images, 5 MiB with their labels, that take a CPU longer than they take the workers."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (6_000, 28, 28), np.uint8), generator.integers(0, 10, 6_000, np.uint8)
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return folder


def run(script, size, data, *arguments):
    """Run a script where /dev/shm has a size; return the exit status, stdout and stderr."""
    python = python_of(script)
    probe = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    )
    if probe is None or probe.returncode:
        pytest.skip("needs unshare and the right to mount")
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        IN_OWN_SHM,
        str(size),
        python,
        "-W",
        "ignore",
        ROOT / script,
        "--data-dir",
        data,
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


FORKS = """
import gc, multiprocessing, sys
import {script} as script
mx, found = script.mx, []
class Pool(multiprocessing.pool.Pool):
    def __init__(self, *words, **options):
        found.append([str(x.context) for x in gc.get_objects() if isinstance(x, mx.nd.NDArray)])
        super().__init__(*words, **options)
multiprocessing.Pool = Pool
script.find_device = lambda kind: found.append("device") or mx.cpu(1)
script.find_devices = lambda kind, count: found.append("device") or [mx.cpu(1 + i) for i in range(count)]
sys.argv[1:] = ["--epochs", "1", "--batch-size", "40", "--data-dir", sys.argv[1]]
script.main()
assert found == [[], "device"], found
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_workers_are_there_before_the_device(few_digits, script):
    """A process that has used a GPU must not fork: before the workers are, no device is tried, and no array is anywhere."""
    command = [python_of(script), "-W", "ignore", "-c", FORKS.format(script=script.removesuffix(".py")), few_digits]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_shared_memory_that_is_too_small(many_digits, script):
    """Two thirds of what the images take: refused before the first step, with the size that is needed."""
    status, out, err = run(script, 3 * MEBIBYTE, many_digits, "--epochs", "1", "--batch-size", "500")
    assert (status, out) == (1, "")
    line = error_line(err, alone=True)
    assert "DataLoader needs 5 MiB free in /dev/shm" in line  # no worker had to be killed first


def test_shared_memory_that_suffices(many_digits):
    """The size that the line names is enough, though the workers are far ahead of the CPU; here it is 5.27 MiB."""
    options = "--epochs", "1", "--batch-size", "40"
    _, _, err = run(SCRIPTS[0], 5 * MEBIBYTE, many_digits, *options)
    size = int(re.search(r"needs (\d+) MiB", err)[1])
    assert size == 6
    status, out, err = run(SCRIPTS[0], size * MEBIBYTE, many_digits, *options)
    assert status == 0, err
    assert len(out.splitlines()) == 4


PATIENCE = """
import multiprocessing.pool, sys
import {script} as script
waits, get = [], multiprocessing.pool.ApplyResult.get
multiprocessing.pool.ApplyResult.get = lambda self, timeout=None: waits.append(timeout) or get(self, timeout)
sys.argv[1:] = ["--epochs", "1", "--batch-size", "40", "--data-dir", sys.argv[1]]
script.main()
assert waits and all(wait is None or wait >= 86400 for wait in waits), waits
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_batch_is_given_up(few_digits, script):
    """MXNet gives a batch up after 120 s, and a run may be stopped for longer: the script waits a day for it at least."""
    command = [python_of(script), "-W", "ignore", "-c", PATIENCE.format(script=script.removesuffix(".py")), few_digits]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


PAGE, BATCHES = 4096, 23  # of 256 images: exactly 49 pages, and one more for the 16 bytes that MXNet puts before them


@pytest.mark.parametrize("script", SCRIPTS)
def test_header_of_a_batch_is_counted(many_digits, script):
    """A batch's images may fill their pages, and then MXNet's header takes another page: none of them is missing."""
    images = 128 if "mgpu" in script else 256  # per device
    options = "--epochs", "1", "--batch-size", str(images)
    status, out, err = run(script, BATCHES * (49 + 1) * PAGE, many_digits, *options)
    assert (status, out) == (1, "")
    assert "free in /dev/shm" in error_line(err, alone=True)
    status, _, err = run(script, BATCHES * (50 + 1) * PAGE, many_digits, *options)
    assert status == 0, err


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number", [1, 2])
def test_killed_workers(few_digits, tmp_path, script, number):
    """As the kernel does when memory is short: the run ends in seconds, with one line, and leaves no process."""
    command = [
        python_of(script),
        "-W",
        "ignore",
        ROOT / script,
        "--data-dir",
        few_digits,
        "--epochs",
        "999",
        "--batch-size",
        "40",
    ]
    process = subprocess.Popen(
        command,
        env=os.environ | {"TEST_FOLDER": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2
        for worker in workers[:number]:
            os.kill(int(worker), signal.SIGKILL)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert time.monotonic() - began < 20
    assert "/dev/shm" in error_line(err, alone=True)
    assert all(line.startswith("epoch") for line in out.splitlines())
    assert not processes(f"TEST_FOLDER={tmp_path}")
