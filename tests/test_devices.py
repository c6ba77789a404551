"""The choice of devices with pretended GPUs: what find_device or find_devices returns or refuses, in every script.

The scripts of a group are loaded as modules into one process, where their framework then sees 0, 1 or 2 GPUs.
"""

import functools
import itertools
import json
import os
import subprocess

import pytest
from conftest import ROOT, SCRIPTS, python_of

# The environment of the last has all that its group needs: keras-mxnet's is Gluon's and Keras
GROUPS = [
    [script for script in SCRIPTS if "_mx_" in script and "_hvd" not in script and "_sym" not in script],
    [script for script in SCRIPTS if "_sym" in script],
    [script for script in SCRIPTS if "_hvd" in script],
    [script for script in SCRIPTS if "_tf_" in script],
    [script for script in SCRIPTS if "_torch" in script],
]
FRAMEWORKS = {"_tf_": "TensorFlow", "_torch": "PyTorch"}
PROGRAM = """
import importlib, json, os, sys

sys.path.insert(0, sys.argv[1])
user = os.environ.get("OMP_NUM_THREADS")
answers, threads = [], {}
for name, kind, gpus, count, rank in json.loads(sys.argv[2]):
    if name not in threads:  # the scripts before it have set it too
        os.environ.pop("OMP_NUM_THREADS", None)
        os.environ |= {"OMP_NUM_THREADS": user} if user else {}
        script = importlib.import_module(name.removesuffix(".py"))
        threads[name] = {os.environ.get("OMP_NUM_THREADS")}
    hidden = []
    if "_tf_" in name:
        config = script.tf.config
        config.threading.set_intra_op_parallelism_threads(0)
        cpus = config.list_physical_devices("CPU")
        config.list_physical_devices = lambda kind: cpus if kind == "CPU" else ["a GPU"] * gpus
        config.set_visible_devices = lambda devices, kind: hidden.append(kind) if devices == [] else None
    elif "_torch" in name:
        script.torch.cuda.device_count = lambda: gpus
    else:
        script.mx.context.num_gpus = lambda: gpus
    if "_hvd" in name:
        script.hvd.local_size, script.hvd.local_rank = lambda: count, lambda: rank
    try:
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


def cases(script):
    """Return all questions to a script: kind, visible GPUs, devices or ranks on the host, rank on the host."""
    counts = [1] if "_mgpu" not in script and "_hvd" not in script else [1, 2]
    places = [(count, rank) for count in counts for rank in range(count if "_hvd" in script else 1)]
    return [(kind, gpus, *place) for kind, gpus, place in itertools.product(("auto", "cpu", "gpu"), (0, 1, 2), places)]


@functools.cache
def answers(number, threads=None):
    """Return a group's answers by script and question, and its scripts' numbers of threads; threads is what the user set."""
    questions = [(script, *case) for script in GROUPS[number] for case in cases(script)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    command = [python_of(GROUPS[number][-1]), "-W", "ignore", "-c", PROGRAM, ROOT, json.dumps(questions)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found, threads = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(questions, found, strict=True)), threads


def expected(script, kind, gpus, count, rank):
    """Return what SPEC says: GPUs if enough are visible, else CPU; too few are an error where they are asked for."""
    if kind == "gpu" and gpus < count:
        framework = next((name for key, name in FRAMEWORKS.items() if key in script), "MXNet")
        return f"error: --device gpu needs {count} x gpu, {framework} sees {gpus}; use --device cpu"
    where = "cpu" if kind == "cpu" or gpus < count else "gpu"
    if "_hvd" in script:
        return [f"gpu({rank})" if where == "gpu" else "cpu(0)"]
    if "_torch" in script:
        names = ["cpu"] * count if where == "cpu" else [f"cuda:{i}" for i in range(count)]
        return names if "_mgpu" in script else [where.replace("gpu", "cuda")]
    if "_tf_" in script:
        names = [f"{where}:{i}" for i in range(count)] if "_mgpu" in script else [where]
        return names + (
            ["GPU"] if where == "cpu" and gpus else []
        )  # visible GPUs are hidden: TensorFlow would use them
    return [f"{where}({i})" for i in range(count)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_choice(script):
    number = next(i for i, group in enumerate(GROUPS) if script in group)
    found, _ = answers(number)
    for case in cases(script):
        assert found[script, *case] == expected(script, *case), case


@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_threads(number):
    """Every CPU that the process may use, unless the user says otherwise."""
    cpus = str(len(os.sched_getaffinity(0)))
    found = answers(number)[1]
    found.pop("mnist_torch_mgpu.py", None)  # its processes take their shares themselves: test_torch.py
    assert found == {script: [cpus] for script in GROUPS[number] if script in found}
    assert answers(number, "3")[1] == {script: ["3"] for script in GROUPS[number]}
