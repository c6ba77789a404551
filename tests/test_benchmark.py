"""benchmark.py as a person runs it, on scripts that print given figures: what it keeps, says, and leaves alone."""

import contextlib
import datetime
import os
import platform
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pyperf
import pytest
from conftest import ROOT, SCRIPTS, draw_digits, error_line, python_of, read_stat, usage_error
from known import cells_of_markdown

from harness import machine, results

FAKE = '''# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""Prints what a script prints, without training."""
import os, signal, subprocess, sys, time

def main():
    name, flags = os.path.basename(__file__), dict(zip(sys.argv[1::2], sys.argv[2::2]))
    epochs, batch, n, seed = int(flags["--epochs"]), flags["--batch-size"], flags.get("--devices", "1"), flags["--seed"]
    header = f"{name}: mxnet {os.environ.get('FAKE_VERSION', '1.9.1')}, python 3.11.7, {n} x cpu, 2 threads"
    epoch = [f"epoch {i + 1:{len(str(epochs))}}/{epochs}  loss 0.1234  0.01 s" for i in range(epochs)]
    lines = [f"{header}, batch {n} x {batch}, seed {seed}", *epoch, f"duration: {0.01 * epochs:.2f} s", "accuracy: 0.9876"]
    pass  # MISBEHAVE
    for line in lines:
        print(line, flush=True)
        time.sleep(0.02)  # longer than the printed seconds

if __name__ == "__main__":
    main()
'''
PARENT = "daemon = subprocess.Popen(['sleep', '3210'], start_new_session=True); print(daemon.pid, file=sys.stderr);"
LIES = {  # what the script does: what it is told
    "pass; lines = []": "malformed",
    "lines[0] = lines[0].replace('mxnet', 'mxnet,')": "malformed",
    "lines[0] = lines[0].replace('1.9.1', '1.9.1\\x1b[2J')": "malformed",
    "lines[0] = lines[0].replace('2 threads', '1\\u0662 threads')": "malformed",  # 1 and an Arabic digit
    "lines[0] = lines[0].replace('2 threads', '2' * 5000 + ' threads')": "malformed",
    "lines[0] = lines[0].replace('_mx_', '_tf_')": "malformed",
    "lines[0] = lines[0].replace('1 x cpu', '2 x cpu')": "malformed",
    "lines[0] = lines[0].replace('seed 4', 'seed 14')": "malformed",
    "lines[0] = lines[0].replace(', python 3.11.7', '')": "malformed",
    "lines[1] = lines[2]": "malformed",
    "lines.insert(2, 'chatter')": "malformed",
    "del lines[-1]": "malformed",
    "lines[-2] = 'duration: 999.00 s'": "impossible",
    "lines[-2] = 'duration: 0.00 s'": "impossible",
    "lines[1] = lines[1].replace('0.01 s', '9.00 s')": "impossible",
    "sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n')": "malformed",
    "lines = ['x' * 100_000_000]": "malformed",
    "sys.exit(3)": "exit status 3",
    "os.kill(os.getpid(), 9)": "exit status -9",
    "raise ValueError('the reason')": "exit status 1",
}
DIVERGED = {  # what the script does: why the run is refused
    "lines[2] = lines[2].replace('0.1234', 'nan')": "the loss of epoch 2 is nan",
    "lines[1] = lines[1].replace('0.1234', 'inf')": "the loss of epoch 1 is inf",
    "lines[1] = lines[1].replace('0.1234', f'{7e29:.4f}')": "the loss of epoch 1 is 7e+29",
    "lines[1] = lines[1].replace('0.1234', '1000001.0000')": "the loss of epoch 1 is 1e+06",
    "lines[-1] = 'accuracy: 1.5000'": "the accuracy is 1.5",
    "lines[-1] = 'accuracy: nan'": "the accuracy is nan",
}


def fake(folder, name, misbehave="pass"):
    """Write a script that prints the contract's lines; misbehave is what it does instead, in Python."""
    path = folder / name
    path.write_text(FAKE.replace("pass  # MISBEHAVE", misbehave))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a folder of stand-in digits, 1,000 and 200."""
    return draw_digits(tmp_path_factory.mktemp("tiny"), 1000, 200)


@pytest.fixture
def start(tmp_path, tiny):
    """Return a function that starts benchmark.py in tmp_path on fakes, which the tests' own interpreter can run."""
    started = []

    def begin(
        *arguments,
        program=ROOT / "benchmark.py",
        constants=(),
        python=sys.executable,
        data=tiny,
        output="x.json",
        prefix=(),
        stderr=-1,
        **env,
    ):
        command = [
            *prefix,
            sys.executable,
            ROOT / "tests/quick.py",
            program,
            *constants,
            "--",
            "--output",
            output,
            *map(str, arguments),
        ]
        command += ["--python", f"mx={python}"] if python else []
        command += ["--data-dir", data] if data else []
        inherited = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
        started.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=inherited | env,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def finish(process, timeout=400):
    """Return the exit status, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    assert "This is a fault of" not in err, out + err
    return process.returncode, out, err


@pytest.fixture
def run(start):
    return lambda *arguments, **options: finish(start(*arguments, **options))


def runs_of(path):
    """Return the metadata of the runs in a result file by the name of their script."""
    found = {}
    for one in results.load(path).runs:
        found.setdefault(one.script, []).append(one.metadata)
    return found


def wait_for(process, text):
    """Read stderr until a line has a text; return the line."""
    while text not in (line := process.stderr.readline()):
        assert line, f"it ended before {text}"
    return line


@pytest.fixture(scope="module")
def kept(tmp_path_factory, tiny):
    """Return what three rounds of five scripts left: folder, status, stdout, stderr."""
    folder = tmp_path_factory.mktemp("kept")
    scripts = [fake(folder, f"mnist_mx_{name}.py") for name in ("b", "a", "b_mgpu", "c", "d")]
    command = [
        sys.executable,
        ROOT / "tests/quick.py",
        ROOT / "benchmark.py",
        "picture",
        "--",
        *scripts,
        "--output",
        "x.json",
        "--data-dir",
        tiny,
    ]
    command += ["--epochs", "3", "--repeats", "3", "--batch-size", "200", "--python", f"mx={sys.executable}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_PLACES": "cores"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return folder, done.returncode, done.stdout, done.stderr


def test_all_rounds_are_kept_with_their_seeds(kept):
    folder, status, out, err = kept
    assert status == 0, err
    assert sorted(path.name for path in folder.iterdir() if "mnist" not in path.name) == ["x.json", "x.png"]
    for runs in runs_of(folder / "x.json").values():
        assert [(run["round"], run["seed"]) for run in runs] == [(1, 42), (2, 43), (3, 44)]
    assert len(cells_of_markdown(out)) == 5


def test_every_round_has_its_own_order(kept):
    folder, _, _, err = kept
    found = runs_of(folder / "x.json")
    orders = [sorted(found, key=lambda name: found[name][i]["order"]) for i in range(3)]
    assert re.findall(r"run \d+/15 (mnist_mx_\w+.py)", err) == [name for order in orders for name in order]
    assert len(set(map(tuple, orders))) > 1


def test_what_a_run_records(kept):
    folder, *_ = kept
    metadata = runs_of(folder / "x.json")["mnist_mx_b_mgpu.py"][1]
    expected = {
        "accuracy": 0.9876,
        "devices": 2,
        "device": "cpu",
        "threads": 2,
        "epoch_seconds": "0.01 0.01 0.01",
        "epoch_losses": "0.1234 0.1234 0.1234",
        "mxnet_version": "1.9.1",
        "python_version": "3.11.7",
        "epochs": 3,
        "batch_size": 200,
        "train_images": 1000,
        "test_images": 200,
        "data": "not MNIST",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert "OMP_PLACES=cores" in metadata["environment"]
    assert metadata["cpus_used"] == len(os.sched_getaffinity(0))
    assert metadata["sgemm_gflops"] > 1
    assert metadata["mem_max_pss"] > 1e5
    assert metadata["hostname"] == platform.node()
    for key in ("os", "gpu", "cpu_quota", "cores", "cpu_flags", "cpu_l2", "memory_gib", "sha256"):
        assert metadata[key]
    for key in ("load_avg_1min", "cpus_busy_before", "steal_seconds", "cpu_seconds_of_others", "cpu_seconds"):
        assert metadata[key] >= 0
    assert datetime.datetime.now() - datetime.datetime.fromisoformat(metadata["date"]) < datetime.timedelta(hours=1)


def test_pyperf_reads_the_file(kept):
    folder, *_ = kept
    suite = pyperf.BenchmarkSuite.load(str(folder / "x.json"))
    assert min(suite.get_benchmark_names()) == "mnist_mx_a.py"
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", "stats", "x.json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mnist_mx_a.py" in done.stdout


def test_a_line_after_each_round_says_how_exact_it_is(kept):
    lines = [line for line in kept[3].splitlines() if line.startswith("after round")]
    assert lines[0] == "after round 1: no intervals yet, as these need two rounds that share two scripts"
    for number, line in enumerate(lines[1:], 2):
        assert re.fullmatch(
            rf"after round {number}: the widest interval is ± \S+ %; a further round is expected to bring ± \S+ %", line
        )
    assert len(lines) == 3


def test_without_a_terminal_no_control_characters(kept):
    assert all(line.isprintable() for line in kept[3].splitlines())


def test_started_again_it_completes_what_is_missing(tmp_path, run):
    a, b = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    for scripts, repeats, counts in (([a], 1, [1]), ([a, b], 2, [2, 2]), ([b], 3, [2, 3])):
        status, _, err = run(*scripts, "--epochs", 1, "--repeats", repeats)
        assert status == 0, err
        assert sorted(len(runs) for runs in runs_of(tmp_path / "x.json").values()) == counts
    assert [run["seed"] for run in runs_of(tmp_path / "x.json")["mnist_mx_b.py"]] == [42, 43, 44]


def test_minutes_run_as_many_rounds_as_fit(tmp_path, start):
    """A round takes some 1.3 s here or more: of 6 s at least two are used, and 18 are not exceeded by a round."""
    script = fake(tmp_path, "mnist_mx_a.py", "time.sleep(0.5)")
    began = time.monotonic()
    process = start(script, fake(tmp_path, "mnist_mx_b.py"), "--minutes", 0.1, "--epochs", 1)
    status, _, err = finish(process, 60)
    assert status == 0, err
    rounds = len(runs_of(tmp_path / "x.json")["mnist_mx_a.py"])
    assert 2 <= rounds < 12
    assert time.monotonic() - began < 18
    assert f"round {rounds + 1} would take some" in err


def test_minutes_run_one_round_in_any_case(tmp_path, run):
    status, _, err = run(fake(tmp_path, "mnist_mx_a.py"), "--minutes", 0.0001, "--epochs", 1)
    assert status == 0, err
    assert len(runs_of(tmp_path / "x.json")["mnist_mx_a.py"]) == 1


@pytest.mark.alone
def test_a_busy_machine_is_waited_for_and_marked(tmp_path, run):
    number = len(os.sched_getaffinity(0))
    quota = machine.read_quota()
    if quota is not None and quota < number:
        pytest.skip(f"needs all of the {number} CPUs: a quota leaves {quota}")
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        status, out, err = run(
            fake(tmp_path, "mnist_mx_a.py"), constants=["machine.IDLE_WAIT=2", "machine.IDLE_SAMPLE=0.5"]
        )
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert status == 0
    assert "mnist_mx_a.py waits for an idle machine, 2 s at most" in err
    assert runs_of(tmp_path / "x.json")["mnist_mx_a.py"][0]["cpus_busy_before"] > 0.9
    assert cells_of_markdown(out)["mx_a"]["seconds"].endswith("*")


def test_gpus_are_named_and_their_memory_is_read(tmp_path, run):
    """As nvidia-smi prints them, with a comma in a name; here a false one: the first to ask is told of 0 MiB, all others of 100."""
    smi = tmp_path / "nvidia-smi"
    memory = "if [ -e asked ]; then echo 100; else echo 0; touch asked; fi"
    smi.write_text(
        f'#!/bin/sh\ncase "$*" in *memory.used*) {memory};; *) printf "Tesla, V100, 535.54\\nTesla, V100, 535.54\\n";; esac\n'
    )
    smi.chmod(0o755)
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert status == 0, err
    assert "2 x Tesla, V100, driver 535.54" in out
    assert "WARNING: the machine has 2 x Tesla, V100, but these ran on its CPU: mnist_mx_a.**" in out
    assert runs_of(tmp_path / "x.json")["mnist_mx_a.py"][0]["gpu_mem_max"] == 100 * 2**20


def test_commands_that_hang(tmp_path, run):
    hanging = tmp_path / "bin"
    hanging.mkdir()
    for name in ("nvidia-smi", "uv"):
        (hanging / name).write_text("#!/bin/sh\nsleep 321\n")
        (hanging / name).chmod(0o755)
    # a default argument is bound at the import: a copy of the programs has the shorter time
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "benchmark.py", tmp_path)
    text = (tmp_path / "harness/processes.py").read_text()
    (tmp_path / "harness/processes.py").write_text(text.replace("ANSWER = 60.0", "ANSWER = 1.0"))
    options = {
        "program": tmp_path / "benchmark.py",
        "PATH": f"{hanging}:{os.environ['PATH']}",
        "constants": ["environments.BUILD=1"],
    }
    script = fake(tmp_path, "mnist_mx_a.py")
    assert run(script, **options)[0] == 0
    status, out, err = run(script, python=None, output="y.json", **options)
    assert (status, out) == (1, "")
    assert error_line(err).startswith("error: uv does not answer in 1 s: install uv")


def test_failing_and_lying_scripts(tmp_path, run):
    """Each is told with the end of its log, and not tried again; the others go on."""
    scripts = {fake(tmp_path, f"mnist_mx_lie{i}.py", lie): words for i, (lie, words) in enumerate(LIES.items())}
    status, out, err = run(*scripts, fake(tmp_path, "mnist_mx_a good.py"), "--epochs", 2, "--repeats", 2)
    assert status == 1
    assert cells_of_markdown(out).keys() == {"mx_a good"}
    assert len(runs_of(tmp_path / "x.json")["mnist_mx_a good.py"]) == 2
    log = (tmp_path / "x.log").read_text()
    for script, words in scripts.items():
        reason = re.search(rf"(?m)^{script.name} failed: (.*)", err)
        assert reason, script.name
        assert words in reason[1]
        assert len(re.findall(rf"run \d+/\d+ {script.name}", err)) == 1
        assert f"{script.name}: {words}" in err.splitlines()[-1]
        assert f"{script.name} failed" in log
    assert "  ValueError: the reason" in err
    assert "ValueError: the reason\n" in log
    assert max(map(len, err.splitlines()[:-1])) < 1000


def test_runs_that_diverged_are_refused_and_counted(tmp_path, run):
    """The log is kept, the next script and the next round run, and the file is read."""
    scripts = {fake(tmp_path, f"mnist_mx_d{i}.py", how): why for i, (how, why) in enumerate(DIVERGED.items())}
    once = fake(
        tmp_path, "mnist_mx_once.py", "lines[1] = lines[1].replace('0.1234', 'nan' if seed == '42' else '0.1000')"
    )
    status, out, err = run(*scripts, once, "--epochs", 2, "--repeats", 2)
    assert status == 1
    for script, why in scripts.items():
        assert err.count(f"{script.name} refused: {why}") == 2
        assert f"{script.stem} round 1 ({why})" in out
        assert f"{script.name} refused: {why}" in (tmp_path / "x.log").read_text()
    found = results.load(tmp_path / "x.json")
    assert [(run.script, run.round) for run in found.runs] == [(once.name, 2)]
    assert len(found.refused) == 2 * len(DIVERGED) + 1
    assert cells_of_markdown(out)["mx_once"]["refused"] == "1"
    assert err.splitlines()[-1].startswith("error: refused: mnist_mx_")


def test_other_settings_are_refused_and_the_file_stays(tmp_path, run):
    script = fake(tmp_path, "mnist_mx_a.py")
    assert run(script, "--epochs", 1)[0] == 0
    before = (tmp_path / "x.json").read_bytes()
    for words, more, options in (
        ("epochs of this machine is 2 here, 1 there", ["--epochs", 2], {}),
        ("batch_size of this machine", ["--epochs", 1, "--batch-size", 100], {}),
        ("environment of this machine", ["--epochs", 1], {"OPENBLAS_CORETYPE": "Haswell"}),
    ):
        status, _, err = run(script, "--repeats", 2, *more, **options)
        assert status == 1
        assert words in error_line(err)
        assert (tmp_path / "x.json").read_bytes() == before


def test_a_script_that_goes_away_fails_alone(tmp_path, run):
    """The first round's first script takes the other one away."""
    a, b = (
        fake(tmp_path, f"mnist_mx_{name}.py", "[os.unlink(x) for x in ('mnist_mx_a.py', 'mnist_mx_b.py') if x != name]")
        for name in "ab"
    )
    status, out, err = run(a, b, "--epochs", 1)
    assert status == 1
    assert re.search(r"error: failed: mnist_mx_[ab].py: cannot read .*: No such file", err)
    assert len(cells_of_markdown(out)) == 1


def test_another_version_is_refused_for_its_script_only(tmp_path, run):
    script = fake(tmp_path, "mnist_mx_a.py")
    assert run(script, "--epochs", 1)[0] == 0
    script.write_text(script.read_text() + "\n")
    status, out, err = run(script, fake(tmp_path, "mnist_mx_b.py"), "--epochs", 1, "--repeats", 2)
    assert status == 1
    assert "error: failed: mnist_mx_a.py: cannot add to" in err.splitlines()[-1]
    assert cells_of_markdown(out)["mx_b"]["runs"] == "2"


@pytest.mark.parametrize("text", ["", "{}", "no JSON"])
def test_no_result_file_is_overwritten(tmp_path, run, text):
    (tmp_path / "x.json").write_text(text)
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"))
    assert (status, out) == (1, "")
    assert "cannot read" in error_line(err)
    assert (tmp_path / "x.json").read_text() == text


def test_environments_that_cannot_be_made(tmp_path, run):
    """One without a compiler gets all rows but Horovod's; here it is a Python that nobody has."""
    bad, good = fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py")
    bad.write_text(bad.read_text().replace('">=3.9"', '">=9"'))
    status, out, err = run(bad, good, python=None)
    assert status == 1
    assert "mnist_mx_a.py: uv cannot make its environment: No interpreter found" in err.splitlines()[-1]
    assert list(cells_of_markdown(out)) == ["mx_b"]


def test_an_environment_of_the_users_own(tmp_path, run):
    """What uv is told elsewhere, an interpreter, a project, a file of variables, changes no run; nor does another's venv."""
    script = fake(
        tmp_path,
        "mnist_mx_a.py",
        "lines[0] = lines[0] if not {'PYTHONPATH', 'PYTHONSAFEPATH'} & {*os.environ} else 'set'",
    )
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')\n")
    wrong = {"UV_PYTHON": "2.7", "UV_PROJECT": "/none", "UV_PROJECT_ENVIRONMENT": "/none", "UV_ENV_FILE": "/none"}
    wrong |= {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "VIRTUAL_ENV": "/none",
        "MPLBACKEND": "none",
    }
    status, _, err = run(script, python=None, constants=["picture"], **wrong)
    assert status == 0, err
    assert (tmp_path / "x.png").is_file()


def test_scripts_get_the_users_environment(tmp_path, run):
    """But for what is the runner's own: the one thread of its SGEMM."""
    variables = {"OMP_NUM_THREADS": "2", "MY": "own", "HTTPS_PROXY": "http://127.0.0.1:9"}
    asked = [*variables, "OPENBLAS_NUM_THREADS"]
    keep = f"print([os.environ.get(name) for name in {asked}], file=sys.stderr); sys.exit(1)"
    _, _, err = run(fake(tmp_path, "mnist_mx_a.py", keep), **variables)
    assert f"  {[*variables.values(), os.environ.get('OPENBLAS_NUM_THREADS')]}" in err


def test_paths_with_blanks_brackets_and_a_newline(tmp_path, run):
    folder = tmp_path / "a (b) [c] é"
    folder.mkdir()
    script = fake(folder, "mnist_mx_a.py")
    status, _, err = run(script, output=f"{folder}/x (1) [y]\nz.json", constants=["picture"])
    assert status == 0, err
    assert sorted(path.name for path in folder.iterdir()) == ["mnist_mx_a.py", "x (1) [y]\nz.json", "x (1) [y]\nz.png"]


def test_a_home_that_cannot_be_written(tmp_path, run):
    unwritable = {"HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none"}
    status, _, err = run(fake(tmp_path, "mnist_mx_a.py"), constants=["picture"], **unwritable)
    assert status == 0, err
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGKILL"])
def test_interruption_loses_nothing(tmp_path, start, run, name):
    hang = f"{PARENT} open('pid', 'w').write(f'{{daemon.pid}} {{os.getpid()}}');"
    hang += "print(*lines[:2], sep='\\n', flush=True); os.path.exists('go') or time.sleep(3600); daemon.kill()"
    scripts = [fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py", hang)]
    process = start(*scripts, "--epochs", 2)
    wait_for(process, "run 2/2 mnist_mx_b.py")
    wait_for(process, "epoch 1/2")
    process.send_signal(number := getattr(signal, name))
    began = time.monotonic()
    status, out, err = finish(process, 30)
    daemon, hanging = (int(word) for word in (tmp_path / "pid").read_text().split())
    assert runs_of(tmp_path / "x.json").keys() == {"mnist_mx_a.py"}
    if name != "SIGKILL":
        assert status == 128 + number
        assert time.monotonic() - began < 15
        assert list(cells_of_markdown(out)) == ["mx_a"]
        assert "x.json completes what is missing" in err
        assert not any(map(psutil.pid_exists, (daemon, hanging)))
        return
    # the kernel ends the script; what that started is named by the next start, and left alone
    deadline = time.monotonic() + 5
    while read_stat(Path(f"/proc/{hanging}/stat"))[:1] not in ([], ["Z"]):  # perhaps nobody waits for it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert psutil.pid_exists(daemon)
    status, _, err = run(scripts[0], "--epochs", 2)
    assert status == 0
    assert re.search(rf"may have left behind, .*\b{daemon} \(sleep\).*; if so, end them: kill .*\b{daemon}\b", err)
    assert psutil.pid_exists(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_interruption_leaves_no_horovod_rank(start, digits):
    python = python_of("mnist_mx_gluon_hvd.py")
    process = start(ROOT / "mnist_mx_gluon_hvd.py", "--epochs", 99, data=digits, python=python)
    wait_for(process, "epoch  1/99")
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) >= 3, ranks
    process.send_signal(signal.SIGINT)
    assert finish(process)[:2] == (130, "")
    assert not any(rank.is_running() for rank in ranks)


def has_begun(pid, moment):
    """Tell whether a program has left Ctrl-C to the kernel, which is the first that it does, or loads its large packages.

    Until then Ctrl-C is Python's own: the kernel's list of the signals that are caught has it, and then not any more.
    """
    caught = False
    while True:
        if "numpy" in Path(f"/proc/{pid}/maps").read_text():
            return True
        if moment == "at first":
            now = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16) & 2
            if caught and not now:
                return True
            caught = caught or now


@pytest.mark.alone  # the moment is short
@pytest.mark.parametrize("program", ["benchmark.py", "report.py"])
@pytest.mark.parametrize("moment", ["at first", "importing"])
def test_interruption_while_importing(tmp_path, tiny, program, moment):
    if program == "report.py":
        arguments = [next((ROOT / "results").glob("*.json"))]
    else:
        arguments = [fake(tmp_path, "mnist_mx_a.py"), "--data-dir", tiny, "--python", f"mx={sys.executable}"]
    command = [sys.executable, ROOT / program, *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    assert has_begun(process.pid, moment)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out) == (-signal.SIGINT, "")
    assert "Traceback" not in err


def test_two_runners_with_one_output(tmp_path, start, run):
    (tmp_path / "link.json").symlink_to("x.json")
    first = start(fake(tmp_path, "mnist_mx_a.py", "while not os.path.exists('go'): time.sleep(0.1)"))
    wait_for(first, "run 1/1")
    status, out, err = run(fake(tmp_path, "mnist_mx_b.py"), output="link.json")
    assert (status, out) == (1, "")
    assert f"x.json is in use by process {first.pid} on " in error_line(err, alone=True)
    (tmp_path / "go").touch()
    assert finish(first)[0] == 0
    assert runs_of(tmp_path / "x.json").keys() == {"mnist_mx_a.py"}
    assert run(fake(tmp_path, "mnist_mx_b.py"), output="link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert len(runs_of(tmp_path / "x.json")) == 2
    assert not list(tmp_path.glob(".*"))


def test_full_disk(tmp_path, run):
    """As a limit of the file size acts: what cannot be saved is shown."""
    limit = "import os, resource, sys; resource.setrlimit(1, (9999, -1)); os.execv(sys.argv[1], sys.argv[1:])"
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), prefix=[sys.executable, "-c", limit])
    assert (status, out) == (1, "")
    assert error_line(err, alone=True).startswith("error: cannot write ")
    limit = "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (10, -1))"
    status, out, err = run(*(fake(tmp_path, f"mnist_mx_{name}.py", limit) for name in "ab"))
    assert status == 1
    assert sorted(cells_of_markdown(out)) == ["mx_a", "mx_b"]
    assert not (tmp_path / "x.json").exists()
    assert "WARNING: cannot write" in err
    assert not list(tmp_path.glob(".*"))


def test_streams_that_are_closed_or_full(tmp_path, start):
    script = fake(tmp_path, "mnist_mx_a.py")
    redirections = "2>&-", ">&- 2>&-", "<&-", "2>/dev/full >/dev/full", "2>&1 | head -1"
    started = [
        start(script, output=f"{i}.json", prefix=["sh", "-c", f'exec "$@" {x}', "sh"])
        for i, x in enumerate(redirections)
    ]
    for i, process in enumerate(started):
        assert finish(process)[0] == 0, redirections[i]
        assert runs_of(tmp_path / f"{i}.json"), redirections[i]


def test_a_narrow_terminal_without_utf8(tmp_path, run):
    narrow = {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "7", "TMPDIR": "/proc/none"}
    status, out, err = run(fake(tmp_path, "mnist_mx_a.py"), constants=["picture"], **narrow)
    assert status == 0, err
    assert out.isascii()


def test_default_scripts_are_all_but_pytorchs(tmp_path, run):
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "benchmark.py", tmp_path)
    for name in ("mnist_mx_a.py", "mnist_torch.py"):
        fake(tmp_path, name)
    status, out, err = run("--epochs", 1, program=tmp_path / "benchmark.py")
    assert status == 0, err
    assert list(cells_of_markdown(out)) == ["mx_a"]
    status, out, err = run("--all", "--epochs", 1, program=tmp_path / "benchmark.py", output="y.json", PATH="")
    assert status == 1
    assert "PyTorch 5.2 GB" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--repeats", "none"],
        ["--repeats", "9" * 20],
        ["--timeout", "nan"],
        ["--timeout", "9" * 400],
        ["--minutes", "nan"],
        ["--minutes", "0"],
        ["--minutes", "1", "--repeats", "2"],
        ["--device", "tpu"],
        ["mnist_none.py"],
        ["--output", "x.png"],
        ["--python", "jax=x"],
        ["--python", "mx"],
        ["a/../x"],
        ["--data-dir", "~nobody-of-this-name/x"],
        ["--output", "~nobody-of-this-name/x.json"],
        ["--python", "mx=~nobody-of-this-name/x"],
        ["--devices", "9" * 400],
        [f"{ROOT}/mnist_mx_sym.py", f"{ROOT}/mnist_mx_sym.py"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_mistakes_on_the_command_line(capsys, arguments):
    import benchmark

    with pytest.raises(SystemExit) as end:
        benchmark.parse_args(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(usage_error(captured.err)) < 2000


def test_mistakes_of_the_machine(tmp_path, run):
    script = fake(tmp_path, "mnist_mx_a.py")
    status, _, err = run(script, python=tmp_path / "none")
    assert status == 1
    assert "cannot start" in err
    status, _, err = run(script, output=f"{script}/x.json")
    assert status == 1
    assert error_line(err, alone=True).startswith("error: cannot write ")


def in_terminal(start, tmp_path, *arguments, interrupt=False, **variables):
    """Return status, stdout and what a terminal of 100 columns on stderr got."""
    main, other = pty.openpty()
    termios.tcsetwinsize(other, (40, 100))
    process = start(*arguments, stderr=other, **{"TERM": "xterm-256color", **variables})
    os.close(other)
    text = b""
    with contextlib.suppress(OSError):
        while more := os.read(main, 100_000):
            text += more
            if interrupt and b"1/2" in text:
                process.send_signal(signal.SIGINT)
                interrupt = False
    os.close(main)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, text.decode()


SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def test_live_display(tmp_path, start):
    scripts = [
        fake(tmp_path, f"mnist_mx_{name}.py", "print(*lines[:2], sep='\\n', flush=True); time.sleep(1); del lines[:2]")
        for name in "ab"
    ]
    status, out, text = in_terminal(start, tmp_path, *scripts, "--epochs", 2)
    assert status == 0, text
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    for words in (
        "run 2 of 2, round 1; about",
        "to come in this round: ",
        "epoch 1/2  loss 0.1234  0.01 s",
        "mnist_mx_a.py: 0.02 s, accuracy 0.9876",
    ):
        assert words in text
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 70
    assert len(cells_of_markdown(out)) == 2
    assert "\x1b" not in out


def test_live_display_after_ctrl_c(tmp_path, start):
    wait = "print(*lines[:2], sep='\\n', flush=True); time.sleep(60)"
    scripts = [fake(tmp_path, "mnist_mx_a.py"), fake(tmp_path, "mnist_mx_b.py", wait)]
    assert run_first(start, tmp_path, scripts[0]) == 0
    status, out, text = in_terminal(start, tmp_path, *scripts, "--epochs", 2, "--repeats", 2, interrupt=True)
    assert status == 130
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert list(cells_of_markdown(out)) == ["mx_a"]
    assert "Traceback" not in text


def run_first(start, tmp_path, script):
    return finish(start(script, "--epochs", 2))[0]


def test_no_colour_and_a_dumb_terminal(tmp_path, start):
    script = fake(tmp_path, "mnist_mx_a.py", "time.sleep(0.5)")
    _, _, text = in_terminal(start, tmp_path, script, NO_COLOR="1")
    assert HIDE_CURSOR in text
    assert not re.search(r"\x1b\[[\d;]*3\dm", text)
    _, _, text = in_terminal(start, tmp_path, script, output="y.json", TERM="dumb")
    assert "\x1b" not in text
    assert "run 1/1 mnist_mx_a.py, round 1" in text


def test_all_scripts(tmp_path, run):
    """The whole of it: all eleven scripts in the environments uv makes, one epoch each."""
    named = [ROOT / name for name in SCRIPTS if not name.startswith("mnist_torch")]
    status, out, err = run(*named, "--epochs", 1, "--batch-size", 250, python=None)
    assert status == 0, err
    rows = cells_of_markdown(out)
    assert sorted(rows) == sorted(Path(path).stem.removeprefix("mnist_") for path in named)
    assert all(float(row["seconds"].strip("*")) > 0 for row in rows.values())
    assert not (tmp_path / "x.log").exists()
