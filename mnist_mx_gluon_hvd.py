# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = ["horovod==0.28.1", "loky==3.7.0", "mxnet==1.9.1", "numpy==1.23.5", "pooch==1.9.0"]
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
import ctypes
import hashlib  # Horovod: for what the ranks compare
import os
import signal
import socket  # Horovod: to see whether the launcher answers
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup's jobs ignore it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too
import loky

if not os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR"):  # Horovod: without a launcher, drop what an earlier one left
    left = "CONTROLLER", "CPU_OPERATIONS", "CROSS_", "ELASTIC", "GLOO_IFACE", "HOSTNAME", "LOCAL_", "RANK", "SIZE"
    for x in [x for x in os.environ if x.startswith(tuple(f"HOROVOD_{name}" for name in left))]:
        del os.environ[x]
local_size = os.environ.get("HOROVOD_LOCAL_SIZE", "")
THREADS = os.environ.get("OMP_NUM_THREADS") or str(  # Horovod: the ranks of a host share its cores
    max(1, loky.cpu_count(only_physical_cores=True) // max(1, int(local_size) if local_size.isdecimal() else 1))
)
for x in [x for x in os.environ if x.startswith(("DMLC_", "DNNL_DEFAULT_", "GOMP_", "MXNET_OMP_", "OMP_"))]:
    del os.environ[x]  # what a shell, a launcher or a batch system left there is not for this run
os.environ["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"  # float32 is IEEE single on a GPU
os.environ["OMP_NUM_THREADS"] = THREADS if THREADS in map(str, range(1, 1025)) else "1"  # parse_args() refuses it

import horovod  # Horovod: for its version
import horovod.mxnet as hvd  # Horovod: ranks and collective operations
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


def build_model(device):
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
    model.initialize(mx.init.Xavier(), device)
    model.hybridize(static_alloc=True, static_shape=True)
    return model


def train(model, images, labels, epochs, batch_size, device):
    """Train on images (n, 1, 28, 28) in [0, 1] and labels (n,), batch_size images per device; return the seconds."""
    n = len(images) // hvd.size()  # Horovod: every rank trains on the same number of images
    images, labels = images[hvd.rank() :: hvd.size()][:n], labels[hvd.rank() :: hvd.size()][:n]
    batches = mx.io.NDArrayIter(images, labels, batch_size, shuffle=True, last_batch_handle="discard")
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    loss_function.hybridize(static_alloc=True, static_shape=True)
    adam = mx.optimizer.Adam(LEARNING_RATE * hvd.size(), BETA_1, BETA_2, EPSILON)  # Horovod: linear scaling
    hvd.broadcast_parameters(model.collect_params())  # Horovod: all ranks start from the weights of rank 0
    trainer = hvd.DistributedTrainer(model.collect_params(), adam, num_groups=1)  # Horovod: averages them at once
    wait_for_all("start")  # Horovod: the clock starts when all ranks are ready
    start = time.perf_counter()
    for epoch in range(epochs):
        epoch_start = time.perf_counter()
        loss_sum = mx.nd.zeros(1, device)
        batches.reset()  # reshuffles
        for batch in batches:
            data = batch.data[0].as_in_context(device)
            label = batch.label[0].as_in_context(device)
            with autograd.record():
                loss = loss_function(model(data), label)
            loss.backward()
            with mx.engine.bulk(32):  # the engine gets Adam's eight updates as one
                trainer.step(batch_size)
            loss_sum += loss.mean()  # stays on the device
        hvd.allreduce_(loss_sum, name="loss")  # Horovod: the mean over the ranks
        loss = loss_sum.asscalar() / (len(images) // batch_size)
        seconds = time.perf_counter() - epoch_start
        if hvd.rank() == 0:  # Horovod: one report
            print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)
    wait_for_all("end")  # Horovod: the clock stops when all ranks are done
    return time.perf_counter() - start


def evaluate(model, images, labels, batch_size, device):
    """Return the fraction of images (n, 1, 28, 28) whose largest logit is that of their label (n,)."""
    correct, total = 0, len(images)  # Horovod: of all ranks
    images, labels = images[hvd.rank() :: hvd.size()], labels[hvd.rank() :: hvd.size()]  # Horovod: the rank's shard
    for i in range(0, len(images), batch_size):
        logits = model(mx.nd.array(images[i : i + batch_size], device))
        correct += np.sum(logits.argmax(axis=1).asnumpy() == labels[i : i + batch_size])
    correct = mx.nd.array([correct])
    hvd.allreduce_(correct, op=hvd.Sum, name="correct")  # Horovod: the sum over the ranks
    return correct.asscalar() / total


def to_input(images):
    """Return uint8 images (n, 28, 28) as the model takes them: (n, 1, 28, 28), float32 in [0, 1]."""
    return np.divide(images[:, np.newaxis], 255, dtype=np.float32)


URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
SCRIPT = Path(globals().get("__file__", "mnist_mx_gluon_hvd.py"))  # a notebook's exec has no file


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


# Horovod: ranks meet, share their host's cores and compare what they have loaded
def meet_the_ranks(kind):
    """Start Horovod with the launcher that the environment names, or alone; kind is that of find_device."""
    if address := os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR"):
        try:
            socket.create_connection((address, os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT", "")), timeout=10).close()
        except (OSError, ValueError) as error:
            sys.exit(f"error: no horovodrun at HOROVOD_GLOO_RENDEZVOUS_ADDR, {address}: {error}; start it, or unset it")
    try:
        gpus = 0 if kind == "cpu" else mx.context.num_gpus()
    except mx.MXNetError:
        gpus = 0  # find_device() says why
    if not gpus:  # look for gradients every 5 ms, as Horovod's 1 ms costs CPU time; a GPU's step may take less
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "5")
    hvd.init()


def wait_for_all(name):
    """Wait until no rank's devices have work left; all ranks give the same name."""
    mx.nd.waitall()  # the barrier is on the CPU: it would not wait for a GPU
    hvd.allreduce_(mx.nd.zeros(1), name=name)
    mx.nd.waitall()


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


def find_device(kind):
    """Return the rank's MXNet context; kind is "cpu", "gpu", or "auto": GPUs if all ranks can use one, else CPU."""
    gpus, fault, count = 0, "", hvd.local_size()  # Horovod: a device for every rank of the host
    os.environ["MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION"] = "0"  # never half precision
    try:
        if kind != "cpu":
            gpus = mx.context.num_gpus()
        if gpus >= count:  # Horovod: a device for every rank of the host
            mx.nd.ones(1, mx.gpu(hvd.local_rank())).wait_to_read()  # a GPU that is seen may still be of no use
    except mx.MXNetError as error:
        fault = f" and cannot use all: {str(error).strip().splitlines()[-1]}"
    lack = f"needs {count} x gpu, MXNet sees {gpus}{fault}" if fault or gpus < count else ""
    lacks = [text for text in hvd.allgather_object(lack) if text]  # Horovod: all ranks of all hosts, or none
    if kind == "gpu" and lacks:
        sys.exit(f"error: --device gpu {lacks[0]}; use --device cpu")
    if fault:
        print(f"on the CPU, as MXNet sees {gpus} x gpu{fault}", file=sys.stderr)
    return mx.cpu() if lacks else mx.gpu(hvd.local_rank())  # Horovod: one device per rank


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
    meet_the_ranks(args.device)  # Horovod
    bind_to_cores(hvd.local_rank(), hvd.local_size())  # Horovod: threads that wander make all ranks wait for one
    train_images, train_labels, test_images, test_labels = data = load_mnist(args.data_dir)
    if train_images.max() <= 1 and hvd.rank() == 0:  # Horovod: one report
        print("warning: no byte of the images is above 1: 0 to 255 are expected, and divided by 255", file=sys.stderr)
    n = hvd.size()  # Horovod: the number of ranks
    mine = f"{describe(data)}, --epochs {args.epochs}, --batch-size {args.batch_size}"
    if set(hvd.allgather_object(mine)) != {mine}:  # Horovod: or ranks would wait for each other for ever
        sys.exit(f"error: the ranks have different data or flags, rank {hvd.rank()} has {mine}")
    most = len(train_images) // n  # Horovod: a batch for each
    if args.epochs < 1 or not 1 <= args.batch_size <= most or not 0 <= args.seed < 2**31:
        sys.exit(f"error: use --epochs 1 or more, --batch-size 1 to {most}, --seed 0 to {2**31 - 1}")
    device = find_device(args.device)
    where = f"{n} x {device.device_type}, {THREADS} threads, batch {n} x {args.batch_size}"  # Horovod: n ranks
    versions = f"horovod {horovod.__version__}, mxnet {mx.__version__}, python {sys.version.split()[0]}"
    name = SCRIPT.name.encode("ascii", "backslashreplace").decode()  # which every terminal can print
    if hvd.rank() == 0:  # Horovod: one report
        print(f"{name}: {versions}, {where}, seed {args.seed}", flush=True)
    seed = args.seed + 1_000_000 * hvd.rank()  # Horovod: every rank shuffles and drops differently
    mx.random.seed(seed)
    ctypes.CDLL(None).srand(seed)  # C's rand() gives cuDNN's dropout its seed: apache/mxnet issue 15662
    np.random.seed(seed)
    model = build_model(device)
    seconds = train(model, to_input(train_images), train_labels, args.epochs, args.batch_size, device)
    accuracy = evaluate(model, to_input(test_images), test_labels, args.batch_size, device)
    if hvd.rank() == 0:  # Horovod: one report
        print(f"duration: {seconds:.2f} s\naccuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # nobody reads the output any more, as after head, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what Python still holds goes at its end
        sys.exit(f"error: {error}")
