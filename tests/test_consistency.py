"""What all scripts share is the same to the letter; a variant differs from its sibling only in marked lines."""

import ast
import difflib
import functools
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS

FUNCTIONS = ["build_model", "train", "evaluate", "load_mnist", "find_device", "parse_args", "main"]  # in this order
CONSTANTS = [
    "EPOCHS",
    "BATCH_SIZE",
    "LEARNING_RATE",
    "BETA_1",
    "DROPOUT_CONV",
    "CLASSES",
    "SEED",
]  # for a reader to set
ADDRESS = ["URL", "SHA256", "SCRIPT"]  # beside load_mnist
IMPORTS = ["import argparse", "import os", "import signal", "import sys", "import time", "from pathlib import Path"]
MORE_IMPORTS = "collections.abc", "ctypes", "gc", "hashlib", "logging", "multiprocessing", "socket", "subprocess"
# A Ctrl-C before the frameworks are loaded must find this done
CTRL_C = """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run at once, inside the framework's C++ too"""
PRINT = 'print(f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {seconds:.2f} s", flush=True)'
MARKS = {"_mgpu": "# two devices: ", "_hvd": "# Horovod: "}
# Whose names say it: find_devices for find_device, and the first line of the output
SINGLES = [script for script in SCRIPTS if not any(end in script for end in MARKS)]
KERAS = [script for script in SCRIPTS if "keras" in script]


def statements(script):
    """Return a script's top-level statements in order: (kind, name, first line, last line, source with comments)."""
    source = (ROOT / script).read_text()
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        name = getattr(node, "name", None)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Tuple)):
            name = next(n.id for n in ast.walk(node.targets[0]) if isinstance(n, ast.Name))
        found.append((type(node).__name__, name, node.lineno, node.end_lineno, text))
    return found


def texts(script):
    """Return the source of a script's functions, classes and constants by name; find_devices goes by find_device's name."""
    return {name.replace("find_devices", "find_device"): text for _, name, _, _, text in statements(script) if name}


def difference(a, b, a_name, b_name):
    return "\n".join(difflib.unified_diff(a.splitlines(), b.splitlines(), a_name, b_name, lineterm=""))


def header_block(script):
    """Return the lines of a script's PEP 723 metadata, found as that document says."""
    return re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", (ROOT / script).read_text())["content"]


def header(script):
    """Return a script's PEP 723 metadata."""
    block = header_block(script)
    return tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))


def requirements(name):
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def test_there_are_thirteen():
    assert len(SCRIPTS) == 13


def check_same(name, scripts, neutral=lambda text: text):
    """The function or constant has one text in these scripts, but for what neutral takes away."""
    first = neutral(texts(scripts[0])[name])
    for script in scripts[1:]:
        other = neutral(texts(script)[name])
        assert first == other, difference(first, other, scripts[0], script)


@pytest.mark.parametrize("name", [*CONSTANTS, "URL", "SHA256", "load_mnist"])
def test_shared_text(name):
    check_same(name, SCRIPTS)


def test_text_shared_by_some():
    check_same("to_input", [script for script in SCRIPTS if "_tf_" not in script and "_ds" not in script])
    check_same("to_input", [script for script in SCRIPTS if "_tf_" in script])
    check_same("to_batch", [script for script in SCRIPTS if "_ds" in script])
    check_same("ReportEpoch", KERAS, lambda text: text.replace("(tf.keras.", "(keras."))
    others = {name for script in SCRIPTS for name in texts(script) if not name.isupper()} - set(FUNCTIONS)
    two = [script for script in SCRIPTS if "_hvd" in script or script == "mnist_torch_mgpu.py"]
    for name in ("bind_to_cores", "choose_cpus", "find_siblings", "describe"):
        check_same(name, two)
    check_same("keep_freed_memory", [script for script in SCRIPTS if "_torch" in script])
    for api, names in {"_ds": ("build_batches", "to_tensor", "WORKERS"), "_sym": ("build_batches",)}.items():
        for name in names:
            check_same(name, [script for script in SCRIPTS if api in script])
    shared = {"to_input", "to_batch", "to_tensor", "build_batches", "ReportEpoch", "keep_freed_memory"}
    of_ranks = {"bind_to_cores", "choose_cpus", "find_siblings", "describe", "meet_the_ranks", "wait_for_all"}
    assert others == shared | of_ranks | {
        "check_args",
        "run",
        "start",
        "is_own_fault",
        "describe_error",
        "left",
        "local_size",
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_epoch_line(script):
    """Every script prints it once, in the loop or in Keras' callback."""
    lines = [line.strip().replace("logs['loss']", "loss") for line in (ROOT / script).read_text().splitlines()]
    assert [line for line in lines if 'print(f"epoch' in line] == [PRINT]


@pytest.mark.parametrize("script", SCRIPTS)
def test_order(script):
    """Header, docstring, imports, constants, then model, loop and evaluation, the rest below."""
    assert (ROOT / script).read_text().startswith("# /// script\n")
    found = statements(script)
    letters = {"Import": "i", "ImportFrom": "i", "FunctionDef": "f", "ClassDef": "f"}
    kinds = "".join(letters.get(statement[0], "x") for statement in found)
    # docstring, the standard library, Ctrl-C, loky and settings, the packages, constants, functions, the call of main
    assert re.fullmatch("xi+xix+i+x+f+x*f*xxxf+x", kinds), kinds
    assert found[-1][4].startswith('if __name__ == "__main__":\n') and "    main()\n" in found[-1][4]
    standard = [text for kind, _, _, _, text in found[: kinds.index("x", 1)] if kind.startswith("Import")]
    assert [text for text in standard if text.split("  #")[0].split()[1] not in MORE_IMPORTS] == IMPORTS
    assert found[kinds.index("x", 1)][4].endswith(CTRL_C)
    assert (ROOT / script).read_text().count("signal.signal(signal.SIGINT") == 1
    names = [name.replace("find_devices", "find_device") for _, name, *_ in found if name]
    assert [name for name in names if name in FUNCTIONS] == FUNCTIONS
    assert names[-1] == "main" and names[names.index("evaluate") - 1] == "train"
    constants = [name for name in names if name.isupper() and name not in ("THREADS", "CORES", "WORKERS")]
    assert constants == [*CONSTANTS, *ADDRESS]


def test_threads():
    """One text, but where ranks or processes share a host's cores."""
    ranks = "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"
    check_same("THREADS", [script for script in SCRIPTS if script not in ranks])


@pytest.mark.parametrize("script", SCRIPTS)
def test_lines_are_not_wide(script):
    assert max(map(len, (ROOT / script).read_text().splitlines())) <= 120


@pytest.mark.parametrize("script", SINGLES)
def test_model_loop_and_evaluation_stand_on_the_first_two_screens(script):
    where = {name: (first, last) for _, name, first, last, _ in statements(script)}
    assert where["build_model"][0] <= 45
    assert where["evaluate"][1] <= 95


@pytest.mark.parametrize("script", SCRIPTS)
def test_library_does_it(script):
    """What sys.exit, argparse and signal do is not done again."""
    text = (ROOT / script).read_text()
    for word in ("report_epoch", "fail(", "positive", "import threading", "Thread(", "parser.error"):
        assert word not in text
    assert text.count("os._exit") == ("_ds" in script)  # where a killed worker may have left a lock


def test_command_line_and_report():
    """On one device parse_args is one text, and main but for the framework's name, its seeds, and who takes what."""

    def neutral(text):
        text = re.sub(r"versions = .*", "versions = …", text)
        text = re.sub(r"1 x \{device(\.device_type|\[:3\])?\}", "1 x {kind}", text)
        text = re.sub(r"(?m)^    kind = .*\n", "", text)
        text = re.sub(r"(?m)^    .*seed\(args\.seed\).*\n|^    ctypes.CDLL\(None\)\.srand\(.*\n", "", text)
        text = re.sub(r"build_model\(.*\)", "build_model(…)", text)
        text = re.sub(r"(?m)^    (torch\.set_num_threads|keep_freed_memory)\(.*\n", "", text)
        text = re.sub(
            r"(?m)^    # before the GPU .*\n|^    batches = build_batches\(.*\n", "", text
        )  # made before the model
        text = text.replace(
            "train(model, batches, args.epochs, device", "train(model, batches, args.epochs, args.batch_size, device"
        )
        text = text.replace("train(model, batches,", "train(model, train_images, train_labels,")
        text = re.sub(r"to_input\((\w+)\)", r"\1", text)  # DataLoader makes its own
        return text.replace("args.batch_size, device)", "args.batch_size)")

    assert len(SINGLES) == 6
    check_same("parse_args", SINGLES)
    check_same("main", SINGLES, neutral)
    several = [script for script in SCRIPTS if "_mgpu" in script]
    share = re.compile(r"THREADS and |  # two devices: or each takes its share")  # PyTorch's processes
    check_same("parse_args", several, lambda text: share.sub("", text))
    several.remove("mnist_torch_mgpu.py")
    check_same("main", several, lambda text: neutral(text).replace("[0].device_type", "[0][:3]"))


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script not in SINGLES])
def test_sibling_differs_only_where_marked(script):
    """Each run of changed lines says what it is for; indentation and the mere passing on of the devices need no word."""
    sibling, mark = next((script.replace(end, ""), mark) for end, mark in MARKS.items() if end in script)

    def body(name):
        text = (ROOT / name).read_text()
        text = text.replace(f'"__file__", "{name}"', '"__file__", "…"')  # each its own
        return [line.strip() for line in text[text.index("\nimport argparse") :].splitlines()]

    def neutral(line):
        line = re.sub(r"((?:build_model|train|evaluate)\(.*?)(?:, )?\bdevices?\)", r"\1)", line)
        return re.sub(r"\bdevices\b", "device", line)

    old, new = body(sibling), body(script)
    matcher = difflib.SequenceMatcher(None, [neutral(line) for line in old], [neutral(line) for line in new], False)
    changes = [c for c in matcher.get_opcodes() if c[0] != "equal"]
    assert changes
    for _, i, j, k, m in changes:
        lines = new[k:m] or new[k - 1 : k]
        assert any(mark in line for line in lines), (
            f"{script} differs from {sibling} without a comment:\n-" + "\n-".join(old[i:j]) + "\n+" + "\n+".join(lines)
        )


@pytest.mark.parametrize("script", SCRIPTS)
def test_versions_agree(script):
    """A script's header and the requirements file of its environment pin the same versions."""
    metadata = header(script)
    name = f"requirements-{found[0]}.txt" if (found := re.findall("_(tf|torch)", script)) else "requirements.txt"
    assert set(metadata["dependencies"]) <= set(requirements(name))
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in metadata["dependencies"])


@functools.cache
def resolve(block):
    """Return what uv says if it can lock a script with these metadata for no, or not every, Python; else nothing."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(f"# /// script\n{block}# ///\n")
        for more in ([], ["--offline"]):  # without network the cache has to do
            command = ["uv", "lock", "--script", script, *more]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return ""
    return done.stderr


@pytest.mark.parametrize(
    "script", [s for s in [*SCRIPTS, "synthetic_mnist.py", "benchmark.py", "report.py"] if "_hvd" not in s]
)
def test_every_python_that_a_header_allows_has_the_packages(script):
    """Told by uv, which resolves for all of them at once; Horovod's script has Gluon's packages and one that is built."""
    assert resolve(header_block(script)) == ""


def test_pythons_agree():
    """Scripts of one environment run on the same Pythons."""
    for words in (("_mx_", "synthetic"), ("_tf_",), ("_torch",)):
        some = [s for s in [*SCRIPTS, "synthetic_mnist.py"] if any(word in s for word in words)]
        assert len({header(script)["requires-python"] for script in some}) == 1


def test_every_requirement_is_used():
    for name in ("requirements.txt", "requirements-tf.txt", "requirements-torch.txt"):
        assert set(requirements(name)) == {
            pin for script in SCRIPTS for pin in header(script)["dependencies"] if pin in requirements(name)
        }
    gpu = {pin.replace("mxnet-cu117", "mxnet") for pin in requirements("requirements-gpu.txt") if "nvidia" not in pin}
    assert gpu == {pin for pin in requirements("requirements.txt") if "horovod" not in pin}
    of_gpus = [pin for pin in requirements("requirements-tf-gpu.txt") if "nvidia" not in pin]
    gpu = {pin.replace("tensorflow[and-cuda]", "tensorflow-cpu") for pin in of_gpus}
    assert gpu == set(requirements("requirements-tf.txt"))


def test_runner_is_tested_with_its_own_versions():
    """uv run benchmark.py takes its packages from its header; the tests run it in the project's environment."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["dependency-groups"]["dev"]
    for program in ("benchmark.py", "report.py"):
        assert set(header(program)["dependencies"]) <= set(project)
    assert set(header("report.py")["dependencies"]) <= set(header("benchmark.py")["dependencies"])  # which starts it


def test_stand_in_digits_need_no_further_download():
    """The MXNet scripts' environment has all they need."""
    metadata, script = header("synthetic_mnist.py"), header("mnist_mx_gluon.py")
    assert metadata["requires-python"] == script["requires-python"]
    assert set(metadata["dependencies"]) <= set(script["dependencies"])


def test_horovod_is_built_the_same():
    with open(ROOT / "uv.toml", "rb") as file:
        assert header("mnist_mx_gluon_hvd.py")["tool"]["uv"] == tomllib.load(file)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_local_imports(script):
    """A script copied alone into an empty folder has all it needs."""
    tree = ast.parse((ROOT / script).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in imported} & {path.stem for path in ROOT.glob("*.py")}


def test_counterparts_stand_in_the_scripts():
    """Every piece of code in the README's table of who moves is in the script that its column names."""
    section = (ROOT / "README.md").read_text().partition("**From Gluon to PyTorch**")[2].partition("PyTorch adds")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    scripts = [re.sub("in `(.*)`", r"\1", cell) for cell in rows[0]]
    assert scripts == ["mnist_mx_gluon.py", "mnist_torch.py"] and len(rows) > 10
    for row in rows[1:]:
        for script, cell in zip(scripts, row, strict=True):
            for code in re.findall("`(.+?)`", cell):
                assert code in (ROOT / script).read_text() or (cell.startswith("none") and code == "torch.compile"), (
                    code
                )
