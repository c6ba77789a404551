"""The stand-in digits: MNIST's format, the same every time, and never in place of a file that is there."""

import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
from conftest import ROOT

NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("t10k", "train") for kind in ("images-idx3", "labels-idx1")]


def draw(*arguments):
    command = [sys.executable, ROOT / "synthetic_mnist.py", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_format_and_sizes(tmp_path):
    done = draw(tmp_path, "--train", 300, "--test", 70)
    assert done.returncode == 0 and "not MNIST" in done.stdout
    assert sorted(contents(tmp_path)) == NAMES
    for part, n in (("train", 300), ("t10k", 70)):
        images = gzip.decompress((tmp_path / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((tmp_path / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert np.frombuffer(images[:16], ">u4").tolist() == [0x0803, n, 28, 28]
        assert np.frombuffer(labels[:8], ">u4").tolist() == [0x0801, n]
        assert (len(images), len(labels)) == (16 + 784 * n, 8 + n)


def test_same_seed_same_bytes_and_two_sets(tmp_path):
    for folder in ("a", "b"):
        assert draw(tmp_path / folder, "--train", 100, "--test", 100).returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    train, test = (contents(tmp_path / "a")[f"{part}-images-idx3-ubyte.gz"] for part in ("train", "t10k"))
    assert gzip.decompress(train)[16:] != gzip.decompress(test)[16:]


def test_digits_are_varied(digits):
    """All ten in about equal numbers, no two images alike, some grey and some black in every one."""
    content = gzip.decompress((digits / "train-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 784)
    labels = np.frombuffer(gzip.decompress((digits / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600  # 500 +- 4.7 standard deviations of 21
    assert len(np.unique(images, axis=0)) == len(images)
    assert (images.max(1) > 100).all() and (images.std(0) > 0).mean() > 0.99


def test_never_overwrites(tmp_path):
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        done = draw(folder, "--train", 10, "--test", 10)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and name in done.stderr
        assert contents(folder) == {name: b"mine"}


def test_file_that_appears_while_drawing(tmp_path):
    """It is kept, and the digits that were drawn are not left beside it."""
    command = [sys.executable, ROOT / "synthetic_mnist.py", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    (tmp_path / NAMES[1]).write_bytes(b"mine")  # of the four, the last that is published
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and NAMES[1] in err
    assert contents(tmp_path) == {NAMES[1]: b"mine"}


def test_mistakes(tmp_path):
    (tmp_path / "file").write_text("a file")
    for arguments, status in (
        ([tmp_path / "file"], 1),
        ([tmp_path / "file/data"], 1),
        (["--train", "0"], 2),
        (["-x"], 2),
    ):
        done = draw(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_interrupted(tmp_path):
    """Ctrl-C while drawing leaves nothing and no traceback."""
    command = [sys.executable, ROOT / "synthetic_mnist.py", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130
    assert os.listdir(tmp_path) == []
