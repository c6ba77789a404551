"""The scripts as a person runs them: copied alone into an empty folder, as processes, by what they print."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, SCRIPTS, python_of

FIRST = (
    r"{script}: (?:(?:horovod|keras|keras-mxnet|mxnet|tensorflow) \d[\d.]*, )+python 3\.\d+\.\d+, "
    r"{devices} x (?:cpu|gpu), \d+ threads, batch {devices} x {batch}"
)
EPOCH = r"epoch +{epoch}/{epochs}  loss \d+\.\d{{4}}  \d+\.\d\d s"


def devices_of(script):
    return 2 if "_mgpu" in script else 1


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a script, copied into an empty folder, in a session of its own."""
    processes = []

    def run(script, *arguments, **environment):
        shutil.copy(ROOT / script, tmp_path)
        inherited = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
        process = subprocess.Popen(
            [python_of(script), "-W", "ignore", script, *map(str, arguments)],
            cwd=tmp_path,
            env=inherited | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finish(process, timeout=300):
    """Return the exit status, the lines on stdout and stderr; no process of the session may be left."""
    out, err = process.communicate(timeout=timeout)
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.1)
    return process.returncode, out.splitlines(), err.splitlines()


def error_line(err):
    """Return the one line that a mistake ends with; the frameworks may have chattered before it, but no traceback."""
    assert not any("Traceback" in line for line in err), "\n".join(err)
    lines = [line for line in err if line.startswith("error: ")]
    assert len(lines) == 1 and err[-1] == lines[0], "\n".join(err)
    return lines[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_output_and_learning(start, digits, tmp_path, script):
    """Two epochs print the five lines of the contract, learn the digits and leave nothing behind."""
    # ~/.keras as keras-mxnet leaves it must not disturb TensorFlow
    (tmp_path / "home/.keras").mkdir(parents=True)
    settings = '{"floatx": "float32", "epsilon": 1e-07, "backend": "mxnet", "image_data_format": "channels_first"}'
    (tmp_path / "home/.keras/keras.json").write_text(settings)
    batch = 500 // devices_of(script)
    began = time.monotonic()
    process = start(script, "--epochs", 2, "--batch-size", batch, "--data-dir", digits, HOME=str(tmp_path / "home"))
    status, out, err = finish(process)
    elapsed = time.monotonic() - began
    assert status == 0, "\n".join(err)
    assert len(out) == 5, out
    assert re.fullmatch(FIRST.format(script=re.escape(script), devices=devices_of(script), batch=batch), out[0]), out
    for i in (1, 2):
        assert re.fullmatch(EPOCH.format(epoch=i, epochs=2), out[i]), out
    assert re.fullmatch(r"duration: \d+\.\d\d s", out[3]), out
    assert re.fullmatch(r"accuracy: [01]\.\d{4}", out[4]), out
    epochs = [float(line.split()[-2]) for line in out[1:3]]
    assert sum(epochs) - 0.02 <= float(out[3].split()[1]) < elapsed
    losses = [float(line.split()[3]) for line in out[1:3]]
    assert losses[1] < losses[0] < 2.303  # the loss of ten equal guesses
    assert 0.85 < float(out[4].split()[1]) < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["home", script])


def test_uv_run_in_an_empty_folder(digits, tmp_path):
    """The README's command needs nothing but uv."""
    shutil.copy(ROOT / "mnist_mx_gluon.py", tmp_path)
    command = ["uv", "run", "--quiet", "mnist_mx_gluon.py", "--epochs", "1", "--data-dir", digits]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.startswith("mnist_mx_gluon.py: mxnet 1.9.1, python 3.")
    assert done.stdout.splitlines()[-1].startswith("accuracy: 0.")


@pytest.mark.parametrize("script", ["mnist_mx_gluon_mgpu.py", "mnist_tf_keras_mgpu.py"])  # one text: test_consistency
def test_mistakes_on_the_command_line(start, digits, script):
    for arguments, words in (
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "ten"], "--epochs"),
        (["--batch-size", "-1"], "--batch-size"),
        (["--devices", "0"], "--devices"),
        (["--device", "tpu"], "--device"),
        (["--colour"], "--colour"),
        (["--data-dir", digits, "--batch-size", "2501"], "5000"),
    ):
        status, out, err = finish(start(script, *arguments))
        assert status == 2, (arguments, err)
        assert out == []
        assert words in error_line(err)


@pytest.mark.parametrize("script", SCRIPTS)
def test_too_few_gpus(start, digits, script):
    process = start(script, "--device", "gpu", "--data-dir", digits, CUDA_VISIBLE_DEVICES="")
    status, out, err = finish(process)
    assert (status, out) == (1, [])
    assert "use --device cpu" in error_line(err)


def test_data_that_cannot_be_had(start, tmp_path):
    """Without network the one line names both mirrors and both ways out."""
    nowhere = "http://127.0.0.1:9"
    process = start("mnist_mx_gluon.py", https_proxy=nowhere, HTTPS_PROXY=nowhere)
    status, out, err = finish(process)
    assert (status, out) == (1, [])
    line = error_line(err)
    for word in ("storage.googleapis.com", "ossci-datasets", "--data-dir", "synthetic_mnist.py"):
        assert word in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_interrupt_while_training(start, digits, script):
    """Ctrl-C ends a run at once with status 130; finish sees to it that no worker is left."""
    process = start(script, "--epochs", 99, "--data-dir", digits)
    assert process.stdout.readline().startswith(script)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, _, err = finish(process, timeout=60)
    assert status == 130
    assert time.monotonic() - began < 5
    assert not any("Traceback" in line for line in err), "\n".join(err)


@pytest.mark.parametrize("script", ["mnist_mx_gluon.py", "mnist_tf_keras.py"])
def test_interrupt_while_importing(start, script):
    process = start(script)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, timeout=60)
    assert (status, out) == (130, [])
    assert not any("Traceback" in line for line in err), "\n".join(err)


def test_killed_run_leaves_no_worker(start, digits):
    """DataLoader's workers end with their parent, even if it had no time to tell them."""
    process = start("mnist_mx_gluon_ds.py", "--epochs", 99, "--data-dir", digits)
    process.stdout.readline()
    time.sleep(2)
    process.kill()
    status, _, _ = finish(process, timeout=60)
    assert status == -signal.SIGKILL


def test_slow_loading_and_evaluation_do_not_count(digits, tmp_path):
    """Three seconds spent on loading and three on evaluating are not in the duration."""
    program = """
import sys, time
import mnist_mx_gluon as script
def slow(function):
    return lambda *arguments: time.sleep(3) or function(*arguments)
script.load_mnist, script.evaluate = slow(script.load_mnist), slow(script.evaluate)
sys.argv[1:] = ["--epochs", "1", "--data-dir", sys.argv[1]]
start = time.perf_counter()
script.main()
print(time.perf_counter() - start)
"""
    command = [python_of("mnist_mx_gluon.py"), "-c", program, digits]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    lines = done.stdout.splitlines()
    assert float(lines[-3].split()[1]) < float(lines[-1]) - 6


def test_one_epoch_of_real_mnist(start, mnist):
    status, out, err = finish(start("mnist_mx_gluon.py", "--epochs", 1, "--data-dir", mnist), timeout=600)
    assert status == 0, "\n".join(err)
    assert float(out[-1].split()[1]) >= 0.965
