"""The first command on a machine with GPUs: each script's own main() on them, by what its framework does there.

    uv run pytest tests/test_gpu.py                                                    # in the environments that uv makes
    uv run pytest tests/test_gpu.py --python mx=$HOME/mnist-gpu/bin/python --python tf=$HOME/mnist-tf/bin/python

A script whose framework can use too few GPUs is skipped, and the reason says what was seen. No GPU may be in use by others:
their memory is looked at. What the CPU answers (test_work.py), the GPUs have to answer, too.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_work
from conftest import ROOT, python_of
from test_work import ALONE, FULL, RANKS, events_of, launch, losses

from harness.environments import kind_of

KIND = "gpu"
RUNS = ["steps", "still", "dropout", "masks", "first", "again", "other", "busy"]
USED = 64  # MiB on a GPU that a process computes on: its context alone has more
PARALLEL = [script for script, devices in FULL if devices == 2]
NAMES = {"mx": "MXNet", "tf": "TensorFlow", "torch": "PyTorch"}
# What a framework says of GPUs: its version, how many it sees, how many of them it can use, and why not the next
LOOK = {
    "mx": """
import mxnet as mx
version, number = mx.__version__, mx.context.num_gpus()
def use(i):
    mx.nd.ones(1, mx.gpu(i)).asnumpy()
""",
    "tf": """
import tensorflow as tf
version, number = tf.__version__, len(tf.config.list_physical_devices("GPU"))
def use(i):
    with tf.device(f"gpu:{i}"):
        (tf.ones(1) + 1).numpy()
""",
    "torch": """
import torch
version, number = torch.__version__, torch.cuda.device_count()
def use(i):
    torch.ones(1, device=f"cuda:{i}").cpu()
""",
}
LOOK_END = """
import json
usable, fault = 0, ""
while usable < number and not fault:
    try:
        use(usable)
        usable += 1
    except Exception as error:
        lines = str(error).strip().splitlines()
        fault = next((line for line in lines if "CUDA" in line), lines[-1])
print(json.dumps([version, number, usable, fault]))
"""


def has_gpus():
    """Tell whether the driver has made a device file of a GPU; without one, no environment needs to be asked."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


pytestmark = [pytest.mark.alone] if has_gpus() else []  # memory and time of GPUs are looked at


@functools.cache
def look(kind, python):
    """Return what a framework in an environment says of GPUs, asked in a process of its own."""
    done = subprocess.run(
        [python, "-c", LOOK[kind] + LOOK_END], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{python}: {done.stderr[-1000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def python_with(pytestconfig):
    """Return a function that gives the interpreter of a script, or skips if its framework cannot use so many GPUs."""
    given = dict(pytestconfig.getoption("--python"))

    def find(script, devices):
        if not has_gpus():
            pytest.skip(
                f"needs {devices} x gpu: this machine has none, as there is no device file /dev/nvidia0 or the like"
            )
        kind = kind_of(Path(script))
        python = given.get(kind) or Path(python_of(script))
        version, number, usable, fault = look(kind, python)
        if usable < devices:
            can = f" and can use {usable}: {fault}" if fault else ""
            pytest.skip(f"{NAMES[kind]} {version} in {python} sees {number} x gpu{can}; needs {devices}")
        return python

    return find


@pytest.fixture(scope="session")
def gpu_probe(tmp_path_factory, python_with):
    """Return a function that probes a script on some GPUs, once, and returns its answers, one a rank."""

    @functools.cache
    def run(script, devices):
        python = python_with(script, devices)
        folder = tmp_path_factory.mktemp("gpu_probe")
        return test_work.ask(folder, script, devices, RUNS, python, test_work.material(), KIND)

    return test_work.checked(run)


@pytest.fixture(scope="session")
def expected(request):
    return test_work.make_expected(request.config.cache)


@pytest.mark.parametrize("script, devices", FULL)
def test_arithmetic_is_that_of_float32(gpu_probe, script, devices):
    """TF32 is off, for products and for convolutions, as the script itself has set it by the time it trains."""
    test_work.test_arithmetic_is_that_of_float32(gpu_probe, script, devices)


@pytest.mark.parametrize("script, devices", FULL)
def test_three_steps(gpu_probe, expected, script, devices):
    """Losses and weights are the float64 reference's, as near as on the CPU."""
    test_work.test_three_steps(gpu_probe, expected, script, devices)


@pytest.mark.parametrize(
    "question",
    [
        test_work.test_layers,
        test_work.test_loss_is_the_mean_over_all_batches,
        test_work.test_no_dropout_in_evaluation,
        test_work.test_dropout_in_training,  # two devices and two ranks have masks of their own
        test_work.test_clock,
        test_work.test_epoch_seconds_are_all_of_the_epoch,
        test_work.test_no_synchronisation_per_step,
        test_work.test_types,
    ],
)
@pytest.mark.parametrize("script, devices", FULL)
def test_as_on_the_cpu(gpu_probe, question, script, devices):
    question(gpu_probe, script, devices)


@pytest.mark.parametrize("script, devices", test_work.COPIED)
def test_copies_count(gpu_probe, script, devices):
    test_work.test_copies_count(gpu_probe, script, devices)


@pytest.mark.parametrize("script, devices", FULL)
@pytest.mark.parametrize("run", test_work.WORK_IMAGES)
def test_epoch(gpu_probe, script, devices, run):
    test_work.test_epoch(gpu_probe, script, devices, run)


@pytest.mark.parametrize("script, devices", ALONE)
def test_what_dropout_keeps_is_scaled(gpu_probe, script, devices):
    test_work.test_what_dropout_keeps_is_scaled(gpu_probe, script, devices)


@pytest.mark.parametrize("script, devices", FULL)
def test_seeds(gpu_probe, script, devices):
    """One seed gives one sequence of losses, another one others; so it is with weights, masks and the order of images.

    Sums on a GPU may be added up in any order, so one seed's losses may differ in the last digits, unlike on a CPU.
    """
    answers = gpu_probe(script, devices)
    first, again, other = (losses(answers[0][f"{run}.lines"]) for run in ("first", "again", "other"))
    assert np.abs(first - again).max() < 0.002
    assert np.abs(first - other).max() > 0.01
    test_work.check_seeds(answers, devices)


@pytest.mark.parametrize("script, devices", FULL)
def test_the_clock_waits_for_the_devices(gpu_probe, script, devices):
    """Long work that they get after the last step is in it, whole, and nothing of it is left when train() returns."""
    answer = gpu_probe(script, devices)[0]
    events, seconds = events_of(answer, "busy")
    last_line = max(i for i, word in enumerate(events) if word == "print")
    assert seconds[-1] - seconds[last_line] > 0.5 * answer["busy.work_seconds"]
    assert answer["busy.left_seconds"] < 0.1 * answer["busy.work_seconds"]


def numbers_of(names):
    """Return the numbers of the GPUs that MXNet calls gpu(0), PyTorch cuda:0, TensorFlow /...:GPU:0."""
    found = [re.search(rf"(?:{KIND}|cuda)\W(\d+)", str(name).lower()) for name in names]
    assert None not in found, names
    return {int(match[1]) for match in found}


@pytest.mark.parametrize("script, devices", FULL)
def test_devices(gpu_probe, script, devices):
    """All devices have the weights and get images, in training and, at least one, in evaluation.

    What TensorFlow's replicas get has no device yet; it follows the weights.
    """
    answers = gpu_probe(script, devices)
    assert f", {devices} x {KIND}, " in answers[0]["still.lines"][0]
    numbers = set(range(devices))
    assert set.union(*(numbers_of(answer["still.weight_devices"]) for answer in answers)) == numbers
    if "_tf_" not in script:
        assert set.union(*(numbers_of(answer["still.batch_devices"]) for answer in answers)) == numbers
        assert set.union(*(numbers_of(answer["still.evaluated_devices"]) for answer in answers)) <= numbers


@pytest.mark.parametrize("script, devices", FULL)
def test_memory(gpu_probe, script, devices):
    """As many GPUs as asked for are used, by all ranks together, no other, and their memory grows with use.

    After the first run, of 300 images, less than half of a GPU is taken.
    """
    memory = gpu_probe(script, devices)[0]["gpu_memory"]
    taken = memory[:, :, 0] - memory[0, :, 0]
    assert (taken.max(0) > USED).sum() == devices
    assert (taken[1] < memory[0, :, 1] / 2).all()


def run_script(script, devices, python, data, kind, visible=None):
    """Run a script for an epoch; return the status and all that it said."""
    settings = {"--epochs": 1, "--batch-size": 40, "--data-dir": data, "--device": kind}
    settings |= {"--devices": devices} if "_mgpu" in script else {}
    words = [str(word) for setting in settings.items() for word in setting]
    command = [python, ROOT / script, *words]
    if "_hvd" in script:
        command = launch(script, devices, python, command, hosts=1)
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("script, devices", FULL)
def test_auto_takes_gpus(python_with, few_digits, script, devices):
    """Where there are enough."""
    status, said = run_script(script, devices, python_with(script, devices), few_digits, "auto")
    assert status == 0, said
    assert f", {devices} x {KIND}, " in said


@pytest.mark.parametrize("script", PARALLEL)
def test_auto_with_one_gpu_for_two_devices(python_with, few_digits, script):
    """All on the CPU: no device is a GPU beside another that is not."""
    status, said = run_script(script, 2, python_with(script, 1), few_digits, "auto", visible="0")
    assert status == 0, said
    assert ", 2 x cpu, " in said


@pytest.mark.parametrize("script", PARALLEL)
def test_gpu_with_one_gpu_for_two_devices(python_with, few_digits, script):
    """One line says what is needed and what is there; a launcher may add lines of its own."""
    status, said = run_script(script, 2, python_with(script, 1), few_digits, "gpu", visible="0")
    assert status != 0
    lines = {re.sub(r"^\[\d+\]<\w+>:", "", line) for line in said.splitlines() if "error: --device" in line}
    assert len(lines) == 1, said
    assert re.fullmatch(r"error: --device gpu needs 2 x gpu, \w+ sees 1; use --device cpu", lines.pop()), said
    if script not in RANKS:
        assert "Traceback" not in said


def test_wrong_environment():
    """It is refused as benchmark.py refuses it."""
    command = [sys.executable, "-m", "pytest", ROOT / "tests/test_gpu.py", "--python", "cuda=python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "argument --python: it takes mx=PATH, tf=PATH or torch=PATH" in done.stderr
