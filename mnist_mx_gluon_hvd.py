# /// script
# requires-python = ">=3.9,<3.12"
# dependencies = ["horovod==0.28.1", "mxnet==1.9.1", "numpy==1.23.5"]
#
# [tool.uv.extra-build-dependencies]
# horovod = ["mxnet==1.9.1", "numpy==1.23.5", "setuptools<81", "wheel", "cmake<4"]
#
# [tool.uv.extra-build-variables.horovod]
# HOROVOD_WITH_MXNET = "1"
# HOROVOD_WITH_GLOO = "1"
# HOROVOD_WITHOUT_MPI = "1"
# HOROVOD_WITHOUT_TENSORFLOW = "1"
# HOROVOD_WITHOUT_PYTORCH = "1"
# ///
"""MNIST in MXNet Gluon on Horovod ranks, one device each: DistributedTrainer averages the gradients over the ranks.

In an environment made from requirements.txt (for --device gpu see the README):

    horovodrun -np 2 -H localhost:2 python mnist_mx_gluon_hvd.py
    python mnist_mx_gluon_hvd.py              # without a launcher: one rank

With uv, which builds Horovod on first use (about two minutes on two cores, a C++ compiler and make must be there):

    uv sync --script mnist_mx_gluon_hvd.py
    PATH=$(dirname $(uv python find --script mnist_mx_gluon_hvd.py)):$PATH
    horovodrun -np 2 -H localhost:2 python mnist_mx_gluon_hvd.py
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
# Horovod: the ranks of a host share its CPUs, each bound to its own: threads that wander make all ranks wait for one
rank, ranks = int(os.environ.get("HOROVOD_LOCAL_RANK", "0")), int(os.environ.get("HOROVOD_LOCAL_SIZE", "1"))
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[rank % len(cpus) :: ranks])
os.environ.setdefault("HOROVOD_CYCLE_TIME", "5")  # Horovod: looks for gradients every 5 ms; its 1 ms costs CPU time
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # MXNet's own default takes half

import horovod  # Horovod: for its version
import horovod.mxnet as hvd  # Horovod: ranks and collective operations
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn

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
    """Return count MXNet contexts; kind is "cpu", "gpu", or "auto": GPUs if enough are visible, else CPU."""
    gpus = mx.context.num_gpus()
    if kind == "gpu" and gpus < count:
        fail(f"--device gpu needs {count} x gpu, MXNet sees {gpus}; use --device cpu")
    return [mx.cpu(i) if kind == "cpu" or gpus < count else mx.gpu(i) for i in range(count)]


def build_model(devices):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to (n, 10) logits, with Glorot uniform weights and zero biases."""
    model = nn.HybridSequential()
    model.add(
        nn.Conv2D(32, 3, in_channels=1, activation="relu"),
        nn.Conv2D(64, 3, in_channels=32, activation="relu"),
        nn.MaxPool2D(2),
        nn.Dropout(DROPOUT_CONV),
        nn.Dense(128, in_units=64 * 12 * 12, activation="relu"),  # flattens
        nn.Dropout(DROPOUT_DENSE),
        nn.Dense(10, in_units=128),  # softmax is in the loss
    )
    model.initialize(mx.init.Xavier(), devices)
    model.hybridize(static_alloc=True, static_shape=True)
    return model


def train(model, images, labels, epochs, batch_size, devices):
    """Train on images (n, 28, 28) and labels (n,), both uint8, batch_size images per device; return the seconds."""
    n = len(images) // hvd.size()  # Horovod: every rank trains on the same number of images
    images, labels = images[hvd.rank() :: hvd.size()][:n], labels[hvd.rank() :: hvd.size()][:n]
    images = np.divide(images[:, np.newaxis], 255, dtype=np.float32)
    batches = mx.io.NDArrayIter(images, labels, batch_size, shuffle=True, last_batch_handle="discard")
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    adam = mx.optimizer.Adam(LEARNING_RATE * hvd.size(), BETA_1, BETA_2, EPSILON)  # Horovod: linear scaling
    hvd.broadcast_parameters(model.collect_params())  # Horovod: all ranks start from the weights of rank 0
    trainer = hvd.DistributedTrainer(model.collect_params(), adam)  # Horovod: averages the gradients
    barrier = mx.nd.zeros(1)  # Horovod: what all ranks meet at, before the clock starts and before it stops
    hvd.allreduce_(barrier, name="start")
    mx.nd.waitall()
    start = time.perf_counter()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sum = mx.nd.zeros(1, devices[0])
        batches.reset()  # reshuffles
        for batch in batches:
            data = batch.data[0].as_in_context(devices[0])
            label = batch.label[0].as_in_context(devices[0])
            with autograd.record():
                loss = loss_function(model(data), label)
            loss.backward()
            trainer.step(batch_size)
            loss_sum += loss.mean()  # stays on the device
        hvd.allreduce_(loss_sum, name="loss")  # Horovod: the mean over the ranks
        loss = loss_sum.asscalar() / (len(images) // batch_size)
        if hvd.rank() == 0:  # Horovod: one report
            report_epoch(epoch, epochs, loss, time.perf_counter() - epoch_start)
    hvd.allreduce_(barrier, name="end")  # Horovod: the clock stops when all ranks are done
    mx.nd.waitall()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, devices):
    """Return the fraction of images (n, 28, 28) whose largest logit is that of their label (n,), all uint8."""
    correct, total = 0, len(images)  # Horovod: of all ranks
    images, labels = images[hvd.rank() :: hvd.size()], labels[hvd.rank() :: hvd.size()]  # Horovod: the rank's shard
    for i in range(0, len(images), batch_size):
        data = np.divide(images[i : i + batch_size, np.newaxis], 255, dtype=np.float32)
        logits = model(mx.nd.array(data, devices[0]))
        correct += np.sum(logits.argmax(axis=1).asnumpy() == labels[i : i + batch_size])
    correct = mx.nd.array([correct])
    hvd.allreduce_(correct, op=hvd.Sum, name="correct")  # Horovod: the sum over the ranks
    return correct.asscalar() / total


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
    return parser.parse_args()


def main():
    """Load, build, train, evaluate, report."""
    args = parse_args()
    hvd.init()  # Horovod: meets the other ranks
    devices = [find_devices(args.device, hvd.local_size())[hvd.local_rank()]]  # Horovod: one device per rank
    train_images, train_labels, test_images, test_labels = load_mnist(args.data_dir)
    if args.batch_size * hvd.size() > len(train_images):
        fail(f"a batch of {hvd.size()} x {args.batch_size} images is more than the {len(train_images)} there are", 2)
    where = f"{hvd.size()} x {devices[0].device_type}, {os.environ['OMP_NUM_THREADS']} threads"
    versions = f"horovod {horovod.__version__}, mxnet {mx.__version__}, python {platform.python_version()}"
    if hvd.rank() == 0:  # Horovod: one report
        print(f"{Path(__file__).name}: {versions}, {where}, batch {hvd.size()} x {args.batch_size}", flush=True)

    mx.random.seed(SEED + hvd.rank())  # Horovod: every rank shuffles and drops differently
    np.random.seed(SEED + hvd.rank())
    model = build_model(devices)
    seconds = train(model, train_images, train_labels, args.epochs, args.batch_size, devices)
    accuracy = evaluate(model, test_images, test_labels, args.batch_size, devices)
    if hvd.rank() == 0:  # Horovod: one report
        print(f"duration: {seconds:.2f} s")
        print(f"accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
