"""Rows as PNG, to be read at 838 px, the width of a README on GitHub."""

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.files import write_whole
from harness.results import Run
from harness.rows import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.38  # inches: 100 px each at 838 px
RESOLUTION = 200  # dots an inch: two for each px, for fine screens
TEXT = 7.5  # points: 10.4 px at 838 px
BAR_HEIGHT = 0.21  # inches, with its gap
CURVES_HEIGHT = 3.0  # inches
CURVES_FROM = 3  # epochs: two points are no curve
# Okabe and Ito's colours, which the colour-blind can tell apart (jfly.uni-koeln.de/color); each API has its own in every picture
COLOURS = {
    "mx_gluon": "#0072B2",
    "mx_gluon_ds": "#56B4E9",
    "mx_sym": "#009E73",
    "mx_keras": "#E69F00",
    "tf_keras": "#D55E00",
    "torch": "#CC79A7",
}
OTHERS = ("#7A7A7A", "#4D4D4D", "#A89F68", "#6B4C9A", "#8C564B")  # for APIs that are not among these, by name


def colour_of(api: str) -> str:
    """Return an API's colour, the same in every picture."""
    return COLOURS.get(api) or OTHERS[hashlib.sha256(api.encode()).digest()[0] % len(OTHERS)]


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Keep the user's settings of matplotlib out, and its messages off the terminal.

    Where settings and caches are looked for in one folder, that is the caches': the list of fonts, which takes seconds to make,
    is there already.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "matplotlib")
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK) and not (folder / "matplotlibrc").exists()
    except (OSError, RuntimeError):  # no such home
        usable = False
    if not usable:
        folder = Path(tempfile.gettempdir(), f"mnist-benchmark-matplotlib-{os.getuid()}")
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        os.environ.pop(name, None)
    os.environ["MPLCONFIGDIR"] = str(folder)
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    here = os.getcwd() if os.path.exists("matplotlibrc") else None  # it would be read
    if here is not None:
        os.chdir("/")
    try:
        yield
    finally:
        if here is not None:
            os.chdir(here)


def new_figure(size: tuple[float, float]) -> "Figure":
    """Return an empty figure; matplotlib is loaded here, as it takes most of a second."""
    with own_settings():
        import matplotlib as mpl
        from matplotlib.figure import Figure
    mpl.rcParams.update(
        {"font.size": TEXT, "axes.titlesize": TEXT + 1, "hatch.linewidth": 0.6, "text.parse_math": False}
    )
    return Figure(size, dpi=RESOLUTION, layout="constrained")


def longest_run(tables: Sequence[Table], kind: str) -> float:
    """Return the seconds of the longest run on CPUs or on GPUs: panels of one kind have one scale."""
    return max(run.seconds for table in tables for row in table.rows for run in row.runs if run.device == kind)


def draw_bars(axes: "Axes", table: Table, widest: float) -> None:
    """Draw a bar a script, a dot a run, and the interval against the fastest; the longest bar takes widest seconds."""
    fastest = table.analysis.seconds[table.analysis.order[0]] if table.analysis.order else 0.0
    for y, row in enumerate(table.rows):
        axes.barh(y, row.seconds, 0.8, color=colour_of(row.api), alpha=0.75 if row.flag is None else 0.25)
        seconds = [run.seconds for run in row.runs]
        axes.plot(
            seconds,
            [y] * len(seconds),
            "o",
            color="black",
            markersize=2.6,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
        end = max(*seconds, row.seconds)
        if row.relative is not None and row.relative.low is not None and row.relative.high is not None:
            low, high = row.relative.low * fastest, row.relative.high * fastest
            axes.plot([low, high], [y + 0.25] * 2, "|-", color="black", linewidth=0.9, markersize=4)
            end = max(end, min(high, 1.1 * widest))
        axes.text(end + 0.01 * widest, y, f"{row.seconds:,.1f} s", va="center")
    axes.set_yticks(range(len(table.rows)), [shorten_tick(row.label) for row in table.rows])
    axes.set(
        title=table.title[0].upper() + table.title[1:], xlim=(0, 1.18 * widest), ylim=(len(table.rows) - 0.4, -0.6)
    )
    axes.spines[["top", "right"]].set_visible(False)


def shorten_tick(label: str) -> str:
    """Return a label that leaves room for the bars."""
    return label if len(label) <= 24 else label[:23] + "…"


def draw_curves(axes: "Axes", tables: Sequence[Table]) -> None:
    """Draw each script's mean loss over the seconds of its epochs."""
    from matplotlib.ticker import LogLocator

    for table in tables:
        for row in table.rows:
            draw_curve(axes, row)
    axes.set(title="Training loss by second", xlabel="seconds of training", ylabel="loss", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.spines[["top", "right"]].set_visible(False)


def draw_curve(axes: "Axes", row: Row) -> None:
    """Draw one script's curve: dashed on several devices, dotted on Horovod's ranks."""
    times, losses = (np.mean([getattr(run, name) for run in row.runs], axis=0) for name in ("epoch_seconds", "losses"))
    style = "-" if row.devices == 1 else "--"
    if "_hvd" in row.script:
        style = ":"
    axes.plot(np.cumsum(times), losses, style, color=colour_of(row.api), linewidth=1.1, label=shorten_tick(row.label))


def draw(tables: Sequence[Table], runs: Sequence[Run], description: str) -> bytes:
    """Return the picture of a file: a panel a table, and the loss over time where there are epochs enough."""
    heights = [0.5 + BAR_HEIGHT * len(table.rows) for table in tables]
    first = runs[0]
    if first.epochs >= CURVES_FROM:
        heights.append(CURVES_HEIGHT)
    figure = new_figure((WIDTH, sum(heights) + 0.65))
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, table in zip(axes, tables, strict=False):
        draw_bars(panel, table, longest_run(tables, table.device))
    axes[len(tables) - 1].set_xlabel(
        "seconds of training; dots: runs; lines: 95 % interval against the panel's fastest"
    )
    if first.epochs >= CURVES_FROM:
        draw_curves(axes[-1], tables)
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    epochs = f"{first.epochs} epoch{'s' if first.epochs > 1 else ''}"
    title = f"Seconds of training, {first.data}, {epochs}: shorter is faster"
    figure.suptitle(title, fontsize=TEXT + 2.5, fontweight="bold", x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, dpi=RESOLUTION, metadata={"Title": title, "Description": description})
    return image.getvalue()


def save_picture(path: Path, tables: Sequence[Table], runs: Sequence[Run], description: str) -> None:
    """Draw the picture of a file into a file; OSError if that cannot be written."""
    write_whole(path, draw(tables, runs, description))
