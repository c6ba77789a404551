"""The CNN of the benchmark, its gradients and Adam in float64 NumPy: what every script has to agree with.

Weights are a list of eight arrays: kernel (32, 1, 3, 3) and bias (32,), kernel (64, 32, 3, 3) and bias (64,), then dense
weights (128, 9216) and bias (128,), (10, 128) and bias (10,). Inputs of the dense layers are flattened channel by channel.
Images are (n, 1, 28, 28) in [0, 1], labels (n,) whole numbers from 0 to 9. The gradients are back-propagation: Rumelhart,
Hinton and Williams 1986, doi:10.1038/323533a0; test_reference.py holds them to finite differences.
"""

import numpy as np

SHAPES = (32, 1, 3, 3), (64, 32, 3, 3), (128, 9216), (10, 128)
OFFSETS = [(i, j) for i in range(3) for j in range(3)]


def initial_weights(seed):
    """Return weights drawn from Glorot and Bengio's uniform distribution (AISTATS 2010), and small biases, not zero.

    Every value is a float32, so that a framework starts from the very same weights.
    """
    generator = np.random.default_rng(seed)
    weights = []
    for shape in SHAPES:
        limit = np.sqrt(6 / ((shape[0] + shape[1]) * np.prod(shape[2:])))
        weights += [generator.uniform(-limit, limit, shape), generator.uniform(-0.05, 0.05, shape[0])]
    return [array.astype(np.float32).astype(np.float64) for array in weights]


def convolve(x, kernel, bias):
    """Return the valid cross-correlation of x (n, c, h, w) with a kernel (k, c, 3, 3): (n, k, h - 2, w - 2)."""
    n, c, h, w = x.shape
    y = sum(kernel[:, :, i, j] @ x[:, :, i : h - 2 + i, j : w - 2 + j].reshape(n, c, -1) for i, j in OFFSETS)
    return y.reshape(n, -1, h - 2, w - 2) + bias[:, None, None]


def convolve_gradients(x, kernel, dy):
    """Return the gradients of convolve's x, kernel and bias from that of its result."""
    n, c, h, w = x.shape
    flat = dy.reshape(n, len(kernel), -1)
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    for i, j in OFFSETS:
        window = np.s_[:, :, i : h - 2 + i, j : w - 2 + j]
        dx[window] += (kernel[:, :, i, j].T @ flat).reshape(n, c, h - 2, w - 2)
        dkernel[:, :, i, j] = (flat @ x[window].reshape(n, c, -1).transpose(0, 2, 1)).sum(0)
    return dx, dkernel, dy.sum((0, 2, 3))


def layers(weights, images):
    """Return each layer's output up to the logits (n, 10), and which of its four inputs each pooled value is."""
    k1, b1, k2, b2, w3, b3, w4, b4 = weights
    conv1 = np.maximum(convolve(images, k1, b1), 0)
    conv2 = np.maximum(convolve(conv1, k2, b2), 0)
    quads = conv2.reshape(-1, 64, 12, 2, 12, 2).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 64, 12, 12, 4)
    largest = quads.argmax(-1)[..., None]
    flat = np.take_along_axis(quads, largest, -1).reshape(len(images), -1)
    dense = np.maximum(flat @ w3.T + b3, 0)
    return conv1, conv2, largest, flat, dense, dense @ w4.T + b4


def logits(weights, images):
    """Return the logits (n, 10), a few images at a time."""
    return np.concatenate([layers(weights, images[i : i + 100])[-1] for i in range(0, len(images), 100)])


def loss_and_gradients(weights, images, labels):
    """Return the mean softmax cross-entropy and its gradients, eight arrays like the weights."""
    loss, gradients = 0.0, [np.zeros_like(array) for array in weights]
    for i in range(0, len(images), 100):  # a few images at a time: their sums
        part_loss, part = summed_loss_and_gradients(weights, images[i : i + 100], labels[i : i + 100])
        loss += part_loss
        for gradient, summand in zip(gradients, part):
            gradient += summand
    return loss / len(images), [gradient / len(images) for gradient in gradients]


def summed_loss_and_gradients(weights, images, labels):
    """Return what loss_and_gradients does, summed over the images."""
    _, _, k2, _, w3, _, w4, _ = weights
    conv1, conv2, largest, flat, dense, scores = layers(weights, images)
    rows = np.arange(len(images))
    scores = scores - scores.max(1, keepdims=True)
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = -np.log(probabilities[rows, labels]).sum()
    dscores = probabilities
    dscores[rows, labels] -= 1
    ddense = (dscores @ w4) * (dense > 0)
    dflat = ddense @ w3
    dquads = np.zeros((*largest.shape[:-1], 4))
    np.put_along_axis(dquads, largest, dflat.reshape(largest.shape), -1)
    dconv2 = dquads.reshape(-1, 64, 12, 12, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(conv2.shape) * (conv2 > 0)
    dconv1, dk2, db2 = convolve_gradients(conv1, k2, dconv2)
    _, dk1, db1 = convolve_gradients(images, weights[0], dconv1 * (conv1 > 0))
    return loss, [dk1, db1, dk2, db2, ddense.T @ flat, ddense.sum(0), dscores.T @ dense, dscores.sum(0)]


class Adam:
    """Adam as Kingma and Ba define it, 2014, arXiv:1412.6980, section 2.

    In the order of computation at the section's end, which MXNet and Keras use, epsilon is added to the square root of the
    uncorrected second moment; in Algorithm 1, which PyTorch uses, to that of the corrected one.
    """

    def __init__(self, weights, learning_rate, epsilon=1e-8, algorithm_1=False, betas=(0.9, 0.999)):
        self.weights = [array.copy() for array in weights]
        self.learning_rate, self.epsilon, self.algorithm_1, self.betas = learning_rate, epsilon, algorithm_1, betas
        self.means, self.squares = [[np.zeros_like(array) for array in weights] for _ in range(2)]
        self.steps = 0

    def step(self, gradients):
        """Move the weights."""
        self.steps += 1
        beta_1, beta_2 = self.betas
        correction = np.sqrt(1 - beta_2**self.steps)
        rate = self.learning_rate * correction / (1 - beta_1**self.steps)
        epsilon = self.epsilon * correction if self.algorithm_1 else self.epsilon
        for array, gradient, mean, square in zip(self.weights, gradients, self.means, self.squares):
            mean += (1 - beta_1) * (gradient - mean)
            square += (1 - beta_2) * (gradient**2 - square)
            array -= rate * mean / (np.sqrt(square) + epsilon)


def train(weights, images, labels, steps, learning_rate, epsilon=1e-8, algorithm_1=False):
    """Return the losses before each of some full-batch Adam steps, the weights after them, and the gradients of each."""
    adam = Adam(weights, learning_rate, epsilon, algorithm_1)
    losses, history = [], []
    for _ in range(steps):
        loss, gradients = loss_and_gradients(adam.weights, images, labels)
        losses.append(loss)
        history.append(gradients)
        adam.step(gradients)
    return losses, adam.weights, history


def two_layers(weights, image, label):
    """Return the loss of two dense layers with nothing between them, for one flat image, and its gradients."""
    w1, b1, w2, b2 = weights
    hidden = w1 @ image + b1
    scores = w2 @ hidden + b2
    scores = scores - scores.max()
    probabilities = np.exp(scores) / np.exp(scores).sum()
    dscores = probabilities - (np.arange(len(scores)) == label)
    dhidden = w2.T @ dscores
    return -np.log(probabilities[label]), [np.outer(dhidden, image), dhidden, np.outer(dscores, hidden), dscores]


def train_two_layers(weights, image, label, epochs, steps, learning_rate, epsilon, betas):
    """Return the mean loss of every epoch of some Adam steps on one image, and the weights after every epoch."""
    adam = Adam(weights, learning_rate, epsilon, betas=betas)
    losses, path = [], []
    for _ in range(epochs):
        losses.append(0.0)
        for _ in range(steps):
            loss, gradients = two_layers(adam.weights, image, label)
            losses[-1] += loss / steps
            adam.step(gradients)
        path.append([array.copy() for array in adam.weights])
    return losses, path
