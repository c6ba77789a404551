"""What the scripts set for GPUs, asked of each framework without one; tests/test_gpu.py asks the GPU itself."""

import functools
import json
import os
import subprocess

import pytest
from conftest import ROOT, SCRIPTS, group_of, python_of, python_of_group

USERS = [None, "", "0", "1"]  # what NVIDIA_TF32_OVERRIDE may be before the run
# The frameworks are imported once; each script is read anew for each of the user's values
PRECISION = """
import json, os, sys
from types import SimpleNamespace as Fake

answers = []
for name, user in json.loads(sys.argv[1]):
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    os.environ |= {"MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION": "1"}
    os.environ |= {} if user is None else {"NVIDIA_TF32_OVERRIDE": user}
    script = Fake(**{"__name__": "script"})
    exec(compile(open(name).read(), name, "exec"), vars(script))
    if hasattr(script, "hvd"):
        script.hvd.local_size, script.hvd.allgather_object = lambda: 1, lambda text: [text]
        script.find_device("cpu")
    elif hasattr(script, "dist"):
        script.find_device("cpu", 0, 1, lambda text: [text])
    elif hasattr(script, "find_devices"):
        script.find_devices("cpu", 1)
    else:
        script.find_device("cpu")
    answer = {"TF32": os.environ["NVIDIA_TF32_OVERRIDE"]}
    if hasattr(script, "mx"):
        answer["half"] = os.environ["MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION"]
    elif hasattr(script, "tf"):
        answer["framework"] = script.tf.config.experimental.tensor_float_32_execution_enabled()
    else:
        cudnn = script.torch.backends.cudnn
        answer |= {"framework": cudnn.conv.fp32_precision == "tf32", "benchmark": cudnn.benchmark}
        answer |= {"products": script.torch.backends.cuda.matmul.fp32_precision == "tf32"}
    answers.append(answer)
print(json.dumps(answers))
"""


def run(python, program, *arguments):
    """Return what a program prints as JSON with an interpreter, in the scripts' folder."""
    command = [python, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def precisions(group):
    """Return what a group of scripts has set, by script and the user's value."""
    questions = [(script, user) for script in group for user in USERS]
    found = run(python_of_group(group), PRECISION, json.dumps(questions))
    return dict(zip(questions, found, strict=True))


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_float32_is_single_precision(script, user):
    """NVIDIA's one switch is off unless the user turned it on; the frameworks' own follow it; half precision is never on."""
    answer = precisions(group_of(script))[script, user]
    assert answer.pop("TF32") == (user or "0")
    if "_mx_" in script:
        assert answer == {"half": "0"}
    elif "_tf_" in script:
        assert answer == {"framework": user == "1"}
    else:
        assert answer == {"framework": user == "1", "benchmark": True, "products": False}


CYCLE = """
import json, os, sys
import mnist_mx_gluon_hvd as script
answers = []
def fail():
    raise script.mx.MXNetError("no driver")
script.hvd.init = lambda: answers.append(os.environ.get("HOROVOD_CYCLE_TIME"))
for kind, gpus, user in (("auto", 0, None), ("auto", 1, None), ("gpu", 2, None), ("cpu", None, None), ("auto", 0, "2")):
    os.environ.pop("HOROVOD_CYCLE_TIME", None)
    os.environ |= {} if user is None else {"HOROVOD_CYCLE_TIME": user}
    script.mx.context.num_gpus = fail if gpus is None else lambda: gpus
    script.meet_the_ranks(kind)
os.environ.pop("HOROVOD_CYCLE_TIME")
script.mx.context.num_gpus = fail
script.meet_the_ranks("auto")
print(json.dumps(answers))
"""


def test_horovod_waits_for_its_ticks_only_without_gpus():
    """5 ms save CPU time where a step takes longer by far; the user's own number stands."""
    assert run(python_of("mnist_mx_gluon_hvd.py"), CYCLE) == ["5", None, None, "5", "2", "5"]


TENSORFLOW = """
import importlib, json, subprocess, sys
from types import SimpleNamespace as Fake
import tensorflow as tf

answers, cpus = [], tf.config.list_physical_devices("CPU")
gpus = [Fake(name=f"GPU:{i}", device_type="GPU") for i in range(3)]
def list_devices(kind=None):
    return {"CPU": cpus, "GPU": gpus, None: cpus + gpus}[kind]
def visible(devices, kind):
    calls.append(["visible", kind, [device.name for device in devices]])
tf.config.list_physical_devices, tf.config.set_visible_devices = list_devices, visible
tf.config.experimental.set_memory_growth = lambda device, grows: calls.append(["growth", device.name, grows])
one, two = importlib.import_module("mnist_tf_keras"), importlib.import_module("mnist_tf_keras_mgpu")
one.subprocess.run = lambda *words, **options: Fake(returncode=0)
for kind in ("gpu", "auto", "cpu"):
    for choose in (one.find_device, lambda kind: two.find_devices(kind, 2)):
        calls = []
        answers.append([choose(kind), calls])
compiled = [one.build_model("gpu").jit_compile, one.build_model("cpu").jit_compile]
print(json.dumps([answers, [*compiled, two.build_model(["cpu:0", "cpu:1"]).jit_compile]]))
"""


def test_tensorflow_takes_no_more_than_it_needs():
    """Only the GPUs asked for are visible and their memory grows; XLA compiles for one GPU, and never for a CPU beside it."""
    one = [["visible", "GPU", ["GPU:0"]], ["growth", "GPU:0", True]]
    two = [["visible", "GPU", ["GPU:0", "GPU:1"]], ["growth", "GPU:0", True], ["growth", "GPU:1", True]]
    none = [["visible", "GPU", []]]
    answers, compiled = run(python_of("mnist_tf_keras.py"), TENSORFLOW)
    assert answers == [
        ["gpu", one],
        [["gpu:0", "gpu:1"], two],
        ["gpu", one],
        [["gpu:0", "gpu:1"], two],
        ["cpu", none],
        [["cpu:0", "cpu:1"], none],
    ]
    assert compiled == [True, False, False]
