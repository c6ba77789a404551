"""The proof that all entries do the same work: each script's own functions against a float64 NumPy reference.

Every script is probed once in its own environment, with one device or rank and, the parallel ones, with two and three.
"""

import functools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import ROOT, SCRIPTS, python_of

IMAGES = 1000  # of the three full-batch steps; three ranks share 999
STEPS = 3
WORK_BATCH = 100  # per device
WORK_IMAGES = 1200, 1150  # the first is divided by one, two and three devices, the second by none
TEST_IMAGES = 1003  # a prime number of nothing: 17 x 59
RIGHT = 600  # of them get the label that the reference predicts
FULL = [(s, 1) for s in SCRIPTS if "_mgpu" not in s] + [(s, 2) for s in SCRIPTS if "_mgpu" in s or "_hvd" in s]
FULL += [("mnist_mx_gluon_hvd.py", 3)]
ALL = FULL + [(s, n) for s in SCRIPTS if "_mgpu" in s for n in (1, 3)]
SHAPES = ["(32, 26, 26)", "(64, 24, 24)", "(64, 12, 12)", "(128,)", "(10,)"]
LIMITS = [np.sqrt(6 / fans) for fans in (9 * (1 + 32), 9 * (32 + 64), 9216 + 128, 128 + 10)]


@functools.cache
def material():
    """Return what every probe is given: images, labels and weights; the same in every test run."""
    generator = np.random.default_rng(0)
    weights = reference.initial_weights(0)
    # ten coarse patterns and noise: as uneven as digits, and every pixel gets a gradient
    patterns = np.repeat(np.repeat(generator.integers(0, 2, (10, 7, 7)), 4, 1), 4, 2) * 180
    labels = generator.integers(0, 10, 1200).astype(np.uint8)
    images = (patterns[labels] + generator.integers(0, 75, (1200, 28, 28))).astype(np.uint8)
    work_images = images.copy()
    work_images[:, 0, 0], work_images[:, 0, 1] = np.divmod(np.arange(1200), 256)  # the image's number
    test_images = generator.integers(0, 256, (1200, 28, 28), np.uint8)
    logits = reference.logits(weights, test_images[:, None] / 255)
    first, second = np.sort(logits)[:, :-3:-1].T
    clear = first - second > 1e-3  # float32 cannot turn these predictions
    test_images, test_labels = test_images[clear][:TEST_IMAGES], logits[clear].argmax(1)[:TEST_IMAGES]
    assert len(test_images) == TEST_IMAGES
    test_labels[RIGHT:] = (test_labels[RIGHT:] + 1) % 10
    return {
        **{f"weight{i}": array.astype(np.float32) for i, array in enumerate(weights)},
        "images": images[:IMAGES],
        "labels": labels[:IMAGES],
        "work_images": work_images,
        "work_labels": labels,
        "test_images": test_images,
        "test_labels": test_labels.astype(np.uint8),
    }


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """Return a function that probes a script on some devices, once, and returns its answers, one a rank."""

    @functools.cache
    def run(script, devices):
        folder = tmp_path_factory.mktemp("probe")
        question = dict(material(), batch_size=IMAGES // devices, test_batches=[500, 7, 2000])
        if (script, devices) in FULL:
            question |= {"initial": 1, "steps": STEPS, "work_sizes": WORK_IMAGES, "work_batch": WORK_BATCH, "clock": 1}
        np.savez(folder / "question.npz", **question)
        python = Path(python_of(script))
        command = [python, ROOT / "tests/probe.py", ROOT / script, folder / "question.npz", folder]
        ranks = 1
        if "_hvd" in script:
            ranks = devices
            command = [python.with_name("horovodrun"), "-np", str(devices), "-H", f"localhost:{devices}", *command]
        else:
            command += ["--devices", str(devices)]
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        options = {"capture_output": True, "text": True, "timeout": 600, "env": dict(os.environ, PATH=path)}
        done = subprocess.run(command, check=False, **options)
        assert done.returncode == 0, done.stderr[-3000:]
        return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]

    return run


@functools.cache
def expected(devices):
    """Return the reference's losses, weights and gradients of three steps at the learning rate of some devices."""
    given = material()
    weights = [given[f"weight{i}"].astype(np.float64) for i in range(8)]
    n = IMAGES // devices * devices
    return reference.train(weights, given["images"][:n, None] / 255, given["labels"][:n], STEPS, 0.001 * devices)


@pytest.mark.parametrize("script, devices", FULL)
def test_layers_and_parameters(probe, script, devices):
    answer = probe(script, devices)[0]
    assert [shape for shape in answer["shapes"] if shape != "(9216,)"] == SHAPES
    initial = [answer[f"initial{i}"] for i in range(8)]
    assert [a.shape for a in initial] == [a.shape for a in reference.initial_weights(0)]
    assert [a.size + b.size for a, b in zip(initial[::2], initial[1::2])] == [320, 18_496, 1_179_776, 1_290]


@pytest.mark.parametrize("script, devices", FULL)
def test_initial_weights(probe, script, devices):
    """Glorot uniform: no weight above the limit, and 288 or more draws come within 5% of it but once in 2,600,000."""
    answer = probe(script, devices)[0]
    for i, limit in enumerate(LIMITS):
        weights = np.abs(answer[f"initial{2 * i}"])
        assert 0.95 * limit < weights.max() <= limit * (1 + 1e-6)
        assert weights.mean() == pytest.approx(limit / 2, rel=0.15)  # 0.15 is 4.4 standard errors of 288 draws
        assert not answer[f"initial{2 * i + 1}"].any()


@pytest.mark.parametrize("script, devices", FULL)
def test_three_steps(probe, script, devices):
    """The loss before each step and all weights after three are the reference's.

    Adam moves a weight by learning rate x m / (sqrt(v) + epsilon) a step, whatever the gradient's size, so a weight's error
    is the learning rate times the relative error of its gradient: large where float32 sums cancel to almost nothing, small on
    average. Seen here: on average up to 5e-4 of the learning rate, 1e-4 in the first dense layer. An epsilon of 1e-7 moves
    all of them by 1e-2 and more; gradients summed over two devices, not averaged, move the first dense layer by 5e-3.
    """
    losses, weights, _ = expected(devices)
    np.testing.assert_allclose(probe(script, devices)[0]["losses"], losses, rtol=1e-5)  # float32 rounds to 6e-8
    for answer in probe(script, devices):
        for i, exact in enumerate(weights):
            error = np.abs(answer[f"trained0_{i}"] - exact) / (0.001 * devices)
            assert error.shape == exact.shape
            assert error.mean() < (5e-4 if i == 4 else 2e-3), f"array {i}"
            assert np.quantile(error, 0.99) < 0.02, f"array {i}"


@pytest.mark.parametrize("script, devices", FULL)
def test_every_device_works(probe, script, devices):
    """Every device holds a replica, gets its share of every batch and ends with the same weights."""
    answers = probe(script, devices)
    if "_hvd" in script:
        batches = [(f"rank {rank}", size) for rank, answer in enumerate(answers) for size in answer["step_sizes"]]
        replicas = [[answer[f"trained0_{i}"] for i in range(8)] for answer in answers]
    else:
        batches = list(zip(answers[0]["step_devices"], answers[0]["step_sizes"]))
        replicas = [[answers[0][f"trained{r}_{i}"] for i in range(8)] for r in range(devices)]
    assert len(batches) == STEPS * devices
    assert len({name for name, _ in batches}) == devices
    assert {size for _, size in batches} == {IMAGES // devices}
    for replica in replicas[1:]:
        for mine, first in zip(replica, replicas[0]):
            np.testing.assert_array_equal(mine, first)


@pytest.mark.parametrize("script, devices", FULL)
@pytest.mark.parametrize("images", WORK_IMAGES)
def test_epoch(probe, script, devices, images):
    """Steps and images an epoch, each image at most once, all of them if sizes divide, in another order every epoch."""
    answers = probe(script, devices)
    steps = images // (WORK_BATCH * devices)
    epochs = [[], []]
    for answer in answers:
        assert answer[f"updates{images}"] == 2 * steps
        assert set(answer[f"batch_sizes{images}"]) == {WORK_BATCH}
        half = len(answer[f"batch_numbers{images}"]) // 2
        epochs[0].append(answer[f"batch_numbers{images}"][:half])
        epochs[1].append(answer[f"batch_numbers{images}"][half:])
    first, second = np.concatenate(epochs[0]), np.concatenate(epochs[1])
    assert len(first) == len(second) == steps * WORK_BATCH * devices
    for numbers in (first, second):
        assert len(np.unique(numbers)) == len(numbers)
        assert numbers.max() < images
        assert (np.diff(numbers) < 0).mean() > 0.3  # shuffled
    assert (first != second).mean() > 0.9
    if len(first) == images:
        assert set(first) == set(second) == set(range(images))


@pytest.mark.parametrize("script, devices", ALL)
def test_whole_test_set(probe, script, devices):
    """The accuracy is the count of right predictions over all images, whatever the batch size."""
    for answer in probe(script, devices):
        np.testing.assert_allclose(answer["accuracies"], RIGHT / TEST_IMAGES, rtol=1e-6)


@pytest.mark.parametrize("script, devices", FULL)
def test_clock_covers_all_device_work(probe, script, devices):
    """When train returns, nothing is in flight: a step takes some 0.4 s here, waiting again may take 0.02 s.

    And what it returns is no more than train took, and all of it but the preparation of arrays and batches.
    """
    for answer in probe(script, devices):
        assert answer["left_seconds"] < 0.02
        assert answer["epoch_seconds"] <= answer["train_seconds"] <= answer["wall_seconds"]
