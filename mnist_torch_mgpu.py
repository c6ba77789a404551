# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["loky==3.7.0", "numpy==2.4.6", "pooch==1.9.0", "torch==2.15.0"]
# ///
"""MNIST in PyTorch on two devices under DistributedDataParallel, one process a device, started here or by torchrun.

uv run mnist_torch_mgpu.py    # or python mnist_torch_mgpu.py, see requirements-torch.txt; 5 GB, for GPUs too
OMP_NUM_THREADS=8 torchrun --nproc-per-node 2 mnist_torch_mgpu.py    # torchrun's own default is one thread a process
"""

import argparse
import ctypes
import gc  # two devices: to end cleanly
import hashlib  # two devices: for what the processes compare
import logging  # two devices: to hear from the processes once
import os
import signal
import socket  # two devices: to see whether torchrun answers
import sys
import time
from pathlib import Path

# two devices: the same in the processes that this one starts
if __name__ in ("__main__", "__mp_main__") and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
import loky

THREADS = os.environ.get("OMP_NUM_THREADS") or None  # two devices: else run() takes its share of the host's cores
CORES = loky.cpu_count(only_physical_cores=True)  # within a quota, too
for x in [x for x in os.environ if x.startswith(("DNNL_DEFAULT_", "GOMP_", "MKL_", "OMP_", "ONEDNN_DEFAULT_"))]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU

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
    images, labels = torch.as_tensor(images, device=device), torch.as_tensor(labels, device=device).long()
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
    total, rank, ranks = len(images), dist.get_rank(), dist.get_world_size()  # two devices: of all processes
    images, labels = images[rank::ranks], labels[rank::ranks]  # two devices: the process's shard
    images, labels = torch.as_tensor(images, device=device), torch.as_tensor(labels, device=device)
    logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    correct = (logits.argmax(dim=1) == labels).sum()
    dist.all_reduce(correct)  # two devices: the sum over the processes
    return correct.item() / total


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 1, 28, 28), float32 in [0, 1]."""
    return np.divide(images[:, np.newaxis], 255, dtype=np.float32)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_torch_mgpu.py"))  # a notebook's exec has no file


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


# two devices: the processes of a host share its cores, and all compare what they have loaded
def bind_to_cores(rank, ranks):
    """Bind this process, one of the ranks of this host, to physical cores of its own, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cpus = choose_cpus({cpu: find_siblings(cpu) for cpu in os.sched_getaffinity(0)}, rank, ranks)
        for thread in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(thread), cpus)
            except OSError:
                pass  # it has ended, or the system forbids it


def choose_cpus(siblings, rank, ranks):
    """Return the CPUs of one rank; siblings: for each CPU of the host's ranks the CPUs of its core, itself among them.

    Cores go whole and in contiguous blocks, 2, 2, 2, 1 and 1 of 8 to 5 ranks; more ranks than cores take turns.
    """
    cores = sorted({tuple(sorted(siblings.keys() & core)) for core in siblings.values()})
    if ranks > len(cores):
        return set(cores[rank % len(cores)])
    least, more = divmod(len(cores), ranks)
    start = rank * least + min(rank, more)
    return {cpu for core in cores[start : start + least + (rank < more)] for cpu in core}


def find_siblings(cpu):
    """Return the CPUs of a CPU's core; Linux says it since 5.3 in the first file, before in the second, or in none."""
    for name in ("core_cpus_list", "thread_siblings_list"):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/{name}")
        if path.exists():  # as "0,4" or "0-1"
            ends = [part.split("-") for part in path.read_text().split(",")]
            return {i for first, *last in ends for i in range(int(first), int((last or [first])[0]) + 1)}
    return {cpu}


def describe(arrays):
    """Return shapes and a hash of arrays, to compare what the ranks have loaded."""
    content = hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()
    return f"images {arrays[0].shape} and {arrays[2].shape}, SHA-256 {content[:16]}"


def find_device(kind, local_rank, local_ranks, exchange):
    """Return the process's device; kind is "cpu", "gpu", or "auto": GPUs if all processes can use one, else CPU.

    exchange takes this process's text and returns those of all.
    """
    torch.backends.cudnn.benchmark = True  # takes the fastest kernels that it finds, as MXNet's does
    torch.backends.cudnn.conv.fp32_precision = "tf32" if os.environ["NVIDIA_TF32_OVERRIDE"] == "1" else "ieee"
    gpus, fault = 0, ""
    try:
        if kind != "cpu":
            gpus = torch.cuda.device_count()
        if gpus >= local_ranks:  # two devices: one for every process of the host
            torch.ones(1, device=f"cuda:{local_rank}").cpu()  # a GPU that is seen may still be of no use
    except RuntimeError as error:
        fault = f" and cannot use all: {str(error).strip().splitlines()[0]}"
    lack = f"needs {local_ranks} x gpu, PyTorch sees {gpus}{fault}" if fault or gpus < local_ranks else ""
    lacks = [text for text in exchange(lack) if text]  # two devices: all processes of all hosts, or none
    if kind == "gpu" and lacks:
        sys.exit(f"error: --device gpu {lacks[0]}; use --device cpu")
    if fault:
        print(f"on the CPU, as PyTorch sees {gpus} x gpu{fault}", file=sys.stderr)
    return torch.device("cpu") if lacks else torch.device("cuda", local_rank)  # two devices: one for each process


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
    if THREADS and THREADS not in map(str, range(1, 1025)):  # two devices: or each takes its share
        sys.exit(f"error: OMP_NUM_THREADS is {THREADS}: unset it, or set it to a whole number from 1 to 1024")
    return args


def check_args(args, train_images, n):
    """End the run if args do not fit n devices and the images."""
    most = len(train_images) // max(n, 1)  # two devices: a batch for each
    if n < 1 or args.epochs < 1 or not 1 <= args.batch_size <= most or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs and --devices 1 or more, --batch-size 1 to {most}, --seed 0 to {2**31 - 1}")


def run(args):
    """Load, build, train, evaluate, report, as the process of one device; torchrun's variables say which."""
    train_images, train_labels, test_images, test_labels = data = load_mnist(args.data_dir)
    try:  # two devices: where the processes meet
        rank, n, local_rank, local_ranks, port = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
        )
        socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=10).close()
    except (KeyError, OSError, OverflowError, ValueError) as error:
        sys.exit(f"error: no torchrun answers: {error!r}; use torchrun, or unset TORCHELASTIC_RUN_ID")
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False)

    def exchange(key, text):
        """Return the texts that all processes give under a key."""
        store.set(f"{key} of {rank}", text)
        return [store.get(f"{key} of {i}").decode() for i in range(n)]

    mine = f"{describe(data)}, --epochs {args.epochs}, --batch-size {args.batch_size}"
    if set(exchange("data", mine)) != {mine}:  # two devices: or processes would wait for each other for ever
        sys.exit(f"error: the ranks have different data or flags, rank {rank} has {mine}")
    check_args(args, train_images, n)
    if train_images.max() <= 1 and rank == 0:  # two devices: one report
        print("warning: no byte of the images is above 1: 0 to 255 are expected, and divided by 255", file=sys.stderr)
    device = find_device(args.device, local_rank, local_ranks, lambda lack: exchange("device", lack))
    bind_to_cores(local_rank, local_ranks)  # two devices: threads that wander make all processes wait for one
    threads = int(THREADS or max(1, CORES // local_ranks))  # two devices: each process its share
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.get_device_module(device).set_device(device)  # two devices: its own
    backend, own = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, store=store, rank=rank, world_size=n, device_id=own)
    kind = device.type.replace("cuda", "gpu")
    where = f"{n} x {kind}, {threads} threads, batch {n} x {args.batch_size}"  # two devices: threads of each process
    versions = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    if rank == 0:  # two devices: one report
        print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    torch.manual_seed(args.seed + 1_000_000 * rank)  # two devices: every process shuffles and drops differently
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size, device)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size, device)
    if rank == 0:  # two devices: one report
        print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)
    gc.collect()  # two devices: what DDP still holds of the group has to go first, or some processes abort at their end
    dist.destroy_process_group()


def start(local_rank, args):
    """Be one of the processes that main() starts: end with it, and leave to it what there is to say of an error."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: the signal that comes when the first process has ended
    if not torch.multiprocessing.parent_process().is_alive():
        sys.exit("error: the process that started this one has ended")
    os.environ |= {"RANK": str(local_rank), "LOCAL_RANK": str(local_rank)}
    try:
        run(args)
    except (OSError, SystemExit, RuntimeError) as error:
        if is_own_fault(error):
            raise
        raise RuntimeError(describe_error(error)) from None


def is_own_fault(error):
    """Tell whether an error is a fault of this script, not of memory, a GPU, a file or another process."""
    told = OSError, SystemExit, torch.AcceleratorError, torch.OutOfMemoryError, dist.DistError
    return not isinstance(error, told) and "gloo" not in str(error)  # Gloo's errors have no type of their own


def describe_error(error):
    """Return the line that the run ends with for an error."""
    return "error: " + str(error).removeprefix("error: ").splitlines()[0]


def main():
    """Start a process for every device and wait for them, or be one of those that torchrun has started."""
    args = parse_args()
    if dist.is_torchelastic_launched():
        try:
            return run(args)
        except RuntimeError as error:
            if is_own_fault(error):
                raise
            sys.exit(describe_error(error))
    n = args.devices  # two devices: or as many as --devices says
    check_args(args, load_mnist(args.data_dir)[0], n)
    if not Path(globals().get("__file__", "")).is_file():
        sys.exit("error: the processes that this one starts need the script as a file: save it, or use torchrun")
    for x in [x for x in os.environ if x.startswith(("GLOO_", "NCCL_COMM_ID", "NCCL_SOCKET_"))]:
        del os.environ[x]  # two devices: all processes are on this host
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    os.environ |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "OMP_NUM_THREADS": THREADS or ""}
    logging.getLogger("torch.multiprocessing.spawn").setLevel(
        logging.ERROR
    )  # not whom it ends beside the one that failed
    try:
        torch.multiprocessing.spawn(start, (args,), n)
    except torch.multiprocessing.ProcessExitedException as error:
        sys.exit(f"error: {error}")
    except torch.multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
        if not reason.startswith("error: "):
            raise  # a fault of the script's own
        sys.exit(reason)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
