"""The tests' own workers: a core for each test, all of them for one that is marked alone, and nothing beside that."""

import os
import subprocess
import sys

import pytest
from conftest import CORES, ROOT

ALL = set.union(*CORES)
# Every test writes down when it began and ended
TESTS = """
import time
import pytest

def note(name):
    began = time.monotonic()
    time.sleep(SECONDS)
    with open(f"{name}.txt", "w") as file:
        file.write(f"{began} {time.monotonic()}")

@pytest.mark.alone
@pytest.mark.parametrize("i", range(2))
def test_alone(i):
    note(f"alone{i}")

@pytest.mark.parametrize("i", range(4))
def test_beside_others(i):
    note(f"FILE{i}")
"""


def test_core_of_its_own(pytestconfig):
    """And what a test starts has the same."""
    program = "import os; print(*os.sched_getaffinity(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    mine = os.sched_getaffinity(0)
    assert {int(word) for word in done.stdout.split()} == mine
    workers = getattr(pytestconfig, "workerinput", {"workercount": 0})["workercount"]
    assert mine in CORES if workers > 1 else mine == ALL


@pytest.mark.alone
def test_all_cores():
    assert os.sched_getaffinity(0) == ALL


def overlap(first, second):
    return max(first[0], second[0]) < min(first[1], second[1])


def test_nothing_runs_beside_a_test_that_is_alone(tmp_path):
    """Others do run beside one another. One worker comes to the tests that are alone while the other has some left."""
    for name, seconds in (("a", 0.1), ("b", 0.6)):
        text = TESTS.replace("FILE", name).replace("alone{", f"alone_{name}{{").replace("SECONDS", str(seconds))
        (tmp_path / f"test_{name}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-n", "2", "--dist", "loadscope"]
    path = os.pathsep.join(map(str, (ROOT / "tests", ROOT)))
    done = subprocess.run(
        [*command, "--no-loadscope-reorder"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
    times = {file.stem: tuple(map(float, file.read_text().split())) for file in tmp_path.glob("*.txt")}
    alone = {name: time for name, time in times.items() if "alone" in name}
    others = {name: time for name, time in times.items() if name not in alone}
    assert (len(alone), len(others)) == (4, 8)
    assert any(overlap(others[f"a{i}"], others[f"b{j}"]) for i in range(4) for j in range(4))
    for name, time in alone.items():
        assert not any(overlap(time, other) for key, other in times.items() if key != name), times
