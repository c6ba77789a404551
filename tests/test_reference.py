"""The reference itself: its gradients against finite differences, its Adam against the paper's formulas by hand."""

import math

import numpy as np
import pytest
import reference

GENERATOR = np.random.default_rng(1)
IMAGES = GENERATOR.uniform(0, 1, (3, 1, 28, 28))
LABELS = np.array([3, 0, 9])
WEIGHTS = reference.initial_weights(1)
STEP = 1e-7  # seldom crosses a kink of ReLU or max; the losses round to some 1e-16, their difference to 1e-16 / 1e-7 = 1e-9


def mean_cross_entropy(scores):
    """Return it by its definition, term by term."""
    return sum(math.log(sum(math.exp(s) for s in row)) - row[y] for row, y in zip(scores, LABELS)) / len(LABELS)


@pytest.mark.parametrize("which", range(8))
def test_gradients_are_finite_differences(which):
    _, gradients = reference.loss_and_gradients(WEIGHTS, IMAGES, LABELS)
    # the largest ones, among them all kinds of positions, and some drawn
    flat = np.abs(gradients[which]).ravel()
    places = {*np.argsort(flat)[-5:].tolist(), *GENERATOR.integers(0, flat.size, 10).tolist()}
    for place in places:
        losses = []
        for sign in (-1, 1):
            moved = [array.copy() for array in WEIGHTS]
            moved[which].ravel()[place] += sign * STEP
            losses.append(mean_cross_entropy(reference.logits(moved, IMAGES)))
        measured = (losses[1] - losses[0]) / (2 * STEP)
        assert gradients[which].ravel()[place] == pytest.approx(measured, rel=1e-5, abs=2e-8)


def test_convolution_is_the_definition():
    """One output, summed term by term: a cross-correlation, not flipped, with no padding."""
    x, kernel, bias = GENERATOR.normal(size=(2, 3, 6, 7)), GENERATOR.normal(size=(4, 3, 3, 3)), GENERATOR.normal(size=4)
    y = reference.convolve(x, kernel, bias)
    assert y.shape == (2, 4, 4, 5)
    terms = [x[1, c, 2 + i, 3 + j] * kernel[3, c, i, j] for c in range(3) for i in range(3) for j in range(3)]
    assert y[1, 3, 2, 3] == pytest.approx(math.fsum(terms) + bias[3])


def test_loss_is_the_mean_cross_entropy():
    loss, _ = reference.loss_and_gradients(WEIGHTS, IMAGES, LABELS)
    assert loss == pytest.approx(mean_cross_entropy(reference.logits(WEIGHTS, IMAGES)), rel=1e-13)


def test_chunks_do_not_matter():
    """250 images, taken 100 at a time, give the mean of 250 gradients."""
    images, labels = GENERATOR.uniform(0, 1, (250, 1, 28, 28)), GENERATOR.integers(0, 10, 250)
    loss, gradients = reference.loss_and_gradients(WEIGHTS, images, labels)
    parts = [reference.summed_loss_and_gradients(WEIGHTS, images[i::2], labels[i::2]) for i in (0, 1)]
    assert loss == pytest.approx((parts[0][0] + parts[1][0]) / 250)
    for gradient, one, other in zip(gradients, parts[0][1], parts[1][1]):
        np.testing.assert_allclose(gradient, (one + other) / 250, atol=1e-12)


def test_adam_is_the_papers():
    """Two steps of one weight, by the paper's algorithm with its epsilon-hat."""
    losses, weights, history = reference.train(WEIGHTS, IMAGES, LABELS, 2, 0.01)
    assert len(losses) == len(history) == 2
    assert losses[1] < losses[0]
    for which in range(8):
        place = np.abs(history[0][which]).argmax()
        (g1, g2), w = [step[which].ravel()[place] for step in history], WEIGHTS[which].ravel()[place]
        m1, v1 = 0.1 * g1, 0.001 * g1**2
        m2, v2 = 0.9 * m1 + 0.1 * g2, 0.999 * v1 + 0.001 * g2**2
        w -= 0.01 * math.sqrt(1 - 0.999) / (1 - 0.9) * m1 / (math.sqrt(v1) + 1e-8)
        w -= 0.01 * math.sqrt(1 - 0.999**2) / (1 - 0.9**2) * m2 / (math.sqrt(v2) + 1e-8)
        assert weights[which].ravel()[place] == pytest.approx(w, rel=1e-12)


def test_adam_is_algorithm_1():
    """The same with the paper's Algorithm 1 as it stands there: both moments corrected, then epsilon."""
    _, weights, history = reference.train(WEIGHTS, IMAGES, LABELS, 2, 0.01, 1e-3, algorithm_1=True)
    for which in range(8):
        place = np.abs(history[0][which]).argmax()
        w, m, v = WEIGHTS[which].ravel()[place], 0, 0
        for t, step in enumerate(history, 1):
            g = step[which].ravel()[place]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w -= 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-3)
        assert weights[which].ravel()[place] == pytest.approx(w, rel=1e-12)


def test_weights_are_glorots_and_float32():
    for array in WEIGHTS:
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, array.astype(np.float32))
    assert np.abs(WEIGHTS[2]).max() == pytest.approx(math.sqrt(6 / (9 * (32 + 64))), rel=1e-3)
    assert np.abs(WEIGHTS[4]).max() == pytest.approx(math.sqrt(6 / (9216 + 128)), rel=1e-3)
