# /// script
# requires-python = ">=3.9,<3.12"
# dependencies = ["keras-mxnet==2.2.4.3", "mxnet==1.9.1", "numpy==1.23.5"]
# ///
"""MNIST in keras-mxnet, Keras with the MXNet backend, on two devices: multi_gpu_model.

On a CPU these are two executors in one MXNet context: keras-mxnet reads every "cpu(i)" as cpu(0).

    uv run mnist_mx_keras_mgpu.py                 # brings its own packages
    python mnist_mx_keras_mgpu.py                 # in an environment made from requirements.txt
    python mnist_mx_keras_mgpu.py --device gpu    # in an environment made from requirements-gpu.txt
"""

import argparse
import collections.abc
import gzip
import hashlib
import http.client
import os
import platform
import signal
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C ends the run at once: Python's own handler would wait for the framework's C++ calls, up to an epoch
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=lambda: os._exit(128 + signal.sigwait({signal.SIGINT})), daemon=True).start()
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # MXNet's own default takes half
os.environ["KERAS_BACKEND"] = "mxnet"
collections.Iterable = collections.abc.Iterable  # keras-mxnet reads the name that Python 3.10 removed

import keras
import mxnet as mx
import numpy as np
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D

keras.backend.set_image_data_format("channels_first")  # MXNet's own layout: the other costs transpositions

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
SEED = 42
MNIST = {  # file: SHA-256
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MIRRORS = "https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"
TIMEOUT = 30  # seconds a mirror may keep silent


def load_mnist(data_dir):
    """Return train images, train labels, test images, test labels: uint8, (n, 28, 28) and (n,); fetch what is missing."""
    arrays = []
    for name, sha256 in MNIST.items():
        path = Path(data_dir, name)
        shape = (28, 28) if "images" in name else ()
        try:
            if not path.exists():
                download(path, sha256)
            content = gzip.decompress(path.read_bytes())
            # IDX is big-endian: 0x0800 (bytes) plus the number of dimensions, then the size of each dimension
            header = np.frombuffer(content[: 8 + 4 * len(shape)], ">u4").tolist()
            array = np.frombuffer(content, np.uint8, offset=4 * len(header)).reshape(-1, *shape)
            if not len(array) or header != [0x0801 + len(shape), len(array), *shape]:
                raise ValueError(f"IDX header {header} does not fit {len(array)} items of shape {shape}")
            if not shape and (len(array) != len(arrays[-1]) or array.max() > 9):
                raise ValueError(f"{len(array)} labels up to {array.max()} for {len(arrays[-1])} images of digits")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            fail(f"{path}: {error}; mend or remove it, or name another folder with --data-dir")
        arrays.append(array)
    return arrays


def download(path, sha256):
    """Fetch a file from the first mirror that has it whole; path never holds less. Raises OSError if it cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(mirror + path.name, timeout=TIMEOUT) as response:
                content = response.read()
            if hashlib.sha256(content).hexdigest() == sha256:
                break
            failures.append(f"{mirror}: wrong SHA-256")
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: sent on to no host name
            failures.append(f"{mirror}: {error!r}")
    else:
        advice = "put MNIST there, name its folder with --data-dir, or draw stand-in digits with synthetic_mnist.py"
        fail(f"cannot download {path}: {'; '.join(failures)}; {advice}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # on the same disk: the rename is atomic
        Path(folder, path.name).write_bytes(content)
        Path(folder, path.name).replace(path)


def find_devices(kind, count):
    """Return the names of count MXNet contexts; kind is "cpu", "gpu", or "auto": GPUs if enough are visible, else CPU."""
    gpus = mx.context.num_gpus()
    if kind == "gpu" and gpus < count:
        fail(f"--device gpu needs {count} x gpu, MXNet sees {gpus}; use --device cpu")
    return [f"{'cpu' if kind == 'cpu' or gpus < count else 'gpu'}({i})" for i in range(count)]


def build_model(devices):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to probabilities, with Glorot uniform weights and zero biases."""
    # keras-mxnet takes kernels (out, in, 3, 3) for (height, width, in, out): its own Glorot limits would be wrong
    glorot1, glorot2 = [keras.initializers.RandomUniform(-x, x) for x in ((6 / 9 / 33) ** 0.5, (6 / 9 / 96) ** 0.5)]
    model = keras.Sequential(
        [
            Conv2D(32, 3, activation="relu", kernel_initializer=glorot1, input_shape=(1, 28, 28)),
            Conv2D(64, 3, activation="relu", kernel_initializer=glorot2),
            MaxPooling2D(2),
            Dropout(DROPOUT_CONV),
            Flatten("channels_last"),  # as they lie: "channels_first" would transpose every batch
            Dense(128, activation="relu"),
            Dropout(DROPOUT_DENSE),
            Dense(10, activation="softmax"),
        ]
    )
    # two devices: keras-mxnet 2.2.4.3 reads every "cpu(i)" as cpu(0), so on a CPU these are two executors in one context
    if len(devices) > 1:  # two devices: or more, multi_gpu_model refuses one
        model = keras.utils.multi_gpu_model(model, gpus=devices)
    adam = keras.optimizers.Adam(LEARNING_RATE * len(devices), BETA_1, BETA_2, EPSILON)  # two devices: linear scaling
    adam.rescale_grad = 1 / len(devices)  # two devices: keras-mxnet sums their averages
    model.compile(adam, "sparse_categorical_crossentropy", context=devices)
    return model


class ReportEpoch(keras.callbacks.Callback):
    """Print a line after every epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        report_epoch(epoch, self.params["epochs"], logs["loss"], time.perf_counter() - self.start)


def train(model, images, labels, epochs, batch_size, devices):
    """Train on images (n, 28, 28) and labels (n,), both uint8, batch_size images per device; return the seconds."""
    batch_size *= len(devices)  # two devices: weak scaling, each device takes batch_size images
    n = len(images) // batch_size * batch_size  # fit would train on the ragged rest
    images = np.divide(images[:n, np.newaxis], 255, dtype=np.float32)
    mx.nd.waitall()
    start = time.perf_counter()
    model.fit(images, labels[:n], batch_size, epochs, verbose=0, callbacks=[ReportEpoch()])
    mx.nd.waitall()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, devices):
    """Return the fraction of images (n, 28, 28) whose largest probability is that of their label (n,), all uint8."""
    batch_size *= len(devices)  # two devices: each takes batch_size images
    n = -(-len(images) // len(devices)) * len(devices)  # two devices: repeat some images, lest a device gets none
    images = np.divide(np.resize(images, (n, 28, 28))[:, np.newaxis], 255, dtype=np.float32)
    return np.mean(model.predict(images, batch_size)[: len(labels)].argmax(axis=1) == labels)


def report_epoch(epoch, epochs, loss, seconds):
    """Print the line of an epoch, counted from 0; loss is its mean over all batches."""
    print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)


def fail(message, status=1):
    """End the program with one line on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def positive(text):
    """Return the whole number in text; argparse reports the ValueError of anything below 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse_args():
    """Return the flags; a mistake in them exits with status 2."""
    data_dir = os.environ.get("MNIST_DIR") or Path(__file__).with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message}; see --help", 2)
    parser.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help="%(default)s")
    parser.add_argument("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    parser.add_argument("--data-dir", type=Path, default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    parser.add_argument("--devices", type=positive, default=2, metavar="N", help="%(default)s")  # two devices: or more
    return parser.parse_args()


def main():
    """Load, build, train, evaluate, report."""
    args = parse_args()
    devices = find_devices(args.device, args.devices)  # two devices: as many as --devices says
    train_images, train_labels, test_images, test_labels = load_mnist(args.data_dir)
    if args.batch_size * len(devices) > len(train_images):
        fail(f"a batch of {len(devices)} x {args.batch_size} images is more than the {len(train_images)} there are", 2)
    where = f"{len(devices)} x {devices[0][:3]}, {os.environ['OMP_NUM_THREADS']} threads"
    versions = f"keras-mxnet {keras.__version__}, mxnet {mx.__version__}, python {platform.python_version()}"
    print(f"{Path(__file__).name}: {versions}, {where}, batch {len(devices)} x {args.batch_size}", flush=True)

    mx.random.seed(SEED)
    np.random.seed(SEED)
    model = build_model(devices)
    seconds = train(model, train_images, train_labels, args.epochs, args.batch_size, devices)
    accuracy = evaluate(model, test_images, test_labels, args.batch_size, devices)
    print(f"duration: {seconds:.2f} s")
    print(f"accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
