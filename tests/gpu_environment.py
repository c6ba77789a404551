"""The environments of the GPUs on a machine without any, by hand: `uv run tests/gpu_environment.py [mx|tf]`.

Makes those of requirements-gpu.txt and requirements-tf-gpu.txt in a temporary folder (several GB) as the README says, with a
stand-in for the driver's library, libcuda.so.1, which finds no GPU. Every library must find those that it needs and be loaded, the
framework must say that it is built for CUDA, refuse --device gpu in one line and train on the CPU.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# Asked in a process of the environment: what the framework says of itself, then every library of NVIDIA's is loaded
ASK = {
    "mx": """
import mxnet
features = mxnet.runtime.Features()
print("framework mxnet", mxnet.__version__)
print("gpus", mxnet.context.num_gpus())
print("built with", *(name for name in ("CUDA", "CUDNN", "NCCL") if features.is_enabled(name)))
""",
    "tf": """
import tensorflow as tf
info = tf.sysconfig.get_build_info()
print("framework tensorflow", tf.__version__)
print("gpus", len(tf.config.list_physical_devices("GPU")))
print("built with CUDA", info["cuda_version"], "CUDNN", info["cudnn_version"], "for", *info["cuda_compute_capabilities"])
""",
}
LOAD = """
import ctypes, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library)
print("loaded", *sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}))
"""
REQUIREMENTS = {"mx": "requirements-gpu.txt", "tf": "requirements-tf-gpu.txt"}
FRAMEWORK = {"mx": "MXNet", "tf": "TensorFlow"}
PACKAGE = {"mx": "mxnet", "tf": "tensorflow"}
SCRIPTS = {"mx": ("mnist_mx_gluon.py", "mnist_mx_keras.py"), "tf": ("mnist_tf_keras.py", "mnist_tf_keras_mgpu.py")}


def run(*command, status=0, **environment):
    """Run a command to its end, with this exit status; return stdout and stderr."""
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode != status:
        sys.exit(f"{' '.join(command)[:200]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def make_environment(kind, folder):
    """Install the requirements into folder; return its Python and its folder of packages."""
    run("uv", "venv", "--quiet", "--python", "3.11", folder)
    run("uv", "pip", "install", "--quiet", "--python", folder / "bin/python", "-r", REQUIREMENTS[kind])
    return folder / "bin/python", next((folder / "lib").glob("python*/site-packages"))


def library_path(kind, python):
    """Return the folders that the README's line finds for MXNet; TensorFlow finds its libraries by itself."""
    if kind == "tf":
        return ""
    (line,) = re.findall(r"(?m)^ *export (LD_LIBRARY_PATH=.*)$", (ROOT / "README.md").read_text())
    out, _ = run("sh", "-c", f'{line}\nprintf %s "$LD_LIBRARY_PATH"', PATH=f"{python.parent}:{os.environ['PATH']}")
    assert out, "the README's line finds no folder"
    return f":{out}"


def make_driver(folder, libraries):
    """Compile a libcuda.so.1 of all the driver's functions that the libraries name; each answers that there is no GPU."""
    out, _ = run("nm", "-D", "--undefined-only", *libraries)
    names = sorted({*re.findall(r"(?m)^ +U (cu[A-Z]\w*)$", out), "cuInit"})
    folder.mkdir()
    (folder / "libcuda.c").write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names))
    run("cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "libcuda.c")
    print(f"libcuda.so.1: a stand-in of {len(names)} functions", flush=True)


def check_libraries(kind, python, packages, libraries, environment):
    """Every library finds those that it needs; the framework sees no GPU; NVIDIA's libraries are loaded."""
    for library in libraries:
        out, _ = run("ldd", library, **environment)
        missing = [line.split()[0] for line in out.splitlines() if line.endswith("not found")]
        assert not missing, f"{library} misses {missing}"
    print(f"ldd: {len(libraries)} libraries find all that they need", flush=True)

    nvidia = [library for library in libraries if "nvidia" in library.relative_to(packages).parts]
    out, _ = run(python, "-c", ASK[kind] + LOAD, *nvidia, **environment)
    *said, loaded = out.splitlines()
    assert "gpus 0" in said and any(line.startswith("built with CUDA") for line in said), said
    there = {Path(path) for path in loaded.split()[1:]}
    assert {path.resolve() for path in nvidia} <= there, {path.resolve() for path in nvidia} - there
    print(*said, f"loaded: {len(nvidia)} libraries of NVIDIA's", sep="\n", flush=True)


def check_scripts(kind, python, digits, environment):
    """--device gpu is refused in one line; on the CPU the scripts train."""
    first, *_ = SCRIPTS[kind]
    _, err = run(python, first, "--device", "gpu", "--data-dir", digits, status=1, **environment)
    assert err.splitlines()[-1] == f"error: --device gpu needs 1 x gpu, {FRAMEWORK[kind]} sees 0; use --device cpu", err
    print(f"--device gpu: {err.splitlines()[-1]}", flush=True)
    for script in SCRIPTS[kind]:
        out, _ = run(python, script, "--epochs", 1, "--data-dir", digits, **environment)
        assert " x cpu, " in out.splitlines()[0] and out.splitlines()[-1].startswith("accuracy: 0."), out
        print(*out.splitlines(), sep="\n", flush=True)


def check(kind, folder):
    """Make an environment, look at it, train in it; say what was seen."""
    print(f"{REQUIREMENTS[kind]}: several GB to be downloaded", flush=True)
    python, packages = make_environment(kind, folder / "env")
    libraries = sorted({*packages.glob(f"{PACKAGE[kind]}/*.so*"), *packages.glob("nvidia/*/lib/*.so*")})
    make_driver(folder / "driver", libraries)
    environment = {"LD_LIBRARY_PATH": f"{folder / 'driver'}{library_path(kind, python)}"}
    check_libraries(kind, python, packages, libraries, environment)
    digits = folder / "digits"
    run(python, "synthetic_mnist.py", digits, "--train", 2000, "--test", 500)
    check_scripts(kind, python, digits, environment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *REQUIREMENTS], metavar="mx|tf", help="both")
    for kind in parser.parse_args().kinds or REQUIREMENTS:
        with tempfile.TemporaryDirectory() as name:
            check(kind, Path(name))
    print("not tried, as there is no GPU: kernels, cuDNN's choice of them, NCCL between devices, the driver itself")


if __name__ == "__main__":
    main()
