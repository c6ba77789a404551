"""What can be asked about PyTorch on a GPU where there is none: its scripts with fake tensors on cuda:0.

Under FakeTensorMode every operation is checked for its devices and shapes, and none is computed. A tensor that is left on the
host where the others are on the GPU raises, and so does whatever would read a value on the host, .item() aside.

Three things stand in, as they need a driver: backward(), which gives gradients to the weights that the loss depends on,
DistributedDataParallel, which looks into its tensors, and .item(). Moving a model makes new parameters. Adam's one kernel,
the loss, the permutation, the copies and the fake process group's collective operations are PyTorch's own.
"""

import functools
import json
import subprocess

import pytest
from conftest import ROOT, python_of

EPOCHS, STEPS, BATCH, RANKS = 3, 5, 20, 2
SCRIPTS = "mnist_torch.py", "mnist_torch_mgpu.py"
PROGRAM = """
import importlib, json, sys, types
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

script, (epochs, steps, batch, ranks) = importlib.import_module(sys.argv[1]), map(int, sys.argv[2:])
words = []  # what happened, in order
parallel = hasattr(script, "dist")


class Listen(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        words.append(str(operation))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                words.append(f"{operation} on {tensor.device}")
        return result


def move(model, convert, recurse=True):
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = torch.nn.Parameter(convert(parameter))
    return model


def backward(loss):
    words.append(f"backward on {loss.device}")
    nodes = [loss.grad_fn]
    for node in nodes:
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)
        nodes += [following for following, _ in node.next_functions if following not in (None, *nodes)]


def item(tensor):
    words.append(f"item on {tensor.device}")
    return 1.0


def clock():
    words.append("clock")
    return float(len(words))


class Parallel(torch.nn.Module):
    def __init__(self, model, **options):
        super().__init__()
        self.model = model

    def forward(self, images):
        words.append("replica")
        return self.model(images)


torch.nn.Module._apply, torch.Tensor.backward, torch.Tensor.item = move, backward, item
torch.cuda.synchronize = lambda device=None: words.append("synchronize")
script.time = types.SimpleNamespace(perf_counter=clock)
script.print = lambda *_, **__: words.append("print")
if parallel:
    torch.nn.parallel.DistributedDataParallel = Parallel
    script.dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
n = steps * batch * ranks**parallel
images, labels = np.zeros((n, 1, 28, 28), np.float32), np.zeros(n, np.uint8)
device = torch.device("cuda", 0)
with FakeTensorMode(allow_non_fake_inputs=False):
    model = script.build_model(device)
    parameters = {str(parameter.device) for parameter in model.parameters()}
    with Listen():
        words.append("train")
        script.train(model, images, labels, epochs, batch, device)
        gradients = [parameter.grad is not None for parameter in model.parameters()]
        words.append("evaluate")
        script.evaluate(model, images, labels, batch, device)
print(json.dumps({"words": words, "parameters": sorted(parameters), "gradients": gradients}))
"""


@functools.cache
def run(script):
    """Return what the program says of a script."""
    numbers = map(str, (EPOCHS, STEPS, BATCH, RANKS))
    command = [python_of(script), "-W", "ignore", "-c", PROGRAM, script.removesuffix(".py"), *numbers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def training(script):
    """Return what happened in train()."""
    words = run(script)["words"]
    return words[words.index("train") + 1 : words.index("evaluate")]


def evaluation(script):
    """Return what happened in evaluate()."""
    words = run(script)["words"]
    return words[words.index("evaluate") + 1 :]


def places_of(words):
    """Return on which devices operations had their results."""
    return {word.rpartition(" on ")[2] for word in words if " on " in word}


def split(words, end):
    """Return the parts of words that such a word ends, and what is left."""
    parts = [[]]
    for word in words:
        parts[-1].append(word)
        if word == end:
            parts.append([])
    return parts


@pytest.mark.parametrize("script", SCRIPTS)
def test_model_is_on_the_gpu(script):
    """All weights are there, and all learn."""
    found = run(script)
    assert found["parameters"] == ["cuda:0"]
    assert found["gradients"] == [True] * 8


@pytest.mark.parametrize("script", SCRIPTS)
def test_epochs_stay_on_the_gpu(script):
    """From an epoch's first moment to its last no operation has a result on the host, not even the permutation."""
    *epochs, _ = split(training(script), "print")
    assert len(epochs) == EPOCHS
    for epoch in epochs:
        start, end = [i for i, word in enumerate(epoch) if word == "clock"][-2:]
        assert epoch[start:end].count("backward on cuda:0") == STEPS
        assert places_of(epoch[start:end]) == {"cuda:0"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_value_an_epoch_is_read(script):
    """The epoch's loss, after its last step, and the number of right answers after the evaluation."""
    *epochs, rest = split(training(script), "print")
    assert not any(word.startswith("item") for word in rest)
    for epoch in epochs:
        last_step = max(i for i, word in enumerate(epoch) if word.startswith("backward"))
        assert [i > last_step for i, word in enumerate(epoch) if word.startswith("item")] == [True]
    assert [word for word in evaluation(script) if word.startswith("item")] == ["item on cuda:0"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_evaluation_is_on_the_gpu(script):
    """The network runs there, and what is counted is counted there; the host only makes tensors of its arrays."""
    words = evaluation(script)
    convolutions = [word for word in words if word.startswith("aten.conv") and " on " in word]
    assert len(convolutions) == 2 * STEPS  # of a rank's shard
    assert places_of(word for word in words if not word.startswith("aten.lift_fresh.")) == {"cuda:0"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_clock_waits_for_the_gpu(script):
    """The GPU is idle when the clock starts and when it stops; nothing is asked of it in between, nor waited for elsewhere."""
    words = training(script)
    start = words.index("clock")
    assert words[start - 1] == "synchronize"
    assert words[-2:] == ["synchronize", "clock"]
    assert words.count("synchronize") == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_adam_is_one_kernel(script):
    """Which PyTorch lets run on fake tensors only if weights, gradients and moments are on one device."""
    assert training(script).count("aten._fused_adam_.default") == EPOCHS * STEPS


def test_every_step_goes_through_ddp():
    """Whose forward() is what lets backward() average the gradients."""
    assert training("mnist_torch_mgpu.py").count("replica") == EPOCHS * STEPS
