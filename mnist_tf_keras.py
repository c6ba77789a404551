# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["keras==3.15.1", "loky==3.7.0", "numpy==2.4.6", "pooch==1.9.0", "tensorflow-cpu==2.21.0"]
# ///
"""MNIST in TensorFlow's tf.keras on one device: Sequential, compile and fit.

uv run mnist_tf_keras.py    # or python mnist_tf_keras.py, see requirements-tf.txt
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's jobs ignore it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
import loky

THREADS = os.environ.get("OMP_NUM_THREADS") or str(loky.cpu_count(only_physical_cores=True))  # within a quota, too
left = "DNNL_DEFAULT_", "KERAS_", "ONEDNN_DEFAULT_", "TF_CONFIG", "TF_SET_ONEDNN_"
for x in [x for x in os.environ if x.startswith(left)]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU
os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull, "TF_USE_LEGACY_KERAS": "0"}  # no keras.json
os.environ |= {"OMP_NUM_THREADS": THREADS, "TF_CPP_MIN_LOG_LEVEL": "2"}  # errors only

import numpy as np
import pooch
import tensorflow as tf
from tensorflow.keras.layers import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
CLASSES = 10
SEED = 42


def build_model(device):
    """Return the CNN, (n, 28, 28, 1) in [0, 1] to probabilities, with Glorot uniform weights and zero biases."""
    tf.keras.backend.set_image_data_format("channels_last")  # the only layout that TensorFlow trains on a CPU
    layers = [
        Input((28, 28, 1)),
        Conv2D(32, 3, activation="relu"),
        Conv2D(64, 3, activation="relu"),
        MaxPooling2D(2),
        Dropout(DROPOUT_CONV),
        Flatten(),
        Dense(128, activation="relu"),
        Dropout(DROPOUT_DENSE),
        Dense(CLASSES, activation="softmax"),
    ]
    model = tf.keras.Sequential(layers)
    adam = tf.keras.optimizers.Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
    # XLA is many times slower on a CPU, and Keras would take it there, too, where it sees a GPU
    model.compile(adam, "sparse_categorical_crossentropy", jit_compile="auto" if device == "gpu" else False)
    return model


def train(model, images, labels, epochs, batch_size):
    """Train on images (n, 28, 28, 1) in [0, 1] and labels (n,), batch_size images per device; return the seconds."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(2)  # batches are assembled beside the steps
    # tf.data tunes itself, and then an epoch can stall at its end. Debug mode turns that off, also in the datasets that
    # MirroredStrategy makes, which no option reaches. It drops every prefetch that comes later, hence the order here.
    tf.data.experimental.enable_debug_mode()
    start = time.perf_counter()
    model.fit(dataset, epochs=epochs, shuffle=False, verbose=0, callbacks=[ReportEpoch()])  # the dataset shuffles
    tf.test.experimental.sync_devices()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size):
    """Return the fraction of images (n, 28, 28, 1) whose largest probability is that of their label (n,)."""
    return np.mean(model.predict(images, batch_size, verbose=0).argmax(axis=1) == labels)


class ReportEpoch(tf.keras.callbacks.Callback):
    """Print a line after every epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds, epochs = time.perf_counter() - self.start, self.params["epochs"]
        print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {logs['loss']:.4f}  {seconds:.2f} s", flush=True)


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 28, 28, 1), float32 in [0, 1]."""
    return np.divide(images[..., np.newaxis], 255, dtype=np.float32)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_tf_keras.py"))  # a notebook's exec has no file


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
    """Return "cpu" or "gpu", where TensorFlow puts all; kind is one of them, or "auto": a GPU if one can be used."""
    gpus, fault = [], ""
    if kind != "cpu":
        gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # one that is seen may still be of no use, and cannot be hidden any more once this process has tried it
        trial = "import tensorflow as tf\nwith tf.device('gpu:0'):\n    print(tf.ones(1) + 1)"
        done = subprocess.run([sys.executable, "-P", "-c", trial], capture_output=True, text=True, check=False)
        if done.returncode:
            fault = f" and cannot use any: {(done.stderr.strip() or 'it crashed').splitlines()[-1]}"
    if kind == "gpu" and (fault or not gpus):
        sys.exit(f"error: --device gpu needs 1 x gpu, TensorFlow sees {len(gpus)}{fault}; use --device cpu")
    if fault:
        print(f"on the CPU, as TensorFlow sees {len(gpus)} x gpu{fault}", file=sys.stderr)
    tf.config.threading.set_intra_op_parallelism_threads(int(THREADS))
    tf.config.threading.set_inter_op_parallelism_threads(int(THREADS))  # operations side by side
    tf.config.experimental.enable_tensor_float_32_execution(os.environ["NVIDIA_TF32_OVERRIDE"] == "1")
    gpus = [] if fault else gpus[:1]
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # it takes what it needs, not all there is
    return "gpu" if gpus else "cpu"


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
    where = f"1 x {device}, {THREADS} threads, batch 1 x {args.batch_size}"
    versions = f"tensorflow {tf.__version__}, keras {tf.keras.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    tf.keras.utils.set_random_seed(args.seed)
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
