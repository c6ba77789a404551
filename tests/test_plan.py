"""What runs in which order, how long it is expected to take, and with which words a script is started."""

from pathlib import Path

import pytest
from known import make_results, make_run, metadata_of

from harness import plan, results, runner
from harness.results import Usage

SCRIPTS = [Path(f"/s/mnist_mx_{name}.py") for name in ("a", "a_mgpu", "b", "c")]


def test_a_round_has_each_script_once_in_an_order_of_its_own():
    orders = [plan.order_of(SCRIPTS, number) for number in range(1, 7)]
    assert all(sorted(order) == SCRIPTS for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    assert plan.order_of(SCRIPTS[::-1], 1) == orders[0]  # whatever the order on the command line


def test_rounds_hold_what_is_missing():
    found = make_results({"mnist_mx_a.py": [1.0, 1.0], "mnist_mx_b.py": [1.0], "mnist_mx_c.py": [None, 1.0]})
    rounds = plan.plan_rounds([path for path in SCRIPTS if "mgpu" not in path.name], 3, found)
    names = {one.number: sorted(path.stem[-1] for path in one.scripts) for one in rounds}
    assert names == {1: ["c"], 2: ["b"], 3: ["a", "b", "c"]}
    assert [one.seed for one in rounds] == [42, 43, 44]


def test_seconds_are_learnt_from_the_runs_there_are():
    """By the script's own, else its siblings', else all, else the machine's speed; of the whole process."""
    clockwork = plan.Clockwork(99.0)
    known = {"mnist_mx_a.py": 10.0, "mnist_mx_a_mgpu.py": 50.0, "mnist_mx_b.py": 45.0}
    runs = [make_run(name, 1.0, duration=seconds) for name, seconds in known.items()]
    assert clockwork.expect("mnist_mx_a.py", runs) == 10
    assert clockwork.expect("mnist_mx_a_hvd.py", runs) == 30
    assert clockwork.expect("mnist_mx_c.py", runs) == 35
    assert clockwork.expect("mnist_mx_c.py", []) == 99
    assert clockwork.expect_all(SCRIPTS, runs) == 10 + 50 + 45 + 35


def test_an_earlier_file_has_seconds_of_training_only():
    assert plan.process_seconds(make_run("mnist_mx_a.py", 7.0, duration=None)) == 7


@pytest.mark.parametrize(
    ("more", "seconds"), [({}, 10 + 4.32e12 / (0.5 * 4 * 1e11)), ({"cpu_quota": 1.0}, 10 + 4.32e12 / (0.5 * 1e11))]
)
def test_an_epoch_is_four_teraflop(more, seconds):
    """60,000 images of 72 MFLOP each, at half of SGEMM's 100 GFLOP/s on each of four cores, or on what a quota pays for."""
    machine = make_run("mnist_mx_a.py", 1.0, **more).machine
    assert plan.make_clockwork(1, 100.0, machine).estimate == pytest.approx(seconds)


@pytest.mark.parametrize(("elapsed", "expected", "fit"), [(50, 10, True), (50, 10.1, False), (61, 0.1, False)])
def test_what_fits_into_a_minute(elapsed, expected, fit):
    assert plan.fits(elapsed, expected, 1.0) is fit


def job(**more):
    settings = {
        "repeats": 1,
        "minutes": None,
        "epochs": 3,
        "batch_size": 200,
        "devices": 4,
        "device": "cpu",
        "timeout": 9.0,
        "pythons": {},
    }
    paths = {"data_dir": Path("/d"), "output": Path("/o.json"), "stand_in_program": Path("/p")}
    return runner.Job(scripts=(), **settings, **paths, **more)


COMMON = "--epochs 3 --batch-size 200 --data-dir /d --device cpu --seed 43"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist_mx_a.py", f"/e/bin/python /s/mnist_mx_a.py {COMMON}"),
        ("mnist_mx_a_mgpu.py", f"/e/bin/python /s/mnist_mx_a_mgpu.py {COMMON} --devices 4"),
        ("mnist_mx_a_hvd.py", f"/e/bin/horovodrun -np 4 -H localhost:4 /e/bin/python /s/mnist_mx_a_hvd.py {COMMON}"),
    ],
)
def test_how_a_script_is_started(name, words):
    assert runner.make_command(job(), Path("/s", name), "/e/bin/python", Path("/d"), 43) == words.split()


def test_use_is_read_as_it_was_written():
    usage = Usage(1.0, 2.0, 3.0, 4.0, 5, "PSS", 6)
    assert results.read_usage(results.Fields(runner.describe_usage(usage))) == usage


def test_a_machine_is_read_as_it_was_written():
    machine = make_run("mnist_mx_a.py", 1.0, cpu_quota=1.5, cores=2, cpus_used=3).machine
    assert results.read_machine(results.Fields(machine.to_metadata())) == machine
    unlimited = make_run("mnist_mx_a.py", 1.0).machine
    assert unlimited.to_metadata()["cpu_quota"] == metadata_of("mnist_mx_a.py")["cpu_quota"] == "none"
