"""MNIST, or stand-in digits: these only where a download has failed."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from conftest import ROOT

from harness import data
from harness.errors import UserError

PROGRAM = ROOT / "synthetic_mnist.py"


def save(path, train=4, test=2, **more):
    arrays = {"x_train": train, "y_train": train, "x_test": test, "y_test": test}
    shapes = {name: (n, 28, 28) if name[0] == "x" else (n,) for name, n in arrays.items()}
    np.savez(path, **{name: np.zeros(shape, np.uint8) for name, shape in shapes.items()} | more)


@pytest.fixture
def said():
    return []


@pytest.fixture
def no_network(monkeypatch):
    """Every download fails, and drawing digits is quick."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(data, "draw_stand_in", lambda folder, _: folder.mkdir() or save(folder / "mnist.npz"))


def test_what_lies_there_is_taken(tmp_path, said):
    save(tmp_path / "mnist.npz")
    found = data.find_data(tmp_path, PROGRAM, said.append)
    assert (found.folder, found.name, found.train_images, found.test_images, said) == (tmp_path, "not MNIST", 4, 2, [])


def test_real_mnist_is_called_mnist(mnist, said):
    assert data.find_data(mnist, PROGRAM, said.append).name == "MNIST"


def test_a_failed_download_leads_to_stand_in_digits_said_loudly(tmp_path, said, no_network):
    for _ in range(2):  # the second time the digits are there
        found = data.find_data(tmp_path / "new", PROGRAM, said.append)
        assert found.name == "stand-in digits, not MNIST"
        assert found.folder == tmp_path / "new/stand-in"
        assert said[-1] == "WARNING: going on with stand-in digits, not MNIST: the accuracies mean nothing"
        assert said[-2].startswith(f"WARNING: cannot download {data.URL}: ")


def test_a_page_in_place_of_the_file_is_a_failed_download(tmp_path, said, no_network, monkeypatch):
    """As the portal of a hotel sends it."""

    asked = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Portal(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"log in first")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setattr(data, "URL", f"http://127.0.0.1:{server.server_port}/mnist.npz")
        assert data.find_data(tmp_path, PROGRAM, said.append).name == data.STAND_IN
        server.shutdown()
    assert asked == ["/mnist.npz"]
    assert not (tmp_path / "mnist.npz").exists()


def make_damaged(folder):
    (folder / "mnist.npz").write_bytes(b"no zip")


def make_cut(folder):
    save(folder / "mnist.npz")
    (folder / "mnist.npz").write_bytes((folder / "mnist.npz").read_bytes()[:2000])


def make_empty(folder):
    save(folder / "mnist.npz", train=0)


def make_incomplete(folder):
    np.savez(folder / "mnist.npz", x_train=np.zeros(3))


def make_pickled(folder):
    save(folder / "mnist.npz", y_test=np.array([{}, {}], dtype=object))


@pytest.mark.parametrize(
    "make",
    [
        make_damaged,
        make_cut,
        make_empty,
        make_incomplete,
        make_pickled,
        lambda folder: (folder / "mnist.npz").mkdir(),
        lambda folder: (folder / "mnist.npz").symlink_to("nowhere"),
    ],
)
def test_what_cannot_be_used_is_not_replaced(tmp_path, said, no_network, make):
    """Neither downloaded over, nor by stand-in digits."""
    make(tmp_path)
    with pytest.raises(UserError, match="cannot use .*mnist.npz: "):
        data.find_data(tmp_path, PROGRAM, said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.npz"]


def test_a_fifo_holds_nobody(tmp_path):
    """Nobody writes into it: who opens it waits for ever."""
    os.mkfifo(tmp_path / "mnist.npz")
    refused = []

    def read():
        try:
            data.read(tmp_path)
        except UserError as error:
            refused.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert "it is no regular file" in refused[0]


def test_a_folder_that_cannot_be_written_is_no_failed_download(said, no_network):
    with pytest.raises(UserError, match="cannot write /proc/none/mnist.npz"):
        data.find_data(data.Path("/proc/none"), PROGRAM, said.append)


def test_a_folder_that_is_a_file(tmp_path, said, no_network):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        data.find_data(tmp_path / "file", PROGRAM, said.append)


def test_digits_that_cannot_be_drawn(tmp_path):
    (tmp_path / "draw.py").write_text("import sys; sys.exit('error: no room')")
    with pytest.raises(UserError, match="draw.py cannot draw stand-in digits into .*: no room"):
        data.draw_stand_in(tmp_path / "new", tmp_path / "draw.py")
