"""Result files: what is read, refused and written, and what may join one."""

import random
import re

import pytest
from conftest import ROOT
from known import KNOWN, make_results, make_run, metadata_of, write

from harness import reporting, results
from harness.errors import RunRefused, UserError
from harness.results import Refusal


def test_what_is_written_is_read_again(tmp_path):
    found = make_results(KNOWN, epoch_losses="0.4000 inf 0.1".replace("inf", "0.5"))
    results.save(tmp_path / "x.json", found)
    again = results.load(tmp_path / "x.json")
    assert again == found
    assert [run.metadata for run in again.runs] == [run.metadata for run in found.runs]


def test_refused_runs_are_kept_and_replaced(tmp_path):
    found = make_results({"mnist_mx_a.py": [1.0]}).with_refusal(
        Refusal("mnist_mx_b.py", 1, "the loss of epoch 1 is nan")
    )
    results.save(tmp_path / "x.json", found)
    again = results.load(tmp_path / "x.json")
    assert again.refused == found.refused
    assert again.with_refusal(Refusal("mnist_mx_b.py", 1, "again")).refused == (Refusal("mnist_mx_b.py", 1, "again"),)
    assert again.with_run(make_run("mnist_mx_b.py", 1.0)).refused == ()


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.name)
def test_the_delivered_files_are_read(path):
    assert results.load(path).runs


def test_an_earlier_file_says_less(tmp_path):
    """The one of 2026-11-24 has no rounds, no hash of the data, no memory; its load average holds the run before."""
    first = results.load(ROOT / "results/2026-11-24-amd-epyc-2-cores.json").runs[0]
    assert (first.round, first.data_sha256, first.usage.memory, first.machine.memory) == (0, None, 0, "24 GiB")
    assert first.data == "MNIST by name: an earlier file, without hash"


@pytest.mark.parametrize(("sha256", "name"), [("0" * 64, "not MNIST"), (results.MNIST_SHA256, "MNIST")])
def test_it_is_mnist_by_its_hash_only(sha256, name):
    assert make_run("mnist_mx_a.py", 1.0, data="MNIST", data_sha256=sha256).data == name


@pytest.mark.parametrize(
    ("more", "disturbed"),
    [
        ({}, False),
        ({"cpus_busy_before": 0.41}, True),  # of 4 CPUs
        ({"cpus_busy_before": 0.39}, False),
        ({"steal_seconds": 3.3}, True),  # 2 % of 4 CPUs in 40 s are 3.2 s
        ({"steal_seconds": 3.1}, False),
        ({"cpu_seconds_of_others": 3.3}, True),
        ({"cpus_busy_before": None, "load_avg_1min": 4.3}, False),
        ({"cpus_busy_before": None, "load_avg_1min": 4.5}, True),
        ({"duration": 1.0, "steal_seconds": 0.2}, False),
    ],
)
def test_disturbed(more, disturbed):
    assert make_run("mnist_mx_a.py", 1.0, **more).disturbed is disturbed


def test_damaged_files(tmp_path):
    """Every value replaced by what does not belong there, and cut and changed text: refused, or read; nothing else happens."""
    text = write(tmp_path / "x.json", {"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b_mgpu.py": [1.0]}).read_text()
    wrong = ("null", '"\\u001b"', "NaN", "1e999", "-1", "[]", '"x"', "9" * 400, "0", "1e-300", '"' + "9" * 5000 + '"')
    rng = random.Random(0)
    texts = []
    for match in re.finditer(r'(?<=:)("[^"]*"|[\d.]+)', text):
        texts += [text[: match.start()] + value + text[match.end() :] for value in wrong]
    for _ in range(300):
        i, j = sorted(rng.choices(range(len(text)), k=2))
        texts += [text[:i] + text[min(j, i + 9) :], text[:i] + rng.choice('0"{}[],:-e') + text[i + 1 :], text[:j]]
    refused = 0
    for damaged in texts:
        try:
            found = results.parse(damaged)
        except results.Damaged:
            refused += 1
            continue
        reporting.make_report(found)  # whatever is read can be shown
    assert refused > len(texts) / 2


@pytest.mark.parametrize(
    "text", ['{"version": "1.0"}', "", "[" * 100_000, '{"version":"1.0","benchmarks":[]}', "[1]", "\0"]
)
def test_files_that_are_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read .*x.json as a result file"):
        results.load(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["none.json", "folder.json"])
def test_files_that_are_not_there(tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        results.load(tmp_path / name)


@pytest.mark.parametrize(
    "more",
    [
        {"epoch_losses": "0.1 0.2 nan"},
        {"epoch_losses": "0.1 0.2 1000001"},
        {"accuracy": 1.01},
        {"accuracy": float("nan")},
        {"mxnet_version": "1.9\x1b[2J"},
        {"epoch_losses": "0.1 0.2"},
        {"threads": 10**400},
    ],
)
def test_a_run_that_would_make_the_file_unreadable_is_refused(more):
    with pytest.raises(RunRefused):
        results.check_run(metadata_of("mnist_mx_a.py", **more), 1.0)


@pytest.mark.parametrize(
    "more",
    [
        *(
            {key: "another"}
            for key in ("hostname", "cpu_model_name", "cpu_flags", "gpu", "gpu_driver", "platform", "os", "environment")
        ),
        *(
            {key: 7}
            for key in ("cpu_count", "cpus_used", "cores", "epochs", "batch_size", "train_images", "test_images")
        ),
        {"cpu_quota": 1.5},
        {"memory_gib": 30.0},
        {"mxnet_version": "1.9.2"},
        {"data": "not MNIST"},
        {"data_sha256": "1" * 64},
        {"sha256": "1" * 64},
        {"threads": 2},
        {"python_version": "3.10.1"},
        {"device": "gpu"},
    ],
    ids=str,
)
def test_what_may_not_join(tmp_path, more):
    found = make_results({"mnist_mx_a.py": [1.0]})
    results.check_join(found, metadata_of("mnist_mx_a.py", 2), tmp_path)
    with pytest.raises(UserError, match="cannot add to .* name another --output"):
        results.check_join(found, metadata_of("mnist_mx_a.py", 2, **more), tmp_path)


@pytest.mark.parametrize(
    "more",
    [{"sha256": "1" * 64}, {"threads": 2}, {"memory_gib": 23.0}, {"sgemm_gflops": 30.0}, {"devices": 4}],
    ids=str,
)
def test_what_another_script_may_have(tmp_path, more):
    """A file of its own, other threads, a little less memory, and speed that drifts between rounds."""
    results.check_join(make_results({"mnist_mx_a.py": [1.0]}), metadata_of("mnist_mx_b.py", **more), tmp_path)


def test_parallel_scripts_share_the_number_of_devices(tmp_path):
    found = make_results({"mnist_mx_a_mgpu.py": [1.0]})
    with pytest.raises(UserError, match="devices of mnist_mx_b_mgpu.py is 3 here, 2 there"):
        results.check_join(found, metadata_of("mnist_mx_b_mgpu.py", devices=3), tmp_path)


@pytest.mark.parametrize(
    ("speed", "joins"), [(100.0, True), (128.0, True), (131.0, False), (78.0, True), (76.0, False)]
)
def test_another_processor_of_the_same_name_is_told_by_its_speed(tmp_path, speed, joins):
    """Before the first run, which has no name yet; 30 % in both directions are the same."""
    new = {key: value for key, value in metadata_of("", sgemm_gflops=speed).items() if key not in ("name", "devices")}
    try:
        results.check_join(make_results({"mnist_mx_a.py": [1.0]}), new, tmp_path)
        assert joins
    except UserError as error:
        assert not joins
        assert "sgemm_gflops of this machine" in str(error)


def test_an_earlier_file_without_quota_takes_runs_without_one_only(tmp_path):
    found = make_results({"mnist_mx_a.py": [1.0]}, cpu_quota=None, cores=None)
    results.check_join(found, metadata_of("mnist_mx_b.py"), tmp_path)
    with pytest.raises(UserError, match="cpu_quota of mnist_mx_b.py is 0.5 here, none there"):
        results.check_join(found, metadata_of("mnist_mx_b.py", cpu_quota=0.5), tmp_path)


def test_a_file_without_rounds_is_not_completed(tmp_path):
    with pytest.raises(UserError, match="no rounds"):
        results.check_has_rounds(make_results({"mnist_mx_a.py": [1.0]}, round=None), tmp_path)


@pytest.mark.parametrize("key", ["epochs", "batch_size", "data_sha256", "train_images"])
def test_runs_of_different_work_are_no_file(tmp_path, key):
    """As after joining two files by hand: no table may mix them."""
    other = {"epochs": 2, "batch_size": 7, "data_sha256": "1" * 64, "train_images": 5}[key]
    more = {key: lambda script, _: other if "_b" in script else metadata_of(script)[key]}
    if key == "epochs":
        for name in ("epoch_losses", "epoch_seconds"):
            more[name] = lambda script, _: "1.0 1.0" if "_b" in script else "1.0 1.0 1.0"
    path = write(tmp_path / "x.json", {"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [1.0]}, **more)
    with pytest.raises(UserError, match=f"{key} is .* in a run of mnist_mx_b.py"):
        results.load(path)


def test_runs_of_a_script_that_has_changed_are_no_file(tmp_path):
    durations = {"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [1.0]}
    for script in durations:  # another script may have another hash
        path = write(tmp_path / "x.json", durations, sha256=lambda s, n, script=script: f"{s == script and n:064}")
        if script == "mnist_mx_a.py":
            with pytest.raises(UserError, match="sha256 is"):
                results.load(path)
        else:
            results.load(path)
