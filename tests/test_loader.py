"""load_mnist against every damage: of files, of the network, of the folder. Its text is one in all scripts: test_consistency.

It is run alone, cut out of a script, in processes that import no framework.
"""

import ast
import gzip
import hashlib
import http.server
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT

NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CONSTANTS = "MNIST", "MIRRORS", "TIMEOUT"
PROGRAM = """
sys.path.insert(0, {folder!r})
MIRRORS, TIMEOUT = {mirrors!r}, {timeout!r}
MNIST = {hashes!r} or MNIST
for array in load_mnist(sys.argv[1]):
    print(array.dtype, *array.shape, int(array.sum()))
"""


def loader():
    """Return the source of what loads the data: imports of the standard library and NumPy, constants and functions."""
    source = (ROOT / "mnist_mx_gluon.py").read_text()
    wanted = []
    for node in ast.parse(source).body:
        standard = isinstance(node, ast.Import) and node.names[0].name.split(".")[0] in {
            *sys.stdlib_module_names,
            "numpy",
        }
        pathlib = isinstance(node, ast.ImportFrom) and node.module == "pathlib"
        function = isinstance(node, ast.FunctionDef) and node.name in ("load_mnist", "download", "fail")
        constant = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in CONSTANTS
        if standard or pathlib or function or constant:
            wanted.append(ast.get_source_segment(source, node))
    return "\n".join(wanted)


LOADER = loader()


def idx(magic, *sizes, content):
    return gzip.compress(struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + content, 1)


def good_files(train=20, test=10):
    """Return four files of random images: name to bytes."""
    generator = np.random.default_rng(3)
    files = {}
    for name, n in zip(NAMES, (train, train, test, test)):
        if "images" in name:
            pixels = generator.integers(0, 256, n * 784, np.uint8).tobytes()
            files[name] = idx(0x0803, n, 28, 28, content=pixels)
        else:
            files[name] = idx(0x0801, n, content=generator.integers(0, 10, n, np.uint8).tobytes())
    return files


GOOD = good_files()
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in GOOD.items()}
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens


def start(folder, mirrors=(NOWHERE, NOWHERE), hashes=HASHES, timeout=30, prelude=""):
    """Start a process that loads the data of a folder and prints the arrays' types, shapes and sums."""
    program = (
        LOADER + prelude + PROGRAM.format(folder=str(ROOT), mirrors=tuple(mirrors), timeout=timeout, hashes=hashes)
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.Popen([sys.executable, "-c", program, folder], env=environment, **pipes)


def load(folder, *arguments, **options):
    """Return the exit status, stdout and stderr of a loading process."""
    process = start(folder, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def refused(folder, *words, **options):
    """Load what cannot be loaded: status 1, one line with these words, and no new file or folder in the folder."""
    before = sorted(folder.rglob("*")) if folder.is_dir() else None
    status, out, err = load(folder, **options)
    assert (status, out) == (1, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for word in words:
        assert str(word) in err
    if before is not None:
        assert sorted(folder.rglob("*")) == before
    return err


@pytest.fixture
def folder(tmp_path):
    """Return a folder with four good files."""
    for name, content in GOOD.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def serve():
    """Return a function that starts a loopback mirror; answer(name) is (status, promised length, body, pause).

    The body of status 302 is where it sends on to.
    """
    servers = []

    def run(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, length, body, pause = answer(self.path.strip("/"))
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def whole(name, pause=0.0):
    return 200, len(GOOD[name]), GOOD[name], pause


def test_good_files(folder):
    """Files that lie there are parsed, not hashed: any number of images."""
    status, out, err = load(folder, hashes={name: "0" * 64 for name in NAMES})
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:-1] for line in lines] == [
        ["uint8", *shape] for shape in (("20", "28", "28"), ("20",), ("10", "28", "28"), ("10",))
    ]
    sums = [
        np.frombuffer(gzip.decompress(GOOD[name]), np.uint8)[16 if "images" in name else 8 :].sum() for name in NAMES
    ]
    assert [int(line[-1]) for line in lines] == sums


IMAGES, LABELS = gzip.decompress(GOOD[NAMES[0]]), gzip.decompress(GOOD[NAMES[1]])
DAMAGE = {
    "empty file": (0, b""),
    "not gzip": (0, b"<html>sign in to the network</html>"),
    "truncated gzip": (0, GOOD[NAMES[0]][:-100]),
    "gzip with a flipped byte": (1, GOOD[NAMES[1]][:-6] + bytes([GOOD[NAMES[1]][-6] ^ 255]) + GOOD[NAMES[1]][-5:]),
    "garbage in gzip": (0, GOOD[NAMES[0]][:200] + b"\xff" * 200 + GOOD[NAMES[0]][400:]),
    "wrong magic number": (0, gzip.compress(b"\0\0\x09\x03" + IMAGES[4:])),
    "labels for images": (0, GOOD[NAMES[1]]),
    "images for labels": (1, GOOD[NAMES[0]]),
    "header only in part": (0, gzip.compress(IMAGES[:10])),
    "too short by one byte": (0, gzip.compress(IMAGES[:-1])),
    "too long by one byte": (0, gzip.compress(IMAGES + b"\0")),
    "too short by one image": (0, gzip.compress(IMAGES[:-784])),
    "too long by one image": (0, gzip.compress(IMAGES + bytes(784))),
    "labels too short": (1, gzip.compress(LABELS[:-1])),
    "labels too long": (1, gzip.compress(LABELS + b"\0")),
    "27 x 28": (0, idx(0x0803, 20, 27, 28, content=bytes(20 * 27 * 28))),
    "56 x 14": (0, idx(0x0803, 20, 56, 14, content=bytes(20 * 784))),
    "fewer labels than images": (1, idx(0x0801, 19, content=bytes(19))),
    "more labels than images": (1, idx(0x0801, 21, content=bytes(21))),
    "label 10": (1, idx(0x0801, 20, content=bytes(19) + b"\x0a")),
    "no images": (0, idx(0x0803, 0, 28, 28, content=b"")),
    "no labels": (1, idx(0x0801, 0, content=b"")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", ["train", "test"])
def test_damaged_file(folder, damage, part):
    which, content = DAMAGE[damage]
    name = NAMES[which + 2 * (part == "test")]
    if part == "test" and damage in ("fewer labels than images", "more labels than images", "label 10"):
        n = {"fewer labels than images": 9, "more labels than images": 11, "label 10": 10}[damage]
        content = idx(0x0801, n, content=bytes(n - 1) + (b"\x0a" if n == 10 else b"\0"))
    (folder / name).write_bytes(content)
    refused(folder, name, "--data-dir")


def test_folder_in_the_way_of_a_file(folder):
    (folder / NAMES[2]).unlink()
    (folder / NAMES[2]).mkdir()
    refused(folder, NAMES[2], "directory")


def test_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "data").write_text("a file")
    refused(tmp_path / "data", "data", "--data-dir")


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("a file")
    refused(tmp_path / "file" / "data", "Not a directory", "--data-dir")


def test_folder_that_cannot_be_written(tmp_path, serve):
    """A process without rights (root has them all, so it becomes another user) says so and leaves nothing."""
    mirror = serve(whole)
    tmp_path.chmod(0o555)
    for parent in list(tmp_path.parents)[:3]:
        if "pytest" in parent.name:
            parent.chmod(0o755)
    # root may write anywhere: become nobody once all is imported
    prelude = "\nimport encodings.idna\nif os.getuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)"
    try:
        refused(tmp_path, "Permission denied", "--data-dir", mirrors=(mirror, mirror), prelude=prelude)
    finally:
        tmp_path.chmod(0o755)


def test_full_disk(tmp_path, serve):
    """A limit on the size of files stands for a full disk: the write fails half-way and nothing stays."""
    mirror = serve(whole)
    prelude = "\nimport resource\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    prelude += "\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    refused(tmp_path, "File too large", mirrors=(mirror, mirror), prelude=prelude)
    assert list(tmp_path.iterdir()) == []


def test_download(tmp_path, serve):
    """What is missing is fetched from the first mirror, and only that."""
    asked = []

    def answer(name):
        asked.append(name)
        return whole(name)

    (tmp_path / NAMES[1]).write_bytes(GOOD[NAMES[1]])
    status, _, err = load(tmp_path, (serve(answer), NOWHERE))
    assert (status, err) == (0, "")
    assert asked == [NAMES[0], NAMES[2], NAMES[3]]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == GOOD
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / NAMES[0]).stat().st_mode & 0o777 == 0o666 & ~umask  # other users may read a shared folder


BROKEN = {
    "404": lambda name: (404, 0, b"", 0.0),
    "stops half-way": lambda name: (200, len(GOOD[name]), GOOD[name][:100], 0.0),
    "wrong bytes": lambda name: (200, len(GOOD[name]), GOOD[name][:-1] + b"?", 0.0),
    "sign-in page": lambda name: (200, 5, b"hello", 0.0),
    "sends on to no host name": lambda name: (302, 16, b"http://.nowhere/", 0.0),
    "silent": lambda name: (200, len(GOOD[name]), GOOD[name], 100.0),
}


@pytest.mark.parametrize("broken", [*BROKEN, "down"])
def test_second_mirror_helps(tmp_path, serve, broken):
    first = serve(BROKEN[broken]) if broken in BROKEN else NOWHERE
    status, _, err = load(tmp_path, (first, serve(whole)), timeout=0.5)
    assert (status, err) == (0, "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == GOOD


@pytest.mark.parametrize("broken", [*BROKEN, "down"])
def test_both_mirrors_fail(tmp_path, serve, broken):
    mirrors = [serve(BROKEN[broken]) if broken in BROKEN else NOWHERE for _ in range(2)]
    refused(tmp_path, NAMES[0], *mirrors, "--data-dir", "synthetic_mnist.py", mirrors=mirrors, timeout=0.5)


def test_four_cold_starts_at_once(tmp_path, serve):
    mirror = serve(lambda name: whole(name, 0.3))
    processes = [start(tmp_path / "data", (mirror, mirror)) for _ in range(4)]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert len(set(results)) == 1
    assert results[0][1:] == ("", 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == GOOD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_download(tmp_path, serve, number):
    """Stopped in the middle of the third file: two are whole, and nothing else is there."""
    reached = threading.Event()

    def answer(name):
        if name == NAMES[2]:
            reached.set()
            return whole(name, 30.0)
        return whole(name)

    process = start(tmp_path, (serve(answer), NOWHERE))
    assert reached.wait(30)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: GOOD[name] for name in NAMES[:2]}


def test_published_checksums(tmp_path, mnist, serve):
    """The real files pass the check of a download, by the scripts' own checksums."""
    asked = []

    def answer(name):
        asked.append(name)
        content = (mnist / name).read_bytes()
        return 200, len(content), content, 0.0

    status, out, err = load(tmp_path, (serve(answer), NOWHERE), None)
    assert (status, err) == (0, "")
    assert asked == NAMES
    assert [line.split()[1] for line in out.splitlines()] == ["60000", "60000", "10000", "10000"]
