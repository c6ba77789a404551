"""What the machine is: cores and quota from files as Linux writes them, CPU times by number, GPUs as nvidia-smi prints them."""

import os
import time

import pytest

from harness import machine
from harness.machine import Clock, CpuTimes


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize(("text", "cpus"), [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0,4-5", {0, 4, 5}), ("1,3", {1, 3})])
def test_cpu_lists(text, cpus):
    assert machine.parse_cpu_list(text) == cpus


@pytest.mark.parametrize(("mask", "cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({0, 1}, 2), ({1, 3}, 1)])
def test_cores_of_a_mask(tmp_path, mask, cores):
    """Two cores with two hyperthreads each: 0, 2 and 1, 3."""
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert machine.count_cores(mask, tmp_path) == cores


def test_cores_without_a_word_of_the_kernel(tmp_path):
    assert machine.count_cores({4, 7}, tmp_path) == 2


def test_quota_of_version_2_is_the_least_of_all_groups(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner")
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000")
    assert machine.read_quota(tmp_path) is None
    write(tmp_path, "sys/fs/cgroup/outer/cpu.max", "150000 100000")
    assert machine.read_quota(tmp_path) == 1.5
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "300000 100000")
    assert machine.read_quota(tmp_path) == 1.5
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "25000 50000")
    assert machine.read_quota(tmp_path) == 0.5


def test_quota_of_a_container_with_a_view_of_its_own(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000")
    assert machine.read_quota(tmp_path) == 2.0


@pytest.mark.parametrize(("quota", "cpus"), [("-1", None), ("300000", 3.0)])
def test_quota_of_version_1(tmp_path, quota, cpus):
    write(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/box\n3:memory:/box")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", quota)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000")
    assert machine.read_quota(tmp_path) == cpus


def test_no_quota_without_control_groups(tmp_path):
    assert machine.read_quota(tmp_path) is None


def test_cpu_times_belong_to_numbers():
    """CPU 1 is offline and has no line: the second line is CPU 2's. Columns: user nice system idle iowait irq softirq steal."""
    text = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 10 20 999 999 3 4 50 7 8\ncpu2 200 0 0 999 999 0 0 0 0 0\nintr 1"
    assert machine.parse_cpu_times(text, 100) == {0: CpuTimes(1.37, 0.5), 2: CpuTimes(2.0, 0.0)}


def test_use_is_of_the_mask_and_told_apart():
    """On CPUs 0 and 2: 30 s busy, of which 20 s children and 1 s own leave 9 s to others, and 4 s stolen."""
    before = Clock({0: CpuTimes(10, 1), 1: CpuTimes(0, 0), 2: CpuTimes(20, 2)}, 100, 5)
    after = Clock({0: CpuTimes(20, 4), 1: CpuTimes(99, 99), 2: CpuTimes(40, 3)}, 120, 6)
    use = machine.use_between(before, after, {0, 2})
    assert (use.busy, use.steal, use.children, use.own, use.others) == (30, 4, 20, 1, 9)


def test_a_cpu_that_went_offline_is_left_out():
    before = Clock({0: CpuTimes(10, 1), 2: CpuTimes(20, 2)}, 0, 0)
    use = machine.use_between(before, Clock({0: CpuTimes(15, 1)}, 0, 0), {0, 2})
    assert use.busy == 5


def test_the_clock_of_this_machine_runs():
    before = machine.read_clock()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    use = machine.use_between(before, machine.read_clock(), os.sched_getaffinity(0))
    assert 0.25 < use.own < 0.5
    assert use.busy > 0.1


def test_gpus_are_counted_by_name():
    """As nvidia-smi prints them, here with a comma in a name."""
    assert machine.name_gpus(lambda *_: (0, "Tesla, V100, 535.54\nTesla, V100, 535.54\nA2, 535.54", "")) == (
        "2 x Tesla, V100, 1 x A2",
        "535.54",
    )
    assert machine.name_gpus(lambda *_: (127, "", "no such file")) == ("none", "none")
    assert machine.name_gpus(lambda *_: (9, "NVIDIA-SMI has failed, because", "")) == ("none", "none")


def test_memory_of_gpus_is_summed_in_bytes():
    assert machine.read_gpu_memory(lambda *_: (0, "100\n23", "")) == 123 * 2**20
    assert machine.read_gpu_memory(lambda *_: (0, "[N/A]", "")) == 0


def test_tuning_variables():
    variables = {
        "OMP_NUM_THREADS": "2",
        "HOME": "/",
        "MXNET_X": "a\nb",
        "LOKY_MAX_CPU_COUNT": "1",
        "NVIDIA_TF32_OVERRIDE": "1",
        "OMPI_COMM_WORLD_RANK": "0",
        "TORCHINDUCTOR_X": "1",
        "PYTORCH_X": "1",
        "HOROVOD_CYCLE_TIME": "1",
        "HOROVOD_RANK": "1",
    }
    found = machine.describe_tuning(variables)
    expected = "HOROVOD_CYCLE_TIME=1 LOKY_MAX_CPU_COUNT=1 MXNET_X=a?b NVIDIA_TF32_OVERRIDE=1 OMP_NUM_THREADS=2"
    assert found == f"{expected} PYTORCH_X=1 TORCHINDUCTOR_X=1"
    assert machine.describe_tuning({"LD_PRELOAD": "x.so "}) == "LD_PRELOAD=x.so"  # as pyperf's file has it
    assert machine.describe_tuning({}) == "nothing set"


def test_sgemm_is_in_gigaflops(monkeypatch):
    """A product of 512 x 512 has 2 x 512³ operations; a clock that says 10 ms makes 26.8 GFLOP/s of it."""
    monkeypatch.setattr(machine, "SGEMM_SECONDS", 0)
    ticks = iter([1.0, 1.01])
    monkeypatch.setattr(machine.time, "thread_time", lambda: next(ticks))
    assert machine.measure_sgemm() == 26.8


def test_a_sensor_that_does_not_answer_ends_nothing(monkeypatch):
    """pyperf reads temperatures, too; without what it finds there is psutil's and the kernel's word."""

    def broken(_):
        raise ValueError("could not convert string to float: ''")

    monkeypatch.setattr(machine.pyperf, "Run", broken)
    found = machine.describe_machine(lambda *_, **__: (127, "", ""))
    assert (found.hostname, found.cpu_count) == ("unknown", len(os.sched_getaffinity(0)))
