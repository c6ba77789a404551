"""The scripts as modules: which devices they choose with pretended GPUs, how many threads, what command lines they refuse.

The scripts of a group are loaded into one process: the frameworks take seconds to start.
"""

import functools
import itertools
import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT, SCRIPTS, cores, group_of, python_of_group, usage_error

FRAMEWORKS = {"_tf_": "TensorFlow", "_torch": "PyTorch"}
LOAD = """
import contextlib, functools, importlib, io, json, os, sys
from types import SimpleNamespace as Fake

sys.path.insert(0, sys.argv[1])
user, threads = os.environ.get("OMP_NUM_THREADS"), {}

@functools.cache
def load(name):
    os.environ.pop("OMP_NUM_THREADS", None)  # the scripts before it have set it too
    os.environ |= {"OMP_NUM_THREADS": user} if user else {}
    script = importlib.import_module(name.removesuffix(".py"))
    threads[name] = {script.THREADS}
    if "_torch" not in name:  # which is told by torch.set_num_threads
        threads[name].add(os.environ["OMP_NUM_THREADS"])
    return script
"""
CHOICES = """
answers = []
for name, kind, gpus, count, rank in json.loads(sys.argv[2]):
    script = load(name)
    hidden = []
    if "_tf_" in name:
        config = script.tf.config
        config.threading.set_intra_op_parallelism_threads(0)
        cpus = config.list_physical_devices("CPU")
        config.list_physical_devices = lambda kind: cpus if kind == "CPU" else ["a GPU"] * gpus
        script.subprocess.run = lambda *words, **options: Fake(returncode=0)  # a trial finds that a GPU can be used
        config.set_visible_devices = lambda devices, kind: hidden.append(kind) if devices == [] else None
        config.experimental.set_memory_growth = lambda device, grows: None  # asked in test_gpu_settings.py
    elif "_torch" in name:
        script.torch.cuda.device_count = lambda: gpus
        script.torch.ones = lambda *words, **options: Fake(cpu=lambda: None)
    else:
        script.mx.context.num_gpus = lambda: gpus
        script.mx.nd.ones = lambda *words: Fake(wait_to_read=lambda: None)
    if "_hvd" in name:
        script.hvd.local_size, script.hvd.local_rank = lambda: count, lambda: rank
        script.hvd.allgather_object = lambda text: [text]
    try:
        if name == "mnist_torch_mgpu.py":
            found = script.find_device(kind, rank, count, lambda text: [text])
        else:
            found = script.find_devices(kind, count) if "_mgpu" in name else script.find_device(kind)
        answers.append([str(device) for device in (found if isinstance(found, list) else [found])])
    except SystemExit as end:
        answers.append(end.code)
    if "_tf_" in name and "error" not in answers[-1]:  # the choice sets the threads too
        answers[-1] += hidden if gpus else []
        threads[name].add(str(config.threading.get_intra_op_parallelism_threads()))
if "_tf_" in name:  # one CPU stands for several devices
    script.find_devices("cpu", 3)
    assert [device.name for device in config.list_logical_devices("CPU")] == [f"/device:CPU:{i}" for i in range(3)]
print(json.dumps([answers, {name: sorted(found) for name, found in threads.items()}]))
"""
REFUSALS = """
answers = {}
for name, questions in json.loads(sys.argv[2]).items():
    script, ends = load(name), []
    for sys.argv[1:] in questions:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                script.main()
        except SystemExit as end:
            ends.append([end.code, out.getvalue(), err.getvalue()])
    sys.argv[1:] = []
    flags = [vars(script.parse_args())]
    os.environ["MNIST_DIR"] = "elsewhere"
    flags.append(vars(script.parse_args()))
    os.environ.pop("MNIST_DIR")
    answers[name] = [ends, flags]
print(json.dumps([answers, {name: sorted(found) for name, found in threads.items()}], default=str))
"""


def cases(script):
    """Return all questions to a script: kind, visible GPUs, devices or ranks on the host, rank on the host."""
    counts = [1] if "_mgpu" not in script and "_hvd" not in script else [1, 2]
    ranks = "_hvd" in script or script == "mnist_torch_mgpu.py"
    places = [(count, rank) for count in counts for rank in range(count if ranks else 1)]
    return [(kind, gpus, *place) for kind, gpus, place in itertools.product(("auto", "cpu", "gpu"), (0, 1, 2), places)]


def ask(group, program, folder, questions, threads=None):
    """Run a program in the environment of a group and return what it prints; threads is what the user set."""
    environment = {name: x for name, x in os.environ.items() if name not in ("OMP_NUM_THREADS", "MNIST_DIR")}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    command = [python_of_group(group), "-W", "ignore", "-c", LOAD + program, folder, json.dumps(questions)]
    options = {"env": environment | {"CUDA_VISIBLE_DEVICES": ""}, "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def choices():
    """Return a function that gives the choices of a script's group by script and question, and the numbers of threads."""

    @functools.cache
    def choose(group):
        questions = [(script, *case) for script in group for case in cases(script)]
        found, threads = ask(group, CHOICES, ROOT, questions)
        return dict(zip(questions, found, strict=True)), threads

    return lambda script: choose(group_of(script))


@pytest.fixture(scope="session")
def refusals(digits, tmp_path_factory):
    """Return a function that gives the ends and flags of a script's group by script, and the threads: the user's 3."""

    @functools.cache
    def refuse(group):
        folder = tmp_path_factory.mktemp("scripts")
        for script in group:
            shutil.copy(ROOT / script, folder)
        return folder, *ask(group, REFUSALS, folder, {script: command_lines(script, digits) for script in group}, "3")

    return lambda script: refuse(group_of(script))


def expected(script, kind, gpus, count, rank):
    """Return what is promised: GPUs if enough are visible, else CPU; too few are an error where they are asked for."""
    if kind == "gpu" and gpus < count:
        framework = next((name for key, name in FRAMEWORKS.items() if key in script), "MXNet")
        return f"error: --device gpu needs {count} x gpu, {framework} sees {gpus}; use --device cpu"
    where = "cpu" if kind == "cpu" or gpus < count else "gpu"
    if "_hvd" in script:
        return [f"gpu({rank})" if where == "gpu" else "cpu(0)"]
    if "_torch" in script:
        return ["cpu" if where == "cpu" else f"cuda:{rank}" if "_mgpu" in script else "cuda"]
    if "_tf_" in script:
        names = [f"{where}:{i}" for i in range(count)] if "_mgpu" in script else [where]
        return names + (
            ["GPU"] if where == "cpu" and gpus else []
        )  # visible GPUs are hidden: TensorFlow would use them
    return [f"{where}({i})" for i in range(count)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_choice(choices, script):
    found, _ = choices(script)
    for case in cases(script):
        assert found[script, *case] == expected(script, *case), case


@pytest.mark.parametrize("script", SCRIPTS)
def test_threads(choices, refusals, script):
    """Every CPU that the process may use, unless the user says otherwise."""
    if script != "mnist_torch_mgpu.py":  # its processes take their shares themselves: test_torch.py
        assert choices(script)[1][script] == [str(cores())]
    assert refusals(script)[2][script] == ["3"]


def devices_of(script):
    return 2 if "_mgpu" in script else 1


def mistakes(script):
    """Return the command lines that argparse refuses, and those that the script refuses."""
    by_argparse = [["--epochs", "ten"], ["--batch-size", "1.5"], ["--seed", "x"], ["--device", "tpu"], ["--colour"]]
    by_script = [["--epochs", "0"], ["--batch-size", "0"], ["--batch-size", "-1"]]
    by_script += [["--batch-size", str(5000 // devices_of(script) + 1)], ["--seed", "-1"], ["--seed", str(2**31)]]
    if devices_of(script) == 2:
        by_argparse += [["--devices", "two"]]
        by_script += [["--devices", "0"], ["--devices", "-1"], ["--devices", "6", "--batch-size", "834"]]
    else:
        by_argparse += [["--devices", "1"]]
    return by_argparse, [*by_script, ["--device", "gpu"]]


def command_lines(script, digits):
    """Return what a script is asked: for help, and every mistake."""
    by_argparse, by_script = mistakes(script)
    return [["--help"], *by_argparse, *(["--data-dir", str(digits), *mistake] for mistake in by_script)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_command_line(refusals, script):
    """All flags, their defaults and every mistake: a text that ends a script goes to stderr, with status 1."""
    folder, answers, _ = refusals(script)
    ends, flags = answers[script]
    by_argparse, by_script = mistakes(script)
    assert len(ends) == 1 + len(by_argparse) + len(by_script)

    status, out, err = ends[0]
    assert (status, err) == (0, "")
    uv = f"uv sync --script {script}" if "_hvd" in script else f"uv run {script}"
    for words in ("--epochs N", "--batch-size N", "--data-dir DIR", "--device {", "--seed N", uv, f"python {script}"):
        assert words in out
    for mistake, (status, out, err) in zip(by_argparse, ends[1:]):
        assert (status, out) == (2, ""), mistake
        assert mistake[0] in usage_error(err)
    for mistake, (line, out, err) in zip(by_script, ends[1 + len(by_argparse) :], strict=True):
        assert (out, err) == ("", ""), mistake
        assert line.startswith("error: ") and len(line.splitlines()) == 1
        assert all(word in line for word in mistake if word.startswith("--")), (mistake, line)
        if "--batch-size" in mistake:
            assert f"--batch-size 1 to {5000 // (6 if '6' in mistake else devices_of(script))}" in line
    defaults = {"epochs": 10, "batch_size": 500, "device": "auto", "seed": 42, "data_dir": str(folder / "data")}
    defaults |= {"devices": 2} if devices_of(script) == 2 else {}
    assert flags == [defaults, defaults | {"data_dir": "elsewhere"}]
