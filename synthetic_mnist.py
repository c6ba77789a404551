# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = ["numpy==1.23.5"]
# ///
"""Draw stand-in digits in MNIST's file format, for machines that cannot download MNIST, and for tests.

    uv run synthetic_mnist.py                              # 60,000 + 10,000 digits into data
    uv run synthetic_mnist.py DIR --train 5000 --test 1000

The digits are drawn, not written: results on them say nothing about MNIST. One seed, so the same numbers give the same file.
A file that lies there already is never overwritten.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's jobs ignore it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is to be cleaned up yet

import numpy as np
from numpy.random import default_rng  # NumPy 2 would load it late, and lose an exception of end()'s that comes then

SEED = 42
ROTATION = 0.17  # radians, to either side, like the following
SHEAR = 0.15  # of the height
SCALE = 0.15  # of the size
SHIFT = 1.4  # pixels
THICKNESS = 0.35  # of the pen's threshold
NOISE = 200.0  # grey levels, standard deviation on the worst digits; most have little
CHUNK = 2000  # digits drawn at once
GLYPHS = (  # 5 x 7 dots
    ("01110", "10001", "10001", "10001", "10001", "10001", "01110"),
    ("00100", "01100", "00100", "00100", "00100", "00100", "01110"),
    ("01110", "10001", "00001", "00110", "01000", "10000", "11111"),
    ("11110", "00001", "00001", "01110", "00001", "00001", "11110"),
    ("00010", "00110", "01010", "10010", "11111", "00010", "00010"),
    ("11111", "10000", "11110", "00001", "00001", "10001", "01110"),
    ("00110", "01000", "10000", "11110", "10001", "10001", "01110"),
    ("11111", "00001", "00010", "00100", "01000", "01000", "01000"),
    ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
    ("01110", "10001", "10001", "01111", "00001", "00010", "01100"),
)
DOT = 2.9  # pixels from dot to dot
ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def draw(labels, generator):
    """Return images (n, 28, 28) uint8 of the digits in labels (n,): dots of light, warped, thresholded and noisy."""
    n = len(labels)
    canvas = np.zeros((10, 7 + 4, 5 + 4))  # two dark dots around every glyph
    canvas[:, 2:-2, 2:-2] = [[[int(dot) for dot in row] for row in glyph] for glyph in GLYPHS]
    # where each pixel comes from: the inverse of a random turn, shear, scaling and shift about the centre
    angle, shear = generator.uniform(-ROTATION, ROTATION, n), generator.uniform(-SHEAR, SHEAR, n)
    scale = generator.uniform(1 - SCALE, 1 + SCALE, (2, n)) * DOT
    y, x = np.mgrid[:28, :28].reshape(2, 1, -1) - 13.5 - generator.uniform(-SHIFT, SHIFT, (2, n, 1))
    y, x = (
        (np.cos(angle)[:, None] * y - np.sin(angle)[:, None] * x) / scale[0][:, None],
        (np.sin(angle)[:, None] * y + np.cos(angle)[:, None] * x) / scale[1][:, None],
    )
    x += shear[:, None] * y
    y, x = np.clip(y + 5, 0, 9.999), np.clip(x + 4, 0, 7.999)
    # bilinear interpolation between dots makes strokes of them
    top, left = y.astype(int), x.astype(int)
    down, right = y - top, x - left
    digit = labels[:, None]
    light = (1 - down) * ((1 - right) * canvas[digit, top, left] + right * canvas[digit, top, left + 1])
    light += down * ((1 - right) * canvas[digit, top + 1, left] + right * canvas[digit, top + 1, left + 1])
    pen = generator.uniform(0.2, 0.2 + THICKNESS, (n, 1))
    ink = np.clip((light - pen) * 4 + 0.5, 0, 1) * generator.uniform(180, 255, (n, 1))
    ink += generator.normal(0, NOISE, ink.shape) * generator.uniform(0, 1, (n, 1)) ** 4
    return np.clip(ink, 0, 255).astype(np.uint8).reshape(n, 28, 28)


def main():
    """Draw both sets and put them into their folder at the end, in one file."""
    data_dir = Path(__file__).with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=data_dir, metavar="DIR", help="default: data")
    parser.add_argument("--train", type=int, default=60_000, metavar="N", help="training digits: %(default)s")
    parser.add_argument("--test", type=int, default=10_000, metavar="N", help="test digits: %(default)s")
    args = parser.parse_args()
    if min(args.train, args.test) < 1:
        sys.exit("error: use --train and --test 1 or more")
    path = args.folder / "mnist.npz"
    try:
        if path.exists():  # before the digits are drawn: that takes a while
            raise FileExistsError
        args.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.folder) as unfinished:
            arrays = {}
            for number, (part, n) in enumerate((("train", args.train), ("test", args.test))):
                generator = default_rng([SEED, number])
                labels = generator.integers(0, 10, n)
                images = [draw(labels[i : i + CHUNK], generator) for i in range(0, n, CHUNK)]
                arrays |= {f"x_{part}": np.concatenate(images), f"y_{part}": labels.astype(np.uint8)}
            np.savez_compressed(Path(unfinished, path.name), **arrays)
            os.link(Path(unfinished, path.name), path)  # a rename would replace what is there
    except FileExistsError:
        sys.exit(f"error: {path} or its folder is a file already; remove it or name another folder")
    except OSError as error:
        sys.exit(f"error: cannot write to {args.folder}: {error.strerror}; name another folder")
    print(f"{args.train} + {args.test} stand-in digits, not MNIST: {path}")


def end(number, _):
    """End with the status that a shell shows for a signal, cleaning up on the way out, which no other signal stops."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    main()
