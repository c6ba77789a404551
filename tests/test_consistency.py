"""What SPEC wants identical is identical to the letter; a variant differs from its sibling only in marked lines."""

import ast
import difflib
import re
import tomllib

import pytest
from conftest import ROOT, SCRIPTS

SHARED = [  # functions and constants whose text is one for all scripts
    *("load_mnist", "download", "report_epoch", "fail", "positive"),
    *("EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "BETA_1", "DROPOUT_CONV", "SEED", "MNIST", "MIRRORS", "TIMEOUT"),
]
ORDER = ["load_mnist", "build_model", "train", "evaluate", "parse_args", "main"]
MARKS = {"_mgpu": "# two devices: ", "_hvd": "# Horovod: "}


def texts(script):
    """Return a script's top-level functions and constants: name to source, with the comments on their lines."""
    source = (ROOT / script).read_text()
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = text
        elif isinstance(node, ast.Assign):
            found[next(n.id for n in ast.walk(node.targets[0]) if isinstance(n, ast.Name))] = text
        elif isinstance(node, ast.If):
            found[f"if {len([k for k in found if k.startswith('if')])}"] = text
    return found


def difference(a, b, a_name, b_name):
    return "\n".join(difflib.unified_diff(a.splitlines(), b.splitlines(), a_name, b_name, lineterm=""))


def header(script):
    """Return a script's PEP 723 metadata, read as that document says."""
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", (ROOT / script).read_text())["content"]
    return tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))


def requirements(name):
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def test_there_are_eleven():
    assert len(SCRIPTS) == 11


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_shared_text(script):
    first, other = texts(SCRIPTS[0]), texts(script)
    names = [*SHARED, *(name for name in first if name.startswith("if "))]
    assert len(names) == len(SHARED) + 2  # Ctrl-C and the call of main
    for name in names:
        assert first[name] == other[name], difference(first[name], other[name], SCRIPTS[0], script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shared_order(script):
    names = [name for name in texts(script) if name in [*SHARED, *ORDER]]
    assert [name for name in names if name in ORDER] == ORDER
    constants = [name for name in names if name.isupper()]
    assert names[: len(constants)] == constants == [name for name in SHARED if name.isupper()]


@pytest.mark.parametrize("name", ["parse_args", "main"])
def test_command_line_and_report(name):
    """Every script's text is that of the first one but for marked lines and the framework's own name and seeds."""

    def neutral(script):
        text = texts(script)[name]
        text = re.sub(r"versions = .*", "versions = …", text)
        text = re.sub(r"x \{devices\[0\](\.device_type|\[:3\])\}", "x {kind}", text)
        text = re.sub(r"(?m)(^    (mx\.random|np\.random|keras\.utils)\.\w*seed\(SEED\)\n)+", "    …seed(SEED)\n", text)
        return text.replace("build_model(devices, args.batch_size)", "build_model(devices)")

    singles = [script for script in SCRIPTS if not script.endswith(tuple(f"{end}.py" for end in MARKS))]
    assert len(singles) == 5
    for script in singles[1:]:
        assert neutral(singles[0]) == neutral(script), difference(
            neutral(singles[0]), neutral(script), singles[0], script
        )


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.endswith(("_mgpu.py", "_hvd.py"))])
def test_sibling_differs_only_where_marked(script):
    """Each run of changed lines, indentation aside, says in itself or in the line before what it is for."""
    sibling, mark = next((script.replace(end, ""), mark) for end, mark in MARKS.items() if end in script)

    def body(name):
        text = (ROOT / name).read_text()
        return [line.strip() for line in text[text.index("\nimport argparse") :].splitlines()]

    old, new = body(sibling), body(script)
    changes = [c for c in difflib.SequenceMatcher(None, old, new, False).get_opcodes() if c[0] != "equal"]
    assert changes
    for _, i, j, k, m in changes:
        text = "\n".join(new[max(k - 1, 0) : m])
        assert mark in text, (
            f"{script} differs from {sibling} without a comment:\n-" + "\n-".join(old[i:j]) + f"\n+{text}"
        )


@pytest.mark.parametrize("script", SCRIPTS)
def test_versions_agree(script):
    """A script's header and the requirements file of its environment pin the same versions."""
    metadata = header(script)
    name = "requirements-tf.txt" if "tensorflow" in str(metadata["dependencies"]) else "requirements.txt"
    assert set(metadata["dependencies"]) <= set(requirements(name))
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in metadata["dependencies"])


def test_every_requirement_is_used():
    for name in ("requirements.txt", "requirements-tf.txt"):
        assert set(requirements(name)) == {
            pin for script in SCRIPTS for pin in header(script)["dependencies"] if pin in requirements(name)
        }
    gpu = {pin.replace("mxnet-cu117", "mxnet") for pin in requirements("requirements-gpu.txt") if "nvidia" not in pin}
    assert gpu == {pin for pin in requirements("requirements.txt") if "horovod" not in pin}


def test_runner_is_tested_with_its_own_versions():
    """uv run benchmark.py takes its packages from its header; the tests run it in the project's environment."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["dependency-groups"]["dev"]
    assert set(header("benchmark.py")["dependencies"]) <= set(project)


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
