"""The scripts as a person runs them: copied alone into an empty folder, as processes, by what they print."""

import functools
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SCRIPTS, busy_threads, cores, error_line, finish, python_of, usage_error

FIRST = (
    r"{script}: (?:(?:horovod|keras|keras-mxnet|mxnet|tensorflow|torch) \d[\d.]*(?:\+\w+)?, )+python 3\.\d+\.\d+, "
    r"{devices} x (?:cpu|gpu), \d+ threads, batch {devices} x {batch}, seed {seed}"
)
EPOCH = r"epoch +{epoch}/{epochs}  loss \d+\.\d{{4}}  \d+\.\d\d s"


def devices_of(script):
    return 2 if "_mgpu" in script else 1


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a script, copied into an empty folder, in a session of its own."""
    processes = []

    def run(script, *arguments, script_text=None, **environment):
        new = tmp_path / f"{script}.new"  # put in place at once: an earlier process may be reading the script just now
        new.write_text(script_text or (ROOT / script).read_text())
        new.replace(tmp_path / script)
        inherited = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
        inherited["CUDA_VISIBLE_DEVICES"] = ""  # PyTorch's packages could use a GPU, and auto would
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


def check_first_line(line, script, batch, seed):
    pattern = FIRST.format(script=re.escape(script), devices=devices_of(script), batch=batch, seed=seed)
    assert re.fullmatch(pattern, line), line


@pytest.fixture(scope="session")
def some_digits(digits, tmp_path_factory):
    """Return a folder of the first 2,000 of the digits for training, and all for the test."""
    folder = tmp_path_factory.mktemp("some_digits")
    with np.load(digits / "mnist.npz") as file:
        np.savez(folder / "mnist.npz", **{name: file[name][: 2000 if "train" in name else None] for name in file})
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_output_and_learning(start, some_digits, tmp_path, script):
    """Two epochs print the five lines of the contract, learn the digits and leave nothing behind."""
    # ~/.keras as keras-mxnet leaves it must not disturb TensorFlow
    (tmp_path / "home/.keras").mkdir(parents=True)
    settings = '{"floatx": "float32", "epsilon": 1e-07, "backend": "mxnet", "image_data_format": "channels_first"}'
    (tmp_path / "home/.keras/keras.json").write_text(settings)
    batch = 100 // devices_of(script)
    began = time.monotonic()
    arguments = "--epochs", 2, "--batch-size", batch, "--data-dir", some_digits, "--seed", 7
    process = start(script, *arguments, HOME=str(tmp_path / "home"))
    status, out, err = finish(process)
    elapsed = time.monotonic() - began
    assert status == 0, "\n".join(err)
    assert len(out) == 5, out
    check_first_line(out[0], script, batch, 7)
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


def test_uv_run_in_an_empty_folder(few_digits, tmp_path):
    """The README's command needs nothing but uv."""
    shutil.copy(ROOT / "mnist_mx_gluon.py", tmp_path)
    command = [
        "uv",
        "run",
        "--quiet",
        "mnist_mx_gluon.py",
        "--epochs",
        "1",
        "--batch-size",
        "40",
        "--data-dir",
        few_digits,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.startswith("mnist_mx_gluon.py: mxnet 1.9.1, python 3.")
    assert done.stdout.splitlines()[-1].startswith("accuracy: 0.")


@pytest.mark.parametrize("script", ["mnist_mx_gluon_mgpu.py", "mnist_tf_keras_mgpu.py", "mnist_torch_mgpu.py"])
def test_mistakes(start, digits, script):
    """As a person sees them: the exit status, and all of stdout and stderr."""
    data = "--data-dir", digits
    mistakes = [(1, ["--device", "gpu", *data])]
    if "_gluon" in script:  # what all say alike
        mistakes += [(1, ["--devices", "0", *data]), (2, ["--epochs", "ten"])]
    processes = [start(script, *arguments) for _, arguments in mistakes]
    for (expected, arguments), process in zip(mistakes, processes, strict=True):
        status, out, err = finish(process)
        assert (status, out) == (expected, []), (arguments, err)
        assert arguments[0] in (error_line(err) if expected == 1 else usage_error(err))


def test_data_that_cannot_be_had(start, tmp_path):
    """Without network the one line names the address and both ways out; pooch's words are on stderr."""
    nowhere = "http://127.0.0.1:9"
    process = start("mnist_mx_gluon.py", https_proxy=nowhere, HTTPS_PROXY=nowhere)
    status, out, err = finish(process)
    assert (status, out) == (1, [])
    line = error_line(err)
    address = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    for word in (f"error: cannot download {address}: ", "--data-dir", "synthetic_mnist.py"):
        assert word in line
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.alone
@pytest.mark.parametrize("script", SCRIPTS)
def test_busy_threads_and_interrupt_while_training(start, few_digits, script):
    """As many threads compute as the first line names, one a core, and Ctrl-C ends the run at once by the signal itself.

    finish sees to it that no worker is left.
    """
    process = start(script, "--epochs", 9999, "--batch-size", 200, "--data-dir", few_digits)
    first = process.stdout.readline().rstrip("\n")
    check_first_line(first, script, 200, 42)
    assert process.stdout.readline().startswith("epoch ")
    busy = busy_threads(process)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, _, err = finish(process, timeout=60)
    assert status == -signal.SIGINT
    assert time.monotonic() - began < 5
    assert not any("Traceback" in line for line in err), "\n".join(err)
    threads = int(re.search(r" (\d+) threads,", first)[1])
    assert threads == (max(1, cores() // 2) if script == "mnist_torch_mgpu.py" else cores())  # its two processes share
    assert busy == threads if "_mgpu" not in script else busy >= threads  # two devices may compute side by side


@pytest.mark.parametrize("script", ["mnist_mx_gluon.py", "mnist_tf_keras.py", "mnist_torch.py"])
def test_interrupt_while_importing(start, script):
    """Once the framework's library is being loaded, which takes seconds."""
    process = start(script)
    deadline = time.monotonic() + 60
    library = "libmxnet" if "_mx_" in script else "libtensorflow" if "_tf_" in script else "libtorch_cpu"
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, timeout=60)
    assert (status, out) == (-signal.SIGINT, [])
    assert not any("Traceback" in line for line in err), "\n".join(err)


def test_killed_run_leaves_no_worker(start, few_digits):
    """DataLoader's workers end with their parent, even if it had no time to tell them."""
    process = start("mnist_mx_gluon_ds.py", "--epochs", 9999, "--batch-size", 40, "--data-dir", few_digits)
    while not (line := process.stdout.readline()).startswith("epoch "):
        assert line, process.communicate()
    process.kill()
    status, _, _ = finish(process, timeout=60)
    assert status == -signal.SIGKILL


def test_slow_loading_and_evaluation_do_not_count(few_digits):
    """A second spent on loading and one on evaluating are not in the duration."""
    program = """
import sys, time
import mnist_mx_gluon as script
def slow(function):
    return lambda *arguments: time.sleep(1) or function(*arguments)
script.load_mnist, script.evaluate = slow(script.load_mnist), slow(script.evaluate)
sys.argv[1:] = ["--epochs", "1", "--batch-size", "40", "--data-dir", sys.argv[1]]
start = time.perf_counter()
script.main()
print(time.perf_counter() - start)
"""
    command = [python_of("mnist_mx_gluon.py"), "-c", program, few_digits]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    lines = done.stdout.splitlines()
    assert float(lines[-3].split()[1]) < float(lines[-1]) - 2


@pytest.mark.parametrize("script", ["mnist_mx_gluon.py", "mnist_tf_keras.py", "mnist_torch.py"])
def test_template_for_other_data(start, tmp_path, script):
    """The README's changes, and no other, make a script train on images of another size and another number of classes."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"(?m)^\| (?:constants|`load_mnist`|`build_model`)[^|]*\| `(.+)` \| `(.+)` \|$", text)
    assert len(rows) == 4
    sources = [(ROOT / name).read_text() for name in ("mnist_mx_gluon.py", "mnist_tf_keras.py", "mnist_torch.py")]
    assert all(any(old in source for source in sources) for old, _ in rows)
    generator = np.random.default_rng(1)
    arrays = {}
    for part, n in (("train", 1400), ("test", 201)):  # the class is the column of a bright bar
        arrays[f"y_{part}"] = labels = generator.integers(0, 7, n, np.uint8)
        arrays[f"x_{part}"] = generator.integers(0, 99, (n, 20, 24), np.uint8)
        for i in range(n):
            arrays[f"x_{part}"][i, :, 3 * labels[i] : 3 * labels[i] + 3] = 255
    np.savez(tmp_path / "mnist.npz", **arrays)
    arguments = "--epochs", 5, "--batch-size", 100, "--data-dir", tmp_path
    if "_gluon" in script:  # load_mnist is one text in all
        status, _, err = finish(start(script, *arguments))
        assert status == 1 and "images (1400, 20, 24)" in error_line(err)
    changed = functools.reduce(lambda source, row: source.replace(*row), rows, (ROOT / script).read_text())
    assert "CLASSES = 7" in changed
    process = start(script, *arguments, script_text=changed)
    status, out, err = finish(process)
    assert status == 0, "\n".join(err)
    assert float(out[-1].split()[1]) > 0.9


def test_links():
    """What the pages name of this folder is there, or a line on the page makes it; names in capitals stand for others."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results/NOTES.md"):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert target.startswith("https://") or (page.parent / target.partition("#")[0]).exists(), target
        for name in re.findall(r"(?<![\w/])((?:results/|tests/)?[\w.-]+\.(?:py|txt|toml|md|json|png))(?![\w/])", text):
            there = any((folder / name).exists() for folder in (ROOT, page.parent, ROOT / "results"))
            others = "profile.json", "keras.json"  # MXNet's profiler writes the one, Keras the other
            made = re.search(rf"(?m)^    .* > {re.escape(name)}$", text)
            assert there or made or name in others or re.search("[A-Z]{3}", Path(name).stem), name


@pytest.mark.alone
def test_one_epoch_of_real_mnist(start, mnist):
    status, out, err = finish(start("mnist_mx_gluon.py", "--epochs", 1, "--data-dir", mnist), timeout=600)
    assert status == 0, "\n".join(err)
    assert float(out[-1].split()[1]) >= 0.965
