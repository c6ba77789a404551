"""What a person sees while the scripts run: plain lines, one an event, or on a terminal a live display. All on stderr."""

import datetime
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.files import shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

WIDTH = 70  # columns at most
EPOCHS_SHOWN = 4  # the last ones of the running script
REFRESH = 1.0  # times a second: each costs a few milliseconds


@dataclass(frozen=True)
class Step:
    """A run that is about to begin."""

    number: int  # from 1
    total: int  # runs in all, as far as known
    script: str
    round: int
    seconds: float  # that it is expected to take
    left: float  # seconds until all is done, this run included
    rest: tuple[str, ...]  # scripts of the round after this one


def format_left(seconds: float) -> str:
    """Return a time that is left, in words: 12 s, 5 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


class Progress:
    """Plain lines. Nobody may be reading: then they are lost, and the runs go on."""

    def say(self, text: str) -> None:
        """Print a message; what no terminal shows is escaped."""
        try:
            print("\n".join(shown(line) for line in text.split("\n")), file=sys.stderr, flush=True)
        except (OSError, ValueError, AttributeError):  # closed, full, or not there
            return

    def begin(self, step: Step) -> None:
        """A run begins."""
        left = f", about {format_left(step.left)} left" if step.number > 1 else ""
        self.say(f"run {step.number}/{step.total} {step.script}, round {step.round}{left}")

    def epoch(self, line: str) -> None:
        """The running script has printed the line of an epoch."""
        self.say(f"  {line}")

    def end(self, text: str) -> None:
        """The run has ended, as the text says."""
        self.say(text)

    def close(self) -> None:
        """Nothing more will come."""


class LiveProgress(Progress):
    """A live display: the plan of the round, the running script with its epochs, what is done, the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, width=min(WIDTH, terminal_width()), highlight=False, markup=False)
        self.live: Live | None = None
        self.step: Step | None = None
        self.began = 0.0
        self.epochs: list[str] = []
        self.done: list[str] = []

    def say(self, text: str) -> None:
        try:
            for line in text.split("\n"):
                self.console.print(shown(line), soft_wrap=False)
        except (OSError, ValueError):
            return

    def begin(self, step: Step) -> None:
        from rich.live import Live

        if self.step is None or step.round != self.step.round:
            self.done = []
        self.step, self.began, self.epochs = step, time.monotonic(), []
        if self.live is None:
            self.live = Live(
                get_renderable=self.render,
                console=self.console,
                refresh_per_second=REFRESH,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self.live.start()
        self.refresh()

    def epoch(self, line: str) -> None:
        self.epochs = [*self.epochs, shown(line)][-EPOCHS_SHOWN:]
        self.refresh()

    def end(self, text: str) -> None:
        self.done.append(text.partition("\n")[0])
        self.epochs = []
        self.say(text)

    def close(self) -> None:
        if self.live is not None:
            try:
                self.live.stop()  # shows the cursor again
            except (OSError, ValueError):
                return
            finally:
                self.live = None

    def refresh(self) -> None:
        try:
            if self.live is not None:
                self.live.refresh()
        except (OSError, ValueError):
            return

    def render(self) -> "RenderableType":
        """Return what the display shows now."""
        from rich.console import Group
        from rich.text import Text

        if self.step is None:
            return Text("")
        elapsed = time.monotonic() - self.began
        left = max(self.step.left - elapsed, 0)
        lines = [
            Text(
                f"run {self.step.number} of {self.step.total}, round {self.step.round}; about {format_left(left)} left",
                "bold",
            ),
            Text(
                f"> {shown(self.step.script)}  {format_left(elapsed)} of about {format_left(self.step.seconds)}", "cyan"
            ),
            *(Text(f"    {line}") for line in self.epochs),
            *self.plan(),
        ]
        for line in lines:
            line.truncate(self.console.width, overflow="ellipsis")
        return Group(*lines)

    def plan(self) -> list["Text"]:
        """Return what of the round is done and what is still to come."""
        from rich.text import Text

        if self.step is None:
            return []
        return [Text(f"  to come in this round: {', '.join(short_names(self.step.rest)) or 'nothing'}", "dim")]


def short_names(scripts: Sequence[str]) -> list[str]:
    return [shown(script.removesuffix(".py").removeprefix("mnist_")) for script in scripts]


def terminal_width() -> int:
    """Return the columns of the terminal on stderr; COLUMNS may say anything, and is not asked."""
    try:
        return os.get_terminal_size(2).columns or WIDTH
    except OSError:
        return WIDTH


def is_live() -> bool:
    """Tell whether stderr is a terminal that can move its cursor."""
    return (
        sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    )


def make_progress() -> Progress:
    """Return the display that stderr can show."""
    return LiveProgress() if is_live() else Progress()


def stamp() -> str:
    """Return the local time, for logs."""
    return str(datetime.datetime.now())
