"""How the ranks of a host share its cores: the choice itself, with other machines' numbers, and what Linux says."""

import json
import os
import subprocess

import pytest
from conftest import ROOT, python_of

SCRIPTS = "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"
ALONE = {cpu: {cpu} for cpu in range(8)}  # a core each
APART = {cpu: {cpu % 4, cpu % 4 + 4} for cpu in range(8)}  # 4 cores, siblings 0 and 4, 1 and 5, 2 and 6, 3 and 7
BESIDE = {0: {0, 1}, 1: {0, 1}, 2: {2, 3}, 3: {2, 3}}
CASES = [  # siblings of each CPU, ranks, the CPUs of each rank
    ({0: {0}, 1: {1}}, 1, [{0, 1}]),
    ({0: {0}, 1: {1}}, 2, [{0}, {1}]),
    ({0: {0}, 1: {1}}, 3, [{0}, {1}, {0}]),
    ({0: {0}, 1: {1}}, 5, [{0}, {1}, {0}, {1}, {0}]),
    (APART, 1, [set(range(8))]),
    (APART, 2, [{0, 4, 1, 5}, {2, 6, 3, 7}]),
    (APART, 3, [{0, 4, 1, 5}, {2, 6}, {3, 7}]),
    (APART, 4, [{0, 4}, {1, 5}, {2, 6}, {3, 7}]),
    (BESIDE, 2, [{0, 1}, {2, 3}]),
    (BESIDE, 3, [{0, 1}, {2, 3}, {0, 1}]),
    ({0: {0, 4}, 1: {1, 5}, 2: {2, 6}, 3: {3, 7}}, 2, [{0, 1}, {2, 3}]),  # a mask with one sibling of each
    ({4: {0, 4}, 5: {1, 5}, 1: {1, 5}}, 2, [{1, 5}, {4}]),  # a mask with both of one core and one of another
    (ALONE, 5, [{0, 1}, {2, 3}, {4, 5}, {6}, {7}]),
    ({cpu: {cpu} for cpu in (3, 9, 11, 17)}, 2, [{3, 9}, {11, 17}]),  # other numbers than from 0 on
]
LISTS = {"0": {0}, "0-1": {0, 1}, "0,4": {0, 4}, "2-3,66-67": {2, 3, 66, 67}, "10,12-13": {10, 12, 13}}
PROGRAM = """
import importlib, json, pathlib, sys
script = importlib.import_module(sys.argv[1])
cases, lists = json.loads(sys.argv[2])
chosen = [
    [sorted(script.choose_cpus({int(cpu): set(core) for cpu, core in siblings.items()}, rank, ranks)) for rank in range(ranks)]
    for siblings, ranks in cases
]
found, files = [], {}
class Fake(pathlib.PosixPath):
    def exists(self):
        return str(self) in files
    def read_text(self):
        return files[str(self)]
script.Path = Fake
folder = "/sys/devices/system/cpu/cpu7/topology"
for text in lists:
    for name in ("core_cpus_list", "thread_siblings_list"):
        files = {f"{folder}/{name}": text + "\\n"}
        found.append(sorted(script.find_siblings(7)))
files = {f"{folder}/core_cpus_list": "7\\n", f"{folder}/thread_siblings_list": "6-7\\n"}
both = sorted(script.find_siblings(7))
files = {}
def forbid(*_):
    raise PermissionError(1, "Operation not permitted")
script.os.sched_setaffinity = forbid
script.bind_to_cores(0, 1)  # what is merely nice to have fails nothing
print(json.dumps([chosen, found, both, sorted(script.find_siblings(7))]))
"""


@pytest.fixture(scope="module", params=SCRIPTS)
def answers(request):
    """Return what a script's functions say: the CPUs of each rank of each case, the siblings in each list, and the rest."""
    cases = [({cpu: sorted(core) for cpu, core in siblings.items()}, ranks) for siblings, ranks, _ in CASES]
    command = [python_of(request.param), "-W", "ignore", "-c", PROGRAM]
    command += [request.param.removesuffix(".py"), json.dumps([cases, list(LISTS)])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_ranks_get_whole_cores(answers):
    """Contiguous blocks of cores, every core to somebody, none to two ranks unless there are more ranks than cores."""
    for (siblings, ranks, expected), chosen in zip(CASES, answers[0], strict=True):
        assert [set(cpus) for cpus in chosen] == expected, (siblings, ranks)


def test_siblings_are_read(answers):
    """In either of Linux's files and every form of its lists; the newer file counts; without both a CPU is a core."""
    _, found, both, none = answers
    assert [set(cpus) for cpus in found] == [core for core in LISTS.values() for _ in range(2)]
    assert (both, none) == ([7], [7])


def test_ranks_share_the_threads():
    """A quota, or the cores, are divided among Horovod's ranks; each has one thread at least."""
    cases = [
        (2, 2, 1),
        (4, 2, 2),
        (1, 2, 1),
        (8, 3, 2),
        (3, 5, 1),
        (8, 1, 8),
        (4, 0, 4),
        (4, "", 4),
        (4, "many", 4),
    ]  # what loky counts, ranks, threads of each
    program = f"""
import importlib, os, socket
import loky
socket.create_connection = lambda *_, **__: socket.socket()  # the launcher answers
os.environ |= {{"HOROVOD_GLOO_RENDEZVOUS_ADDR": "launcher", "HOROVOD_GLOO_RENDEZVOUS_PORT": "1"}}
script = None
for quota, ranks, _ in {cases}:
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ["HOROVOD_LOCAL_SIZE"] = str(ranks)
    loky.cpu_count = lambda only_physical_cores: quota
    script = importlib.reload(script) if script else importlib.import_module("mnist_mx_gluon_hvd")
    print(script.THREADS, os.environ["OMP_NUM_THREADS"])
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [python_of("mnist_mx_gluon_hvd.py"), "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{threads} {threads}" for _, _, threads in cases]
