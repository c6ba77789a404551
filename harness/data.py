"""MNIST, or stand-in digits where it cannot be had."""

import contextlib
import hashlib
import logging
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.files import shown
from harness.processes import ask
from harness.results import MNIST_SHA256, STAND_IN, Value
from harness.startup import USER_ENVIRONMENT

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # both from Keras' datasets/mnist.py
NAME = "mnist.npz"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
DRAW = 600.0  # seconds that drawing digits may take
MEGABYTES = 12  # of the download


@dataclass(frozen=True)
class Data:
    """The data that the scripts are given."""

    folder: Path
    name: str  # "MNIST", by the hash only, or what else it is
    sha256: str  # of the bytes of the four arrays
    train_images: int
    test_images: int

    def to_metadata(self) -> dict[str, Value]:
        """Return what the file says of the data."""
        return {
            "data": self.name,
            "data_sha256": self.sha256,
            "train_images": self.train_images,
            "test_images": self.test_images,
        }


class DownloadFailed(Exception):
    """The file could not be had over the network; it may be there another time."""


def is_there(folder: Path) -> bool:
    """Tell whether something has the file's name, usable or not: then nothing is fetched or drawn. UserError: nobody may look."""
    try:
        (folder / NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"cannot use {shown(folder / NAME)}: {error.strerror}") from None
    return True


def fetch(folder: Path) -> None:
    """Download MNIST into a folder; DownloadFailed if the network is at fault, UserError if the folder is."""
    import pooch
    import requests

    logging.getLogger("pooch").setLevel(logging.WARNING)
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(URL, f"sha256:{FILE_SHA256}", NAME, folder)
        with contextlib.suppress(OSError):  # not every file system has modes
            (folder / NAME).chmod(0o644)  # pooch lets only its owner read it
    except (requests.RequestException, ValueError) as error:  # no network, or a portal's page in place of the file
        raise DownloadFailed(shown(f"{error}")[:300]) from None
    except OSError as error:
        raise UserError(f"cannot write {shown(folder / NAME)}: {error.strerror or error}") from None


def draw_stand_in(folder: Path, program: Path) -> None:
    """Draw stand-in digits into a folder; UserError if that cannot be."""
    status, _, errors = ask(sys.executable, program, folder, timeout=DRAW, env=USER_ENVIRONMENT)
    if status:
        reason = (errors.splitlines() or ["?"])[-1].removeprefix("error: ")
        raise UserError(f"{program.name} cannot draw stand-in digits into {shown(folder)}: {shown(reason)}")


def read(folder: Path) -> Data:
    """Return what the file in a folder holds; UserError if it cannot be used."""
    import numpy as np

    path = folder / NAME
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no regular file")
        with np.load(path) as file:
            arrays = [file[name] for name in ARRAYS]
        sha256 = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        train_images, test_images = len(arrays[1]), len(arrays[3])
    except Exception as error:  # noqa: BLE001 - what a damaged file raises depends on where it is damaged
        raise UserError(f"cannot use {shown(path)}: {shown(f'{error!r:.200}')}") from None
    if not train_images or not test_images:
        raise UserError(f"cannot use {shown(path)}: it has {train_images} training and {test_images} test images")
    if sha256 == MNIST_SHA256:
        name = "MNIST"
    else:
        name = STAND_IN if folder.name == "stand-in" else "not MNIST"
    return Data(folder, name, sha256, train_images, test_images)


def find_data(folder: Path, program: Path, say: Callable[[str], None]) -> Data:
    """Return the data of a folder: what lies there, else MNIST, else, where it cannot be downloaded, stand-in digits."""
    if is_there(folder):
        return read(folder)
    say(f"fetching MNIST into {shown(folder)}")
    try:
        fetch(folder)
    except DownloadFailed as error:
        say(f"WARNING: cannot download {URL}: {error}")
        say(f"WARNING: going on with {STAND_IN}: the accuracies mean nothing")
        folder = folder / "stand-in"
        if not is_there(folder):
            draw_stand_in(folder, program)
    return read(folder)
