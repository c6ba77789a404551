"""What a script prints: versions and devices first, a line an epoch, two result lines last."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import RunFailed, RunRefused
from harness.results import LARGEST_LOSS

NUMBER = r"-?\d{1,40}\.\d{4}|-?inf|nan"  # of a diverged run too
EPOCH = re.compile(rf"epoch +(\d{{1,6}}/\d{{1,6}})  loss ({NUMBER})  (\d{{1,9}}\.\d\d) s", re.ASCII)
VERSION = r"[A-Za-z][\w.-]{0,40} [\w.+!-]{1,60}"
OUTPUT = re.compile(
    rf"(?P<script>[^\n]+?): (?P<versions>(?:{VERSION}, )+)python (?P<python>[\w.+-]{{1,60}}), "
    r"(?P<devices>[1-9]\d{0,5}) x (?P<device>cpu|gpu), (?P<threads>[1-9]\d{0,5}) threads, "
    r"batch (?P<per>\d{1,6}) x (?P<batch_size>\d{1,6}), seed (?P<seed>\d{1,12})\n"
    rf"(?P<epochs>(?:{EPOCH.pattern}\n)+)duration: (?P<duration>\d{{1,9}}\.\d\d) s\naccuracy: (?P<accuracy>{NUMBER})",
    re.ASCII,
)
HOROVODRUN_PREFIX = re.compile(r"^\[\d+\]<stdout>:")
ROUNDING = 0.01  # seconds: of each printed time


@dataclass(frozen=True)
class Expected:
    """What the runner asked a script for."""

    script: str
    devices: int
    batch_size: int  # images per device and step
    seed: int
    epochs: int


@dataclass(frozen=True)
class Output:
    """The figures that a script printed."""

    versions: tuple[tuple[str, str], ...]  # of the frameworks
    python_version: str
    device: str  # cpu or gpu
    threads: int
    losses: tuple[str, ...]  # of each epoch, as printed
    epoch_seconds: tuple[str, ...]
    seconds: float  # of training
    accuracy: float


def is_expected(found: re.Match[str], epochs: Sequence[str], expected: Expected) -> bool:
    """Tell whether the lines are those of what was asked for."""
    asked = (
        ("script", expected.script),
        ("devices", expected.devices),
        ("per", expected.devices),
        ("batch_size", expected.batch_size),
        ("seed", expected.seed),
    )
    numbers = [f"{i + 1}/{expected.epochs}" for i in range(expected.epochs)]
    return all(found[key] == str(value) for key, value in asked) and list(epochs) == numbers


def check_figures(output: Output, elapsed: float) -> None:
    """Raise RunFailed if the times are impossible in a process of so many seconds, RunRefused if the run has diverged."""
    epochs = sum(map(float, output.epoch_seconds))
    if not 0 < output.seconds <= elapsed or epochs > output.seconds + ROUNDING * (len(output.epoch_seconds) + 1):
        raise RunFailed(
            f"impossible figures in {elapsed:.2f} s: duration {output.seconds:.2f} s, epochs {epochs:.2f} s"
        )
    for number, text in enumerate(output.losses, 1):
        if not -1 / 20_000 <= float(text) <= LARGEST_LOSS:  # nan neither
            raise RunRefused(f"the loss of epoch {number} is {float(text):g}")
    if not 0 <= output.accuracy <= 1:
        raise RunRefused(f"the accuracy is {output.accuracy:g}")


def parse(lines: Sequence[str], expected: Expected, elapsed: float) -> Output:
    """Return what a script printed in a process of so many seconds; RunFailed or RunRefused say what is wrong with it."""
    found = OUTPUT.fullmatch("\n".join(lines))
    epochs = EPOCH.findall(found["epochs"]) if found else []
    if found is None or not is_expected(found, [number for number, _, _ in epochs], expected):
        raise RunFailed(f"malformed output: {list(lines[:30])!s:.300}")
    versions = [words.split(" ") for words in found["versions"].removesuffix(", ").split(", ")]
    output = Output(
        versions=tuple((name, version) for name, version in versions),
        python_version=found["python"],
        device=found["device"],
        threads=int(found["threads"]),
        losses=tuple(loss.replace("-0.0000", "0.0000") for _, loss, _ in epochs),
        epoch_seconds=tuple(seconds for _, _, seconds in epochs),
        seconds=float(found["duration"]),
        accuracy=float(found["accuracy"]),
    )
    check_figures(output, elapsed)
    return output
