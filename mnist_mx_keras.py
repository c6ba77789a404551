# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = ["keras-mxnet==2.2.4.3", "loky==3.7.0", "mxnet==1.9.1", "numpy==1.23.5", "pooch==1.9.0"]
# ///
"""MNIST in keras-mxnet, Keras with the MXNet backend, on one device: Sequential, compile and fit.

uv run mnist_mx_keras.py    # or python mnist_mx_keras.py, see requirements.txt and requirements-gpu.txt
"""

import argparse
import collections.abc
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's jobs ignore it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
import loky

THREADS = os.environ.get("OMP_NUM_THREADS") or str(loky.cpu_count(only_physical_cores=True))  # within a quota, too
for x in [x for x in os.environ if x.startswith(("DMLC_", "DNNL_DEFAULT_", "GOMP_", "KERAS_", "MXNET_OMP_", "OMP_"))]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU
os.environ.update(OMP_NUM_THREADS=THREADS if THREADS in map(str, range(1, 1025)) else "1", KERAS_HOME=os.devnull)
collections.Iterable = collections.abc.Iterable  # keras-mxnet reads the name that Python 3.10 removed

import keras
import mxnet as mx
import numpy as np
import pooch
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
CLASSES = 10
SEED = 42


def build_model(device):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to probabilities, with Glorot uniform weights and zero biases."""
    keras.backend.set_image_data_format("channels_first")  # MXNet's own layout: the other costs transpositions
    # keras-mxnet takes wrong fans for its kernels, (out, in, 3, 3), and one seed for all layers that name none
    limits = [(6 / fans) ** 0.5 for fans in (9 * (1 + 32), 9 * (32 + 64), 9216 + 128, 128 + CLASSES)]
    glorot = [keras.initializers.RandomUniform(-x, x, np.random.randint(1, 2**31)) for x in limits]
    layers = [
        Conv2D(32, 3, activation="relu", kernel_initializer=glorot[0], input_shape=(1, 28, 28)),
        Conv2D(64, 3, activation="relu", kernel_initializer=glorot[1]),
        MaxPooling2D(2),
        Dropout(DROPOUT_CONV),
        Flatten("channels_last"),  # as they lie: "channels_first" would transpose every batch
        Dense(128, activation="relu", kernel_initializer=glorot[2]),
        Dropout(DROPOUT_DENSE),
        Dense(CLASSES, activation="softmax", kernel_initializer=glorot[3]),
    ]
    model = keras.Sequential(layers)
    adam = keras.optimizers.Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
    model.compile(adam, "sparse_categorical_crossentropy", context=[device])
    return model


def train(model, images, labels, epochs, batch_size):
    """Train on images (n, 1, 28, 28) in [0, 1] and labels (n,), batch_size images per device; return the seconds."""
    n = len(images) // batch_size * batch_size  # fit would train on the ragged rest
    mx.nd.waitall()
    start = time.perf_counter()
    model.fit(images[:n], labels[:n], batch_size, epochs, verbose=0, callbacks=[ReportEpoch()])
    mx.nd.waitall()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size):
    """Return the fraction of images (n, 1, 28, 28) whose largest probability is that of their label (n,)."""
    return np.mean(model.predict(images, batch_size).argmax(axis=1) == labels)


class ReportEpoch(keras.callbacks.Callback):
    """Print a line after every epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds, epochs = time.perf_counter() - self.start, self.params["epochs"]
        print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {logs['loss']:.4f}  {seconds:.2f} s", flush=True)


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 1, 28, 28), float32 in [0, 1]."""
    return np.divide(images[:, np.newaxis], 255, dtype=np.float32)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_mx_keras.py"))  # a notebook's exec has no file


def load_mnist(data_dir):
    """Return train images, train labels, test images, test labels: uint8, (n, 28, 28) and (n,); download if missing."""
    names = "x_train", "y_train", "x_test", "y_test"
    try:
        path = Path(data_dir, "mnist.npz").expanduser()
    except RuntimeError as error:
        sys.exit(f"error: cannot find the folder {data_dir}: {error}; name another with --data-dir")
    try:
        if not os.path.lexists(path):
            pooch.retrieve(URL, SHA256, path.name, path.parent)
            try:
                path.chmod(0o644)  # pooch lets only its owner read it
            except OSError:
                pass  # not every file system has modes
    except (OSError, ValueError) as error:
        sys.exit(f"error: cannot download {URL}: {error}; use --data-dir, or draw digits with synthetic_mnist.py")
    try:
        if not path.is_file():
            raise ValueError("a directory" if path.is_dir() else "no regular file, nor a link to one")
        with np.load(path) as file:
            if not set(names) <= set(file.files):
                raise ValueError(f"the arrays {file.files[:9]}")
            arrays = [file[name] for name in names]
        for x, y in (arrays[:2], arrays[2:]):
            if {x.dtype, y.dtype} != {np.dtype("uint8")} or x.shape != (y.size, 28, 28) or y.shape != (len(x),):
                raise ValueError(f"{x.dtype} images {x.shape}, {y.dtype} labels {y.shape}")
            if y.size == 0 or y.max() >= CLASSES:
                raise ValueError(f"{y.size} labels, the largest {y.max(initial=0)}")
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        needed = f"{', '.join(names)}: uint8, (n, 28, 28) and (n,), labels 0 to {CLASSES - 1}"
        sys.exit(f"error: cannot use {path}: {error!r}, needed are {needed}; mend or remove it, or use --data-dir")
    return arrays


def find_device(kind):
    """Return the name of an MXNet context; kind is "cpu", "gpu", or "auto": a GPU if one can be used, else the CPU."""
    gpus, fault = 0, ""
    os.environ["MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION"] = "0"  # never half precision
    try:
        if kind != "cpu":
            gpus = mx.context.num_gpus()
        if gpus:
            mx.nd.ones(1, mx.gpu()).wait_to_read()  # a GPU that is seen may still be of no use
    except mx.MXNetError as error:
        fault = f" and cannot use any: {str(error).strip().splitlines()[-1]}"
    if kind == "gpu" and (fault or not gpus):
        sys.exit(f"error: --device gpu needs 1 x gpu, MXNet sees {gpus}{fault}; use --device cpu")
    if fault:
        print(f"on the CPU, as MXNet sees {gpus} x gpu{fault}", file=sys.stderr)
    return "cpu(0)" if fault or not gpus else "gpu(0)"


def parse_args():
    """Return the flags."""
    data_dir = os.environ.get("MNIST_DIR") or SCRIPT.with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    parser.add_argument("--data-dir", default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="%(default)s")
    args = parser.parse_args()
    if THREADS not in map(str, range(1, 1025)):
        sys.exit(f"error: OMP_NUM_THREADS is {THREADS}: unset it, or set it to a whole number from 1 to 1024")
    return args


def main():
    """Load, build, train, evaluate, report."""
    args = parse_args()
    train_images, train_labels, test_images, test_labels = load_mnist(args.data_dir)
    if train_images.max() <= 1:
        print("warning: no byte of the images is above 1: 0 to 255 are expected, and divided by 255", file=sys.stderr)
    if args.epochs < 1 or not 1 <= args.batch_size <= len(train_images) or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs 1 or more, --batch-size 1 to {len(train_images)}, --seed 0 to {2**31 - 1}")
    device = find_device(args.device)
    where = f"1 x {device[:3]}, {THREADS} threads, batch 1 x {args.batch_size}"
    versions = f"keras-mxnet {keras.__version__}, mxnet {mx.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    np.random.seed(args.seed)
    model = build_model(device)
    mx.random.seed(args.seed)  # here, as keras-mxnet seeds MXNet itself for every layer that it makes
    ctypes.CDLL(None).srand(args.seed)  # C's rand() gives cuDNN's dropout its seed: apache/mxnet issue 15662
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
