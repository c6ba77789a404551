# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["numpy==2.4.6", "pooch==1.9.0", "torch==2.15.0"]
# ///
"""MNIST in PyTorch on two devices under DistributedDataParallel, one process a device, started here or by torchrun.

uv run mnist_torch_mgpu.py                 # brings its own packages: 5 GB, those for NVIDIA GPUs among them
python mnist_torch_mgpu.py                 # in an environment made from requirements-torch.txt
python mnist_torch_mgpu.py --device gpu    # in the same environment
OMP_NUM_THREADS=8 torchrun --nproc-per-node 2 mnist_torch_mgpu.py    # torchrun's own default is one thread a process
"""

import argparse
import ctypes
import gc  # two devices: to end cleanly
import os
import signal
import socket  # two devices: for a free port, where the processes meet
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
# two devices: run() sets the threads, the share of each process in its host's CPUs
# glibc maps and unmaps memory for every large tensor, and its page faults double a step's time on a CPU: let it keep it
ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX: large tensors come from the heap
ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes: the heap keeps what is freed

import numpy as np
import pooch
import torch
import torch.distributed as dist  # two devices: process groups and collective operations
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
    rank, ranks = dist.get_rank(), dist.get_world_size()
    n = len(images) // ranks  # two devices: every process trains on the same number of images
    images, labels = images[rank::ranks][:n], labels[rank::ranks][:n]
    steps = len(images) // batch_size
    loss_function = nn.CrossEntropyLoss()
    # two devices: all start from the weights of rank 0, and backward() averages the gradients
    replica = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    learning_rate = LEARNING_RATE * ranks  # two devices: linear scaling
    adam = torch.optim.Adam(model.parameters(), learning_rate, (BETA_1, BETA_2), EPSILON, fused=True)
    model.train()
    dist.barrier()  # two devices: the clock starts when all processes are ready
    torch.get_device_module(device).synchronize()
    start = time.perf_counter()
    images = torch.as_tensor(images, device=device)
    labels = torch.as_tensor(labels, device=device).long()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sum = torch.zeros((), device=device)
        for batch in torch.randperm(len(images), device=device).split(batch_size)[:steps]:
            loss = loss_function(replica(images[batch]), labels[batch])  # two devices: DDP's forward
            adam.zero_grad()
            loss.backward()
            adam.step()
            loss_sum += loss.detach()  # stays on the device
        dist.all_reduce(loss_sum)  # two devices: the sum over the processes
        loss = loss_sum.item() / ranks / steps
        seconds = time.perf_counter() - epoch_start
        if rank == 0:  # two devices: one report
            print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)
    dist.barrier()  # two devices: the clock stops when all processes are done
    torch.get_device_module(device).synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def evaluate(model, images, labels, batch_size, device):
    """Return the fraction of images (n, 1, 28, 28) whose largest logit is that of their label (n,)."""
    model.eval()
    correct, total = 0, len(images)  # two devices: of all processes
    rank, ranks = dist.get_rank(), dist.get_world_size()
    images, labels = images[rank::ranks], labels[rank::ranks]  # two devices: the process's shard
    for i in range(0, len(images), batch_size):
        logits = model(torch.as_tensor(images[i : i + batch_size], device=device))
        correct += np.sum(logits.argmax(dim=1).cpu().numpy() == labels[i : i + batch_size])
    correct = torch.tensor(correct, device=device)
    dist.all_reduce(correct)  # two devices: the sum over the processes
    return correct.item() / total


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


def find_devices(kind, count):  # two devices: or more
    """Return count PyTorch devices of this host; kind is "cpu", "gpu", or "auto": GPUs if enough, else CPU."""
    gpus = torch.cuda.device_count()
    if kind == "gpu" and gpus < count:  # two devices: all or none
        sys.exit(f"error: --device gpu needs {count} x gpu, PyTorch sees {gpus}; use --device cpu")
    return [torch.device("cpu") if kind == "cpu" or gpus < count else torch.device("cuda", i) for i in range(count)]


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


def run(local_rank, args, train_images, train_labels, test_images, test_labels):
    """Build, train, evaluate, report, as the process of one device; local_rank counts those of this host."""
    if (parent := torch.multiprocessing.parent_process()) and not parent.is_alive():
        sys.exit("error: the process that started this one has ended")  # from here on its end would end this one
    os.environ.setdefault("RANK", str(local_rank))
    local_ranks = int(os.environ["LOCAL_WORLD_SIZE"])
    device = find_devices(args.device, local_ranks)[local_rank]
    cpus = sorted(os.sched_getaffinity(0))  # two devices: the processes of a host share its CPUs, each bound to its own
    os.sched_setaffinity(0, cpus[local_rank % len(cpus) :: local_ranks])
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    torch.get_device_module(device).set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, n = dist.get_rank(), dist.get_world_size()  # two devices: of all hosts
    kind = device.type.replace("cuda", "gpu")
    where = f"{n} x {kind}, {threads} threads, batch {n} x {args.batch_size}"  # two devices: threads of each process
    versions = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    if rank == 0:  # two devices: one report
        print(f"{Path(__file__).name}: {versions}, {where}, seed {args.seed}", flush=True)
    torch.manual_seed(args.seed + 1_000_000 * rank)  # two devices: every process shuffles and drops differently
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size, device)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size, device)
    if rank == 0:  # two devices: one report
        print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)
    gc.collect()  # two devices: what DDP still holds of the group has to go first, or some processes abort at their end
    dist.destroy_process_group()


def main():
    """Load, then start a process for every device and wait for them, or be one of those that torchrun has started."""
    args = parse_args()
    data = load_mnist(args.data_dir)
    n = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else args.devices
    most = len(data[0]) // max(n, 1)  # two devices: a batch for each
    if n < 1 or args.epochs < 1 or not 1 <= args.batch_size <= most or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs and --devices 1 or more, --batch-size 1 to {most}, --seed 0 to {2**31 - 1}")
    if dist.is_torchelastic_launched():
        return run(int(os.environ["LOCAL_RANK"]), args, *data)
    find_devices(args.device, n)  # two devices: too few GPUs end it here, once
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(n)
    try:
        torch.multiprocessing.spawn(run, (args, *data), n)
    except torch.multiprocessing.ProcessExitedException as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
