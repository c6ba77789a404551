# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = ["loky==3.7.0", "mxnet==1.9.1", "numpy==1.23.5", "pooch==1.9.0"]
# ///
"""MNIST in MXNet Gluon on two devices, fed by a Dataset, ToTensor and a DataLoader with worker processes.

uv run mnist_mx_gluon_ds_mgpu.py    # or python mnist_mx_gluon_ds_mgpu.py, see requirements.txt and requirements-gpu.txt
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's jobs ignore it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
import loky

THREADS = os.environ.get("OMP_NUM_THREADS") or str(loky.cpu_count(only_physical_cores=True))  # within a quota, too
for x in [x for x in os.environ if x.startswith(("DMLC_", "DNNL_DEFAULT_", "GOMP_", "MXNET_OMP_", "OMP_"))]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU
os.environ["OMP_NUM_THREADS"] = THREADS if THREADS in map(str, range(1, 1025)) else "1"  # parse_args() refuses it

import mxnet as mx
import numpy as np
import pooch
from mxnet import autograd, gluon
from mxnet.gluon import nn

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
CLASSES = 10
SEED = 42


def build_model(devices):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to (n, CLASSES) logits, with Glorot uniform weights and zero biases."""
    model = nn.HybridSequential()
    model.add(
        nn.Conv2D(32, 3, in_channels=1, activation="relu"),
        nn.Conv2D(64, 3, in_channels=32, activation="relu"),
        nn.MaxPool2D(2),
        nn.Dropout(DROPOUT_CONV),
        nn.Dense(128, in_units=64 * 12 * 12, activation="relu"),  # flattens
        nn.Dropout(DROPOUT_DENSE),
        nn.Dense(CLASSES, in_units=128),  # softmax is in the loss
    )
    model.initialize(mx.init.Xavier(), devices)
    model.hybridize(static_alloc=True, static_shape=True)
    return model


def train(model, batches, epochs, batch_size, devices):
    """Train on batches of images (n, 28, 28, 1) and labels (n,), batch_size images per device; return the seconds."""
    batch_size *= len(devices)  # two devices: weak scaling, each device takes batch_size images
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    loss_function.hybridize(static_alloc=True, static_shape=True)
    adam = mx.optimizer.Adam(LEARNING_RATE * len(devices), BETA_1, BETA_2, EPSILON)  # two devices: linear scaling
    trainer = gluon.Trainer(model.collect_params(), adam, kvstore="device")  # two devices: sums the gradients
    mx.nd.waitall()
    start = time.perf_counter()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sums = [mx.nd.zeros(1, device) for device in devices]  # two devices: each sums its own
        for data, label in batches:  # reshuffles
            data = [to_tensor(x) for x in gluon.utils.split_and_load(data, devices)]  # two devices: a slice for each
            label = gluon.utils.split_and_load(label, devices)
            with autograd.record():
                losses = [loss_function(model(x), y) for x, y in zip(data, label)]  # two devices: a loss on each
            autograd.backward(losses)
            with mx.engine.bulk(32):  # the engine gets Adam's eight updates as one
                trainer.step(batch_size)
            for loss_sum, loss in zip(loss_sums, losses):  # two devices: each its own
                loss_sum += loss.mean()  # stays on the device
        loss = np.mean([x.asscalar() for x in loss_sums]) / len(batches)  # two devices: the mean
        seconds = time.perf_counter() - epoch_start
        print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)
    mx.nd.waitall()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, devices):
    """Return the fraction of images (n, 28, 28) whose largest logit is that of their label (n,)."""
    correct = 0
    dataset = gluon.data.ArrayDataset(images, labels)
    for data, label in gluon.data.DataLoader(dataset, batch_size, batchify_fn=to_batch):
        logits = model(to_tensor(data.as_in_context(devices[0])))  # two devices: one does all, untimed
        correct += np.sum(logits.argmax(axis=1).asnumpy() == label.asnumpy())
    return correct / len(images)


# on its input's device: uint8 images (n, 28, 28, 1) to what the model takes, (n, 1, 28, 28), float32 in [0, 1]
to_tensor = gluon.data.vision.transforms.ToTensor()


WORKERS = 2  # processes that assemble batches


def build_batches(images, labels, batch_size):
    """Return a DataLoader of images (n, 28, 28) and labels (n,), both uint8, whose workers assemble batches."""
    sizes = np.array([images[0].size, 4]) * batch_size + 16  # bytes of images and labels, in pages of their own
    # a CPU may be an epoch behind: the batches that it has not reached yet are all in shared memory
    needed = len(images) // batch_size * int(np.sum(-(-sizes // 4096))) * 4096 / 2**20
    if os.path.exists("/dev/shm") and (shm := os.statvfs("/dev/shm")).f_bavail * shm.f_frsize / 2**20 < needed:
        sys.exit(f"error: DataLoader needs {np.ceil(needed):.0f} MiB free in /dev/shm: enlarge it, as by --shm-size")
    dataset = gluon.data.ArrayDataset(images, labels)
    options = {"batchify_fn": to_batch, "num_workers": WORKERS, "timeout": 10**6}  # a run may be stopped for a while
    batches = gluon.data.DataLoader(dataset, batch_size, shuffle=True, last_batch="discard", **options)
    workers = multiprocessing.active_children()

    def end():
        """End the run where a worker was killed: train would wait for its batch."""
        if any(worker.exitcode not in (None, 0, -signal.SIGTERM) for worker in workers):
            text = f"a worker of DataLoader was killed: free memory, and {np.ceil(needed):.0f} MiB in /dev/shm"
            print(f"error: {text}", file=sys.stderr, flush=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(1)  # at once: multiprocessing's own end may wait for a lock that the killed worker held

    os.register_at_fork(before=end)  # multiprocessing forks again only to replace a worker
    return batches


def to_batch(samples):
    """Return n pairs of an image (28, 28) and a label, all uint8, as (n, 28, 28, 1), uint8, and (n,), float32."""
    images, labels = zip(*samples)
    return mx.nd.array(np.stack(images)[..., np.newaxis], dtype=np.uint8), mx.nd.array(labels)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_mx_gluon_ds_mgpu.py"))  # a notebook's exec has no file


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


def find_devices(kind, count):  # two devices: or more
    """Return count MXNet contexts; kind is "cpu", "gpu", or "auto": GPUs if enough can be used, else CPU."""
    gpus, fault = 0, ""
    os.environ["MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION"] = "0"  # never half precision
    try:
        if kind != "cpu":
            gpus = mx.context.num_gpus()
        for i in range(count if gpus >= count else 0):  # two devices: all or none
            mx.nd.ones(1, mx.gpu(i)).wait_to_read()  # a GPU that is seen may still be of no use
    except mx.MXNetError as error:
        fault = f" and cannot use all: {str(error).strip().splitlines()[-1]}"
    if kind == "gpu" and (fault or gpus < count):  # two devices: all or none
        sys.exit(f"error: --device gpu needs {count} x gpu, MXNet sees {gpus}{fault}; use --device cpu")
    if fault:
        print(f"on the CPU, as MXNet sees {gpus} x gpu{fault}", file=sys.stderr)
    return [mx.cpu(i) if fault or gpus < count else mx.gpu(i) for i in range(count)]  # two devices: count


def parse_args():
    """Return the flags."""
    data_dir = os.environ.get("MNIST_DIR") or SCRIPT.with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    parser.add_argument("--data-dir", default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="%(default)s")
    parser.add_argument("--devices", type=int, default=2, metavar="N", help="%(default)s")  # two devices: or more
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
    n = args.devices  # two devices: or as many as --devices says
    most = len(train_images) // max(n, 1)  # two devices: a batch for each
    if n < 1 or args.epochs < 1 or not 1 <= args.batch_size <= most or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs and --devices 1 or more, --batch-size 1 to {most}, --seed 0 to {2**31 - 1}")
    # before the GPU is tried: its driver does not expect that a process which uses it forks
    batches = build_batches(train_images, train_labels, n * args.batch_size)  # two devices: the global batch
    devices = find_devices(args.device, n)
    where = f"{n} x {devices[0].device_type}, {THREADS} threads, batch {n} x {args.batch_size}"
    versions = f"mxnet {mx.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    mx.random.seed(args.seed)
    ctypes.CDLL(None).srand(args.seed)  # C's rand() gives cuDNN's dropout its seed: apache/mxnet issue 15662
    np.random.seed(args.seed)
    model = build_model(devices)
    seconds = train(model, batches, args.epochs, args.batch_size, devices)
    accuracy = evaluate(model, test_images, test_labels, args.batch_size, devices)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
