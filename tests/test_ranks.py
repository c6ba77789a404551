"""Ranks and processes that do not fit together, that have no launcher, or that end early: one line each, and no hang."""

import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, draw_digits, error_line, processes, python_of

HOROVOD, TORCH = "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"
NOBODY = "127.0.0.1", "9"  # the discard port: nobody listens
HOROVOD_LEFT = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "2"}
HOROVOD_LEFT |= {"HOROVOD_GLOO_RENDEZVOUS_ADDR": NOBODY[0], "HOROVOD_GLOO_RENDEZVOUS_PORT": NOBODY[1]}
TORCHRUN_LEFT = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "0", "WORLD_SIZE": "2"}
TORCHRUN_LEFT |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": NOBODY[0], "MASTER_PORT": NOBODY[1]}
LEFT = [
    (HOROVOD, HOROVOD_LEFT, "no horovodrun"),
    (HOROVOD, HOROVOD_LEFT | {"HOROVOD_GLOO_RENDEZVOUS_PORT": "nonsense"}, "no horovodrun"),
    (HOROVOD, {"HOROVOD_GLOO_RENDEZVOUS_ADDR": NOBODY[0]}, "no horovodrun"),
    (TORCH, TORCHRUN_LEFT, "no torchrun"),
    (TORCH, TORCHRUN_LEFT | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, "no torchrun"),
    (TORCH, TORCHRUN_LEFT | {"MASTER_PORT": "99999"}, "no torchrun"),
    (TORCH, TORCHRUN_LEFT | {"RANK": "nonsense"}, "no torchrun"),
    (TORCH, {"TORCHELASTIC_RUN_ID": "none"}, "no torchrun"),
]


TURNS = """
import json, os, runpy, sys
script, turns, sys.argv[1:] = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
before = dict(os.environ)
for left in turns:
    os.environ.clear()
    os.environ |= before | left
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end)
"""


@pytest.mark.parametrize("script", [HOROVOD, TORCH])
def test_launcher_that_is_gone(few_digits, script):
    """What it left in the shell is told from a launcher at once; all take turns in a process after the first, which has its own."""
    arguments = "--data-dir", few_digits, "--batch-size", "40"
    cases = [(left, words) for name, left, words in LEFT if name == script]
    command = [python_of(script), ROOT / script, *arguments]
    options = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, env=os.environ | cases[0][0], check=False, **options)
    assert (done.returncode, done.stdout) == (1, "")
    assert cases[0][1] in error_line(done.stderr, alone=True)
    turns = json.dumps([left for left, _ in cases[1:]])
    done = subprocess.run([python_of(script), "-c", TURNS, ROOT / script, turns, *arguments], check=False, **options)
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases) - 1, done.stderr
    for line, (_, words) in zip(lines, cases[1:]):
        assert line.startswith("error: ") and words in line


@pytest.fixture(scope="module")
def others(tmp_path_factory, few_digits):
    """Return folders of digits that differ from few_digits: in the training set, in the test set, and in one byte alone."""
    folders = {
        "training images": draw_digits(tmp_path_factory.mktemp("others"), 600, 103),
        "test images": draw_digits(tmp_path_factory.mktemp("others"), 479, 90),
    }
    other = shutil.copytree(few_digits, tmp_path_factory.mktemp("others") / "byte")
    program = f"""
import numpy as np
arrays = dict(np.load({str(other / "mnist.npz")!r}))
arrays["y_train"][7] ^= 1
np.savez({str(other / "mnist.npz")!r}, **arrays)
"""
    subprocess.run([python_of("mnist_torch.py"), "-c", program], check=True)
    return folders | {"a label": other}


@pytest.mark.parametrize("what", ["training images", "test images", "a label", "flags"])
@pytest.mark.parametrize("launcher", ["horovodrun", "torchrun"])
def test_ranks_that_differ(tmp_path, few_digits, others, launcher, what):
    """Every rank ends with one line that says what it has."""
    script, number = (HOROVOD, "$HOROVOD_RANK") if launcher == "horovodrun" else (TORCH, "$RANK")
    shutil.copy(ROOT / script, tmp_path)
    of_rank_1 = (
        f"[ {number} = 0 ] || set -- --epochs 2"
        if what == "flags"
        else f"[ {number} = 0 ] || export MNIST_DIR={others[what]}"
    )
    shell = f'{of_rank_1}; exec python {script} --batch-size 40 "$@"'
    if launcher == "horovodrun":
        command = ["horovodrun", "-np", "2", "-H", "localhost:2", "sh", "-c", shell]
    else:
        command = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "sh", "-c", shell]
    mark = f"TEST_FOLDER={tmp_path}"
    environment = os.environ | {"PATH": f"{os.path.dirname(python_of(script))}:{os.environ['PATH']}"}
    environment |= {"TEST_FOLDER": str(tmp_path), "MNIST_DIR": str(few_digits), "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    told = re.findall(r"error: the ranks have different data or flags, rank (\d) has ", done.stderr)
    assert done.returncode != 0
    # at once, perhaps, so that the end of one line comes after the other line
    assert sorted(told) == ["0", "1"], done.stderr
    assert "duration" not in done.stdout
    assert not processes(mark)


def dying(source, moment, how):
    """Return the script with a line that ends its second process, or every one that is importing, at a moment."""
    where = {
        "importing": "import numpy as np\n",
        "loading": '    names = "x_train", "y_train", "x_test", "y_test"\n',
        "training": "    model.train()\n",
        "evaluating": "    model.eval()\n",
    }[moment]
    indent = where[: len(where) - len(where.lstrip())]
    line = f'{indent}if __name__ == "__mp_main__" and os.environ.get("RANK", "1") == "1": {how}\n'
    assert source.count(where) == 1
    return source.replace(where, where + line)


def run_dying(folder, data, moment, how):
    """Run the script that ends at a moment for one epoch; return the finished process."""
    script = folder / TORCH
    script.write_text(dying((ROOT / TORCH).read_text(), moment, how))
    command = [python_of(TORCH), "-W", "ignore", script, "--data-dir", data, "--batch-size", "40", "--epochs", "1"]
    environment = os.environ | {"TEST_FOLDER": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("moment", ["importing", "loading", "training", "evaluating"])
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "sys.exit(7)"])
def test_process_that_ends_early(tmp_path, few_digits, moment, how):
    """Whenever it ends, by a signal or by itself, the first process says so in one line and nothing is left."""
    done = run_dying(tmp_path, few_digits, moment, how)
    assert done.returncode == 1
    error_line(done.stderr)
    if "kill" in how:
        assert "SIGKILL" in done.stderr
    assert not any(line.startswith("accuracy") for line in done.stdout.splitlines())
    assert not processes(f"TEST_FOLDER={tmp_path}")


def test_gpu_that_fails_in_a_process(tmp_path, few_digits):
    """What CUDA says while a process trains is one line; the other kinds are told apart in test_torch.py."""
    how = 'raise torch.AcceleratorError("CUDA error: it broke\\nMore in the manual.")'
    done = run_dying(tmp_path, few_digits, "training", how)
    assert done.returncode == 1
    assert error_line(done.stderr) == "error: CUDA error: it broke"


def test_fault_of_the_script_shows_its_traceback(tmp_path, few_digits):
    """Who changes a copy must see where it fails: only what the user can mend is one line."""
    done = run_dying(tmp_path, few_digits, "training", 'raise ValueError("mine")')
    assert done.returncode == 1
    assert "in train" in done.stderr and "ValueError: mine" in done.stderr
