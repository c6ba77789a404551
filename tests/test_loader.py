"""load_mnist against every damage: of the file, of the network, of the folder. Its text is one in all scripts: test_consistency.

It is run alone, cut out of a script, in processes that import no framework.
"""

import ast
import hashlib
import http.server
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from conftest import ARRAYS, MNIST_SHA256, ROOT, error_line, python_of

NAME = "mnist.npz"
NOWHERE = "http://127.0.0.1:9/mnist.npz"  # the discard port: nobody listens
PROGRAM = """
assert not {{"mxnet", "keras", "tensorflow"}} & set(sys.modules)
URL, SHA256, pooch.downloaders.DEFAULT_TIMEOUT = {url!r}, {sha256!r}, {timeout!r}
for array in load_mnist(sys.argv[1]):
    print(array.dtype, *array.shape, int(array.sum()))
"""
# Loads the data of every folder that it reads on stdin, and answers how a process that did it alone would have ended
SERVER = """
import contextlib, io, json, traceback
for line in sys.stdin:
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            for array in load_mnist(json.loads(line)):
                print(array.dtype, *array.shape, int(array.sum()))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
        except Exception:
            status = 1
            traceback.print_exc()
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""
# Damages a file again and again, in one process. Half of the damage hits the headers, where no checksum looks.
FUZZ = """
import contextlib, io
folder, rounds = sys.argv[1], int(sys.argv[2])
path = Path(folder, "mnist.npz")
good = path.read_bytes()
expected = load_mnist(folder)
headers = [i for i in range(len(good)) if b"PK" in good[max(i - 200, 0) : i + 2]]
generator = np.random.default_rng(42)
refused = 0
for _ in range(rounds):
    content = bytearray(good)
    for _ in range(generator.integers(1, 4)):
        places = headers if generator.integers(2) else range(len(content))
        i = int(generator.choice(places)) % len(content)
        kind = generator.integers(10)
        if kind < 7:
            content[i] = generator.integers(256)
        elif kind == 7:
            content[i] ^= 1 << int(generator.integers(8))
        elif kind == 8:
            del content[i : i + int(generator.integers(1, 50))]
        else:
            content = content[: max(i, 1)]
    path.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            arrays = load_mnist(folder)
    except SystemExit as end:
        assert type(end.code) is str and end.code.startswith("error: cannot use ") and len(end.code.splitlines()) == 1, end
        assert str(path) in end.code
        refused += 1
    else:
        for array, other in zip(arrays, expected):
            assert array.dtype == other.dtype and np.array_equal(array, other)
    assert out.getvalue() == err.getvalue() == "", (out.getvalue(), err.getvalue())
print(refused)
"""


def loader():
    """Return the source of what loads the data: Ctrl-C, constants, load_mnist and the imports that they need."""
    source = (ROOT / "mnist_mx_gluon.py").read_text()
    wanted = []
    for node in ast.parse(source).body:
        text = ast.get_source_segment(source, node)
        words = text.split()  # import NAME, from NAME import …, def NAME(…, NAME = …
        library = words[0] in ("import", "from") and words[1] in {*sys.stdlib_module_names, "numpy", "pooch"}
        constant = words[0] in ("CLASSES", "URL", "SHA256")
        if library or constant or text.startswith(("def load_mnist(", 'if __name__ == "__main__" and signal.')):
            wanted.append(text)
    return "\n".join(wanted)


LOADER = loader()


def good_arrays(train=20, test=10):
    """Return arrays of random images and labels by name."""
    generator = np.random.default_rng(3)
    arrays = {}
    for part, n in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"y_{part}"] = generator.integers(0, 10, n, np.uint8)
    return arrays


def npz(arrays, save=np.savez):
    """Return the bytes of an .npz file."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


GOOD = npz(good_arrays())


def lines_of(arrays):
    """Return what a loading process prints of arrays."""
    return [" ".join(map(str, (array.dtype, *array.shape, array.sum(dtype=int)))) for array in arrays.values()]


def start(folder, url=NOWHERE, sha256=None, timeout=30, prelude=""):
    """Start a process that loads the data of a folder and prints the arrays' types, shapes and sums."""
    sha256 = sha256 or hashlib.sha256(GOOD).hexdigest()
    program = LOADER + prelude + PROGRAM.format(url=url, sha256=sha256, timeout=timeout)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.Popen([sys.executable, "-c", program, folder], env=environment, **pipes)


def finish(process, timeout=60):
    """Return the exit status, stdout and stderr of a loading process."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def load(folder, **options):
    """Load the data of a folder; return the exit status, stdout and stderr."""
    return finish(start(folder, **options))


@pytest.fixture(scope="session")
def load_at_once():
    """Return a function like load: one process, which stays, loads for all tests that need no process of their own."""
    program = f"{LOADER}\nURL = {NOWHERE!r}\n{SERVER}"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(folder):
            print(json.dumps(str(folder)), file=process.stdin, flush=True)
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


def files(folder):
    return sorted(folder.rglob("*")) if folder.is_dir() else None


def refused_file(load, folder, *words):
    """Load a file that cannot be used: status 1, one line that names it and the way out, and no new file."""
    before = files(folder)
    status, out, err = load(folder)
    assert (status, out) == (1, ""), err
    line = error_line(err, alone=True)
    for word in (f"error: cannot use {folder / NAME}: ", "--data-dir", *words):
        assert word in line
    assert files(folder) == before


def refused_download(folder, url, *words, **options):
    """Download what cannot be had: status 1, one line with the address and both ways out, and no new file."""
    before = files(folder)
    status, out, err = load(folder, url=url, **options)
    assert (status, out) == (1, ""), err
    line = error_line(err)
    for word in (f"error: cannot download {url}: ", "--data-dir", "synthetic_mnist.py", *words):
        assert word in line
    assert files(folder) == before


@pytest.fixture
def serve():
    """Return a function that starts a loopback server and returns its address of the file.

    answer() is (status, promised length, body, pause); the body of status 302 is where it sends on to.
    """
    servers = []

    def run(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, length, body, pause = answer()
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                if status == 302:
                    self.send_header("Location", body.decode())
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(pause)
                self.wfile.write(body[len(body) // 2 :])

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # clients that are killed are part of the tests
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()  # looks so often whether to end
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/{NAME}"

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def whole(pause=0.0):
    return 200, len(GOOD), GOOD, pause


GOOD_FILES = {
    "stored": (good_arrays(), np.savez),
    "compressed": (good_arrays(), np.savez_compressed),
    "one image each": (good_arrays(1, 1), np.savez),
    "more to test than to train": (good_arrays(7, 300), np.savez),
    "in Fortran's order": ({name: np.asfortranarray(array) for name, array in good_arrays().items()}, np.savez),
    "more arrays": (good_arrays() | {"names": np.array(["a", None], object)}, np.savez),
}


@pytest.mark.parametrize("good", GOOD_FILES)
def test_good_file(tmp_path, load_at_once, good):
    """A file that lies there is read, not hashed, and nobody is asked: any number of images."""
    arrays, save = GOOD_FILES[good]
    (tmp_path / NAME).write_bytes(npz(arrays, save))
    expected = lines_of({name: arrays[name] for name in ARRAYS})
    assert load_at_once(tmp_path) == (0, "\n".join(expected) + "\n", "")


def without(kind):
    return lambda arrays, part: arrays.pop(f"{kind}_{part}")


def becomes(kind, change):
    return lambda arrays, part: arrays.update({f"{kind}_{part}": change(arrays[f"{kind}_{part}"])})


DAMAGED_ARRAYS = {
    "no array of images": without("x"),
    "no array of labels": without("y"),
    "signed images": becomes("x", lambda x: x.astype(np.int8)),
    "float images": becomes("x", lambda x: x.astype(np.float32)),
    "truth for images": becomes("x", lambda x: x > 127),
    "int64 labels": becomes("y", lambda y: y.astype(np.int64)),
    "labels as text": becomes("y", lambda y: y.astype(str)),
    "labels as objects": becomes("y", lambda y: y.astype(object)),
    "flat images": becomes("x", lambda x: x.reshape(-1, 784)),
    "images with channels": becomes("x", lambda x: x[..., np.newaxis]),
    "images last": becomes("x", lambda x: x.transpose(1, 2, 0)),
    "27 x 28": becomes("x", lambda x: x[:, 1:]),
    "28 x 27": becomes("x", lambda x: x[:, :, 1:]),
    "56 x 14": becomes("x", lambda x: x.reshape(-1, 56, 14)),
    "one image alone": becomes("x", lambda x: x[0]),
    "labels in a column": becomes("y", lambda y: y[:, np.newaxis]),
    "labels one-hot": becomes("y", lambda y: np.eye(10, dtype=np.uint8)[y]),
    "one label alone": becomes("y", lambda y: y[0]),
    "images for labels": becomes("y", lambda y: np.zeros((len(y), 28, 28), np.uint8)),
    "fewer labels than images": becomes("y", lambda y: y[1:]),
    "more labels than images": becomes("y", lambda y: np.append(y, y[:1])),
    "no images": becomes("x", lambda x: x[:0]),
    "no labels": becomes("y", lambda y: y[:0]),
    "label 10": becomes("y", lambda y: np.append(y[1:], np.uint8(10))),
    "label 255": becomes("y", lambda y: np.append(np.uint8(255), y[1:])),
}


@pytest.mark.parametrize("damage", DAMAGED_ARRAYS)
def test_damaged_arrays(tmp_path, load_at_once, damage):
    """In the training set and in the test set."""
    for part in ("train", "test"):
        arrays = good_arrays()
        DAMAGED_ARRAYS[damage](arrays, part)
        (tmp_path / part).mkdir()
        (tmp_path / part / NAME).write_bytes(npz(arrays))
        refused_file(load_at_once, tmp_path / part)


def other_zip():
    """Return a zip file of something else."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("README.txt", "not this one")
    return file.getvalue()


def npy():
    """Return the bytes of an .npy file, as np.save writes them."""
    file = io.BytesIO()
    np.save(file, good_arrays()["x_train"])
    return file.getvalue()


def without_images():
    """Return the bytes of a file whose sets are both empty."""
    return npz({name: array[:0] for name, array in good_arrays().items()})


FOREIGN_FILES = {  # content, what must be said of it
    "other arrays": (npz({"data": np.zeros(3), "target": np.zeros(3)}), "['data', 'target']"),
    "one of the four": (npz({"x_train": np.zeros((2, 28, 28), np.uint8)}), "['x_train']"),
    "no arrays": (other_zip(), "['README.txt']"),
    "a name of two lines": (npz({"a\nb": np.zeros(3)}), r"a\\nb"),
    "colour images": (npz(good_arrays() | {"x_train": np.zeros((20, 32, 32, 3), np.uint8)}), "(20, 32, 32, 3)"),
    "empty sets": (without_images(), "0 labels"),
    "26 letters": (npz(good_arrays() | {"y_test": np.arange(16, 26, dtype=np.uint8)}), "largest 25"),
}


@pytest.mark.parametrize("foreign", FOREIGN_FILES)
def test_foreign_file(tmp_path, load_at_once, foreign):
    """The one line says what was found and what is needed."""
    content, found = FOREIGN_FILES[foreign]
    (tmp_path / NAME).write_bytes(content)
    refused_file(load_at_once, tmp_path, found, "x_train", "y_test", "uint8", "(n, 28, 28)", "labels 0 to 9")


DAMAGED_FILES = {
    "empty": b"",
    "sign-in page": b"<html>sign in to the network</html>",
    "truncated by a byte": GOOD[:-1],
    "truncated half-way": GOOD[: len(GOOD) // 2],
    "its end only": GOOD[len(GOOD) // 2 :],
    "flipped byte in the images": GOOD[:5000] + bytes([GOOD[5000] ^ 1]) + GOOD[5001:],
    "another zip file": other_zip(),
    "one array, not four": npy(),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_damaged_file(tmp_path, load_at_once, damage):
    (tmp_path / NAME).write_bytes(DAMAGED_FILES[damage])
    refused_file(load_at_once, tmp_path)


def test_damage_ends_the_process(tmp_path):
    """One of these files as a person meets it: exit status, stdout and stderr of a process."""
    (tmp_path / NAME).write_bytes(DAMAGED_FILES["truncated half-way"])
    refused_file(load, tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("numpy", ["of the tests", "of MXNet"])
def test_damage_at_random(tmp_path, numpy, save):
    """Whatever bytes change, the right arrays come out or one line that names the file."""
    arrays = {name: array // 64 for name, array in good_arrays(6, 5).items()}  # a small file, so that more of it is hit
    (tmp_path / NAME).write_bytes(npz(arrays, save))
    python = sys.executable if numpy == "of the tests" else python_of("mnist_mx_gluon.py")
    rounds = 1000
    command = [python, "-c", LOADER + FUZZ, tmp_path, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert rounds // 2 < int(done.stdout) < rounds  # both happen


class Trap:
    """What creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("where", ["the file", "an array of the file", "a lone array"])
def test_nothing_is_unpickled(tmp_path, load_at_once, where):
    trap, sprung = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    content = io.BytesIO()
    if where == "the file":
        content.write(pickle.dumps(trap))
    elif where == "a lone array":
        np.save(content, np.array([trap], object), allow_pickle=True)
    else:
        content.write(npz(good_arrays() | {"y_train": np.array([trap] * 20, object)}))
    (tmp_path / NAME).write_bytes(content.getvalue())
    refused_file(load_at_once, tmp_path)
    assert not sprung.exists()
    with open(tmp_path / NAME, "rb") as file:  # the trap does work
        loaded = np.load(file, allow_pickle=True)
        if where == "an array of the file":
            assert loaded["y_train"].size == 20
    assert sprung.exists()


def test_folder_in_the_way_of_the_file(tmp_path, load_at_once):
    (tmp_path / NAME).mkdir()
    refused_file(load_at_once, tmp_path, "directory")


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a broken link", "a link to a folder", "a device"])
def test_no_regular_file(tmp_path, monkeypatch, serve, kind):
    """Nothing is waited for, read or downloaded over it."""
    path = tmp_path / NAME
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        monkeypatch.chdir(tmp_path)  # a socket's name has 107 characters at most
        socket.socket(socket.AF_UNIX).bind(NAME)
    else:
        path.symlink_to({"a broken link": "nowhere", "a link to a folder": ".", "a device": "/dev/zero"}[kind])
    refused_file(lambda folder: load(folder, url=serve(whole)), tmp_path)


def test_link_to_a_file(tmp_path):
    (tmp_path / "elsewhere").write_bytes(GOOD)
    (tmp_path / NAME).symlink_to("elsewhere")
    assert load(tmp_path)[0] == 0


def test_home_of_nobody(serve):
    """A user that is not there: one line, and no folder of that name."""
    status, out, err = load("~nobody-of-this-name/x", url=serve(whole))
    assert (status, out) == (1, "")
    line = error_line(err, alone=True)
    assert "~nobody-of-this-name/x" in line and "--data-dir" in line and "download" not in line
    assert not os.path.lexists("~nobody-of-this-name")


def test_what_fails_after_a_download_is_no_failed_download(tmp_path, serve):
    """A file system without modes, as a USB stick's: the data is there, so the run goes on."""
    prelude = "\ndef refuse(*_, **__):\n    raise PermissionError(1, 'Operation not permitted')\n"
    prelude += "import pathlib\nos.chmod = pathlib.Path.chmod = refuse\n"
    status, out, err = load(tmp_path, url=serve(whole), prelude=prelude)
    assert (status, out.splitlines()) == (0, lines_of(good_arrays())), err


def test_file_in_the_way_of_the_folder(tmp_path, serve):
    (tmp_path / "data").write_text("a file")
    refused_download(tmp_path / "data", serve(whole), str(tmp_path / "data"))


def test_folder_that_cannot_be_made(tmp_path, serve):
    (tmp_path / "file").write_text("a file")
    refused_download(tmp_path / "file" / "data", serve(whole), "Not a directory")


@pytest.fixture
def as_nobody(tmp_path):
    """Return a prelude that takes root's rights away, once all is imported: root may read and write anywhere."""
    for parent in list(tmp_path.parents)[:4]:
        if "pytest" in parent.name or "popen" in parent.name:  # the second is pytest-xdist's, of a worker
            parent.chmod(0o755)
    yield "\nimport encodings.idna, requests\nif os.getuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)"
    tmp_path.chmod(0o755)


def test_folder_that_cannot_be_written(tmp_path, serve, as_nobody):
    tmp_path.chmod(0o555)
    refused_download(tmp_path, serve(whole), "Permission denied", prelude=as_nobody)


def test_folder_that_cannot_be_read(tmp_path, serve, as_nobody):
    """What is in it cannot be known, nor anything put there."""
    (tmp_path / NAME).write_bytes(GOOD)
    tmp_path.chmod(0)
    refused_download(tmp_path, serve(whole), "Permission denied", str(tmp_path), prelude=as_nobody)


def test_file_that_cannot_be_read(tmp_path, as_nobody):
    (tmp_path / NAME).write_bytes(GOOD)
    (tmp_path / NAME).chmod(0)
    tmp_path.chmod(0o755)
    status, out, err = load(tmp_path, prelude=as_nobody)
    assert (status, out) == (1, "")
    assert f"error: cannot use {tmp_path / NAME}: PermissionError" in error_line(err, alone=True)


def test_full_disk(tmp_path, serve):
    """A limit on the size of files stands for a full disk: the write fails half-way and nothing stays."""
    prelude = "\nimport resource\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    prelude += "\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    refused_download(tmp_path, serve(whole), "File too large", prelude=prelude)


def test_published_address_and_hash():
    """Those of Keras' own datasets/mnist.py: what the scripts download is MNIST as published."""
    url = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    sha256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
    assert {f'URL = "{url}"', f'SHA256 = "{sha256}"'} <= set(LOADER.splitlines())


def test_real_mnist(mnist):
    """The arrays come out in the order x_train, y_train, x_test, y_test, byte for byte."""
    program = LOADER + "\nimport hashlib\narrays = load_mnist(sys.argv[1])"
    program += "\nprint(*map(len, arrays), hashlib.sha256(b''.join(x.tobytes() for x in arrays)).hexdigest())"
    done = subprocess.run([sys.executable, "-c", program, mnist], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["60000", "60000", "10000", "10000", MNIST_SHA256]


def test_download(tmp_path, serve):
    """A missing file is fetched once, into a folder that is made for it; what pooch says of it goes to stderr."""
    asked = []

    def answer():
        asked.append(1)
        return whole()

    url = serve(answer)
    for first in (True, False):
        status, out, err = load(tmp_path / "new" / "data", url=url)
        assert (status, out.splitlines()) == (0, lines_of(good_arrays())), err
        assert (url in err) == first
    assert asked == [1] and err == ""
    assert [path.read_bytes() for path in (tmp_path / "new" / "data").iterdir()] == [GOOD]


def test_others_may_read_a_download(tmp_path, serve):
    """The next user of a shared folder finds the file, and can use it."""
    assert load(tmp_path, url=serve(whole))[0] == 0
    assert (tmp_path / NAME).stat().st_mode & 0o444 == 0o444


def test_home_folder(tmp_path, serve, monkeypatch):
    """MNIST_DIR=~/data of a file of settings, which no shell expands, is one folder for the download and the reading."""
    monkeypatch.setenv("HOME", str(tmp_path))
    status, out, err = load("~/data", url=serve(whole))
    assert (status, out.splitlines()) == (0, lines_of(good_arrays())), err
    assert (tmp_path / "data" / NAME).read_bytes() == GOOD


BROKEN = {
    "404": lambda: (404, 0, b"", 0.0),
    "500": lambda: (500, 5, b"sorry", 0.0),
    "stops half-way": lambda: (200, len(GOOD), GOOD[:100], 0.0),
    "wrong bytes": lambda: (200, len(GOOD), GOOD[:-1] + b"?", 0.0),
    "sign-in page": lambda: (200, 5, b"hello", 0.0),
    "sends on to no host name": lambda: (302, 16, b"http://.nowhere/", 0.0),
    "silent": lambda: (200, len(GOOD), GOOD, 100.0),
}


@pytest.mark.parametrize("broken", [*BROKEN, "down"])
def test_download_fails(tmp_path, serve, broken):
    url = serve(BROKEN[broken]) if broken in BROKEN else NOWHERE
    refused_download(tmp_path, url, timeout=0.5)


def test_four_cold_starts_at_once(tmp_path, serve):
    url = serve(lambda: whole(0.3))
    processes = [start(tmp_path / "data", url=url) for _ in range(4)]
    for process in processes:
        status, out, err = finish(process)
        assert (status, out.splitlines()) == (0, lines_of(good_arrays())), err
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == {NAME: GOOD}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_download(tmp_path, serve, number):
    """Stopped in the middle, it dies by the signal; there is no mnist.npz, only pooch's temporary file; the next start succeeds."""
    reached = threading.Event()

    def answer():
        reached.set()
        return whole(30.0)

    process = start(tmp_path, url=serve(answer))
    assert reached.wait(30)
    time.sleep(0.3)
    process.send_signal(number)
    status, out, err = finish(process)
    assert (status, out) == (-number, "")
    assert "Traceback" not in err
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("tmp") and left.stat().st_size < len(GOOD)
    status, out, err = load(tmp_path, url=serve(whole))
    assert (status, out.splitlines()) == (0, lines_of(good_arrays())), err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NAME, left.name])
