# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["keras==3.15.1", "numpy==2.4.6", "tensorflow-cpu==2.21.0"]
# ///
"""MNIST in TensorFlow's tf.keras on two devices under MirroredStrategy.

Works the same on CPU and GPU:

    uv run mnist_tf_keras_mgpu.py                 # brings its own packages
    python mnist_tf_keras_mgpu.py                 # in an environment made from requirements-tf.txt
    python mnist_tf_keras_mgpu.py --device gpu    # in an environment made from requirements-tf.txt, changed as it says
"""

import argparse
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
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
os.environ["KERAS_BACKEND"] = "tensorflow"  # ~/.keras/keras.json may say mxnet: keras-mxnet writes it

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras.layers import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D

keras.backend.set_image_data_format("channels_last")  # the only layout TensorFlow trains on a CPU

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
    """Return the names of count TensorFlow devices; kind is "cpu", "gpu", or "auto": GPUs if enough are visible, else CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "gpu" and len(gpus) < count:
        fail(f"--device gpu needs {count} x gpu, TensorFlow sees {len(gpus)}; use --device cpu")
    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
    if kind == "cpu" or len(gpus) < count:
        tf.config.set_visible_devices([], "GPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * count  # two devices: one CPU stands for several
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
        return [f"cpu:{i}" for i in range(count)]
    return [f"gpu:{i}" for i in range(count)]


def build_model(devices):
    """Return the CNN, (n, 28, 28, 1) in [0, 1] to probabilities, with Glorot uniform weights and zero biases."""
    with tf.distribute.MirroredStrategy(devices).scope():  # two devices: a replica on each
        model = keras.Sequential(
            [
                Input((28, 28, 1)),
                Conv2D(32, 3, activation="relu"),
                Conv2D(64, 3, activation="relu"),
                MaxPooling2D(2),
                Dropout(DROPOUT_CONV),
                Flatten(),
                Dense(128, activation="relu"),
                Dropout(DROPOUT_DENSE),
                Dense(10, activation="softmax"),
            ]
        )
        learning_rate = LEARNING_RATE * len(devices)  # two devices: linear scaling
        adam = keras.optimizers.Adam(learning_rate, BETA_1, BETA_2, EPSILON)
        model.compile(adam, "sparse_categorical_crossentropy", jit_compile=False)  # XLA is many times slower on a CPU
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
    images = np.divide(images[:n, ..., np.newaxis], 255, dtype=np.float32)
    tf.test.experimental.sync_devices()
    start = time.perf_counter()
    model.fit(images, labels[:n], batch_size, epochs, verbose=0, callbacks=[ReportEpoch()])
    tf.test.experimental.sync_devices()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, devices):
    """Return the fraction of images (n, 28, 28) whose largest probability is that of their label (n,), all uint8."""
    batch_size *= len(devices)  # two devices: each takes batch_size images
    n = -(-len(images) // len(devices)) * len(devices)  # two devices: repeat some images, lest a device gets none
    images = np.divide(np.resize(images, (n, 28, 28))[..., np.newaxis], 255, dtype=np.float32)
    return np.mean(model.predict(images, batch_size, verbose=0)[: len(labels)].argmax(axis=1) == labels)


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
    versions = f"tensorflow {tf.__version__}, keras {keras.__version__}, python {platform.python_version()}"
    print(f"{Path(__file__).name}: {versions}, {where}, batch {len(devices)} x {args.batch_size}", flush=True)

    keras.utils.set_random_seed(SEED)
    model = build_model(devices)
    seconds = train(model, train_images, train_labels, args.epochs, args.batch_size, devices)
    accuracy = evaluate(model, test_images, test_labels, args.batch_size, devices)
    print(f"duration: {seconds:.2f} s")
    print(f"accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
