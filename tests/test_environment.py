"""What an ordinary user's environment may not change: each script beside itself in a shell full of left-over settings."""

import functools
import io
import json
import os
import re
import signal
import subprocess

import loky
import numpy as np
import pytest
from conftest import ROOT, SCRIPTS, cores_in_use, draw_digits, error_line, finish, python_of

KERAS_JSON = {"floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first", "backend": "jax"}
OPENMP = {
    "OMP_NUM_THREADS": "",
    "OMP_THREAD_LIMIT": "1",
    "OMP_PROC_BIND": "true",
    "OMP_PLACES": "{0}",
    "OMP_DYNAMIC": "true",
    "OMP_MAX_ACTIVE_LEVELS": "0",
    "OMP_STACKSIZE": "1",
    "OMP_SCHEDULE": "nonsense",
    "GOMP_CPU_AFFINITY": "0",
    "MKL_NUM_THREADS": "1",
    "MKL_DYNAMIC": "nonsense",
    "MXNET_OMP_MAX_THREADS": "1",
}
KERAS = {
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "KERAS_BACKEND": "jax",
    "KERAS_NNX_ENABLED": "1",
    "TF_USE_LEGACY_KERAS": "1",
}
PRECISION = {
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",  # TensorFlow's own
}
NCCL = {"NCCL_COMM_ID": "10.255.255.1:9", "NCCL_SOCKET_IFNAME": "ib0"}  # of GPUs on several hosts
LAUNCHERS = {
    # MXNet's parameter servers, TensorFlow's clusters
    "DMLC_ROLE": "scheduler",
    "DMLC_PS_ROOT_URI": "10.255.255.1",
    "DMLC_PS_ROOT_PORT": "9",
    "TF_CONFIG": '{"cluster":',
    # Gloo's and NCCL's networks
    "GLOO_SOCKET_IFNAME": "ib0",
    "GLOO_DEVICE_TRANSPORT": "nonsense",
    **NCCL,
    # horovodrun's ranks, without the address of a launcher
    **{f"HOROVOD_{name}": "1" for name in ("RANK", "LOCAL_RANK", "CROSS_SIZE", "ELASTIC")},
    **{f"HOROVOD_{name}": "2" for name in ("SIZE", "LOCAL_SIZE")},
    "HOROVOD_CROSS_RANK": "0",
    "HOROVOD_HOSTNAME": "nowhere",
    "HOROVOD_GLOO_IFACE": "ib0",
    "HOROVOD_CONTROLLER": "mpi",
    "HOROVOD_CPU_OPERATIONS": "mpi",
    # torchrun's ranks, without a run's number
    **{name: "3" for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK")},
    **{name: "4" for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")},
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "1",
    # MPI and SLURM
    **{f"OMPI_COMM_WORLD_{name}": "1" for name in ("RANK", "LOCAL_RANK")},
    **{f"OMPI_COMM_WORLD_{name}": "2" for name in ("SIZE", "LOCAL_SIZE")},
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "job",
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NODELIST": "n[1-2]",
}
HOSTILE = OPENMP | KERAS | PRECISION | LAUNCHERS
FEW = [s for s in SCRIPTS if s in ("mnist_mx_gluon.py", "mnist_mx_keras.py", "mnist_tf_keras.py", "mnist_torch.py")]
ONE_THREAD = [*FEW, "mnist_mx_sym.py", "mnist_tf_keras_mgpu.py"]
ON_A_MAC = [s for s in SCRIPTS if "_torch" in s or "_tf_" in s]
LINUX_ONLY = """
import ctypes, os, pathlib, sys
pathlib.Path(__file__).with_name("taken_away").touch()
for name in ("sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
class Library(ctypes.CDLL):  # as on a system without these functions
    def __getattr__(self, name):
        if name in ("mallopt", "prctl"):
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = Library
"""


@pytest.fixture(scope="session")
def tiny_digits(tmp_path_factory):
    """Return a folder of stand-in digits: 200 for training and 100 for the test."""
    return draw_digits(tmp_path_factory.mktemp("tiny_digits"), 200, 100)


def start(script, data, *arguments, before=(), instead=(), folder=None, source=None, **environment):
    """Start a script in the tests' environment, changed as said; without data, there is no word of it.

    before: the words before its interpreter; instead: what the interpreter runs in the script's place; source: what it reads.
    """
    command = [*before, python_of(script), "-W", "ignore", *(instead or [ROOT / script])]
    command += [*(["--data-dir", data] if data else []), "--batch-size", 100, *arguments]
    left_out = ["OMP_NUM_THREADS", *([] if data else ["MNIST_DIR"])]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in left_out}
        | {"CUDA_VISIBLE_DEVICES": ""}  # PyTorch's packages could use a GPU, and auto would
        | environment,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def without_seconds(lines):
    return [re.sub(r" +\d+\.\d\d s", "", line) for line in lines]


def test_processes_need_a_file(tiny_digits):
    """Those that PyTorch starts read the script anew: from standard input there is nothing to read, and it says so."""
    script = "mnist_torch_mgpu.py"
    with open(ROOT / script) as source:
        command = [python_of(script), "-", "--data-dir", tiny_digits, "--batch-size", "100"]
        done = subprocess.run(command, stdin=source, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "as a file" in error_line(done.stderr)


@pytest.mark.parametrize("script", [*FEW, "mnist_torch_mgpu.py"])
def test_output_that_cannot_be_written(tiny_digits, script):
    """As on a full disk: one line."""
    before = "sh", "-c", 'exec "$@" > /dev/full', "sh"
    status, _, err = finish(start(script, tiny_digits, "--epochs", 2, before=before))
    assert status == 1
    assert "No space left" in error_line(err)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, tiny_digits):
    """Return a function that runs a script where all is odd at once, for all tests that ask of it: status, stdout, stderr.

    Its name is one that the terminal cannot print, somebody has scaled the images, and for PyTorch and TensorFlow, which there
    are for a Mac, too, the calls are missing that only Linux and glibc have.
    """

    @functools.cache
    def run(script):
        folder = tmp_path_factory.mktemp("odd")
        copy = folder / "mnist_zażółć_\udcff.py"
        copy.write_bytes((ROOT / script).read_bytes())
        with np.load(tiny_digits / "mnist.npz") as file:
            arrays = {name: file[name] // 128 if name.startswith("x") else file[name] for name in file.files}
        np.savez(folder / "mnist.npz", **arrays)
        environment = {"PYTHONIOENCODING": "ascii"}
        if script in ON_A_MAC:
            (folder / "sitecustomize.py").write_text(LINUX_ONLY)
            environment["PYTHONPATH"] = str(folder)
        ended = finish(start(script, folder, "--epochs", 1, instead=[copy], **environment))
        assert (folder / "taken_away").exists() == (script in ON_A_MAC)
        return ended

    return run


@pytest.mark.parametrize("script", FEW)
def test_name_that_the_terminal_cannot_print(odd, script):
    status, out, err = odd(script)
    assert status == 0, err
    assert out[0].startswith(r"mnist_za\u017c\xf3\u0142\u0107_\udcff.py: ")


@pytest.mark.parametrize("script", ON_A_MAC)
def test_another_system(odd, script):
    """Without the calls that only Linux and glibc have, as on a Mac, the run is the same; nothing is bound to cores."""
    status, out, err = odd(script)
    assert status == 0, err
    assert out[-1].startswith("accuracy: ")


@pytest.mark.parametrize(
    "script", ["mnist_mx_gluon.py", "mnist_tf_keras_mgpu.py", "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"]
)
def test_images_that_somebody_has_scaled(odd, script):
    """Bytes of 0 and 1 are trained on, and said in one line."""
    status, _, err = odd(script)
    assert status == 0, err
    assert len([line for line in err if line.startswith("warning: ") and "0 to 255" in line]) == 1, err


def start_from_standard_input(folder, script, data, *arguments, **options):
    """Start a script as `uv run - < SCRIPT` does, in an empty folder; without --data-dir the data is beside."""
    (folder / "data").symlink_to(data)
    with open(ROOT / script) as source:
        return start(script, None, *arguments, instead=["-"], folder=folder, source=source, **options)


@pytest.mark.parametrize(  # a local size that is left in the shell would divide the cores: there have to be several
    "script", [pytest.param(s, marks=[pytest.mark.alone] if "_hvd" in s else []) for s in SCRIPTS]
)
def test_nothing_left_in_a_shell_and_standard_input_change_no_run(tmp_path, tiny_digits, script):
    """The same first line, losses and accuracy as without, and no file in the user's home is written.

    The run without is one that was started with Ctrl-C ignored, as by nohup, and gets one: it goes on, and so do its processes.
    That of some scripts comes from standard input.
    """
    keras = tmp_path / "home/.keras"
    keras.mkdir(parents=True)
    (keras / "keras.json").write_text(json.dumps(KERAS_JSON))
    (tmp_path / "empty").mkdir()
    start_clean = functools.partial(start_from_standard_input, tmp_path / "empty") if script in FEW else start
    # a limit of OpenMP's hangs MXNet with more threads than that, and here a script may have one core
    threads = {} if script in ("mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py") else {"OMP_NUM_THREADS": "2"}
    hostile = HOSTILE | threads | {"HOME": str(keras.parent), "KERAS_HOME": str(keras)}
    clean = start_clean(script, tiny_digits, "--epochs", 2, before=("env", "--ignore-signal=INT"), **threads)
    hostile = start(script, tiny_digits, "--epochs", 2, **hostile)
    first = clean.stdout.readline().rstrip("\n").replace("<stdin>:", f"{script}:")  # as Python calls what has no name
    os.killpg(clean.pid, signal.SIGINT)
    (expected_status, expected, expected_err), (status, out, err) = finish(clean), finish(hostile)
    assert expected_status == 0, expected_err
    assert status == 0, err
    assert len(out) == 5
    assert without_seconds(out) == without_seconds([first, *expected])
    assert sorted(path.name for path in keras.parent.rglob("*")) == [".keras", "keras.json"]
    assert json.loads((keras / "keras.json").read_text()) == KERAS_JSON


OPENED = """
import os, sys
def heard(event, arguments):
    if event == "open" and str(arguments[0]).startswith(os.environ["HOME"]):
        os.write(2, f"{arguments[0]} is opened".encode())
        os._exit(1)
sys.addaudithook(heard)
"""


@pytest.mark.parametrize("script", ["mnist_mx_keras.py", "mnist_tf_keras.py", "mnist_tf_keras_mgpu.py"])
def test_keras_files(tmp_path, script):
    """A file that would end Keras' import is not opened, whichever way it is found; where there is none, none is made."""
    processes = []
    for name in ("damaged", "none"):
        home = tmp_path / name
        home.mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KERAS")}
        if name == "damaged":
            (home / ".keras").mkdir()
            (home / ".keras/keras.json").write_text("{")
            environment["KERAS_HOME"] = str(home / ".keras")
        left = PRECISION | (NCCL if "mgpu" in script else {})
        program = (
            OPENED + f"import os, {script.removesuffix('.py')}; print(*[x for x in {list(left)} if x in os.environ])"
        )
        command = [python_of(script), "-W", "ignore", "-c", program]
        environment |= {"HOME": str(home)} | left
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        # a processor without such instructions, or a host without GPUs, would show no difference; MXNet's oneDNN is older
        assert "_mx_" in script or not out.split(), out
    assert list((tmp_path / "none").iterdir()) == []


REFUSALS = """
import os, runpy, sys
script, values, sys.argv[1:] = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
for value in values:
    os.environ["OMP_NUM_THREADS"] = value
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end, "|", os.environ.get("OMP_NUM_THREADS", "1"), file=sys.stderr)
"""


@pytest.mark.parametrize("script", [*FEW, "mnist_mx_gluon_hvd.py", "mnist_torch_mgpu.py"])
def test_threads_that_are_no_number(tiny_digits, script):
    """One line that names the variable, and none of OpenMP's, which reads it when the framework is loaded.

    They take turns in one process, which loads the framework once, for the first.
    """
    values = "all", "4,3,2", "0", "-1", "1000000"
    process = start(script, tiny_digits, instead=["-c", REFUSALS, ROOT / script, " ".join(values)])
    status, out, err = finish(process)
    assert (status, out) == (0, []), err
    lines = [line for line in err if line.startswith("error: ")]
    assert len(lines) == len(values) and not any("libgomp" in line for line in err), err
    for threads, line in zip(values, lines):
        message, _, left = line.partition(" | ")
        assert message.startswith(f"error: OMP_NUM_THREADS is {threads}: ")
        assert left in map(str, range(1, 1025)) or "_tf_" in script, line  # TensorFlow has no OpenMP


MODULES = """
import json, os, signal, sys, threading
numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
before = {number: signal.getsignal(number) for number in numbers}
failures = []
sys.argv, scripts = ["notebook"], sys.argv[1:]
def run():
    for script in scripts:
        try:
            exec(compile(open(script).read(), "cell", "exec"), module := {"__name__": "notebook"})
            assert str(module["parse_args"]().data_dir) == "data"
            assert module["load_mnist"] and module["build_model"]
        except BaseException as error:
            failures.append((script, repr(error)))
thread = threading.Thread(target=run)
thread.start()
thread.join()
assert not failures, failures
assert before == {number: signal.getsignal(number) for number in numbers}
"""


@pytest.mark.parametrize("api", ["mx_keras", "mx_gluon_hvd", "tf", "torch"])
def test_as_a_module(api):
    """In another thread and without a file, as a notebook takes build_model or load_mnist: no signal is touched."""
    scripts = [ROOT / s for s in SCRIPTS if f"_{api}" in s or (api == "mx_keras" and "_mx_" in s and "_hvd" not in s)]
    environment = {name: value for name, value in os.environ.items() if name != "MNIST_DIR"}
    python = python_of(next(script.name for script in scripts if api in script.name))
    command = [python, "-W", "ignore", "-c", MODULES, *scripts]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script", [pytest.param(s, marks=[pytest.mark.alone] if s in ONE_THREAD else []) for s in SCRIPTS]
)
def test_one_thread_and_a_reader_that_stops(few_digits, script):
    """With one thread one core is busy, though more are there, and the run ends with the first line that nobody reads.

    As under `| head -1`: without a traceback, and no process is left.
    """
    one = {"OMP_NUM_THREADS": "1"} if script in ONE_THREAD else {}
    process = start(script, few_digits, "--epochs", 9999, **one)
    first = process.stdout.readline()
    process.stdout.readline()
    try:
        busy = cores_in_use(process) if one else None
    finally:  # it ends at its next line
        process.stdout.close()
        process.stdout = None
    status, _, err = finish(process)
    assert not one or (" 1 threads, " in first and busy < 1.4)  # Python tells one step while another is computed
    assert status == 1
    assert not any("Traceback" in line for line in err), err
    assert "Broken pipe" in error_line(err)


COUNT = """
import json, os, runpy, sys
for variables in json.loads(sys.argv[2]):
    for name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        os.environ.pop(name, None)
    os.environ |= variables
    print(runpy.run_path(sys.argv[1], run_name="script")["THREADS"])
"""


@pytest.mark.alone
@pytest.mark.parametrize("name", ["mx_gluon", "mx_keras", "tf_keras", "torch"])
def test_threads_of_the_process(name):
    """A mask, loky's own variable and the user's number are obeyed, in this order of weakness; an empty number is none."""
    mask = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    cores = loky.cpu_count(only_physical_cores=True)
    cases = [
        (mask, [({}, 1), ({"OMP_NUM_THREADS": "3"}, 3)]),
        ([], [({"LOKY_MAX_CPU_COUNT": "1"}, 1), ({"OMP_NUM_THREADS": ""}, cores)]),
    ]
    script = f"mnist_{name}.py"
    processes = []
    for before, questions in cases:
        variables = json.dumps([more for more, _ in questions])
        command = [*before, python_of(script), "-W", "ignore", "-c", COUNT, ROOT / script, variables]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for process, (_, questions) in zip(processes, cases):
        out, _ = process.communicate(timeout=60)
        assert out.split()[-len(questions) :] == [str(expected) for _, expected in questions]


def cpuinfo(cores):
    """Return a /proc/cpuinfo of CPUs that sit on these cores."""
    return "".join(f"processor\t: {i}\nphysical id\t: 0\ncore id\t: {core}\n\n" for i, core in enumerate(cores))


@pytest.mark.parametrize(
    "mask, cores, quota, version, expected",
    [
        (range(4), [0, 1, 2, 3], "max 100000", 2, 4),
        (range(4), [0, 0, 1, 1], "max 100000", 2, 2),  # hyperthreads beside each other
        (range(4), [0, 1, 0, 1], "max 100000", 2, 2),  # hyperthreads half the number apart
        (range(8), [0, 1, 2, 3, 4, 5, 6, 7], "250000 100000", 2, 3),  # 2.5 CPUs
        (range(8), [0, 1, 2, 3, 4, 5, 6, 7], "100000 100000", 1, 1),
        (range(4), [0, 0, 1, 1], "300000 100000", 2, 2),
    ],
)
def test_threads_on_other_machines(monkeypatch, mask, cores, quota, version, expected):
    """The count that the scripts ask for, with files of other machines in place of this one's."""
    allowed, period = quota.split()
    files = {"/proc/cpuinfo": cpuinfo(cores)}
    if version == 2:
        files["/sys/fs/cgroup/cpu.max"] = quota
    else:
        files |= {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": allowed, "/sys/fs/cgroup/cpu/cpu.cfs_period_us": period}
    context = loky.backend.context
    monkeypatch.setattr(context, "open", lambda name, *_: io.StringIO(files[name]), raising=False)
    exists = os.path.exists
    monkeypatch.setattr(
        os.path, "exists", lambda name: name in files if str(name).startswith("/sys/fs") else exists(name)
    )
    monkeypatch.setattr(os, "cpu_count", lambda: len(cores))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(mask))
    monkeypatch.setattr(context, "physical_cores_cache", {})
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    assert loky.cpu_count(only_physical_cores=True) == expected
