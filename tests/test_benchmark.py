"""benchmark.py as a person runs it: what it keeps, and what it does with scripts and machines that misbehave."""

import contextlib
import datetime
import os
import re
import resource
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

FAKE = '''# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""Prints what a script prints, without training."""
import os, resource, signal, subprocess, sys, time

def load_mnist(folder):
    print("a framework's chatter", file=sys.stderr)
    sys.exit(f"error: cannot download {folder}: no network")

def main():
    name, flags = os.path.basename(__file__), dict(zip(sys.argv[1::2], sys.argv[2::2]))
    epochs, batch, n, seed = int(flags["--epochs"]), flags["--batch-size"], flags.get("--devices", "1"), flags["--seed"]
    header = f"{name}: mxnet {os.environ.get('FAKE_VERSION', '1.9.1')}, python 3.11.7, {n} x cpu, 2 threads"
    epoch = [f"epoch {i + 1:{len(str(epochs))}}/{epochs}  loss 0.1234  0.01 s" for i in range(epochs)]
    lines = [f"{header}, batch {n} x {batch}, seed {seed}", *epoch, f"duration: {0.01 * epochs:.2f} s", "accuracy: 0.9876"]
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
    "lines[0] = lines[0].replace('mxnet', 'mxnet,')": "malformed",
    "lines[0] = lines[0].replace('_mx_', '_tf_')": "malformed",
    "lines[0] = lines[0].replace('1 x cpu', '2 x cpu')": "malformed",
    "lines[0] = lines[0].replace('seed 4', 'seed 14')": "malformed",
    "lines[0] = lines[0].replace(', python 3.11.7', '')": "malformed",
    "lines[1] = lines[1].replace('0.1234', 'nan')": "malformed",
    "lines[1] = lines[2]": "malformed",
    "lines.insert(2, 'chatter')": "malformed",
    "del lines[-1]": "malformed",
    "lines[-1] = 'accuracy: 1.5000'": "impossible",
    "lines[-2] = 'duration: 999.00 s'": "impossible",
    "lines[-2] = 'duration: 0.00 s'": "impossible",
    "lines[1] = lines[1].replace('0.01 s', '9.00 s')": "impossible",
    "sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n')": "malformed",
    "lines = ['x' * 99] * 1_000_000": "malformed",  # 100 MB
    "lines = ['x' * 100_000_000]": "malformed",
    "sys.exit(3)": "exit status 3",
    "os.kill(os.getpid(), 9)": "exit status -9",
    "raise ValueError('the reason')": "exit status 1",
}


def fake(folder, name, misbehave="pass"):
    """Write a script that prints the contract's lines; misbehave is what it does instead, in Python."""
    path = folder / name
    text = FAKE.replace("pass  # MISBEHAVE", misbehave)
    if "lines =" in misbehave:  # there may be a million, and even sleep(0) takes 0.1 ms
        text = text.replace("time.sleep(0.02)", "pass")
    path.write_text(text)
    return path


def copy(folder, **constants):
    """Copy the two programs into a folder, where they find no scripts, with other constants."""
    text = (ROOT / "benchmark.py").read_text()
    quick = {"0.1,_0.5,_30,_2__#": "0.1, 0.1, 0, 0.1  #"}
    for old, new in ((key.replace("_", " "), new) for key, new in (quick | constants).items()):
        assert old in text
        text = text.replace(old, new)
    (folder / "benchmark.py").write_text(text)
    for name in ("report.py", "synthetic_mnist.py"):
        shutil.copy(ROOT / name, folder)
    return folder / "benchmark.py"


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """Return benchmark.py without two seconds of SGEMM and without waiting for an idle machine."""
    return copy(tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a folder of stand-in digits, 1,000 and 200."""
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, ROOT / "synthetic_mnist.py", folder, "--train", "1000", "--test", "200"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def start(tmp_path, quick, tiny):
    """Return a function that starts benchmark.py in tmp_path on fakes, which the tests' own interpreter can run."""
    processes = []

    def begin(*arguments, program=quick, python=sys.executable, data=tiny, output="x.json", prefix=(), **environment):
        command = [*prefix, sys.executable, program, "--output", output, *map(str, arguments)]
        command += ["--python", f"mx={python}"] if python else []
        command += ["--data-dir", data] if data else []
        inherited = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=inherited | environment, text=True, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


def finish(process, timeout=400):
    """Return the exit status, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback (most recent call last)" not in out + err.replace("  Traceback", ""), out + err
    return process.returncode, out, err


@pytest.fixture
def run(start):
    return lambda *arguments, **options: finish(start(*arguments, **options))


def table(text):
    """Return the cells of all Markdown tables by the name of their script."""
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if row[0].startswith("mnist_")}


def results(path):
    """Return the metadata of the runs in a result file by the name of their script."""
    return {b.get_name(): [r.get_metadata() for r in b.get_runs()] for b in pyperf.BenchmarkSuite.load(str(path))}


def change(path, **metadata):
    """Write a result file anew with other metadata."""
    suite = pyperf.BenchmarkSuite.load(str(path))
    for bench in suite:
        bench.update_metadata(metadata)
    suite.dump(str(path), replace=True)


def test_rounds_seeds_and_order_are_kept_for_pyperf(tmp_path, run):
    scripts = [fake(tmp_path, f"mnist_mx_{name}.py") for name in ("b", "a", "b_mgpu", "c", "d")]
    status, out, err = run(*scripts, "--epochs", 3, "--repeats", 3, "--batch-size", 200, OMP_PLACES="cores")
    assert status == 0, err
    assert len(table(out)) == 5 and "On one device, CPU: " in out and "not MNIST" in out
    assert sorted(path.name for path in tmp_path.iterdir() if "mnist" not in path.name) == ["x.json", "x.png"]
    found = results(tmp_path / "x.json")
    for runs in found.values():
        assert [(run["round"], run["seed"]) for run in runs] == [(1, 42), (2, 43), (3, 44)]
    orders = [sorted(found, key=lambda name: found[name][i]["order"]) for i in range(3)]
    assert (
        re.findall(r"run \d+/15 (mnist_mx_\w+.py)", err) == [name for order in orders for name in order]
        and len(set(map(tuple, orders))) > 1
    )
    metadata = found["mnist_mx_b_mgpu.py"][1]
    expected = {"accuracy": 0.9876, "devices": 2, "device": "cpu", "threads": 2, "epoch_seconds": "0.01 0.01 0.01"}
    expected |= {"mxnet_version": "1.9.1", "python_version": "3.11.7", "epochs": 3, "batch_size": 200, "gpu": "none"}
    expected |= {"train_images": 1000, "test_images": 200, "data": "not MNIST", "environment": "OMP_PLACES=cores"}
    assert {key: metadata[key] for key in expected} == expected
    for key in ("cpu_family", "cpu_model", "cpu_stepping", "cpu_flags", "cpu_l2", "memory_gib", "os", "hostname"):
        assert metadata[key]
    assert metadata["sgemm_gflops"] > 1 and metadata["mem_max_rss"] > 1e6 and metadata["cpu_seconds"] > 0.01
    for key in ("load_avg_1min", "cpus_busy_before", "steal_seconds", "cpu_seconds_of_others"):
        assert metadata[key] >= 0
    assert 0.06 < metadata["duration"] < 30  # pyperf's name for the seconds of the whole process
    assert datetime.datetime.now() - datetime.datetime.fromisoformat(metadata["date"]) < datetime.timedelta(hours=1)
    for command in (["stats"], ["metadata"], ["hist"]):
        pyperf_command = [sys.executable, "-m", "pyperf", *command, "x.json"]
        done = subprocess.run(pyperf_command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "mnist_mx_a.py" in done.stdout, done.stderr


def test_started_again_it_completes_what_is_missing(tmp_path, run):
    a, b = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    for scripts, repeats, counts in (([a], 1, [1]), ([a, b], 2, [2, 2]), ([a, b], 2, [2, 2]), ([b], 3, [2, 3])):
        status, _, err = run(*scripts, "--epochs", 1, "--repeats", repeats)
        assert status == 0, err
        assert sorted(len(runs) for runs in results(tmp_path / "x.json").values()) == counts
    assert [run["seed"] for run in results(tmp_path / "x.json")["mnist_mx_b.py"]] == [42, 43, 44]


def test_memory_and_cpu_are_of_all_processes(tmp_path, run):
    grow = "subprocess.run([sys.executable, '-c', 'import time; x = bytearray(b\"x\" * 300_000_000); time.sleep(2)'])"
    status, _, err = run(
        fake(tmp_path, "mnist_mx_a.py", f"{grow}; end = time.time() + 1\n    while time.time() < end: pass")
    )
    assert status == 0, err
    metadata = results(tmp_path / "x.json")["mnist_mx_a.py"][0]
    assert 3e8 < metadata["mem_max_rss"] < 7e8 and 0.4 < metadata["cpu_seconds"] < 3


def test_busy_machine_is_waited_for_and_marked(tmp_path, run):
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    program = copy(tmp_path, **{"0.1,_0.1,_0,_0.1": "0.1, 0.5, 2, 0.1"})
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), program=program)
    for burner in burners:
        burner.kill()
    assert status == 0 and "mnist_mx_a.py waits for an idle machine, 2 s at most" in err
    assert results(tmp_path / "x.json")["mnist_mx_a.py"][0]["cpus_busy_before"] > 0.9
    assert " 1 of 3* |" in out and "something else used the CPUs" in out


def test_gpus_are_named_and_not_used_loudly(tmp_path, run):
    """As nvidia-smi prints them, with a comma in a name; here a false one."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'Tesla, V100, 535.54\\nTesla, V100, 535.54\\n'\n")
    smi.chmod(0o755)
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert status == 0, err
    assert "2 x Tesla, V100, driver 535.54" in out
    assert "WARNING: the machine has 2 x Tesla, V100, but these ran on its CPU: mnist_mx_a.**" in out
    assert "--device gpu --python mx=PATH" in out


def test_commands_that_hang(tmp_path, run):
    program = copy(tmp_path, **{"7200,_60,_3600,_10": "7200, 1, 1, 10"})
    hanging = tmp_path / "bin"
    hanging.mkdir()
    (hanging / "nvidia-smi").write_text("#!/bin/sh\nsleep 321\n")
    (hanging / "nvidia-smi").chmod(0o755)
    options = {"program": program, "PATH": f"{hanging}:{os.environ['PATH']}"}
    script = fake(tmp_path, "mnist_mx_a.py")
    status, _, err = run(script, **options)
    assert status == 0 and "nvidia-smi does not answer in 1 s" in err
    shutil.copy(hanging / "nvidia-smi", hanging / "uv")
    status, out, err = run(script, python=None, output="y.json", **options)
    assert (status, out) == (1, "") and err.splitlines()[-1].startswith("error: uv does not answer"), err


def test_other_settings_versions_or_hardware_are_refused(tmp_path, run, digits):
    script, parallel, file = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_a_mgpu.py"), tmp_path / "x.json"
    arguments = ["--epochs", 1, "--repeats", 2]
    assert run(script, parallel, *arguments[:2])[0] == 0
    before = file.read_bytes()

    def refused(words, *scripts, more=(), **options):
        text = file.read_bytes()
        status, _, err = run(*(scripts or [script]), *arguments, *more, **options)
        assert status == 1 and "cannot add to" in err and words in err, (words, err)
        assert file.read_bytes() == text
        file.write_bytes(before)

    refused("epochs", more=["--epochs", 2])
    refused("batch_size", more=["--batch-size", 100])
    refused("data_sha256", data=digits)
    refused("devices", fake(tmp_path, "mnist_mx_b_mgpu.py"), more=["--devices", 3])
    refused("mxnet_version", FAKE_VERSION="1.9.2")
    refused("environment", OPENBLAS_CORETYPE="Haswell")
    speed = results(file)["mnist_mx_a.py"][0]["sgemm_gflops"]
    others = {"cpu_model": "1", "cpu_flags": "fpu", "cpu_l3": "1 KiB", "memory_gib": 1.0, "gpu": "x"}
    for name, value in others.items():
        change(file, **{name: value})
        refused(name)
    for value in (speed * 1.7, speed / 1.7):  # another processor of the same name
        change(file, sgemm_gflops=value)
        refused("sgemm_gflops of this machine")
    refused("sha256 of mnist_mx_a.py", fake(tmp_path, "mnist_mx_a.py", "lines = lines"))
    # what concerns one script does not hinder the others
    status, out, err = run(script, fake(tmp_path, "mnist_mx_d.py"), *arguments)
    assert status == 1 and err.splitlines()[-1].startswith("error: failed: mnist_mx_a.py: cannot add to")
    assert table(out)["mnist_mx_d"][0] == "2 of 3"
    shutil.copy(ROOT / "results/2026-11-24-amd-epyc-2-cores.json", file)  # without rounds
    for text in (file.read_bytes(), b"", b"{}", b"no JSON"):
        file.write_bytes(text)
        status, out, err = run(script)
        assert (status, out, file.read_bytes()) == (1, "", text) and err.splitlines()[-1].startswith("error: "), err


def test_failing_and_lying_scripts(tmp_path, run):
    """Each is told with the end of its log, and not tried again; the others go on."""
    names = [f"mnist_mx_lie{i}.py" for i in range(len(LIES))]
    scripts = [fake(tmp_path, name, lie) for name, lie in zip(names, LIES, strict=True)]
    status, out, err = run(*scripts, fake(tmp_path, "mnist_mx_a good.py"), "--epochs", 2, "--repeats", 2)
    assert status == 1 and list(table(out)) == ["mnist_mx_a good"] and table(out)["mnist_mx_a good"][0] == "2 of 3"
    log = (tmp_path / "x.log").read_text()
    for name, (lie, words) in zip(names, LIES.items(), strict=True):
        reason = re.search(rf"(?m)^{name} failed: (.*)", err)
        assert reason and words in reason[1], (lie, reason)
        assert len(re.findall(rf"run \d+/\d+ {name}", err)) == 1
        assert f"{name}: {words}" in err.splitlines()[-1] and f"{name} failed" in log
    assert "  ValueError: the reason" in err and "ValueError: the reason\n" in log
    assert max(map(len, err.splitlines()[:-1])) < 1000


def test_environments_that_cannot_be_made(tmp_path, run):
    """One without a compiler gets all rows but Horovod's; here it is a Python that nobody has."""
    bad, good = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    bad.write_text(bad.read_text().replace('">=3.9"', '">=9"'))
    status, out, err = run(bad, good, python=None)
    assert status == 1 and "mnist_mx_a.py: uv cannot make its environment" in err.splitlines()[-1]
    assert list(table(out)) == ["mnist_mx_b"]
    status, out, err = run(good, python=None, output="z.json", PATH="")
    assert (status, out) == (1, "") and err.splitlines()[-1].startswith("error: uv: No such file or directory")
    (tmp_path / "uv").write_text("#!/bin/sh\necho 'error: Request failed\n  dns error' >&2; exit 2\n")
    (tmp_path / "uv").chmod(0o755)
    status, out, err = run(good, python=None, output="y.json", PATH=f"{tmp_path}:{os.environ['PATH']}")
    told = err.partition("error: ")[2].splitlines()  # no network
    assert (status, out, len(told)) == (1, "", 2) and "dns error" in told[0] and "--python mx=PATH" in told[1]


def test_hanging_script(tmp_path, run):
    """After --timeout a script that will not go is killed, with what it started; the others go on."""
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), file=sys.stderr); time.sleep(3600)"
    scripts = [fake(tmp_path, "mnist_mx_a.py", PARENT + stubborn), fake(tmp_path, "mnist_mx_b.py")]
    program = copy(tmp_path, **{"3600,_10": "3600, 2"})
    status, out, err = run(*scripts, "--timeout", 2, program=program)
    assert status == 1 and list(table(out)) == ["mnist_mx_b"] and "not done after --timeout 2 s" in err
    pids = [int(line) for line in (tmp_path / "x.log").read_text().split() if line.isdigit() and len(line) > 1]
    assert len(pids) == 2 and not any(map(psutil.pid_exists, pids))


def test_daemon_that_holds_stdout(tmp_path, run):
    """The run ends with the script, and what it left running does not disturb the next one."""
    script = fake(tmp_path, "mnist_mx_a.py", f"{PARENT} open('pid', 'w').write(str(daemon.pid)); daemon.returncode = 0")
    began = time.monotonic()
    status, _, err = run(script)
    assert status == 0, err
    assert time.monotonic() - began < 60 and not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGKILL"])
def test_interruption_loses_nothing(tmp_path, start, run, name):
    hang = f"{PARENT} open('pid', 'w').write(f'{{daemon.pid}} {{os.getpid()}}'); lines[2:2] = ['x'];"
    hang += "print(*lines[:2], sep='\\n', flush=True); os.path.exists('go') or time.sleep(3600); daemon.kill(); del lines[:3]"
    scripts = [fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py", hang)]
    process = start(*scripts, "--epochs", 2)
    while "run 2/2 mnist_mx_b.py" not in (line := process.stderr.readline()):
        assert line, "the order of round 1"
    while "epoch 1/2" not in process.stderr.readline():
        pass
    process.send_signal(number := getattr(signal, name))
    began = time.monotonic()
    status, out, err = finish(process, 30)
    pids = [int(word) for word in (tmp_path / "pid").read_text().split()]
    assert results(tmp_path / "x.json").keys() == {"mnist_mx_a.py"}
    if name != "SIGKILL":
        assert status == 128 + number and time.monotonic() - began < 15
        assert list(table(out)) == ["mnist_mx_a"] and "x.json completes what is missing" in err
        assert not any(map(psutil.pid_exists, pids))
        return
    # the kernel ends the script, the next start what the script started
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pids[1]).wait(5)
    assert [psutil.pid_exists(pid) for pid in pids] == [True, False]
    status, _, err = run(scripts[0], "--epochs", 2)
    assert status == 0 and f"ending process {pids[0]}, sleep" in err
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pids[0]).wait(5)  # its new parent, which is not the runner, takes a moment to notice


def test_interruption_leaves_no_horovod_rank(tmp_path, start, digits):
    python = python_of("mnist_mx_gluon_hvd.py")
    process = start(ROOT / "mnist_mx_gluon_hvd.py", "--epochs", 99, data=digits, python=python)
    while "epoch  1/99" not in (line := process.stderr.readline()):
        assert line, "it ended"
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) >= 3, ranks
    process.send_signal(signal.SIGINT)
    assert finish(process)[:2] == (130, "")
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize("program", ["benchmark.py", "report.py"])
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6])
def test_interruption_while_importing(program, seconds):
    process = subprocess.Popen([sys.executable, ROOT / program, "--help"], stdout=-1, stderr=-1, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] in (0, -signal.SIGINT)


def test_two_runners_with_one_output(tmp_path, start, run):
    (tmp_path / "link.json").symlink_to("x.json")
    first = start(fake(tmp_path, "mnist_mx_a.py", "while not os.path.exists('go'): time.sleep(0.1)"))
    while "run 1/1" not in first.stderr.readline():
        pass
    status, out, err = run(fake(tmp_path, "mnist_mx_b.py"), output="link.json")
    assert (status, out) == (1, "") and f"x.json is in use by process {first.pid} on " in err and err.count("\n") == 1
    (tmp_path / "go").touch()
    assert finish(first)[0] == 0 and results(tmp_path / "x.json").keys() == {"mnist_mx_a.py"}
    assert run(fake(tmp_path, "mnist_mx_b.py"), output="link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink() and len(results(tmp_path / "x.json")) == 2


def test_full_disk(tmp_path, run):
    """As a limit of the file size acts: what cannot be saved is shown and saved later."""
    small = [
        sys.executable,
        "-c",
        "import os, resource, sys; resource.setrlimit(1, (9999, -1)); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), prefix=small)
    assert (status, out) == (1, "") and err.startswith("error: cannot write ") and err.count("\n") == 1
    assert resource.RLIMIT_FSIZE == 1
    limit = "resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, ({}, -1))"
    a, b = (fake(tmp_path, f"mnist_mx_{name}.py", limit.format(10)) for name in "ab")
    status, out, err = run(a, b)
    assert status == 1 and sorted(table(out)) == ["mnist_mx_a", "mnist_mx_b"] and not (tmp_path / "x.json").exists()
    assert err.count("WARNING: cannot write") == 3 and "mnist_mx_a.py: 0.10 s, accuracy 0.9876" in err
    b = fake(tmp_path, "mnist_mx_b.py", f"{limit.format(-1)}")
    status, out, err = run(a, b, "--repeats", 2, output="y.json")
    assert results(tmp_path / "y.json").keys() == {"mnist_mx_a.py", "mnist_mx_b.py"}


def test_streams_that_are_closed_or_narrow(tmp_path, start, run):
    """Nobody reads, no temporary folder, a dumb narrow terminal, no UTF-8: the run is kept."""
    script, shell = fake(tmp_path, "mnist_mx_a.py"), lambda text: ["sh", "-c", f'exec "$@" {text}', "sh"]
    redirections = "2>&-", ">&- 2>&-", "<&-", "2>/dev/full >/dev/full"
    processes = [start(script, output=f"{i}.json", prefix=shell(x)) for i, x in enumerate(redirections)]
    for i, process in enumerate(processes):
        assert finish(process)[0] == 0 and results(tmp_path / f"{i}.json"), redirections[i]
    status, out, err = run(script, PYTHONIOENCODING="ascii", TERM="dumb", COLUMNS="7", TMPDIR="/proc/none")
    assert status == 0 and out.isascii() and "+-" in out, err
    head = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    head.wait()
    assert run(script, output="head.json", prefix=shell("2>&1 | head -1"))[0] == 0 and results(tmp_path / "head.json")


def test_offline_goes_on_with_stand_in_digits_and_says_so(tmp_path, run):
    program, mark = copy(tmp_path), "stand-in digits, not MNIST"
    fake(tmp_path, "mnist_mx_a.py")
    fake(tmp_path, "mnist_torch.py")  # 5 GB: only if named, or with --all
    for _ in range(2):  # the second time the digits are there
        status, out, err = run(program=program, data=None)
        assert status == 0, err
        assert f"WARNING: cannot download {tmp_path / 'data'}: no network\nWARNING: going on with {mark}" in err
        assert f"**{mark}: the accuracies say nothing" in out and list(table(out)) == ["mnist_mx_a"]
        assert "runs, epochs 10: some " in err and "MNIST 12 MB" in err
    assert results(tmp_path / "x.json")["mnist_mx_a.py"][0]["data"] == mark
    script = fake(tmp_path, "mnist_mx_b.py")
    script.write_text(script.read_text().replace("cannot download", "damaged file in"))
    status, out, err = run(script, data="none", output="y.json")
    assert (status, out) == (1, "") and err.splitlines()[-1].startswith("error: cannot get MNIST: damaged file in")
    status, out, err = run("--all", "--timeout", 1, program=program, output="y.json", PATH="")
    assert "PyTorch 5.2 GB" in err and "TensorFlow" not in err and status == 1


def test_real_mnist_is_called_mnist(tmp_path, run):
    folder = Path(os.environ.get("MNIST_DIR", "none"))
    if not (folder / "mnist.npz").is_file():
        pytest.skip("needs real MNIST: set MNIST_DIR to the folder of mnist.npz")
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), data=folder)
    assert status == 0 and "**" not in out and "Settings: MNIST; epochs: 10" in out, err


def test_the_runner_itself_takes_little(tmp_path, run):
    """Less than 1.6 s on top of a script's own process, idle waiting and SGEMM apart: here with environments by uv."""
    scripts = [fake(tmp_path, f"mnist_mx_{name}.py") for name in "abcd"]
    assert run(*scripts, output="first.json", python=None)[0] == 0
    seconds = []
    for some in (scripts[:1], scripts):
        began, output = time.monotonic(), f"{len(some)}.json"
        assert run(*some, output=output, python=None)[0] == 0
        seconds.append(time.monotonic() - began - sum(run["duration"] for [run] in results(tmp_path / output).values()))
    assert (seconds[1] - seconds[0]) / 3 < 1.6


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["--epochs", "0"],
            ["--repeats", "none"],
            ["--repeats", "9" * 20],
            ["--timeout", "nan"],
            ["--timeout", "9" * 400],
        ),
        *(
            ["--device", "tpu"],
            ["mnist_none.py"],
            ["--output", "x.png"],
            ["--python", "jax=x"],
            ["--python", "mx"],
            ["a/../x"],
        ),
        *(["--devices", "9" * 400], [f"{ROOT}/mnist_mx_sym.py", f"{ROOT}/mnist_mx_sym.py"]),
        [],  # and no scripts there
    ],
)
def test_mistakes_on_the_command_line(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and len(re.findall("error: ", err)) == 1 and len(err) < 2000, err


def test_mistakes_of_the_machine(tmp_path, run, tiny):
    script = fake(tmp_path, "mnist_mx_a.py")
    status, _, err = run(script, python=tmp_path / "none")
    assert status == 1 and "cannot start" in err
    status, _, err = run(script, output=f"{script}/x.json")
    assert status == 1 and err.startswith("error: cannot write ") and err.count("\n") == 1
    whole = (tiny / "mnist.npz").read_bytes()
    for content in (b"no zip", whole[:2000], whole[:500] + b"\xff" * 100 + whole[600:]):
        (tmp_path / "mnist.npz").write_bytes(content)
        status, out, err = run(script, data=tmp_path)
        assert (status, out) == (1, "") and err.splitlines()[-1].startswith("error: cannot use "), err


def test_all_scripts(tmp_path, run):
    """The whole of it: all eleven scripts in the environments uv makes, one epoch each."""
    named = [ROOT / name for name in SCRIPTS if not name.startswith("mnist_torch")]
    status, out, err = run(*named, "--epochs", 1, "--batch-size", 250, python=None)
    assert status == 0, err
    rows = table(out)
    assert sorted(rows) == [path.stem for path in named]
    assert all(float(row[1]) > 0 for row in rows.values())
    assert not (tmp_path / "x.log").exists()
