"""The proof that all entries do the same work: each script's own main() against a float64 NumPy reference.

Every script is probed in its own environment (probe.py), with one device or rank and, the parallel ones, with two and three.
"""

import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import ROOT, SCRIPTS, python_of

IMAGES = 300  # of the three full-batch steps; one, two and three devices divide it
STEPS = 3
WORK_IMAGES = {
    "still": 240,
    "first": 230,
}  # batches of 20: one, two and three devices divide the first, none the second
WORK_BATCH = 20  # per device
TEST_IMAGES = 203  # neither batch size divides it, nor do two devices
RIGHT = 120  # of them get the label that the reference predicts
RUNS = ["steps", "still", "dropout", "masks", "first", "again", "other"]
FULL = [(s, 1) for s in SCRIPTS if "_mgpu" not in s] + [(s, 2) for s in SCRIPTS if "_mgpu" in s or "_hvd" in s]
FEW = [(s, n) for s in SCRIPTS for n in (1, 3) if "_mgpu" in s] + [("mnist_mx_gluon_hvd.py", 3)]
RANKS = "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"  # one process a device
ALL = FULL + FEW
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
    labels = generator.integers(0, 10, IMAGES).astype(np.uint8)
    images = (patterns[labels] + generator.integers(0, 75, (IMAGES, 28, 28))).astype(np.uint8)
    numbered = images[: max(WORK_IMAGES.values())].copy()
    numbered[:, 0, 0], numbered[:, 0, 1] = np.divmod(np.arange(len(numbered)), 256)  # the image's number
    test_images = generator.integers(0, 256, (3 * TEST_IMAGES, 28, 28), np.uint8)
    scores = reference.logits(weights, test_images[:, None] / 255)
    first, second = np.sort(scores)[:, :-3:-1].T
    clear = np.flatnonzero(first - second > 0.02)[:TEST_IMAGES]  # float32 cannot turn these predictions
    test_images, test_labels = test_images[clear], scores[clear].argmax(1)
    assert len(test_images) == TEST_IMAGES
    test_labels[RIGHT:] = (test_labels[RIGHT:] + 1) % 10
    question = {f"weight{i}": array.astype(np.float32) for i, array in enumerate(weights)}
    question |= {"test_images": test_images, "test_labels": test_labels.astype(np.uint8)}
    for run in ("steps", "dropout", "masks"):
        question |= {f"{run}_images": images, f"{run}_labels": labels}
    for run in ("still", "first", "again", "other"):
        n = WORK_IMAGES.get(run, WORK_IMAGES["first"])
        question |= {f"{run}_images": numbered[:n], f"{run}_labels": labels[:n]}
    return question


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """Return a function that probes a script on some devices, once, and returns its answers, one a rank."""

    @functools.cache
    def run(script, devices):
        folder = tmp_path_factory.mktemp("probe")
        np.savez(folder / "question.npz", **material())
        python = Path(python_of(script))
        runs = RUNS if (script, devices) in FULL else ["steps", "dropout"]
        command = [python, ROOT / "tests/probe.py", ROOT / script, folder / "question.npz", folder, *runs]
        if "_hvd" in script:
            launcher = [python.with_name("horovodrun"), "-np", str(devices), "-H", f"localhost:{devices}"]
            command = [*launcher, *command]
        elif script in RANKS:
            command = [python.with_name("torchrun"), "--standalone", "--nproc-per-node", str(devices), *command[1:]]
        else:
            command += ["--devices", str(devices)]
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        options = {"capture_output": True, "text": True, "timeout": 600, "env": dict(os.environ, PATH=path)}
        done = subprocess.run(command, check=False, **options)
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = devices if script in RANKS else 1
        return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]

    return run


@pytest.fixture(scope="session")
def expected(request):
    """Return a function that gives the reference's losses and weights of three steps at the learning rate of some devices.

    PyTorch adds Adam's epsilon elsewhere than the others: see reference.train.

    They are kept in pytest's cache under the reference's own hash: tests/mutants.py asks for them many times.
    """
    source = Path(reference.__file__).read_bytes() + Path(__file__).read_bytes()
    folder = request.config.cache.mkdir(f"reference-{hashlib.sha256(source).hexdigest()[:16]}")

    @functools.cache
    def compute(devices, torch):
        path = folder / f"{devices}{'-torch' * torch}.npz"
        if not path.exists():
            given = material()
            weights = [given[f"weight{i}"].astype(np.float64) for i in range(8)]
            images, labels = given["steps_images"][:, None] / 255, given["steps_labels"]
            losses, weights, _ = reference.train(weights, images, labels, STEPS, 0.001 * devices, 1e-8, torch)
            np.savez(path, losses=losses, **{f"weight{i}": array for i, array in enumerate(weights)})
        kept = np.load(path)
        return kept["losses"], [kept[f"weight{i}"] for i in range(8)]

    return compute


def losses(lines):
    """Return the losses that a script printed; half of the last digit is rounded away."""
    return np.array([float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("epoch")])


def check_accuracy(answer, run, weights, most_unsure):
    """The printed accuracy is the count over all test images; the reference knows all but some predictions on the edge."""
    given = material()
    scores = reference.logits(weights, given["test_images"][:, None] / 255)
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
def test_loss_is_the_mean_over_all_batches(probe, script, devices):
    """With a learning rate of zero every image has the loss that the reference gives it, in whatever batch it is.

    And the accuracy is over all test images, once, after training.
    """
    answers = probe(script, devices)
    given = material()
    weights = [given[f"weight{i}"].astype(np.float64) for i in range(8)]
    exact = reference.loss_and_gradients(weights, given["still_images"][:, None] / 255, given["still_labels"])[0]
    np.testing.assert_allclose(losses(answers[0]["still.lines"]), exact, atol=6e-5, rtol=1e-5)
    check_accuracy(answers[0], "still", weights, 0)
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
    weights = [given[f"weight{i}"].astype(np.float64) for i in range(8)]
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


@pytest.mark.parametrize("script, devices", FULL)
def test_seeds(probe, script, devices):
    """One seed gives the same losses and accuracy to the last digit, another one others; the ranks drop and shuffle apart."""
    answers = probe(script, devices)
    lines = {run: [re.sub(r" +\d+\.\d+ s$", "", line) for line in answers[0][f"{run}.lines"]] for run in RUNS[4:]}
    if devices == 1:
        assert lines["first"] == lines["again"]
    assert (losses(lines["first"]) != losses(lines["other"])).all()
    for i in range(0, 8, 2):
        first, again, other = (answers[0][f"{run}.initial{i}"] for run in RUNS[4:])
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.9
    # the masks of the first step, read off the weights that moved
    first, other = (moved(answers[0][f"{run}.path4"])[0] for run in ("dropout", "masks"))
    assert (first != other).any()
    for answer in answers:  # another order of the images, too
        assert (answer["first.batch_numbers"] != answer["other.batch_numbers"]).mean() > 0.9
    places = [answer["first.batch_numbers"] // devices for answer in answers]  # within the rank's shard
    assert all((places[0] != place).any() for place in places[1:])


@pytest.mark.parametrize("script, devices", FULL)
def test_clock(probe, script, devices):
    """It starts before the first batch is asked for and after all is made, and stops when no device has work left."""
    for answer in probe(script, devices):
        events = answer["still.events"].tolist()
        events = events[events.index("train") + 1 : events.index("trained")]
        start, stop = events.index("clock"), len(events) - 1
        assert events[stop] == "clock" and events[stop - 1] == "wait"
        assert "ask" not in events[:start] and "ask" in events[start:]
        assert "make" not in events[start:]
        if "_tf_" not in script:
            assert events[start - 1] == "wait"
        if script in RANKS:  # all ranks are past a barrier
            assert "allreduce" in events[:start]
            epoch_end = max(i for i, word in enumerate(events[:stop]) if word == "clock")
            assert "allreduce" in events[epoch_end:stop]
        inside = answer["still.clock"]
        assert answer["still.train_seconds"] == pytest.approx(inside[-1] - inside[0])
        for run in ("steps", "still"):
            assert answer[f"{run}.left_seconds"] < 0.02  # a step takes more
            assert answer[f"{run}.train_seconds"] <= answer[f"{run}.wall_seconds"]
    lines = probe(script, devices)[0]["still.lines"].tolist()
    assert lines[-2] == f"duration: {probe(script, devices)[0]['still.train_seconds']:.2f} s"
    seconds = [float(line.split()[-2]) for line in lines if line.startswith("epoch")]
    assert 0 < sum(seconds) <= float(lines[-2].split()[1]) + 0.02


@pytest.mark.parametrize("script, devices", FULL)
def test_no_synchronisation_per_step(probe, script, devices):
    """The host waits as often in an epoch of many steps as in one of one step, but for what the API itself does."""
    answer = probe(script, devices)[0]
    one, many = (np.diff(answer[f"{run}.syncs"]).max() for run in ("dropout", "again"))
    steps = WORK_IMAGES["first"] // (WORK_BATCH * devices)
    assert many - one <= (steps - 1) * next((waits for name, waits in WAITS.items() if name in script), 0)


@pytest.mark.parametrize("script, devices", [(script, n) for script, n in FULL if "_torch" not in script])  # eager
def test_compiled_once(probe, script, devices):
    """Python runs the layers to trace them, not in every step: Gluon is hybridized, with its memory planned once."""
    for answer in probe(script, devices):
        assert len(set(answer["again.calls"])) <= 1, answer["again.calls"]
        if "gluon" in script:
            assert {"static_alloc=True", "static_shape=True"} <= set(answer["again.hybrid"])


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
    threads = len(sorted(os.sched_getaffinity(0))[:: devices if script in RANKS else 1])  # of rank 0
    first = rf"{re.escape(script)}: {versions}, {devices} x cpu, {threads} threads, batch {devices} x 20"
    lines = answers[0]["other.lines"].tolist()
    assert re.fullmatch(rf"{first}, seed 43", lines[0]), lines
    for i in (1, 2):
        assert re.fullmatch(rf"epoch {i}/2  loss \d+\.\d{{4}}  \d+\.\d\d s", lines[i]), lines
    assert re.fullmatch(r"duration: \d+\.\d\d s", lines[3]), lines
    assert re.fullmatch(r"accuracy: [01]\.\d{4}", lines[4]), lines
    assert len(lines) == 5
    for answer in answers[1:]:
        assert answer["other.lines"].size == 0
