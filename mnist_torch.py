# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["loky==3.7.0", "numpy==2.4.6", "pooch==1.9.0", "torch==2.15.0"]
# ///
"""MNIST in PyTorch on one device: nn.Sequential, torch.optim.Adam, all data on the device.

uv run mnist_torch.py    # or python mnist_torch.py, see requirements-torch.txt; 5 GB, for GPUs too
"""

import argparse
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
for x in [x for x in os.environ if x.startswith(("DNNL_DEFAULT_", "GOMP_", "MKL_", "OMP_", "ONEDNN_DEFAULT_"))]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU

import numpy as np
import pooch
import torch
from torch import nn

EPOCHS = 10
BATCH_SIZE = 500  # images per device and step
LEARNING_RATE = 0.001  # per device: linear scaling rule, Goyal et al. 2017, arXiv:1706.02677
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba 2014, arXiv:1412.6980
DROPOUT_CONV, DROPOUT_DENSE = 0.25, 0.5  # fractions dropped
CLASSES = 10
SEED = 42


def build_model(device):
    """Return the CNN, (n, 1, 28, 28) in [0, 1] to (n, CLASSES) logits, with Glorot uniform weights and zero biases."""
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
        nn.Linear(128, CLASSES),  # softmax is in the loss
    )
    for parameter in model.parameters():
        initialize = nn.init.xavier_uniform_ if parameter.dim() > 1 else nn.init.zeros_
        initialize(parameter)
    return model.to(device)


def train(model, images, labels, epochs, batch_size, device):
    """Train on images (n, 1, 28, 28) in [0, 1] and labels (n,), batch_size images per device; return the seconds."""
    steps = len(images) // batch_size
    loss_function = nn.CrossEntropyLoss()
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, (BETA_1, BETA_2), EPSILON, fused=True)
    model.train()
    torch.get_device_module(device).synchronize()
    start = time.perf_counter()
    images, labels = torch.as_tensor(images, device=device), torch.as_tensor(labels, device=device).long()
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
    images, labels = torch.as_tensor(images, device=device), torch.as_tensor(labels, device=device)
    logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    return (logits.argmax(dim=1) == labels).sum().item() / len(images)


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 1, 28, 28), float32 in [0, 1]."""
    return np.divide(images[:, np.newaxis], 255, dtype=np.float32)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_torch.py"))  # a notebook's exec has no file


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


def keep_freed_memory():
    """Let glibc keep what is freed: it unmaps large tensors, and page faults double a step's time on a CPU."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "mallopt"):  # mallopt(3)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large tensors come from the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes: the heap keeps what is freed


def find_device(kind):
    """Return a PyTorch device; kind is "cpu", "gpu", or "auto": a GPU if one can be used, else the CPU."""
    torch.backends.cudnn.benchmark = True  # takes the fastest kernels that it finds, as MXNet's does
    torch.backends.cudnn.conv.fp32_precision = "tf32" if os.environ["NVIDIA_TF32_OVERRIDE"] == "1" else "ieee"
    gpus, fault = 0, ""
    try:
        if kind != "cpu":
            gpus = torch.cuda.device_count()
        if gpus:
            torch.ones(1, device="cuda").cpu()  # a GPU that is seen may still be of no use
    except RuntimeError as error:
        fault = f" and cannot use any: {str(error).strip().splitlines()[0]}"
    if kind == "gpu" and (fault or not gpus):
        sys.exit(f"error: --device gpu needs 1 x gpu, PyTorch sees {gpus}{fault}; use --device cpu")
    if fault:
        print(f"on the CPU, as PyTorch sees {gpus} x gpu{fault}", file=sys.stderr)
    return torch.device("cpu" if fault or not gpus else "cuda")


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
    torch.set_num_threads(int(THREADS))
    keep_freed_memory()
    kind = device.type.replace("cuda", "gpu")
    where = f"1 x {kind}, {THREADS} threads, batch 1 x {args.batch_size}"
    versions = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    torch.manual_seed(args.seed)
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size, device)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size, device)
    print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
