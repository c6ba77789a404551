"""What the machine is, how fast it is, and what its CPUs have done so far."""

import collections
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyperf

from harness.results import NOTHING_SET, Machine
from harness.startup import USER_ENVIRONMENT

SGEMM_SECONDS = 2.0  # to look for the fastest product
SGEMM_SIZE = 512  # rows and columns
IDLE = 0.1  # of the CPUs may be busy on an idle machine
IDLE_SAMPLE = 0.5  # seconds that a look takes
IDLE_WAIT = 30.0  # seconds to wait at most
# Variables that change how fast or how exactly a framework computes
TUNING = re.compile(
    r"(OMP|OPENBLAS|MKL|KMP|GOMP|DNNL|ONEDNN|MXNET|TF_(ENABLE|XLA|NUM|GPU|CUDNN|FORCE|SET)|XLA|(PY)?TORCH[A-Z]*|CUDA|CUDNN|CUBLAS|NCCL|"
    r"HOROVOD_(CYCLE|FUSION|CACHE|HIERARCHICAL|AUTOTUNE|NUM|BATCH|THREAD)|MALLOC)_|"
    "(NVIDIA_TF32_OVERRIDE|LOKY_MAX_CPU_COUNT|HOROVOD_AUTOTUNE|GLIBC_TUNABLES|LD_PRELOAD)$"
)
LSCPU = {
    "cpu_family": "CPU family",
    "cpu_model": "Model",
    "cpu_stepping": "Stepping",
    "cpu_flags": "Flags",
    "cpu_l1d": "L1d cache",
    "cpu_l1i": "L1i cache",
    "cpu_l2": "L2 cache",
    "cpu_l3": "L3 cache",
}

Ask = Callable[..., tuple[int, str, str]]  # processes.ask, which this module does not import


def read_text(path: Path) -> str | None:
    """Return a small file's text, or None if there is none to be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def parse_cpu_list(text: str) -> set[int]:
    """Return the CPU numbers of a list as Linux writes it: 0-3,8."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def count_cores(cpus: Iterable[int], root: Path = Path("/")) -> int:
    """Return how many physical cores these logical CPUs belong to; without Linux's word on it, every CPU is a core."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        text = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list") or str(cpu)
        cores.add(min(parse_cpu_list(text)))
    return len(cores)


def read_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs that the container's limit pays for, the least of its group and all above; None: no limit.

    By cgroup v2's cpu.max and v1's cpu.cfs_quota_us (Linux, Documentation/admin-guide/cgroup-v2.rst).
    """
    found = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            found += [parse_quota(*text.split()) for text in texts_upwards(root / "sys/fs/cgroup", group, "cpu.max")]
        elif "cpu" in controllers.split(","):
            base = root / "sys/fs/cgroup" / ("cpu" if (root / "sys/fs/cgroup/cpu").exists() else controllers)
            quotas = texts_upwards(base, group, "cpu.cfs_quota_us")
            periods = texts_upwards(base, group, "cpu.cfs_period_us")
            found += [parse_quota(quota, period) for quota, period in zip(quotas, periods, strict=False)]
    limits = [quota for quota in found if quota is not None]
    return min(limits) if limits else None


def texts_upwards(base: Path, group: str, name: str) -> list[str]:
    """Return the texts of a file in a control group and all groups above it, as far as they are seen from here."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    folders = [base.joinpath(*parts[:i]) for i in range(len(parts), -1, -1)]
    return [text for folder in folders if (text := read_text(folder / name))]


def parse_quota(quota: str, period: str = "100000") -> float | None:
    """Return a quota of microseconds in a period as a number of CPUs; None: no limit."""
    if quota == "max" or int(quota) <= 0:
        return None
    return round(int(quota) / int(period), 3)


def name_gpus(ask: Ask) -> tuple[str, str]:
    """Return number and names of the GPUs, and the driver; "none" twice without any."""
    status, out, _ = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    gpus = [line.rsplit(", ", 1) for line in out.splitlines() if ", " in line and not status]  # a name may have commas
    if not gpus:
        return "none", "none"
    counts = collections.Counter(name for name, _ in gpus).items()
    return ", ".join(f"{count} x {name}" for name, count in counts), gpus[0][1]


def read_gpu_memory(ask: Ask) -> int:
    """Return the bytes in use on all GPUs; 0 if that cannot be asked."""
    status, out, _ = ask("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    words = out.split() if not status else []
    return sum(int(word) for word in words if word.isdigit()) * 2**20


def describe_tuning(environment: Mapping[str, str]) -> str:
    """Return the tuning variables that are set, in one line."""
    found = [f"{name}={value}" for name, value in sorted(environment.items()) if TUNING.match(name)]
    text = " ".join(found) or NOTHING_SET
    return "".join(c if c.isprintable() else "?" for c in text).strip()  # as it is read again


def ask_pyperf() -> dict[str, object]:
    """Return what pyperf finds out about the machine; the rest of it tells of this process and its Python, not of the script's."""
    try:
        return dict(pyperf.Run([1.0]).get_metadata())
    except (OSError, ValueError, IndexError):  # a sensor that does not answer as it should
        return {}


def describe_machine(ask: Ask) -> Machine:
    """Return what the result file says of hardware and system; nothing that another boot changes."""
    known = ask_pyperf()
    lscpu = dict(re.findall(r"(?m)^ *([^:\n]+): +(.*)$", ask("lscpu", env={**os.environ, "LC_ALL": "C"})[1]))
    cpus = os.sched_getaffinity(0)
    gpu, driver = name_gpus(ask)
    memory_gib = psutil.virtual_memory().total / 2**30
    return Machine(
        hostname=str(known.get("hostname", "unknown")),
        cpu_model_name=str(known.get("cpu_model_name", "CPU")),
        cpu_count=int(str(known.get("cpu_count", len(cpus)))),
        cpus_used=len(cpus),
        cores=count_cores(cpus),
        cpu_quota=read_quota(),
        memory_gib=memory_gib,
        memory=f"{memory_gib:.0f} GiB",
        gpu=gpu,
        gpu_driver=driver,
        platform=str(known.get("platform", platform.platform())),
        os=name_system(),
        environment=describe_tuning(USER_ENVIRONMENT),
        cpu_details={key: lscpu.get(name) or "unknown" for key, name in LSCPU.items()},
    )


def name_system() -> str:
    """Return the distribution's name; a container may be without its file."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME") or platform.system()
    except OSError:
        return platform.system()


def measure_sgemm() -> float:
    """Return the speed of NumPy's SGEMM on one core in GFLOP/s: by CPU time, the fastest, as others may be at work too."""
    import numpy as np

    matrix = np.ones((SGEMM_SIZE, SGEMM_SIZE), np.float32)
    best = float("inf")
    end = time.monotonic() + SGEMM_SECONDS
    while time.monotonic() < end or best == float("inf"):
        began = time.thread_time()
        matrix @ matrix
        best = min(best, max(time.thread_time() - began, 1e-6))
    return round(2 * SGEMM_SIZE**3 / best / 1e9, 1)


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds since boot."""

    busy: float
    steal: float  # given to others by the hypervisor


@dataclass(frozen=True)
class Clock:
    """What the CPUs, this process and its ended children have used so far."""

    cpus: Mapping[int, CpuTimes]  # by CPU number
    children: float  # CPU seconds of ended children
    own: float  # CPU seconds of this process


@dataclass(frozen=True)
class Use:
    """What was used between two clocks, in CPU seconds."""

    busy: float
    steal: float
    children: float
    own: float

    @property
    def others(self) -> float:
        """What neither this process nor its children used."""
        return max(self.busy - self.children - self.own, 0.0)


def parse_cpu_times(text: str, ticks: int) -> dict[int, CpuTimes]:
    """Return the CPUs' times by their numbers, of the text of /proc/stat: an offline CPU has no line, so places say nothing."""
    found = {}
    for number, line in re.findall(r"(?m)^cpu(\d+) +(.*)$", text):
        user, nice, system, _, _, irq, softirq, steal, *_ = (
            int(word) / ticks for word in f"{line} 0 0 0 0 0 0 0 0".split()
        )
        found[int(number)] = CpuTimes(user + nice + system + irq + softirq, steal)
    return found


def read_clock() -> Clock:
    """Return the clocks of all CPUs, of this process and of its ended children."""
    times = os.times()
    stat = read_text(Path("/proc/stat")) or ""
    cpus = parse_cpu_times(stat, os.sysconf("SC_CLK_TCK"))
    return Clock(cpus, times.children_user + times.children_system, times.user + times.system)


def use_between(before: Clock, after: Clock, mask: Iterable[int]) -> Use:
    """Return what was used on the CPUs of a mask, as far as they were online at both times."""
    cpus = [cpu for cpu in mask if cpu in before.cpus and cpu in after.cpus]
    return Use(
        busy=sum(after.cpus[cpu].busy - before.cpus[cpu].busy for cpu in cpus),
        steal=max(sum(after.cpus[cpu].steal - before.cpus[cpu].steal for cpu in cpus), 0.0),  # a migration resets it
        children=after.children - before.children,
        own=after.own - before.own,
    )


def wait_until_idle(say: Callable[[str], None], what: str) -> float:
    """Wait for an idle machine, but not for ever; return how many CPUs are busy."""
    cpus = os.sched_getaffinity(0)
    end = time.monotonic() + IDLE_WAIT
    told = False
    while True:
        before, began = read_clock(), time.monotonic()
        time.sleep(IDLE_SAMPLE)
        busy = use_between(before, read_clock(), cpus).busy / (time.monotonic() - began)
        if busy <= IDLE * len(cpus) or time.monotonic() > end:
            return round(max(busy, 0.0), 2)
        if not told:
            say(f"{busy:.1f} of {len(cpus)} CPUs busy: {what} waits for an idle machine, {IDLE_WAIT:g} s at most")
            told = True
