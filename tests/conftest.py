"""What the tests share: the scripts, their environments, stand-in digits and real MNIST."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("mnist_*.py"))

# What started the tests may ignore these signals (nohup, a shell's background job): the scripts under test would inherit it
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@functools.cache
def python_of(script):
    """Return the interpreter of the environment that a script's header describes; uv makes it on first use."""
    subprocess.run(["uv", "sync", "--quiet", "--script", ROOT / script], check=True)
    find = ["uv", "python", "find", "--script", ROOT / script]
    return subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Return a folder of stand-in digits: 5,000 for training and 1,003, which nothing divides, for the test."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, ROOT / "synthetic_mnist.py", folder, "--train", "5000", "--test", "1003"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def mnist():
    """Return the folder of real MNIST that MNIST_DIR names; skip where it names none."""
    folder = Path(os.environ.get("MNIST_DIR", ""))
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs real MNIST: set MNIST_DIR to the folder of its four files")
    return folder
