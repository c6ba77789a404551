"""The proof that all entries do the same work: each script's own main() against a float64 NumPy reference.

Every script is probed in its own environment (probe.py), with one device or rank and, the parallel ones, with two and three.
"""

import ctypes
import functools
import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import ROOT, SCRIPTS, python_of
from probe import EXACT, HIDDEN, ROWS, RUNS

IMAGES = 300  # of the three full-batch steps; one, two and three devices divide it
STEPS = 3
# batches of 20: one, two and three devices divide the first; ranks get unequal parts of the second
WORK_IMAGES = {"still": 120, "first": 119}
WORK_BATCH = 20  # per device
TEST_IMAGES = 203  # neither batch size divides it, nor do two devices
SEEDED = "first", "again", "other"
ON_CPUS = [run for run in RUNS if run != "busy"]
RIGHT = 120  # of them get the label that the reference predicts
EPOCHS, STEPS_AN_EPOCH = 10, 120  # of a real run on one device, and of the long one
MNIST_IMAGES = 60_000
WORKERS = 2  # processes of DataLoader
# Asked for by OMP_NUM_THREADS, but ranks and processes have one. Three that share the work take a third of the CPU time each,
# on one core as on many, so that they can be counted there; tf.keras keeps almost two busy on two devices if it has one
THREADS = 3


def usual_devices(script):
    """Return the numbers of devices or ranks on which a script is tested most thoroughly."""
    return (1, 2) if "_hvd" in script else (2,) if "_mgpu" in script else (1,)


FULL = [(s, n) for n in (1, 2) for s in SCRIPTS if n in usual_devices(s)]
FEW = [(s, n) for s in SCRIPTS for n in (1, 3) if "_mgpu" in s] + [("mnist_mx_gluon_hvd.py", 3)]
RANKS = "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"  # one process a device
ALL = FULL + FEW
COPIED = [(s, n) for s, n in FULL if "_tf_" not in s]  # nothing tells TensorFlow's arrays
ALONE = [(s, 1) for s in SCRIPTS if "_mgpu" not in s]
STRUCTURE = [
    *("convolution (1, 1) valid", "relu", "convolution (1, 1) valid", "relu", "max (2, 2) (2, 2) valid"),
    *("dropout 0.25 None", "dense", "relu", "dropout 0.5 None", "dense"),
]
WAITS = {"mx_keras": 17, "tf_keras": 1}  # of the host a step, as counted in keras-mxnet 2.2.4.3 and Keras 3.15.1
LIMITS = [np.sqrt(6 / fans) for fans in (9 * (1 + 32), 9 * (32 + 64), 9216 + 128, 128 + 10)]


@functools.cache
def material():
    """Return what every probe is given: images, labels and weights; the same in every test run."""
    generator = np.random.default_rng(0)
    weights = reference.initial_weights(0)
    # ten coarse patterns and noise: as uneven as digits, and every pixel gets a gradient
    patterns = np.repeat(np.repeat(generator.integers(0, 2, (10, 7, 7)), 4, 1), 4, 2) * 180
    labels = generator.integers(0, 10, max(IMAGES, *WORK_IMAGES.values())).astype(np.uint8)
    images = (patterns[labels] + generator.integers(0, 75, (len(labels), 28, 28))).astype(np.uint8)
    numbered = images.copy()
    numbered[:, 0, 0], numbered[:, 0, 1] = np.divmod(np.arange(len(numbered)), 256)  # the image's number
    test_images = generator.integers(0, 256, (3 * TEST_IMAGES, 28, 28), np.uint8)
    scores = reference.logits(weights, test_images[:, None] / 255)
    first, second = np.sort(scores)[:, :-3:-1].T
    clear = np.flatnonzero(first - second > 0.02)[:TEST_IMAGES]  # float32 cannot turn these predictions
    test_images, test_labels = test_images[clear], scores[clear].argmax(1)
    assert len(test_images) == TEST_IMAGES
    test_labels[RIGHT:] = (test_labels[RIGHT:] + 1) % 10
    question = {"test_labels": test_labels.astype(np.uint8)}
    for run, how in RUNS.items():
        question[f"{run}_test_images"] = test_images
        question |= {f"{run}_weight{i}": array.astype(np.float32) for i, array in enumerate(weights) if how.given}
    for run in ("steps", "dropout", "masks"):
        question |= {f"{run}_images": images[:IMAGES], f"{run}_labels": labels[:IMAGES]}
    for run in ("dropout", "masks"):
        question[f"{run}_weight5"] = np.full(128, 3.0, np.float32)  # all 128 units are active
        question[f"{run}_weight6"] = question[f"{run}_weight6"] / 10  # no probability near 0 or 1: no gradient vanishes
    for run in ("still", "first", "again", "other", "busy"):
        n = WORK_IMAGES.get(run, WORK_IMAGES["first"])
        question |= {f"{run}_images": numbered[:n], f"{run}_labels": labels[:n]}
    many = np.zeros((MNIST_IMAGES, 8, 8), np.uint8)  # small ones, as for the order only the number counts
    many[:, 0, 0], many[:, 0, 1] = np.divmod(np.arange(len(many)), 256)
    return question | {"order_images": many, "order_labels": np.zeros(len(many), np.uint8)}


def long_material(devices):
    """Return what the long run is given: one image again and again, so that every gradient is known.

    The first row is black: the gradients of its weights are zero. Others are large, as the first layer's outputs are.
    """
    generator = np.random.default_rng(1)
    image = np.full((28, 28), 255, np.uint8)
    image[0] = 0
    images = np.repeat(image[np.newaxis], STEPS_AN_EPOCH * RUNS["long"].batch_size * devices, 0)
    weights = generator.uniform(0.005, 0.015, (HIDDEN, 784)), generator.uniform(-0.1, 0.1, HIDDEN)
    weights += generator.uniform(-0.01, 0.01, (10, HIDDEN)), generator.uniform(-0.1, 0.1, 10)
    question = {f"long_weight{i}": array.astype(np.float32) for i, array in enumerate(weights)}
    return question | {"long_images": images, "long_labels": np.zeros(len(images), np.uint8)}


def launch(script, devices, python, command, hosts):
    """Return the command that runs another as ranks of one host, or of two that are one, so that no host has all ranks."""
    most = -(-devices // hosts)  # ranks of a host
    if "_hvd" in script:
        names = [f"localhost:{most}", *([f"127.0.0.1:{devices - most}"] if devices > most else [])]
        return [python.with_name("horovodrun"), "-np", str(devices), "-H", ",".join(names), *command]
    left = f"({devices} - RANK / {most} * {most})"  # ranks on this host and those that follow
    local = f"LOCAL_RANK=$((RANK % {most})) LOCAL_WORLD_SIZE=$(({left} < {most} ? {left} : {most}))"
    shell = ["--no-python", "sh", "-c", f'export {local}; exec "$@"', "sh"]
    return [python.with_name("torchrun"), "--standalone", "--nproc-per-node", str(devices), *shell, *command]


def threads_of(script, devices):
    """Return how many threads the process of a probe, or each of its processes, is to have."""
    return 1 if script in RANKS and devices > 1 else THREADS


def ask(folder, script, devices, runs, python, question, kind):
    """Probe a script on some devices of a kind, with an interpreter; return its answers, one a rank, or what it said."""
    np.savez(folder / "question.npz", **question)
    command = [python, ROOT / "tests/probe.py", ROOT / script, folder / "question.npz", folder, *runs, "--device", kind]
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"} | VERBOSE
    environment["OMP_NUM_THREADS"] = str(threads_of(script, devices))
    if script not in RANKS:
        command += ["--devices", str(devices)]
    else:  # the ranks of two hosts would take the same GPUs
        command = launch(script, devices, python, command, hosts=2 if kind == "cpu" else 1)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            _, err = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "the probe hangs"
    if process.returncode != 0:
        return err[-3000:]
    ranks = devices if script in RANKS else 1
    return [
        dict(np.load(folder / f"{rank}.npz"), chatter=(folder / f"{rank}.txt").read_text().splitlines())
        for rank in range(ranks)
    ]


def checked(run):
    """Return a function that gives the answers of run, or fails with what the probe said."""

    def answers(script, devices):
        found = run(script, devices)
        assert isinstance(found, list), found
        return found

    return answers


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """Return a function that probes a script on some CPU devices, once, and returns its answers, one a rank."""

    @functools.cache
    def run(script, devices):
        runs = ON_CPUS if (script, devices) in FULL else ["steps", "dropout"]
        runs = os.environ.get("PROBE_RUNS", "").split() or runs  # tests/mutants.py asks for no more than it needs
        question = material() | long_material(devices)
        folder = tmp_path_factory.mktemp("probe")
        return ask(folder, script, devices, runs, Path(python_of(script)), question, "cpu")

    return checked(run)


def make_expected(cache):
    """Return a function that gives the reference's losses and weights of three steps at the learning rate of some devices.

    PyTorch adds Adam's epsilon elsewhere than the others: see reference.train.

    They are kept in pytest's cache under the reference's own hash: tests/mutants.py asks for them many times.
    """
    source = Path(reference.__file__).read_bytes() + Path(__file__).read_bytes()
    folder = cache.mkdir(f"reference-{hashlib.sha256(source).hexdigest()[:16]}")

    @functools.cache
    def compute(devices, torch):
        path = folder / f"{devices}{'-torch' * torch}.npz"
        if not path.exists():
            given = material()
            weights = [given[f"steps_weight{i}"].astype(np.float64) for i in range(8)]
            images, labels = given["steps_images"][:, None] / 255, given["steps_labels"]
            losses, weights, _ = reference.train(weights, images, labels, STEPS, 0.001 * devices, 1e-8, torch)
            new = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(new, losses=losses, **{f"weight{i}": array for i, array in enumerate(weights)})
            new.replace(path)  # whole, or not there
        kept = np.load(path)
        return kept["losses"], [kept[f"weight{i}"] for i in range(8)]

    return compute


@pytest.fixture(scope="session")
def expected(request):
    """Return make_expected's function."""
    return make_expected(request.config.cache)


# Every kind of layer by a program that sets nothing: which of oneDNN's kernels a framework takes if nobody interferes
PLAIN = {
    "_mx_": """
import mxnet as mx
from mxnet import autograd, gluon
net = gluon.nn.HybridSequential()
net.add(gluon.nn.Conv2D(32, 3, in_channels=1, activation="relu"))
net.add(gluon.nn.Conv2D(64, 3, in_channels=32, activation="relu"))
net.add(gluon.nn.MaxPool2D(), gluon.nn.Dense(10, in_units=9216))
net.initialize()
net.hybridize()
with autograd.record():
    y = net(mx.nd.ones((20, 1, 28, 28)))
y.backward()
mx.nd.waitall()
""",
    "_tf_": """
import numpy as np
import tensorflow as tf
from tensorflow.keras.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D
layers = [Input((28, 28, 1)), Conv2D(32, 3, activation="relu"), Conv2D(64, 3, activation="relu")]
model = tf.keras.Sequential([*layers, MaxPooling2D(), Flatten(), Dense(10)])
model.compile("sgd", "mse", jit_compile=False)
model.train_on_batch(np.ones((20, 28, 28, 1), np.float32), np.zeros((20, 10), np.float32))
""",
    "_torch": """
import torch
from torch import nn
net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU())
net.extend([nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9216, 10)])
net(torch.ones(20, 1, 28, 28)).sum().backward()
""",
}
VERBOSE = {"ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"}  # oneDNN says what it computes; the second is its older name
VERBOSE["TF_ENABLE_ONEDNN_OPTS"] = (
    "1"  # TensorFlow itself decides by the processor whether its convolutions are oneDNN's
)


LAYERS = "convolution", "eltwise", "pooling", "pooling_v2", "inner_product"  # oneDNN's names: eltwise is ReLU


def kernels(lines):
    """Return what oneDNN computes of layers in training, by its own report: primitive, kernel, direction.

    For convolutions types and sizes, too, and the sizes of ReLU.
    """
    found = set()
    for fields in (line.split(",") for line in lines if "dnn" in line):  # dnnl_verbose or onednn_verbose
        name = next((field for field in fields if field in LAYERS), None)
        if "exec" in fields and name and "forward_inference" not in fields:
            i = fields.index(name)
            kernel = fields[i : i + 3]
            if name == "convolution":
                types = re.findall(r"\b(?:src|wei|dst)\w*?[:_](\w+?)\b", fields[i + 3])
                kernel += [*types, next(word for word in fields if word.startswith("mb"))]
            elif name == "eltwise":
                kernel += [next(word for word in fields if re.fullmatch(r"\d+(x\d+)+", word))]
            found.add(tuple(kernel))
    return found


@pytest.fixture(scope="session")
def plain_kernels():
    """Return a function that gives the kernels of a script's framework if nobody interferes."""

    @functools.cache
    def run(framework):
        script = next(script for script in SCRIPTS if framework in script)
        command = [python_of(script), "-c", PLAIN[framework]]
        environment = os.environ | VERBOSE | {"OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
        return kernels(done.stdout.splitlines())

    return lambda script: run(next(framework for framework in PLAIN if framework in script))


def losses(lines):
    """Return the losses that a script printed; half of the last digit is rounded away."""
    return np.array([float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("epoch")])


@functools.cache
def given_weights():
    """Return the weights that the probes start from where they do not start from their own."""
    return tuple(material()[f"steps_weight{i}"].astype(np.float64) for i in range(8))


@functools.cache
def still_loss():
    """Return the reference's mean loss of these weights."""
    given = material()
    return reference.loss_and_gradients(given_weights(), given["still_images"][:, None] / 255, given["still_labels"])[0]


def scores_of(weights):
    """Return the reference's logits of the test images."""
    return reference.logits(weights, material()["steps_test_images"][:, None] / 255)


given_scores = functools.cache(lambda: scores_of(given_weights()))


def check_accuracy(answer, run, weights, most_unsure):
    """The printed accuracy is the count over all test images; the reference knows all but some predictions on the edge."""
    given = material()
    scores = given_scores() if weights is given_weights() else scores_of(weights)
    first, second = np.sort(scores)[:, :-3:-1].T
    right, sure = scores.argmax(1) == given["test_labels"], first - second > 0.01
    accuracy = float(answer[f"{run}.lines"][-1].removeprefix("accuracy: "))
    assert (~sure).sum() <= most_unsure
    least, most = (right & sure).sum() / TEST_IMAGES, (right | ~sure).sum() / TEST_IMAGES
    assert least - 5e-5 <= accuracy <= most + 5e-5


@pytest.mark.parametrize("script, devices", ALL)
def test_layers(probe, script, devices):
    """All operations in their order, both dropouts with their rates and over single values; the weights' shapes and types."""
    for answer in probe(script, devices):
        assert answer["dropout.structure"].tolist() == STRUCTURE
        initial = [answer[f"dropout.initial{i}"] for i in range(8)]
        assert [a.shape for a in initial] == [a.shape for a in reference.initial_weights(0)]
        assert {a.dtype for a in initial} == {np.dtype("float32")}
        assert sum(a.size for a in initial) == 1_199_882


@pytest.mark.parametrize("script, devices", FULL)
def test_initial_weights(probe, script, devices):
    """Glorot uniform: no weight above the limit, and 288 or more draws come within 5% of it but once in 2,600,000."""
    answer = probe(script, devices)[0]
    for i, limit in enumerate(LIMITS):
        weights = np.abs(answer[f"first.initial{2 * i}"])
        assert 0.95 * limit < weights.max() <= limit * (1 + 1e-6)
        assert weights.mean() == pytest.approx(limit / 2, rel=0.15)  # 0.15 is 4.4 standard errors of 288 draws
        assert abs(np.mean(answer[f"first.initial{2 * i}"])) < 5 * limit / np.sqrt(3 * weights.size)
        assert not answer[f"first.initial{2 * i + 1}"].any()


@pytest.mark.parametrize("script, devices", ALL)
def test_three_steps(probe, expected, script, devices):
    """The loss before each step and all weights after three are the reference's, on every device.

    Adam moves a weight by learning rate x m / (sqrt(v) + epsilon) a step, whatever the gradient's size, so a weight's error
    is the learning rate times the relative error of its gradient: large where float32 sums cancel to almost nothing, small on
    average.
    """
    exact_losses, exact_weights = expected(devices, "_torch" in script)
    answers = probe(script, devices)
    np.testing.assert_allclose(losses(answers[0]["steps.lines"]), exact_losses, atol=6e-5, rtol=1e-5)
    replicas = [answer for answer in answers for name in answer if re.fullmatch(r"steps\.trained\d+_0", name)]
    assert len(replicas) == devices
    for answer in answers:
        for name, array in answer.items():
            if found := re.fullmatch(r"steps\.trained(\d+)_(\d)", name):
                i = int(found[2])
                error = np.abs(array - exact_weights[i]) / (0.001 * devices)
                assert error.shape == exact_weights[i].shape
                assert error.mean() < (5e-4 if i == 4 else 2e-3), f"array {i}"
                assert np.quantile(error, 0.99) < 0.02, f"array {i}"
                np.testing.assert_array_equal(array, answers[0][f"steps.trained0_{i}"])
    check_accuracy(answers[0], "steps", exact_weights, 40)


@pytest.mark.parametrize("script, devices", FULL)
def test_arithmetic_is_that_of_float32(probe, script, devices):
    """On every device a product and a convolution keep 1 + 2^-12, of which TF32, bfloat16 and a half would leave 1.

    A convolution in steps of two multiplies and adds: it is exact. One in steps of one may be computed by Winograd's
    or Fourier's transform, whose float32 rounds.
    """
    answers = probe(script, devices)
    for answer in answers:
        products = answer["steps.products"]
        assert products.shape == (devices / len(answers), ROWS, ROWS)
        np.testing.assert_array_equal(products, np.broadcast_to(EXACT * np.eye(ROWS), products.shape))
        assert (answer["steps.strided_convolutions"] == EXACT).all()
        np.testing.assert_allclose(answer["steps.convolutions"], EXACT, atol=2**-16)


@pytest.mark.parametrize("script, devices", FULL)
def test_loss_is_the_mean_over_all_batches(probe, script, devices):
    """With a learning rate of zero every image has the loss that the reference gives it, in whatever batch it is.

    And the accuracy is over all test images, once, after training.
    """
    answers = probe(script, devices)
    np.testing.assert_allclose(losses(answers[0]["still.lines"]), still_loss(), atol=6e-5, rtol=1e-5)
    check_accuracy(answers[0], "still", given_weights(), 0)
    for answer in answers:
        calls = [word for word in answer["still.events"] if word in ("train", "trained", "evaluate")]
        assert calls == ["train", "trained", "evaluate"]


@pytest.mark.parametrize("script, devices", FULL)
@pytest.mark.parametrize("run", WORK_IMAGES)
def test_epoch(probe, script, devices, run):
    """Steps and images an epoch, each image at most once, all of them if sizes divide, in another order every epoch."""
    answers = probe(script, devices)
    images = WORK_IMAGES[run]
    steps = images // (WORK_BATCH * devices)
    epochs = [[], []]
    workers = set()
    for rank, answer in enumerate(answers):
        assert set(answer[f"{run}.batch_sizes"]) == {WORK_BATCH}
        workers |= {(rank, device) for device in answer[f"{run}.batch_devices"]}
        half = len(answer[f"{run}.batch_numbers"]) // 2
        epochs[0].append(answer[f"{run}.batch_numbers"][:half])
        epochs[1].append(answer[f"{run}.batch_numbers"][half:])
    assert len(workers) == devices  # every device has its share of every batch
    first, second = np.concatenate(epochs[0]), np.concatenate(epochs[1])
    assert len(first) == len(second) == steps * WORK_BATCH * devices
    for numbers in (first, second):
        assert len(np.unique(numbers)) == len(numbers)
        assert numbers.max() < images
        assert (np.diff(numbers) < 0).mean() > 0.3  # shuffled
    assert (first != second).mean() > 0.9
    if len(first) == images:
        assert set(first) == set(second) == set(range(images))
    if script in RANKS:  # rank r trains on every size-th image from r
        for rank, epoch in enumerate(epochs[0]):
            assert set(epoch % devices) == {rank}


def moved(path):
    """Return which weights (out, in) of a path (steps + 1, out, in) moved in each step, for each of their inputs."""
    return (path[1:] != path[:-1]).any(1)


@pytest.mark.parametrize("script, devices", ALL)
def test_dropout_in_training(probe, script, devices):
    """Of the weights that get one image's value, some move in a step unless all devices drop the value.

    All devices have the same image, so with masks of their own they drop it together with a probability of rate^devices.
    """
    answer = probe(script, devices)[0]
    given = material()
    weights = [given[f"steps_weight{i}"].astype(np.float64) for i in range(8)]
    flat = reference.layers(weights, given["dropout_images"][:1, None] / 255)[3][0]
    for moves, rate in ((moved(answer["dropout.path4"])[:, flat > 1e-3], 0.25), (moved(answer["dropout.path6"]), 0.5)):
        assert moves.mean() == pytest.approx(1 - rate**devices, abs=4.5 * np.sqrt(rate**devices / moves.size))
        assert (moves[1:] != moves[:-1]).any(1).all()  # other masks in every step


@pytest.mark.parametrize("script, devices", ALONE)
def test_what_dropout_keeps_is_scaled(probe, script, devices):
    """The masks, read off the weights that moved, give the printed loss if what they keep is divided by 1 - rate."""
    answer = probe(script, devices)[0]
    given = material()
    exact = []
    for step in range(len(answer["dropout.path0"]) - 1):
        before, after = ([answer[f"dropout.path{i}"][j] for i in range(8)] for j in (step, step + 1))
        keep_flat, keep_dense = ((before[i] != after[i]).any(0) for i in (4, 6))
        flat = reference.layers(before, given["dropout_images"][:1, None] / 255)[3][0]
        dense = np.maximum(before[4] @ (flat * keep_flat / 0.75) + before[5], 0)
        scores = before[6] @ (dense * keep_dense / 0.5) + before[7]
        exact.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[given["dropout_labels"][0]])
    np.testing.assert_allclose(losses(answer["dropout.lines"]), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("script, devices", ALL)
def test_no_dropout_in_evaluation(probe, script, devices):
    """The network that was trained with dropout is evaluated without."""
    answer = probe(script, devices)[0]
    check_accuracy(answer, "dropout", [answer[f"dropout.path{i}"][-1].astype(np.float64) for i in range(8)], 40)


def check_seeds(answers, devices):
    """One seed gives one beginning, another one another: weights, masks and order of images, also from rank to rank."""
    assert (losses(answers[0]["first.lines"]) != losses(answers[0]["other.lines"])).all()
    for i in range(0, 8, 2):
        first, again, other = (answers[0][f"{run}.initial{i}"] for run in SEEDED)
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.9
    # the masks of the first step, read off the weights that moved
    first, other = (moved(answers[0][f"{run}.path4"])[0] for run in ("dropout", "masks"))
    assert (first != other).any()
    for answer in answers:  # another order of the images, too
        assert (answer["first.batch_numbers"] != answer["other.batch_numbers"]).mean() > 0.9
    places = [answer["first.batch_numbers"] // devices for answer in answers]  # within the rank's shard
    assert all((places[0] != place).any() for place in places[1:])


def first_numbers(seed):
    """Return the first three numbers of C's rand() after a seed."""
    libc = ctypes.CDLL(None)
    libc.srand(seed)
    return [libc.rand() for _ in range(3)]


@pytest.mark.parametrize("script, devices", [(script, n) for script, n in FULL if "_mx_" in script])
def test_seed_of_c(probe, script, devices):
    """C's rand(), from which MXNet seeds cuDNN's dropout, is seeded when training starts; the ranks' differently."""
    for rank, answer in enumerate(probe(script, devices)):
        for run in SEEDED:
            seed = RUNS[run].seed + (1_000_000 * rank if script in RANKS else 0)
            assert answer[f"{run}.rand"].tolist() == first_numbers(seed)


@pytest.mark.parametrize("script, devices", FULL)
def test_seeds(probe, script, devices):
    """One seed gives the same losses and accuracy to the last digit, another one others; the ranks drop and shuffle apart."""
    answers = probe(script, devices)
    if devices == 1:
        first, again = (
            [re.sub(r" +\d+\.\d+ s$", "", line) for line in answers[0][f"{run}.lines"]] for run in ("first", "again")
        )
        assert first == again
    check_seeds(answers, devices)


def events_of(answer, run):
    """Return the names of what was called from the start of train() to its end, and the seconds of the clock at each."""
    names, seconds = answer[f"{run}.events"].tolist(), answer[f"{run}.event_seconds"]
    inside = slice(names.index("train") + 1, names.index("trained"))
    return names[inside], seconds[inside]


def epochs_of(answer, run):
    """Return the same for each epoch, from the line before it to its own, and for what follows the last."""
    parts = [[]]
    for name, seconds in zip(*events_of(answer, run)):
        parts[-1].append((name, seconds))
        if name == "print":
            parts.append([])
    return parts[:-1], parts[-1]


def epoch_seconds(answer, run):
    return [float(line.split()[-2]) for line in answer[f"{run}.lines"] if line.startswith("epoch")]


@pytest.mark.parametrize("script, devices", FULL)
def test_clock(probe, script, devices):
    """It starts before the first batch is asked for and after all is made, and stops when no device has work left."""
    for answer in probe(script, devices):
        names = answer["still.events"].tolist()
        assert not {"ask", "iterate", "forward"} & set(names[: names.index("clock")])
        events, seconds = events_of(answer, "still")
        start, stop = events.index("clock"), len(events) - 1
        assert events[stop] == "clock" and events[stop - 1] == "wait"
        assert "ask" in events[start:] and "make" not in events[start:]
        if "_tf_" not in script:
            assert events[start - 1] == "wait"
        if script in RANKS:  # all ranks are past a barrier
            assert "allreduce" in events[:start]
            epoch_end = max(i for i, word in enumerate(events[:stop]) if word == "clock")
            assert "allreduce" in events[epoch_end:stop]
            barrier = events.index("allreduce", epoch_end)
            if "_hvd" in script:  # whose barrier is on the CPU and waits for no GPU: the rank does, before it
                assert "wait" in events[epoch_end:barrier]
        assert answer["still.train_seconds"] == pytest.approx(seconds[stop] - seconds[start])
        for run in ("steps", "still"):
            assert answer[f"{run}.train_seconds"] <= answer[f"{run}.wall_seconds"]
        assert answer["steps.left_seconds"] < max(0.02, 0.3 * answer["steps.train_seconds"] / STEPS)  # no step is left
    lines = probe(script, devices)[0]["still.lines"].tolist()
    assert lines[-2] == f"duration: {probe(script, devices)[0]['still.train_seconds']:.2f} s"
    assert 0 < sum(epoch_seconds(probe(script, devices)[0], "still")) <= float(lines[-2].split()[1]) + 0.02


@pytest.mark.parametrize("script, devices", COPIED)
def test_copies_count(probe, script, devices):
    """When the clock starts no device has images, apart from the place for one batch that the network itself has."""
    for answer in probe(script, devices):
        assert answer["still.images_before"] == 0


@pytest.mark.parametrize("script, devices", FULL)
def test_epoch_seconds_are_all_of_the_epoch(probe, script, devices):
    """From one line to the next there is an epoch, the device's work included, and its seconds leave out none of it."""
    answer = probe(script, devices)[0]
    for run in ("steps", "still"):
        epochs, rest = epochs_of(answer, run)
        between = sum(epoch[-1][1] - epoch[0][1] for epoch in epochs[1:])
        left = rest[-1][1] - rest[0][1]
        if run == "steps":  # the other's steps are as short as what may come between two readings of a clock
            assert sum(epoch_seconds(answer, run)[1:]) >= 0.9 * between - 0.01 * len(epochs)
            if "keras" not in script:  # whose fit has work of its own at its end
                assert left < 0.1 * answer["steps.train_seconds"] + 0.02  # nothing is left
        for i, epoch in enumerate(epochs):
            words = [
                word for word, _ in epoch if word in ("clock", "reset", "ask", "forward", "fetch", "wait", "fused Adam")
            ]
            if i > 0:  # its first reading comes before anything is asked for, its second after all
                assert words[0] == "clock" and words.count("clock") == 2
            assert words[-1] == "clock" and words[-2] in ("fetch", "wait")  # when the host has the results


@pytest.mark.parametrize("script, devices", FULL)
def test_no_synchronisation_per_step(probe, script, devices):
    """The host waits as often in an epoch of many steps as in one of one step, but for what the API itself does."""
    answer = probe(script, devices)[0]
    one, many = (np.diff(answer[f"{run}.syncs"]).max() for run in ("dropout", "again"))
    steps = WORK_IMAGES["first"] // (WORK_BATCH * devices)
    assert many - one <= (steps - 1) * next((waits for name, waits in WAITS.items() if name in script), 0)


@pytest.mark.parametrize("script, devices", [(s, n) for s, n in FULL if "_mx_gluon" in s or "_tf_" in s])
def test_compiled_once(probe, script, devices):
    """Python runs the layers to trace them, not in every step: Gluon is hybridized, with its memory planned once.

    PyTorch runs them in every step, and Module's and keras-mxnet's are no Python.
    """
    for rank, answer in enumerate(probe(script, devices)):
        calls = answer["again.calls"]
        assert rank > 0 or calls[0] > 0  # the others print nothing
        assert len(set(calls)) == (rank == 0), calls
        if "gluon" in script:
            assert {"static_alloc=True", "static_shape=True"} <= set(answer["again.flags"])


@pytest.mark.parametrize("script, devices", [(script, n) for script, n in FULL if "_tf_" in script])
def test_tf_data_does_not_tune_itself(probe, script, devices):
    """The script's own prefetch stands when debug mode, which would leave it out, turns tuning off for all that follows."""
    events = probe(script, devices)[0]["still.events"].tolist()
    assert events.index("prefetch") < events.index("debug") < events.index("ask")


@pytest.mark.parametrize("script, devices", FULL)
def test_report(probe, script, devices):
    """The lines of the contract and nothing else, from rank 0 alone."""
    answers = probe(script, devices)
    versions = r"(?:[a-z-]+ \d[\d.]*(?:\+\w+)?, )+python 3\.\d+\.\d+"
    first = rf"{re.escape(script)}: {versions}, {devices} x cpu, {threads_of(script, devices)} threads, batch {devices} x 20"
    lines = answers[0]["other.lines"].tolist()
    assert re.fullmatch(rf"{first}, seed 43", lines[0]), lines
    for i in (1, 2):
        assert re.fullmatch(rf"epoch {i}/2  loss \d+\.\d{{4}}  \d+\.\d\d s", lines[i]), lines
    assert re.fullmatch(r"duration: \d+\.\d\d s", lines[3]), lines
    assert re.fullmatch(r"accuracy: [01]\.\d{4}", lines[4]), lines
    assert len(lines) == 5
    for answer in answers[1:]:
        assert answer["other.lines"].size == 0


@pytest.mark.parametrize("script, devices", FULL)
def test_learning_rate_stays(probe, script, devices):
    """In as many epochs and steps as a real run has, every epoch moves the weights as Adam does at the one rate.

    And on the gradients as they are: none is clipped, though some are large, and nothing pulls weights to zero.
    """
    given, settings = long_material(devices), RUNS["long"].constants
    weights = [given[f"long_weight{i}"].astype(np.float64) for i in range(4)]
    image, rate = given["long_images"][0].ravel() / 255, settings["LEARNING_RATE"] * devices
    how = EPOCHS, STEPS_AN_EPOCH, rate, settings["EPSILON"], (settings["BETA_1"], settings["BETA_2"])
    exact_losses, exact = reference.train_two_layers(weights, image, 0, *how)
    answer = probe(script, devices)[0]
    np.testing.assert_allclose(losses(answer["long.lines"]), exact_losses, atol=6e-5, rtol=1e-4)
    for i, tolerance in enumerate((0.02, 0.02, 1e-3, 1e-3)):  # the first layer's steps are near float32's resolution
        path = np.stack([weights[i], *(after[i] for after in exact)])
        moves, expected = np.diff(answer[f"long.path{i}"], axis=0), np.diff(path, axis=0)
        assert moves.shape == expected.shape
        error = np.abs(moves - expected).reshape(EPOCHS, -1).mean(1) / np.abs(expected).reshape(EPOCHS, -1).mean(1)
        assert error.max() < tolerance, (i, error)
    black = answer["long.path0"][:, :, :28]
    np.testing.assert_array_equal(black[1:], black[:-1])


def check_independent(a, b, blocks):
    """The chi-square test of two permutations' blocks: its statistic is within six standard deviations of its mean.

    As a bound for what comes at an end, it also counts the places that only a shuffle of all reaches: last to first.
    """
    n = len(a)
    counts = np.zeros((blocks, blocks))
    np.add.at(counts, (a * blocks // n, b * blocks // n), 1)
    mean = n / blocks**2
    chi_square, freedom = ((counts - mean) ** 2 / mean).sum(), (blocks - 1) ** 2
    assert abs(chi_square - freedom) < 6 * np.sqrt(2 * freedom)
    for from_end in (a, n - 1 - a):
        found, expected = ((from_end < n / 20) & (b >= n * 19 / 20)).sum(), n / 400
        assert abs(found - expected) < 6 * np.sqrt(expected)


@pytest.mark.parametrize("script, devices", FULL)
def test_any_image_may_come_at_any_time(probe, script, devices):
    """Of 60,000: where an image comes in an epoch tells nothing of where it lies, nor of where it comes in the next."""
    for rank, answer in enumerate(probe(script, devices)):
        numbers = answer["order.batch_numbers"]
        numbers = numbers // devices if script in RANKS else numbers  # within the rank's shard
        n = len(numbers) // 2
        blocks = n // RUNS["order"].batch_size // (1 if script in RANKS else devices)  # one a step
        first, second = numbers[:n], numbers[n:]
        assert sorted(first) == sorted(second) == list(range(n))
        places = np.arange(n)
        check_independent(places, first, blocks)
        check_independent(places, second, blocks)
        check_independent(np.argsort(first), np.argsort(second), blocks)
        for following in (first[:-1] + 1 == first[1:], first[:-1] - 1 == first[1:]):
            assert following.sum() < 10  # one on average
        successors = [set(zip(epoch[:-1].tolist(), epoch[1:].tolist())) for epoch in (first, second, second[::-1])]
        assert len(successors[0] & successors[1]) < 10 and len(successors[0] & successors[2]) < 10


@pytest.mark.parametrize("script, devices", FULL)
def test_types(probe, script, devices):
    """Images are bytes or float32 wherever they pass, and float32 when the network gets them, also in evaluation."""
    for answer in probe(script, devices):
        assert {str(answer["still.train_type"]), str(answer["still.evaluate_type"])} <= {"uint8", "float32"}
        assert set(answer["still.batch_types"]) == set(answer["still.evaluated_types"]) == {"float32"}


@pytest.mark.parametrize("script, devices", FULL)
def test_all_runs_on_the_devices_that_were_found(probe, script, devices):
    """Where find_device answers with contexts on which MXNet puts nothing by default, the network runs there, always."""
    for answer in probe(script, devices):
        used = {str(device).split(" ")[0] for device in answer["still.batch_devices"]}
        if "_tf_" in script:
            expected = {str(i) for i in range(devices)}  # replicas
        elif "_torch" in script or "keras" in script:
            expected = {"cpu"} if "_torch" in script else {"cpu(0)"}  # keras-mxnet knows no other
        else:
            expected = {f"cpu({i + 1})" for i in range(1 if script in RANKS else devices)}
        assert used == expected
        assert {str(device).split(" ")[0] for device in answer["still.evaluated_devices"]} <= expected


@pytest.mark.parametrize("script, devices", [(script, n) for script, n in FULL if "_ds" in script])
def test_worker_processes_assemble_the_batches(probe, script, devices):
    """Two, and both work."""
    seconds = probe(script, devices)[0]["order.processes"]
    assert len(seconds) == WORKERS and min(seconds) > 0.05


@pytest.mark.parametrize("script, devices", FULL)
def test_layers_run_on_the_frameworks_fast_kernels(probe, plain_kernels, script, devices):
    """Those that it takes by itself on this machine; convolutions with the types and sizes as they are."""
    for answer in probe(script, devices):
        lines = answer["chatter"]
        begin = lines.index("run first")
        found = kernels(lines[begin : lines.index("run again")])
        convolutions = {kernel for kernel in plain_kernels(script) if kernel[0] == "convolution"}
        assert convolutions
        assert {kernel for kernel in found if kernel[-1].startswith(f"mb{WORK_BATCH}_")} == convolutions
        not_its_own = {"inner_product"} if "_mx_keras" in script else {}  # its dense layer is a product and a sum
        assert {kernel for kernel in plain_kernels(script) if kernel[0] not in not_its_own} <= found


@pytest.mark.parametrize("script, devices", FULL)
def test_as_many_threads_compute_as_the_first_line_says(probe, script, devices):
    """Told by their CPU time: three threads that share the work count as three, one that does next to nothing as none.

    Each of MXNet's devices in a process has as many of its own; keras-mxnet's two are both cpu(0), whose threads they share.
    """
    teams = devices if "_mx_" in script and "_keras" not in script and "_mgpu" in script else 1
    for answer in probe(script, devices):
        seconds = answer["steps.thread_seconds"]
        assert seconds.sum() ** 2 / (seconds**2).sum() > 0.8 * threads_of(script, devices) * teams


@pytest.mark.parametrize(
    "script, devices", [(script, n) for script, n in FULL if "mx_gluon" in script or "mx_sym" in script]
)
def test_the_host_runs_ahead_of_the_device(probe, script, devices):
    """MXNet's engine takes a step when it is told and computes it later: the host waits for nothing but the epoch's loss."""
    epoch = epochs_of(probe(script, devices)[0], "steps")[0][-1]  # the first ones compile
    asked = next(seconds for word, seconds in epoch if word == "ask")
    waits = next(seconds for word, seconds in epoch if word == "fetch" and seconds > asked)
    assert waits - asked < 0.5 * (epoch[-1][1] - asked)


@pytest.mark.parametrize("script, devices", [(script, n) for script, n in FULL if "_torch" in script])
def test_adam_is_one_kernel(probe, script, devices):
    for answer in probe(script, devices):
        assert answer["steps.events"].tolist().count("fused Adam") == STEPS
