"""A GPU that a framework counts and cannot use: what it answers is patched, as there is none here.

gpu ends with one line that names the reason, auto says it in one line and takes the CPU, cpu does not ask. The Horovod ranks
and the PyTorch processes decide together.
"""

import functools
import json
import os
import subprocess

import pytest
from conftest import ROOT, SCRIPTS, group_of, python_of, python_of_group

REASON = "the driver is too old"
PROGRAM = """
import contextlib, importlib, io, json, os, subprocess, sys, types

reason, ends = sys.argv[2], {}

def fail(*_, **__):
    message = "Traceback (most recent call last):\\\\n  File x.cc\\\\nCUDA: " + reason
    if hasattr(script, "mx"):
        raise script.mx.MXNetError(message)
    raise RuntimeError("CUDA: " + reason + "\\\\nFor debugging consider CUDA_LAUNCH_BLOCKING=1")

def never(*_, **__):
    raise AssertionError("--device cpu asks for GPUs")

def ask(kind, patches, others=()):
    out, err, end = io.StringIO(), io.StringIO(), None
    with contextlib.ExitStack() as undo, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for owner, name, value in patches:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        try:
            if hasattr(script, "hvd"):
                script.hvd.local_size, script.hvd.local_rank = lambda: 1, lambda: 0
                script.hvd.allgather_object = lambda text: [text, *others]
                found = script.find_device(kind)
            elif hasattr(script, "dist"):
                found = script.find_device(kind, 0, 1, lambda text: [text, *others])
            else:
                found = script.find_devices(kind, 2) if two else script.find_device(kind)
        except SystemExit as exit:
            found = exit.code
    answers.append([str(found), out.getvalue(), err.getvalue()])

for name in json.loads(sys.argv[1]):
    script, two, answers = importlib.import_module(name), name.endswith("_mgpu"), []
    many = 2 if two else 1
    if hasattr(script, "mx"):
        context, nd = script.mx.context, script.mx.nd
        counted = [(context, "num_gpus", lambda: many), (nd, "ones", fail)]
        uncounted = [(context, "num_gpus", fail)]
        asked = [(context, "num_gpus", never)]
        fine = [(context, "num_gpus", lambda: many), (nd, "ones", lambda *_: types.SimpleNamespace(wait_to_read=lambda: None))]
    elif hasattr(script, "torch"):
        torch = script.torch
        counted = [(torch.cuda, "device_count", lambda: many), (torch, "ones", fail)]
        uncounted = [(torch.cuda, "device_count", fail)]
        asked = [(torch.cuda, "device_count", never)]
        fine = [(torch.cuda, "device_count", lambda: many), (torch, "ones", lambda *_, **__: types.SimpleNamespace(cpu=lambda: None))]
    else:
        config = script.tf.config
        cpus = config.list_physical_devices("CPU")
        done = types.SimpleNamespace(returncode=1, stderr="chatter\\\\nInternalError: " + reason + "\\\\n")
        listed = (config, "list_physical_devices", lambda kind: cpus if kind == "CPU" else ["GPU"] * many)
        visible = (config, "set_visible_devices", lambda *_: None)
        logical = (config, "set_logical_device_configuration", lambda *_: None)
        counted = [listed, visible, logical, (subprocess, "run", lambda *_, **__: done)]
        uncounted = counted
        asked = [visible, logical, (config, "list_physical_devices", lambda kind: cpus if kind == "CPU" else never())]
        fine = [listed, visible, logical, (subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=0))]
        for setting in ("set_memory_growth", "enable_tensor_float_32_execution"):
            fine.append((config.experimental, setting, lambda *_: None))
    for kind, patches in (("gpu", counted), ("auto", counted), ("gpu", uncounted), ("auto", uncounted), ("cpu", asked), ("auto", fine)):
        ask(kind, patches)
    if hasattr(script, "hvd") or hasattr(script, "dist"):
        for kind in ("auto", "gpu"):
            ask(kind, fine, ["needs 1 x gpu, the other sees 0"])
    ends[name + ".py"] = answers
print(json.dumps(ends))
"""


@functools.cache
def ends_of(group):
    """Return what becomes of each script of a group in one process, by its name."""
    names = json.dumps([script.removesuffix(".py") for script in group])
    command = [python_of_group(group), "-W", "ignore", "-c", PROGRAM.replace("\\\\n", "\\n"), names, REASON]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_gpu_that_cannot_be_used(script):
    answers = ends_of(group_of(script))[script]
    assert not any(out for _, out, _ in answers)
    for end, _, err in (answers[0], answers[2]):
        assert end.startswith("error: --device gpu needs ") and REASON in end and end.endswith("; use --device cpu")
        assert len(end.splitlines()) == 1 and "Traceback" not in end
        assert err == ""
    for found, _, err in (answers[1], answers[3]):
        assert "cpu" in found and "gpu" not in found and "cuda" not in found
        assert len(err.splitlines()) == 1 and REASON in err and "CPU" in err
    found, _, err = answers[4]
    assert "cpu" in found and err == ""
    found, _, err = answers[5]
    assert ("gpu" in found or "cuda" in found) and err == ""
    together = "_hvd" in script or script == "mnist_torch_mgpu.py"
    expected = ("cpu", "error: --device gpu needs 1 x gpu, the other sees 0") if together else ()
    for (found, _, _), start in zip(answers[6:], expected, strict=True):
        assert found.startswith(start)


SHADOW = """
import importlib, sys, types
sys.path.insert(0, sys.argv[2])
script = importlib.import_module(sys.argv[1])
config, two = script.tf.config, sys.argv[1].endswith("_mgpu")
cpus, gpus = config.list_physical_devices("CPU"), ["GPU"] * (2 if two else 1)
config.list_physical_devices = lambda kind: cpus if kind == "CPU" else gpus
run, nothing = script.subprocess.run, lambda *_: None
def look(command, **options):
    program = "import importlib.util; print(importlib.util.find_spec('tensorflow').origin)"
    print(run([*command[: command.index("-c") + 1], program], **options).stdout)
    return types.SimpleNamespace(returncode=0)
script.subprocess.run = look
config.set_visible_devices = config.set_logical_device_configuration = nothing
config.experimental.set_memory_growth = config.experimental.enable_tensor_float_32_execution = nothing
print(script.find_devices("auto", 2) if two else script.find_device("auto"))
"""


@pytest.mark.parametrize("script", [script for script in SCRIPTS if "_tf_" in script])
def test_trial_imports_no_file_of_the_user(tmp_path, script):
    """TensorFlow's trial is a process of its own, asked here where it would import TensorFlow from: not from the user's folder."""
    (tmp_path / "tensorflow.py").touch()
    command = [python_of(script), "-P", "-W", "ignore", "-c", SHADOW, script.removesuffix(".py"), ROOT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("/site-packages/tensorflow/__init__.py")
