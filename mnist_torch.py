# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["numpy==2.4.6", "pooch==1.9.0", "torch==2.15.0"]
# ///
"""MNIST in PyTorch on one device: nn.Sequential, torch.optim.Adam, all data on the device.

uv run mnist_torch.py                 # brings its own packages: 5 GB, those for NVIDIA GPUs among them
python mnist_torch.py                 # in an environment made from requirements-torch.txt
python mnist_torch.py --device gpu    # in the same environment
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # PyTorch's own default may take fewer
# glibc maps and unmaps memory for every large tensor, and its page faults double a step's time on a CPU: let it keep it
ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX: large tensors come from the heap
ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes: the heap keeps what is freed

import numpy as np
import pooch
import torch
from torch import nn

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
SEED = 42
URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"


def build_model(device):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to (n, 10) logits, with Glorot uniform weights and zero biases."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT_CONV),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Dropout(DROPOUT_DENSE),
        nn.Linear(128, 10),  # softmax is in the loss
    )
    for parameter in model.parameters():
        nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    return model.to(device)


def train(model, images, labels, epochs, batch_size, device):
    """Train on images (n, 1, 28, 28) in [0, 1] and labels (n,), batch_size images per device; return the seconds."""
    steps = len(images) // batch_size
    loss_function = nn.CrossEntropyLoss()
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, (BETA_1, BETA_2), EPSILON, fused=True)
    model.train()
    torch.get_device_module(device).synchronize()
    start = time.perf_counter()
    images = torch.as_tensor(images, device=device)
    labels = torch.as_tensor(labels, device=device).long()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sum = torch.zeros((), device=device)
        for batch in torch.randperm(len(images), device=device).split(batch_size)[:steps]:
            loss = loss_function(model(images[batch]), labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
            loss_sum += loss.detach()  # stays on the device
        loss = loss_sum.item() / steps
        seconds = time.perf_counter() - epoch_start
        print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)
    torch.get_device_module(device).synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def evaluate(model, images, labels, batch_size, device):
    """Return the fraction of images (n, 1, 28, 28) whose largest logit is that of their label (n,)."""
    model.eval()
    correct = 0
    for i in range(0, len(images), batch_size):
        logits = model(torch.as_tensor(images[i : i + batch_size], device=device))
        correct += np.sum(logits.argmax(dim=1).cpu().numpy() == labels[i : i + batch_size])
    return correct / len(images)


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 1, 28, 28), float32 in [0, 1]."""
    return np.divide(images[:, np.newaxis], 255, dtype=np.float32)


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


def find_device(kind):
    """Return a PyTorch device; kind is "cpu", "gpu", or "auto": a GPU if one is visible, else the CPU."""
    gpus = torch.cuda.device_count()
    if kind == "gpu" and not gpus:
        sys.exit("error: --device gpu needs 1 x gpu, PyTorch sees 0; use --device cpu")
    return torch.device("cpu" if kind == "cpu" or not gpus else "cuda")


def parse_args():
    """Return the flags."""
    data_dir = os.environ.get("MNIST_DIR") or Path(__file__).with_name("data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="%(default)s per device")
    parser.add_argument("--data-dir", default=data_dir, metavar="DIR", help="$MNIST_DIR, else data")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: GPUs if enough")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="%(default)s")
    return parser.parse_args()


def main():
    """Load, build, train, evaluate, report."""
    args = parse_args()
    train_images, train_labels, test_images, test_labels = load_mnist(args.data_dir)
    if args.epochs < 1 or not 1 <= args.batch_size <= len(train_images) or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs 1 or more, --batch-size 1 to {len(train_images)}, --seed 0 to {2**31 - 1}")
    device = find_device(args.device)
    kind = device.type.replace("cuda", "gpu")
    where = f"1 x {kind}, {os.environ['OMP_NUM_THREADS']} threads, batch 1 x {args.batch_size}"
    versions = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    print(f"{Path(__file__).name}: {versions}, {where}, seed {args.seed}", flush=True)
    torch.manual_seed(args.seed)
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size, device)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size, device)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
