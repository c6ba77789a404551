"""benchmark.py as a person runs it: its tables, its files, and what it does with scripts that misbehave."""

import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyperf
import pytest
from conftest import ROOT, SCRIPTS, python_of
from PIL import Image

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FAKE = '''# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""Prints what a script prints, without training."""
import os, signal, subprocess, sys, time

def load_mnist(folder):
    print("a framework's chatter", file=sys.stderr)
    sys.exit(f"error: cannot download {folder}: no network")

def main():
    name, flags = os.path.basename(__file__), dict(zip(sys.argv[1::2], sys.argv[2::2]))
    epochs, batch, n = int(flags["--epochs"]), flags["--batch-size"], flags.get("--devices", "1")
    header = f"{name}: mxnet {os.environ.get('FAKE_VERSION', '1.9.1')}, python 3.11.7, {n} x cpu, 2 threads"
    epoch = [f"epoch {i + 1:{len(str(epochs))}}/{epochs}  loss 0.1234  0.01 s" for i in range(epochs)]
    lines = [f"{header}, batch {n} x {batch}", *epoch, f"duration: {0.01 * epochs:.2f} s", "accuracy: 0.9876"]
    pass  # MISBEHAVE
    for line in lines:
        print(line, flush=True)
        time.sleep(0.02)

if __name__ == "__main__":
    main()
'''
PARENT = "daemon = subprocess.Popen(['sleep', '3210'], start_new_session=True); print(daemon.pid, file=sys.stderr);"
LIES = {  # what the script does: what it is told
    "pass; lines = []": "malformed",
    "lines[0] = lines[0].replace('mxnet', 'mxnet,')": "malformed first line",
    "lines[0] = lines[0].replace('_mx_', '_tf_')": "malformed first line",
    "lines[0] = lines[0].replace('1 x cpu', '2 x cpu')": "malformed first line",
    "lines[0] = lines[0].replace(', python 3.11.7', '')": "malformed first line",
    "lines[1] = lines[1].replace('0.1234', 'nan')": "malformed output",
    "lines[1] = lines[2]": "malformed output",
    "del lines[2]": "malformed output",
    "lines.append('accuracy: 0.9999')": "malformed output",
    "lines.insert(2, 'chatter')": "malformed output",
    "del lines[-1]": "malformed output",
    "lines[-1] = 'accuracy: 1.5000'": "impossible",
    "lines[-2] = 'duration: 999.00 s'": "impossible",
    "lines[-2] = 'duration: 0.00 s'": "impossible",
    "lines[1] = lines[1].replace('0.01 s', '9.00 s')": "impossible",
    "sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n')": "malformed first line",
    "sys.exit(3)": "exit status 3",
    "os.kill(os.getpid(), 9)": "exit status -9",
    "raise ValueError('the reason')": "exit status 1",
}


def fake(folder, name, misbehave="pass"):
    """Write a script that prints the contract's lines; misbehave is what it does instead, in Python."""
    path = folder / name
    path.write_text(FAKE.replace("pass  # MISBEHAVE", misbehave))
    return path


def start(*arguments, folder, program=ROOT / "benchmark.py", python=sys.executable, **environment):
    """Start benchmark.py in folder on fakes, which the tests' own interpreter can run."""
    command = [sys.executable, program, *map(str, arguments)]
    if "--report" not in arguments and python:
        command += ["--mx-python", python]
    inherited = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=inherited | environment, text=True, **pipes)


def finish(process, timeout=400):
    """Return the exit status, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert "Traceback (most recent call last)" not in out + err.replace("  Traceback", ""), out + err
    return process.returncode, out, err


def benchmark(*arguments, **options):
    return finish(start(*arguments, **options))


def table(text):
    """Return the cells of all Markdown tables by the name of their script."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if row[0].startswith("mnist_")}


def results(path):
    """Return the benchmarks in a result file by name."""
    return {bench.get_name(): bench for bench in pyperf.BenchmarkSuite.load(str(path))}


def write_results(path, durations, **more):
    """Write a result file with known durations {script: seconds of each run}."""
    benches = []
    for name, seconds in durations.items():
        metadata = {"name": name, "devices": 2 if "_mgpu" in name or "_hvd" in name else 1, "device": "cpu"}
        metadata |= {"epochs": 3, "batch_size": 500, "train_images": 60_300, "data": "MNIST", "accuracy": 0.9912}
        metadata |= {"epoch_seconds": "9.00 2.00 4.00", "mxnet_version": "1.9.1", "python_version": "3.11.7"}
        metadata |= {
            "cpu_model_name": "Known CPU",
            "cpus_used": 4,
            "memory": "24 GiB",
            "gpu": "none",
            "gpu_driver": "none",
        }
        metadata |= {
            "os": "Known OS",
            "platform": "Linux-6",
            "date": "2026-11-23 12:00:00",
            "threads": 4,
            "unit": "second",
        }
        metadata |= {f"sha256 {file}": "0" for file in ("train-images-idx3-ubyte.gz",)} | more
        metadata |= {
            f"sha256 {file}-ubyte.gz": "0" for file in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        }
        runs = [pyperf.Run([value], metadata=metadata, collect_metadata=False) for value in seconds]
        benches.append(pyperf.Benchmark(runs))
    pyperf.BenchmarkSuite(benches).dump(str(path), replace=True)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a folder of stand-in digits, 1,000 and 200."""
    folder = tmp_path_factory.mktemp("tiny") / "digits"
    command = [sys.executable, ROOT / "synthetic_mnist.py", folder, "--train", "1000", "--test", "200"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


KNOWN = {
    "mnist_mx_keras.py": [30.0, 30.5, 31.0],
    "mnist_mx_gluon.py": [10.0, 10.2, 10.4],
    "mnist_mx_sym.py": [10.1, 10.3, 10.5],
    "mnist_mx_gluon_hvd.py": [16.0],
    "mnist_mx_gluon_mgpu.py": [8.0, 8.1, 8.2],
}


def test_table_of_known_numbers(tmp_path):
    file = write_results(tmp_path / "known.json", KNOWN)
    status, out, err = benchmark("--report", file, folder=tmp_path)
    assert status == 0, err
    rows = table(out)
    assert list(rows) == [f"mnist_mx_{x}.py" for x in ("gluon", "sym", "keras", "gluon_mgpu", "gluon_hvd")]
    # 60,300 images are 120 steps of 500; after the first epoch, 2 + 4 seconds for two epochs
    assert rows["mnist_mx_gluon.py"] == ["1 x cpu", "3", "10.20", "10.00–10.40", "", "20,000", "0.9912"]
    assert rows["mnist_mx_sym.py"] == ["1 x cpu", "3", "10.30", "10.10–10.50", "above", "20,000", "0.9912"]
    assert rows["mnist_mx_keras.py"][4] == ""
    assert rows["mnist_mx_gluon_mgpu.py"][2:5] == ["8.10", "8.00–8.20", ""]
    assert rows["mnist_mx_gluon_mgpu.py"][-2:] == ["1.26", "63%"]  # 10.2 / 8.1
    assert rows["mnist_mx_gluon_hvd.py"] == ["2 x cpu", "1", "16.00", "", "", "20,000", "0.9912", "0.64", "32%"]
    assert out.index("### One device") < out.index("mnist_mx_keras") < out.index("### Several devices")
    for words in ("share the same 4 cores", "Known CPU", "Known OS", "mxnet 1.9.1", "not tested for ties"):
        assert words in out
    assert "not MNIST" not in out and "not the published" not in out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines[:5]}) == 1  # aligned
    assert re.fullmatch(r"\|-+(\|-+:)+\|", lines[1])
    assert max(map(len, lines)) <= 120
    with Image.open(tmp_path / "known.png") as picture:
        assert picture.width > 1000
        assert "Known CPU" in picture.text["Description"]


def test_runs_without_spread_and_uneven_numbers_of_runs(tmp_path):
    """Equal runs are no tie of different scripts; ties are tested on as many runs as both have."""
    known = {"mnist_mx_a.py": [1.0, 1.0], "mnist_mx_b.py": [1.01, 1.01], "mnist_mx_c.py": [1.1, 1.3, 9.0]}
    known |= {"mnist_mx_d.py": [1.2, 1.4], "mnist_mx_e.py": [1.3, 1.3], "mnist_mx_f.py": [1.3, 1.3]}
    status, out, err = benchmark("--report", write_results(tmp_path / "x.json", known), folder=tmp_path)
    assert status == 0, err
    assert {name[9]: row[4] for name, row in table(out).items()} == {
        "a": "",
        "b": "",
        "c": "above",
        "d": "above",
        "e": "above",
        "f": "above",
    }


def test_ties_with_parallel_scripts_on_one_device(tmp_path):
    """The row above is that of the same table."""
    known = {"mnist_mx_a.py": [1.0, 1.2], "mnist_mx_a_mgpu.py": [1.1, 1.3], "mnist_mx_b.py": [1.15, 1.35]}
    file = write_results(tmp_path / "x.json", known, devices=1)
    status, out, err = benchmark("--report", file, folder=tmp_path)
    assert status == 0, err
    assert {name: row[4] for name, row in table(out).items()} == {
        "mnist_mx_a.py": "",
        "mnist_mx_b.py": "above",
        "mnist_mx_a_mgpu.py": "",
    }


def test_report_of_several_files_and_of_no_file(tmp_path):
    one, two = (write_results(tmp_path / name, KNOWN) for name in ("one.json", "two.json"))
    status, out, err = benchmark("--report", one, two, folder=tmp_path)
    assert status == 0, err
    assert f"## {one}" in out and f"## {two}" in out
    assert (tmp_path / "two.png").is_file()
    (tmp_path / "three.json").write_text('{"version": "1.0"}')
    pyperf.Benchmark([pyperf.Run([1.0], metadata={"name": "x"})]).dump(str(tmp_path / "four.json"))
    for name in ("three.json", "four.json", "none.json"):
        status, out, err = benchmark("--report", name, folder=tmp_path)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: cannot read {name}") and err.count("\n") == 1


def test_compare(tmp_path):
    old = write_results(tmp_path / "old.json", KNOWN)
    new = {"mnist_mx_gluon.py": [10.1, 10.3, 10.5], "mnist_mx_sym.py": [9.1, 9.3, 9.5], "mnist_mx_gluon_hvd.py": [17.0]}
    new = write_results(
        tmp_path / "new.json", new | {"mnist_mx_keras.py": [33.0, 33.5, 34.0]}, cpu_model_name="New CPU"
    )
    arguments = "--report", new, "--compare", old
    status, out, err = benchmark(*arguments, folder=tmp_path)
    assert status == 0, err
    rows = table(out.partition("### Compared")[2])
    assert rows["mnist_mx_gluon.py"] == ["10.20", "10.30", "+1.0 %", "no difference"]
    assert rows["mnist_mx_sym.py"] == ["10.30", "9.30", "-9.7 %", "faster"]
    assert rows["mnist_mx_keras.py"] == ["30.50", "33.50", "+9.8 %", "slower"]
    assert rows["mnist_mx_gluon_hvd.py"] == ["16.00", "17.00", "+6.2 %", "slower, not tested: one run"]
    assert rows["mnist_mx_gluon_mgpu.py"] == ["8.10", "", "", ""]
    assert "New CPU here, Known CPU there" in out and "mxnet_version" not in out
    other = write_results(tmp_path / "other.json", KNOWN, mxnet_version="1.5.1")
    status, out, err = benchmark("--report", new, "--compare", other, folder=tmp_path)
    assert status == 0 and "mxnet_version is 1.9.1 here, 1.5.1 there" in out
    other = write_results(tmp_path / "other.json", KNOWN, threads=8)
    status, _, err = benchmark("--report", new, "--compare", other, folder=tmp_path)
    assert status == 1 and re.search(r"cannot compare .* threads of mnist_mx_\w+.py is 4 here, 8 there", err)
    for percent, names in ((20, ""), (8, "mnist_mx_keras.py"), (5, "mnist_mx_keras.py, mnist_mx_gluon_hvd.py")):
        status, _, err = benchmark(*arguments, "--fail-above", percent, folder=tmp_path)
        assert status == bool(names)
        assert not names or set(err.splitlines()[-1].partition("%: ")[2].split(", ")) == set(names.split(", "))
    other = write_results(tmp_path / "other.json", KNOWN, epochs=4)
    status, _, err = benchmark("--report", new, "--compare", other, folder=tmp_path)
    assert status == 1
    assert err.splitlines()[-1].startswith("error: cannot compare") and "epochs is 3 here, 4 there" in err


def test_runs_are_interleaved_and_kept_for_pyperf(tmp_path, tiny):
    scripts = [fake(tmp_path, f"mnist_mx_{name}.py") for name in ("b", "a", "b_mgpu")]
    arguments = "--epochs", 3, "--repeats", 2, "--data-dir", tiny, "--batch-size", 200, "--output", "x.json"
    status, out, err = benchmark(*scripts, *arguments, folder=tmp_path)
    assert status == 0, err
    assert re.findall(r"run \d/6 mnist_mx_(\w+).py", err) == ["b", "a", "b_mgpu"] * 2
    assert re.search(r"epoch 2/3  loss 0.1234  0.01 s  +about 0:\d\d:\d\d left", err)
    assert len(table(out)) == 3
    assert sorted(path.name for path in tmp_path.iterdir() if "mnist" not in path.name) == ["x.json", "x.png"]
    suite = results(tmp_path / "x.json")
    assert {name: bench.get_values() for name, bench in suite.items()} == {path.name: (0.03, 0.03) for path in scripts}
    metadata = suite["mnist_mx_b_mgpu.py"].get_runs()[1].get_metadata()
    expected = {"accuracy": 0.9876, "devices": 2, "device": "cpu", "threads": 2, "epoch_seconds": "0.01 0.01 0.01"}
    expected |= {"mxnet_version": "1.9.1", "python_version": "3.11.7", "epochs": 3, "batch_size": 200, "gpu": "none"}
    expected |= {"train_images": 1000, "data": "not the published MNIST: 1,000 training images"}
    assert {key: metadata[key] for key in expected} == expected
    for key in ("cpu_model_name", "memory", "os", "platform", "hostname", "sha256 train-images-idx3-ubyte.gz"):
        assert metadata[key]
    assert metadata.get("git_commit", "") == "" or re.fullmatch("[0-9a-f]{40}(-dirty)?", metadata["git_commit"])
    assert 0.06 < metadata["duration"] < 30  # pyperf's name for the seconds of the whole process
    assert datetime.datetime.now() - datetime.datetime.fromisoformat(metadata["date"]) < datetime.timedelta(hours=1)
    assert not {"python_executable", "python_cflags", "timer"} & metadata.keys()  # of the runner, not the scripts
    for command in (["stats"], ["metadata"], ["hist"], ["show"], ["dump"], ["compare_to", "x.json"]):
        pyperf_command = [sys.executable, "-m", "pyperf", *command, "x.json"]
        done = subprocess.run(pyperf_command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "mnist_mx_a.py" in done.stdout + " ".join(command), done.stderr


def test_gpus_are_named(tmp_path, tiny):
    """As nvidia-smi prints them; here a false one."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'Tesla V100, 535.54\\nTesla V100, 535.54\\n'\n")
    smi.chmod(0o755)
    arguments = fake(tmp_path, "mnist_mx_a.py"), "--epochs", 1, "--data-dir", tiny, "--output", "x.json"
    status, out, err = benchmark(*arguments, folder=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert status == 0, err
    assert "2 x Tesla V100, driver 535.54" in out


def test_same_output_adds(tmp_path, tiny):
    script, other = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    arguments = "--epochs", 1, "--data-dir", tiny, "--output", "x.json"
    for scripts, count in (([script], 1), ([script, other], 3), ([script], 4)):
        status, out, err = benchmark(*scripts, *arguments, folder=tmp_path)
        assert status == 0, err
        assert sum(bench.get_nrun() for bench in results(tmp_path / "x.json").values()) == count
    assert table(out)["mnist_mx_a.py"][1] == "3"  # the table is of the whole file


def test_other_settings_versions_or_hardware_are_refused(tmp_path, tiny, digits):
    script = fake(tmp_path, "mnist_mx_a.py")
    parallel = fake(tmp_path, "mnist_mx_a_mgpu.py")
    arguments = ["--epochs", 1, "--data-dir", tiny, "--output", "x.json"]
    status, _, err = benchmark(script, parallel, *arguments, folder=tmp_path)
    assert status == 0, err
    before = (tmp_path / "x.json").read_bytes()

    def refused(words, *scripts, file=before, **environment):
        (tmp_path / "x.json").write_bytes(file)
        status, _, err = benchmark(*(scripts or [script]), folder=tmp_path, **environment)
        assert status == 1, (words, err)
        assert "cannot add to x.json" in err and words in err, err
        assert (tmp_path / "x.json").read_bytes() == file

    refused("epochs", script, *arguments, "--epochs", 2)
    refused("batch_size", script, *arguments, "--batch-size", 100)
    refused("images", script, *arguments, "--data-dir", digits)
    refused("devices", fake(tmp_path, "mnist_mx_b_mgpu.py"), *arguments, "--devices", 3)
    refused("mxnet_version", script, *arguments, FAKE_VERSION="1.9.2")
    refused("mxnet_version", fake(tmp_path, "mnist_mx_c.py"), *arguments, FAKE_VERSION="1.9.2")
    for name, value in (("cpu_model_name", "Other CPU"), ("memory", "1 GiB"), ("gpu", "1 x Other GPU")):
        suite = pyperf.BenchmarkSuite.load(str(tmp_path / "x.json"))
        for bench in suite:
            bench.update_metadata({name: value})
        suite.dump(str(tmp_path / "x.json"), replace=True)
        refused(name, script, *arguments, file=(tmp_path / "x.json").read_bytes())
        (tmp_path / "x.json").write_bytes(before)
    refused("omp_num_threads", script, *arguments, OMP_NUM_THREADS="1")
    changed = fake(tmp_path, "mnist_mx_a.py", "lines = lines")
    refused("sha256 of mnist_mx_a.py", changed, *arguments)
    # what is known of a script only when it runs does not hinder the others
    good = fake(tmp_path, "mnist_mx_d.py")
    status, out, err = benchmark(changed, good, *arguments, folder=tmp_path)
    assert status == 1 and err.splitlines()[-1] == "error: failed: mnist_mx_a.py"
    assert "- mnist_mx_a.py failed: cannot add to x.json" in out and table(out)["mnist_mx_d.py"][1] == "1"


def test_failing_and_lying_scripts(tmp_path, tiny):
    """Each becomes a row that says failed, with its log shown and kept; the others go on."""
    names = [f"mnist_mx_lie{i}.py" for i in range(len(LIES))]
    scripts = [fake(tmp_path, name, lie) for name, lie in zip(names, LIES, strict=True)]
    good = fake(tmp_path, "mnist_mx_good.py")
    arguments = "--epochs", 2, "--repeats", 2, "--data-dir", tiny, "--output", "x.json"
    status, out, err = benchmark(*scripts, good, *arguments, folder=tmp_path)
    assert status == 1
    assert err.splitlines()[-1] == f"error: failed: {', '.join(names)}"
    rows = table(out)
    assert rows["mnist_mx_good.py"][1:3] == ["2", "0.02"]
    assert list(results(tmp_path / "x.json")) == ["mnist_mx_good.py"]
    for name, (lie, words) in zip(names, LIES.items(), strict=True):
        assert rows[name][0] == "failed", lie
        reason = re.search(rf"- {name} failed: (.*)", out)
        assert reason and words in reason[1], (lie, reason)
        assert f"{name[:-3]}-1 failed: " in err
        assert (tmp_path / f"x.logs/{name[:-3]}-1.log").is_file()
        assert err.count(f"/{2 * len(scripts) + 2} {name}\n") == 1  # not tried again
    assert "  ValueError: the reason" in err
    assert (tmp_path / f"x.logs/{names[-1][:-3]}-1.log").read_text().endswith("ValueError: the reason\n")
    assert len(list((tmp_path / "x.logs").iterdir())) == len(LIES)


def test_all_scripts_fail(tmp_path, tiny):
    status, out, err = benchmark(fake(tmp_path, "mnist_mx_a.py", "sys.exit(1)"), "--data-dir", tiny, folder=tmp_path)
    assert status == 1 and table(out)["mnist_mx_a.py"][0] == "failed"
    output = Path(re.search(r"its log, (.*):\n", err)[1])
    shutil.rmtree(output.parent)  # beside benchmark.py, where the default is
    assert output.parent.parent == ROOT / "results" and not output.parent.with_suffix(".json").exists()


def test_environment_that_cannot_be_made(tmp_path, tiny):
    """One without a compiler gets all rows but Horovod's; here it is a Python that nobody has."""
    bad, good = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    bad.write_text(bad.read_text().replace('">=3.9"', '">=9"'))
    arguments = "--epochs", 1, "--data-dir", tiny, "--output", "x.json"
    status, out, err = benchmark(bad, good, *arguments, folder=tmp_path, python=None)
    assert status == 1 and err.splitlines()[-1] == "error: failed: mnist_mx_a.py"
    assert table(out)["mnist_mx_a.py"][0] == "failed" and table(out)["mnist_mx_b.py"][2] == "0.01"
    assert "- mnist_mx_a.py failed: uv cannot make its environment" in out
    assert ">=9" in (tmp_path / "x.logs/mnist_mx_a-uv.log").read_text()
    status, out, _ = benchmark(bad, *arguments, folder=tmp_path, python=None)
    assert status == 1 and list(table(out)) == ["mnist_mx_b.py", "mnist_mx_a.py"]
    status, out, err = benchmark(good, *arguments, folder=tmp_path, python=None, PATH="")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: uv: No such file or directory")


def test_hanging_script(tmp_path, tiny):
    """After --timeout a script that will not go is killed, with what it started; the others go on."""
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), file=sys.stderr); time.sleep(3600)"
    scripts = [fake(tmp_path, "mnist_mx_a.py", PARENT + stubborn), fake(tmp_path, "mnist_mx_b.py")]
    arguments = "--epochs", 1, "--timeout", 2, "--data-dir", tiny, "--output", "x.json"
    status, out, _ = benchmark(*scripts, *arguments, folder=tmp_path)
    assert status == 1
    assert table(out)["mnist_mx_a.py"][0] == "failed" and table(out)["mnist_mx_b.py"][2] == "0.01"
    assert "not done after --timeout 2 s" in out
    pids = [int(line) for line in (tmp_path / "x.logs/mnist_mx_a-1.log").read_text().split()]
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


def test_script_that_leaves_a_process(tmp_path, tiny):
    """What a script leaves running would disturb the next one."""
    note = f"{PARENT} open({str(tmp_path / 'pid')!r}, 'w').write(str(daemon.pid)); daemon.returncode = 0"
    script = fake(tmp_path, "mnist_mx_a.py", note.replace("start_new", "stdout=2, start_new"))
    status, _, err = benchmark(script, "--epochs", 1, "--data-dir", tiny, "--output", "x.json", folder=tmp_path)
    assert status == 0, err
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_loses_nothing(tmp_path, tiny, number):
    pid = tmp_path / "pid"
    hang = f"{PARENT} open({str(pid)!r}, 'w').write(f'{{daemon.pid}} {{os.getpid()}}'); lines[2:2] = ['{'x' * 99}']; "
    hang += "print(*lines[:2], sep='\\n', flush=True); time.sleep(3600)"
    scripts = [fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py", hang), fake(tmp_path, "mnist_mx_c.py")]
    arguments = "--epochs", 2, "--data-dir", tiny, "--output", "x.json"
    process = start(*scripts, *arguments, folder=tmp_path)
    seen = []
    while len(seen) < 7 and "run 2/3" not in "".join(seen[:-1]):
        seen.append(process.stderr.readline())
    assert "epoch 1/2" in seen[-1], seen
    process.send_signal(number)
    began = time.monotonic()
    status, out, err = finish(process)
    assert status == 128 + number
    assert time.monotonic() - began < 8
    assert list(table(out)) == ["mnist_mx_a.py"]
    assert results(tmp_path / "x.json")["mnist_mx_a.py"].get_values() == (0.02,)
    assert "--output x.json" in err
    assert not any(psutil.pid_exists(int(word)) for word in pid.read_text().split())
    status, out, err = benchmark(scripts[0], scripts[2], *arguments, folder=tmp_path)
    assert status == 0, err
    assert {name: row[1] for name, row in table(out).items()} == {"mnist_mx_a.py": "2", "mnist_mx_c.py": "1"}


def test_interruption_leaves_no_horovod_rank(tmp_path, digits):
    arguments = "--epochs", 99, "--data-dir", digits, "--output", "x.json"
    python = python_of("mnist_mx_gluon_hvd.py")
    process = start("mnist_mx_gluon_hvd.py", *arguments, folder=tmp_path, python=python)
    while "epoch  1/99" not in (line := process.stderr.readline()):
        assert line, "it ended"
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) >= 3, ranks
    process.send_signal(signal.SIGINT)
    status, out, _ = finish(process)
    assert (status, out) == (130, "")
    assert not any(rank.is_running() for rank in ranks)


def test_offline_goes_on_with_stand_in_digits_and_says_so(tmp_path):
    """In every place: stderr, table, result file, plot and README."""
    for name in ("benchmark.py", "synthetic_mnist.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text(f"{BEGIN}{END}")
    mark = "stand-in digits, not MNIST"
    script = fake(tmp_path, "mnist_mx_a.py")
    options = {"folder": tmp_path, "program": tmp_path / "benchmark.py"}
    status, out, err = benchmark("--epochs", 1, "--readme", "--output", "results/x.json", **options)
    assert status == 0, err
    assert f"WARNING: cannot download {tmp_path / 'data'}: no network" in err and f"{mark}: the accuracies" in err
    assert f"**{mark}**" in out
    assert results(tmp_path / "results/x.json")[script.name].get_metadata()["data"] == mark
    with Image.open(tmp_path / "results/x.png") as picture:
        assert mark in picture.text["Title"]
    assert f"**{mark}**" in (tmp_path / "README.md").read_text()
    assert len(list((tmp_path / "data/stand-in").iterdir())) == 4
    status, out, err = benchmark("--epochs", 1, "--output", "results/x.json", **options)  # the digits are there
    assert status == 0, err
    assert table(out)["mnist_mx_a.py"][1] == "2"


def test_mnist_that_cannot_be_had_for_other_reasons(tmp_path):
    script = fake(tmp_path, "mnist_mx_a.py")
    script.write_text(script.read_text().replace("cannot download", "damaged file in"))
    status, out, err = benchmark(script, "--data-dir", "none", "--output", "x.json", folder=tmp_path)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: cannot get MNIST: damaged file in")
    assert not (tmp_path / "x.json").exists()


def test_real_mnist_is_called_mnist(tmp_path, mnist):
    script = fake(tmp_path, "mnist_mx_a.py")
    arguments = "--epochs", 1, "--data-dir", mnist, "--output", "x.json"
    status, out, err = benchmark(script, *arguments, folder=tmp_path)
    assert status == 0, err
    assert "**" not in out and "Settings: MNIST; epochs: 1" in out
    assert results(tmp_path / "x.json")[script.name].get_metadata()["data"] == "MNIST"


def test_readme_changes_between_its_markers_only(tmp_path):
    shutil.copy(ROOT / "benchmark.py", tmp_path)
    readme = tmp_path / "README.md"
    (tmp_path / "results").mkdir()
    file = write_results(tmp_path / "results/known.json", KNOWN)
    before, after = "# Title\n\n| a | table |\n\n", "\n\nwords é\n\n\n"
    readme.write_text(f"{before}{BEGIN}\nold\n{END}{after}")
    arguments = "--report", file, "--readme"
    options = {"folder": tmp_path, "program": tmp_path / "benchmark.py"}
    for _ in range(2):  # once more changes nothing
        status, out, err = benchmark(*arguments, **options)
        assert status == 0, err
        text = readme.read_text()
        assert text.startswith(before + BEGIN) and text.endswith(END + after)
        block = text[len(before + BEGIN) : -len(END + after)]
        assert out.strip() in block and "old" not in block
        assert "(results/known.json)" in block and "![" in block and "(results/known.png)" in block
        assert str(tmp_path) not in block
    for text in ("no markers", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"):
        readme.write_text(text)
        status, _, err = benchmark(*arguments, **options)
        assert status == 1 and err.splitlines()[-1].startswith("error: "), text
        assert readme.read_text() == text


def test_readme_holds_the_delivered_results(tmp_path):
    """The table in the README is what benchmark.py makes of the result files it names."""
    tracked = ["git", "-C", ROOT, "ls-files", "results/*.json"]
    files = subprocess.run(tracked, capture_output=True, text=True, check=False).stdout.split()
    if not files:
        pytest.skip("no results are in git yet")
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\((results/[^)]+\.json)\)", text.partition(BEGIN)[2].partition(END)[0])
    assert named, "the README has no block of results"
    for name in [*named, "benchmark.py", "README.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    arguments = "--report", *named, "--readme"
    status, _, err = benchmark(*arguments, folder=tmp_path, program=tmp_path / "benchmark.py")
    assert status == 0, err
    assert (tmp_path / "README.md").read_text() == text
    for name in named:
        assert (ROOT / name).with_suffix(".png").is_file()


def test_progress_on_a_terminal(tmp_path, tiny):
    """On a terminal a bar shows script, epoch and what is left; stdout has the tables only."""
    slow = fake(tmp_path, "mnist_mx_a.py", "lines[-2] = 'duration: 0.05 s'; time.sleep(0.3)")
    parent, child = os.openpty()
    command = [sys.executable, ROOT / "benchmark.py", slow, "--mx-python", sys.executable, "--data-dir", tiny]
    command += ["--epochs", "5", "--output", "x.json"]
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=child, env=os.environ | {"TERM": "xterm", "COLUMNS": "150"}
        )
    os.close(child)
    shown = b""
    try:
        while data := os.read(parent, 10_000):
            shown += data
    except OSError:  # the end of a terminal
        pass
    assert process.wait() == 0, shown
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"run 1/1 mnist_mx_a.py epoch \d/5 .* \d/5 epochs \d:\d\d:\d\d left", shown), shown
    assert (tmp_path / "out").read_text().startswith("**not the published MNIST")


def test_the_runner_itself_takes_little(tmp_path, tiny):
    """Less than 2 s on top of a script's own process, once the environments exist: here made by uv."""
    scripts = [fake(tmp_path, f"mnist_mx_{name}.py") for name in "abcd"]
    arguments = "--epochs", 1, "--data-dir", tiny, "--output"
    status, _, err = benchmark(*scripts, *arguments, "first.json", folder=tmp_path, python=None)
    assert status == 0, err
    seconds = []
    for some in (scripts[:1], scripts):
        began = time.monotonic()
        output = f"{len(some)}.json"
        assert benchmark(*some, *arguments, output, folder=tmp_path, python=None)[0] == 0
        own = sum(bench.get_metadata()["duration"] for bench in results(tmp_path / output).values())
        seconds.append(time.monotonic() - began - own)
    assert (seconds[1] - seconds[0]) / 3 < 1
    assert seconds[1] < 3 + 4 * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--repeats", "none"], "--repeats"),
        (["--timeout", "nan"], "--timeout"),
        (["--device", "tpu"], "--device"),
        (["mnist_none.py"], "no such script"),
        (["--output", "x.png"], ".json"),
        (["--report", "x.json", "--output", "y.json"], "--report"),
        (["--report", "x.json", "y.json", "--compare", "z.json"], "--compare"),
        (["--fail-above", "5"], "--fail-above"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, arguments, words):
    status, out, err = benchmark(*arguments, folder=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_mistakes_of_the_machine(tmp_path, tiny):
    script = fake(tmp_path, "mnist_mx_a.py")
    for python, arguments, words in (
        (tmp_path / "none", ["--data-dir", tiny, "--output", "x.json"], "cannot start"),
        (sys.executable, ["--data-dir", tiny, "--output", f"{script}/x.json"], "cannot write"),
        (sys.executable, ["--data-dir", tiny, "--output", "x.json", "--compare", "none.json"], "cannot read none.json"),
    ):
        status, out, err = benchmark(script, *arguments, folder=tmp_path, python=python)
        assert status == 1 and words in out + err, err
        assert err.splitlines()[-1].startswith("error: ")
    damaged = shutil.copytree(tiny, tmp_path / "damaged") / "train-labels-idx1-ubyte.gz"
    for content in (b"no gzip", damaged.read_bytes()[:10] + b"\xff" * 100):  # the second begins as gzip
        damaged.write_bytes(content)
        status, out, err = benchmark(script, "--data-dir", damaged.parent, "--output", "x.json", folder=tmp_path)
        assert (status, out) == (1, "") and "cannot read the data" in err
    # what cannot be done in the end is said before anything runs
    old = write_results(tmp_path / "old.json", KNOWN)
    for arguments in (["--readme"], ["--compare", old]):
        status, out, err = benchmark(script, "--data-dir", tiny, "--output", "x.json", *arguments, folder=tmp_path)
        assert (status, out) == (1, "") and not (tmp_path / "x.json").exists(), err


def test_all_scripts(tmp_path, tiny):
    """The whole of it: all eleven scripts in the environments uv makes, one epoch each."""
    arguments = "--epochs", 1, "--batch-size", 250, "--data-dir", tiny, "--output", "x.json"
    status, out, err = benchmark(*arguments, folder=tmp_path, python=None)
    assert status == 0, err
    rows = table(out)
    assert sorted(rows) == SCRIPTS
    for name, row in rows.items():
        several = "_mgpu" in name or "_hvd" in name
        assert re.fullmatch(rf"{2 if several else 1} x [cg]pu", row[0])
        assert float(row[2]) > 0 and 0.05 < float(row[6]) < 1
        assert len(row) == (9 if several else 7) and (not several or float(row[7]) > 0)
    assert sorted(results(tmp_path / "x.json")) == SCRIPTS
    assert not (tmp_path / "x.logs").exists()
