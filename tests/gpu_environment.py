"""The environment of requirements-gpu.txt on a machine without a GPU, by hand: `uv run tests/gpu_environment.py`.

Makes it in a temporary folder (several GB) as the README says, with a stand-in for the driver's library, libcuda.so.1,
which finds no GPU. MXNet must be imported with every library found, refuse --device gpu in one line and train on the CPU.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FEATURES = "CUDA", "CUDNN", "NCCL"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
IMPORT = """
import sys
import mxnet
features = mxnet.runtime.Features()
print("mxnet", mxnet.__version__)
print("gpus", mxnet.context.num_gpus())
print("features", *(name for name in sys.argv[1:] if features.is_enabled(name)))
print("loaded", *sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}))
"""


def run(*command, status=0, **environment):
    """Run a command to its end, with this exit status; return stdout and stderr."""
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode != status:
        sys.exit(f"{' '.join(command)[:200]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def make_environment(folder):
    """Install requirements-gpu.txt into folder; return its Python and the NVIDIA folders that the README's line finds."""
    run("uv", "venv", "--quiet", "--python", "3.11", folder)
    run("uv", "pip", "install", "--quiet", "--python", folder / "bin/python", "-r", "requirements-gpu.txt")
    (line,) = re.findall(r"(?m)^ *export (LD_LIBRARY_PATH=.*)$", (ROOT / "README.md").read_text())
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    out, _ = run("sh", "-c", f'{line}\nprintf %s "$LD_LIBRARY_PATH"', PATH=path)
    assert out, "the README's line finds no folder"
    return folder / "bin/python", out


def make_driver(folder, libraries):
    """Compile a libcuda.so.1 of all the driver's functions that the libraries name; each answers that there is no GPU."""
    out, _ = run("nm", "-D", "--undefined-only", *libraries)
    names = sorted(set(re.findall(r"(?m)^ +U (cu[A-Z]\w*)$", out)))
    folder.mkdir()
    functions = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in sorted({*names, "cuInit"}))
    (folder / "libcuda.c").write_text(functions)
    run("cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "libcuda.c")
    return names


def main():
    """Make the environment, look at it, train in it; say what was seen."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, nvidia = make_environment(folder / "env")
        packages = next((folder / "env/lib").glob("python*/site-packages"))
        libraries = sorted({*packages.glob("mxnet/*.so*"), *packages.glob("nvidia/*/lib/*.so*")})
        print(f"installed: {len(libraries)} libraries, {len(nvidia.split(':'))} folders in LD_LIBRARY_PATH", flush=True)

        names = make_driver(folder / "driver", libraries)
        print(f"libcuda.so.1: {len(names)} functions: {' '.join(names)}", flush=True)
        environment = {"LD_LIBRARY_PATH": f"{folder / 'driver'}:{nvidia}"}

        for library in libraries:
            out, _ = run("ldd", library, **environment)
            missing = [line.split()[0] for line in out.splitlines() if line.endswith("not found")]
            assert not missing, f"{library} misses {missing}"
        print("ldd: every library is found", flush=True)

        out, _ = run(python, "-c", IMPORT, *FEATURES, **environment)
        seen = dict(line.split(" ", 1) for line in out.splitlines())
        assert seen["mxnet"] == "1.9.1" and seen["gpus"] == "0" and seen["features"].split() == list(FEATURES), seen
        loaded = [Path(path) for path in seen["loaded"].split()]
        ours = sorted({path.name for path in loaded if folder in path.parents and "nvidia" in path.parts})
        assert folder / "driver/libcuda.so.1" in loaded and ours
        print(f"import mxnet: no GPU, features {seen['features']}; loaded of NVIDIA's: {' '.join(ours)}", flush=True)

        digits = folder / "digits"
        run(python, "synthetic_mnist.py", digits, "--train", 2000, "--test", 500)
        arguments = "mnist_mx_gluon.py", "--device", "gpu", "--data-dir", digits
        _, err = run(python, *arguments, status=1, **environment)
        assert err.splitlines()[-1] == "error: --device gpu needs 1 x gpu, MXNet sees 0; use --device cpu", err
        print(f"--device gpu: {err.splitlines()[-1]}", flush=True)
        for script in ("mnist_mx_gluon.py", "mnist_mx_keras.py"):
            out, _ = run(python, script, "--epochs", 1, "--data-dir", digits, **environment)
            assert " 1 x cpu, " in out.splitlines()[0] and out.splitlines()[-1].startswith("accuracy: 0."), out
            print(*out.splitlines(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
