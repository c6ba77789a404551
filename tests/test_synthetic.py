"""The stand-in digits: MNIST's format, the same every time, and never in place of a file that is there."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ARRAYS, ROOT, error_line, usage_error

NAME = "mnist.npz"


def command(*arguments):
    return [sys.executable, ROOT / "synthetic_mnist.py", *map(str, arguments)]


def draw(*arguments):
    return subprocess.run(command(*arguments), check=False, capture_output=True, text=True, timeout=120)


def start_and_wait_for_drawing(folder, *arguments, before=()):
    """Start a drawing that takes seconds; return its process once it has begun."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*before, *command(folder, *arguments)], **pipes)
    deadline = time.monotonic() + 30
    while not os.listdir(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_format_and_sizes(tmp_path):
    done = draw(tmp_path, "--train", 300, "--test", 70)
    assert (done.returncode, done.stderr) == (0, "") and "not MNIST" in done.stdout
    assert list(contents(tmp_path)) == [NAME]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o666 & ~umask  # other users may read a shared folder
    with np.load(tmp_path / NAME) as file:
        assert tuple(file) == ARRAYS
        assert {file[name].dtype for name in ARRAYS} == {np.dtype("uint8")}
        assert [file[name].shape for name in ARRAYS] == [(300, 28, 28), (300,), (70, 28, 28), (70,)]


def test_same_seed_same_bytes_and_two_sets(tmp_path):
    for folder in ("a", "b"):
        assert draw(tmp_path / folder, "--train", 100, "--test", 100).returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "a" / NAME) as file:
        assert {member.date_time[0] for member in file.infolist()} == {1980}  # no clock in it: the same bytes tomorrow
    with np.load(tmp_path / "a" / NAME) as file:
        assert not np.array_equal(file["x_train"], file["x_test"])


def test_digits_are_varied(digits):
    """All ten in about equal numbers, no two images alike, some grey and some black in every one."""
    with np.load(digits / NAME) as file:
        images, labels = file["x_train"].reshape(-1, 784), file["y_train"]
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600  # 500 +- 4.7 standard deviations of 21
    assert len(np.unique(images, axis=0)) == len(images)
    assert (images.max(1) > 100).all() and (images.std(0) > 0).mean() > 0.99


def test_never_overwrites(tmp_path):
    (tmp_path / NAME).write_bytes(b"mine")
    done = draw(tmp_path, "--train", 10, "--test", 10)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / NAME) in error_line(done.stderr, alone=True)
    assert contents(tmp_path) == {NAME: b"mine"}


def test_never_overwrites_a_link(tmp_path):
    """Not even one to a file that is gone: it may come back."""
    (tmp_path / NAME).symlink_to("gone")
    done = draw(tmp_path, "--train", 10, "--test", 10)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / NAME) in error_line(done.stderr, alone=True)
    assert [(path.name, path.is_symlink()) for path in tmp_path.iterdir()] == [(NAME, True)]


def test_file_that_appears_while_drawing(tmp_path):
    """It is kept, and the digits that were drawn are not left beside it."""
    process = start_and_wait_for_drawing(tmp_path, "--train", 10_000)
    (tmp_path / NAME).write_bytes(b"mine")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert NAME in error_line(err, alone=True)
    assert contents(tmp_path) == {NAME: b"mine"}


def test_mistakes(tmp_path):
    (tmp_path / "file").write_text("a file")
    for arguments in ([tmp_path / "file"], [tmp_path / "file/data"], ["--train", "0"], ["--test", "-1"]):
        done = draw(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        error_line(done.stderr, alone=True)
    for arguments in (["-x"], ["--train", "ten"]):
        done = draw(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert arguments[0] in usage_error(done.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(tmp_path, number):
    """A signal while drawing leaves nothing and no traceback."""
    process = start_and_wait_for_drawing(tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + number
    assert os.listdir(tmp_path) == []


ENDED_TWICE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import synthetic_mnist
try:
    synthetic_mnist.end(2, None)
finally:
    for number in synthetic_mnist.ENDING:
        os.kill(os.getpid(), number)
    print("cleaned up", flush=True)
"""


def test_second_signal_stops_no_cleaning():
    done = subprocess.run([sys.executable, "-c", ENDED_TWICE, ROOT], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "")


def test_interrupted_while_importing(tmp_path):
    """Before there is anything to clean up: by the signal itself."""
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ignored_signal_stays_ignored(tmp_path, number):
    """As by nohup, and in a shell's background job."""
    before = ["env", f"--ignore-signal={number.name.removeprefix('SIG')}"]
    process = start_and_wait_for_drawing(tmp_path, "--train", 5000, "--test", 1000, before=before)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "") and "not MNIST" in out


LOADED_LATE = """
import sys
sys.path.insert(0, sys.argv[1])
import synthetic_mnist
before = set(sys.modules)
sys.argv = ["synthetic_mnist.py", sys.argv[2], "--train", "1", "--test", "1"]
synthetic_mnist.main()
print(*[name for name in set(sys.modules) - before if name.startswith("numpy.random")], file=sys.stderr)
"""


def test_no_moment_to_lose_an_interrupt(tmp_path):
    """Cython's modules lose an exception that comes while they are loaded: they are before a Ctrl-C is answered by one."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_LATE, ROOT, tmp_path], capture_output=True, text=True, check=True
    )
    assert "not MNIST" in done.stdout and done.stderr.split() == []
