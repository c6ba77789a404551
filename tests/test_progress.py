"""The lines and the display that a person sees, without a terminal."""

import io

import pytest
from rich.console import Console

from harness import progress
from harness.progress import Step


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (89, "89 s"), (91, "2 min"), (5400, "90 min"), (7500, "2 h 05 min")]
)
def test_time_left_in_words(seconds, text):
    assert progress.format_left(seconds) == text


def step(number=2, left=600.0):
    return Step(number, 9, "mnist_mx_a.py", 1, 60.0, left, ("mnist_mx_b.py", "mnist_torch.py"))


def test_plain_lines(capsys):
    plain = progress.Progress()
    plain.begin(step(1))
    plain.begin(step())
    plain.epoch("epoch 1/2  loss 0.1\x1b[2J\r")
    plain.end("mnist_mx_a.py: 1.00 s\n  more")
    assert capsys.readouterr().err.splitlines() == [
        "run 1/9 mnist_mx_a.py, round 1",
        "run 2/9 mnist_mx_a.py, round 1, about 10 min left",
        "  epoch 1/2  loss 0.1\\x1b[2J\\r",
        "mnist_mx_a.py: 1.00 s",
        "  more",
    ]


def test_nobody_reads(monkeypatch):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    for stream in (Full(), None):
        monkeypatch.setattr(progress.sys, "stderr", stream)
        progress.Progress().say("text")


def shown(live):
    """Return what a display shows, without the colours that a variable of the user's may ask for."""
    live.console = Console(file=io.StringIO(), color_system=None, force_terminal=False, width=live.console.width)
    live.console.print(live.render())
    return live.console.file.getvalue()


def test_what_the_display_shows(monkeypatch):
    """The running script with its last epochs, what is to come, the time left: 40 of 600 s have passed."""
    live = progress.LiveProgress()
    live.step, live.began, live.epochs = step(), 0.0, ["epoch 1/2  loss 0.4", "epoch 2/2  loss 0.1"]
    monkeypatch.setattr(progress.time, "monotonic", lambda: 40.0)
    assert shown(live).splitlines() == [
        "run 2 of 9, round 1; about 9 min left",
        "> mnist_mx_a.py  40 s of about 60 s",
        "    epoch 1/2  loss 0.4",
        "    epoch 2/2  loss 0.1",
        "  to come in this round: mx_b, torch",
    ]


def test_long_lines_are_cut(monkeypatch):
    live = progress.LiveProgress()
    live.step = Step(1, 1, "x" * 99, 1, 1.0, 1.0, tuple(f"mnist_mx_script{i}.py" for i in range(13)))
    assert max(map(len, shown(live).splitlines())) <= 70


@pytest.mark.parametrize(
    ("term", "tty", "live"),
    [("xterm", True, True), ("xterm", False, False), ("dumb", True, False), (None, True, False)],
)
def test_when_there_is_a_display(monkeypatch, term, tty, live):
    monkeypatch.delenv("TERM", raising=False)
    if term:
        monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(progress.sys, "stderr", type("Stream", (), {"isatty": lambda _: tty})())
    assert progress.is_live() is live
