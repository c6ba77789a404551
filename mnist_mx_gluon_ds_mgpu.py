# /// script
# requires-python = ">=3.9,<3.12"
# dependencies = ["mxnet==1.9.1", "numpy==1.23.5", "pooch==1.9.0"]
# ///
"""MNIST in MXNet Gluon on two devices, fed by a Dataset, ToTensor and a DataLoader with worker processes.

uv run mnist_mx_gluon_ds_mgpu.py                 # brings its own packages, for the CPU
python mnist_mx_gluon_ds_mgpu.py                 # in an environment made from requirements.txt
python mnist_mx_gluon_ds_mgpu.py --device gpu    # in an environment made from requirements-gpu.txt
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # MXNet's own default takes half

import mxnet as mx
import numpy as np
import pooch
from mxnet import autograd, gluon
from mxnet.gluon import nn
from mxnet.gluon.data.vision.transforms import ToTensor

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
SEED = 42
URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
WORKERS = 2  # processes that assemble batches


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
    batch_size *= len(devices)  # two devices: weak scaling, each device takes batch_size images
    dataset = gluon.data.ArrayDataset(images, labels)
    options = {"batchify_fn": to_batch, "num_workers": WORKERS}
    batches = gluon.data.DataLoader(dataset, batch_size, shuffle=True, last_batch="discard", **options)
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    adam = mx.optimizer.Adam(LEARNING_RATE * len(devices), BETA_1, BETA_2, EPSILON)  # two devices: linear scaling
    trainer = gluon.Trainer(model.collect_params(), adam, kvstore="device")  # two devices: sums the gradients
    mx.nd.waitall()
    start = time.perf_counter()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sums = [mx.nd.zeros(1, device) for device in devices]  # two devices: each sums its own
        for data, label in batches:  # reshuffles
            data = gluon.utils.split_and_load(data, devices)  # two devices: a slice of the batch for each
            label = gluon.utils.split_and_load(label, devices)
            with autograd.record():
                losses = [loss_function(model(x), y) for x, y in zip(data, label)]  # two devices: a loss on each
            autograd.backward(losses)
            trainer.step(batch_size)
            for loss_sum, loss in zip(loss_sums, losses):  # two devices: each its own
                loss_sum += loss.mean()  # stays on the device
        loss = np.mean([x.asscalar() for x in loss_sums]) / (len(images) // batch_size)  # two devices: the mean
        seconds = time.perf_counter() - epoch_start
        print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)
    mx.nd.waitall()
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, devices):
    """Return the fraction of images (n, 28, 28) whose largest logit is that of their label (n,)."""
    correct = 0
    dataset = gluon.data.ArrayDataset(images, labels)
    for data, label in gluon.data.DataLoader(dataset, batch_size, batchify_fn=to_batch):
        logits = model(data.as_in_context(devices[0]))  # two devices: one does all, untimed
        correct += np.sum(logits.argmax(axis=1).asnumpy() == label.asnumpy())
    return correct / len(images)


def to_batch(samples):
    """Return the batch of n pairs of an image (28, 28) and a label, all uint8: (n, 1, 28, 28) in [0, 1] and (n,)."""
    images, labels = zip(*samples)
    return ToTensor()(mx.nd.array(np.stack(images)[..., np.newaxis], dtype=np.uint8)), mx.nd.array(labels)


def load_mnist(data_dir):
    """Return train images, train labels, test images, test labels: uint8, (n, 28, 28) and (n,); download if missing."""
    path = Path(data_dir, "mnist.npz").expanduser()
    try:
        if not path.exists():
            os.chmod(pooch.retrieve(URL, SHA256, path.name, path.parent), 0o644)  # pooch lets only its owner read it
    except (OSError, ValueError) as error:
        sys.exit(f"error: cannot download {URL}: {error}; use --data-dir, or draw digits with synthetic_mnist.py")
    try:
        with np.load(path) as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
        for x, y in (arrays[:2], arrays[2:]):
            if {x.dtype, y.dtype} != {np.dtype("uint8")} or x.shape != (y.size, 28, 28) or y.ndim != 1 or y.max() > 9:
                raise ValueError(f"{x.dtype} images {x.shape}, {y.dtype} labels {y.shape} up to {y.max()}")
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        sys.exit(f"error: cannot use {path}: {error!r}; mend or remove it, or name another folder with --data-dir")
    return arrays


def find_devices(kind, count):  # two devices: or more
    """Return count MXNet contexts; kind is "cpu", "gpu", or "auto": GPUs if enough, else CPU."""
    gpus = mx.context.num_gpus()
    if kind == "gpu" and gpus < count:  # two devices: all or none
        sys.exit(f"error: --device gpu needs {count} x gpu, MXNet sees {gpus}; use --device cpu")
    return [mx.cpu(i) if kind == "cpu" or gpus < count else mx.gpu(i) for i in range(count)]


def parse_args():
    """Return the flags."""
    data_dir = os.environ.get("MNIST_DIR") or Path(__file__).with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    parser.add_argument("--data-dir", default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="%(default)s")
    parser.add_argument("--devices", type=int, default=2, metavar="N", help="%(default)s")  # two devices: or more
    return parser.parse_args()


def main():
    """Load, build, train, evaluate, report."""
    args = parse_args()
    train_images, train_labels, test_images, test_labels = load_mnist(args.data_dir)
    n = args.devices  # two devices: or as many as --devices says
    most = len(train_images) // max(n, 1)  # two devices: a batch for each
    if n < 1 or args.epochs < 1 or not 1 <= args.batch_size <= most or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs and --devices 1 or more, --batch-size 1 to {most}, --seed 0 to {2**31 - 1}")
    devices = find_devices(args.device, n)
    where = f"{n} x {devices[0].device_type}, {os.environ['OMP_NUM_THREADS']} threads, batch {n} x {args.batch_size}"
    versions = f"mxnet {mx.__version__}, python {sys.version.split()[0]}"
    print(f"{Path(__file__).name}: {versions}, {where}, seed {args.seed}", flush=True)
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    model = build_model(devices)
    seconds = train(model, train_images, train_labels, args.epochs, args.batch_size, devices)
    accuracy = evaluate(model, test_images, test_labels, args.batch_size, devices)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
