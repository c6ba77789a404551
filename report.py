# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2", "numpy==2.4.6", "pyperf==2.10.0", "scipy==1.17.1", "tabulate==0.10.0"]
# ///
"""Show result files of benchmark.py: verdict, tables, picture, README, comparison.

    uv run report.py results/x.json                                  # prints it, draws results/x.png
    uv run report.py results/x.json --readme                         # puts it into README.md too, between its markers
    uv run report.py new.json --compare old.json --fail-above 5      # exit status 1 if a script is slower by more than 5 %

The unit of all statistics is the run, one process. `pyperf stats`, `hist` and `metadata` read the files too.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this without a traceback, during the imports too

import argparse
import io
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyperf
import tabulate
from scipy import stats

tabulate.MIN_PADDING = 0
RUNS, LEVEL = 3, 0.95  # of a script, at least, for a verdict; of confidence
PRINTED = 0.01 / math.sqrt(12)  # seconds: standard deviation of what a script's two decimals hide
BUSY, LOST = 0.1, 0.02  # of the CPUs busy before a run, of their time stolen or used by others: more is a disturbance
DRIFT = 1.1  # ratio of SGEMM's speed between rounds
WIDTH = 120  # characters
HERE = Path(__file__).resolve().parent
README, BEGIN, END = HERE / "README.md", "<!-- results:begin -->", "<!-- results:end -->"
MNIST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # SHA-256 of its four arrays
ALIKE = "epochs", "batch_size", "data", "data_sha256", "train_images", "devices", "device", "threads"
MACHINE = "hostname", "cpu_model_name", "cpu_model", "cpus_used", "gpu", "gpu_driver", "platform", "environment"
STYLES = {1: (1.0, "", "-"), 2: (0.55, "", "--"), "hvd": (0.55, "///", ":")}  # opacity, hatch, line


def read_run(run):
    """Return a run's metadata and times; an exception if they are not as benchmark.py writes them."""
    data = {"cpus_used": 1, "round": 0, "gpu": "none", "cpu_model_name": "CPU"} | run.get_metadata()
    data |= {key[6:]: [float(word) for word in data[key].split()] for key in ("epoch_seconds", "epoch_losses")}
    data |= {"times": data["seconds"], "seconds": run.values[0]}
    counts = [data[key] for key in ("epochs", "batch_size", "devices", "train_images", "cpus_used")]
    keys = "sgemm_gflops", "load_avg_1min", "cpus_busy_before", "steal_seconds", "cpu_seconds_of_others", "mem_max_rss"
    figures = [data[key] for key in (*keys, "round", "duration", "test_images") if key in data]
    figures += [data["seconds"], *data["times"], *data["losses"]]
    whole = all(isinstance(count, int) and 0 < count < 10**9 for count in [*counts, data.get("test_images", 1)])
    texts = [str(data[key]) for key in data if key not in ("times", "losses")]
    if not whole or not all(0 <= figure < 1e15 for figure in figures) or not all(map(str.isprintable, texts)):
        raise ValueError("impossible values")
    if not 0 <= data["accuracy"] <= 1 or not len(data["times"]) == len(data["losses"]) == data["epochs"]:
        raise ValueError("impossible values")
    return data


def load(path):
    """Return one row per script of a result file; anything else ends the program."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        rows = [make_row([read_run(run) for run in bench.get_runs()]) for bench in pyperf.BenchmarkSuite.loads(text)]
        describe(rows)  # needs the rest
    except OSError as error:
        sys.exit(f"error: cannot read {path}: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - of a damaged file, anything
        sys.exit(f"error: cannot read {path} as a result file of benchmark.py: {error!r:.100}")
    return rows


def make_row(runs):
    """Return what is shown of a script's runs."""
    seconds = np.array([run["seconds"] for run in runs])
    row = runs[0] | {"runs": runs, "label": runs[0]["name"].removesuffix(".py"), "logs": np.log(seconds)}
    if len(runs) > 1 and row["logs"].std(ddof=1) < PRINTED / seconds.mean():  # no spread is smaller than the rounding
        steps = np.linspace(-1, 1, len(runs))
        row["logs"] = row["logs"].mean() + PRINTED / seconds.mean() * steps / steps.std(ddof=1)
    row |= {"mean": math.exp(row["logs"].mean()), "missing": max(RUNS - len(runs), 0)}
    times = [time for run in runs for time in run["times"][1:] or run["times"]]  # the first compiles and warms up
    low, row["epoch"], high = np.quantile(times, [0.25, 0.5, 0.75])
    step = row["batch_size"] * row["devices"]
    row["rate"] = row["train_images"] // step * step * len(times) / max(sum(times), 0.01)
    row |= {"spread": (high - low) / 2, "memory": max(run.get("mem_max_rss", 0) for run in runs)}
    row["accuracy"], n = statistics.mean(run["accuracy"] for run in runs), row.get("test_images", 10_000)
    low, high = stats.binomtest(round(row["accuracy"] * n), n).proportion_ci(LEVEL, "wilson")
    row |= {"half": (high - low) / 2, "disturbed": sum(map(is_disturbed, runs))}
    row["api"] = re.sub("_mgpu|_hvd", "", row["label"])
    row["style"] = STYLES["hvd" if "_hvd" in row["name"] else min(row["devices"], 2)]
    return row


def is_disturbed(run):
    """Return whether something else used the CPUs before or during a run."""
    if "cpus_busy_before" not in run:  # an earlier benchmark.py: the load average has the run before in it
        return run.get("load_avg_1min", 0) > 1.5 * run["cpus_used"]
    lost = max(run["steal_seconds"], run["cpu_seconds_of_others"])
    return run["cpus_busy_before"] > BUSY * run["cpus_used"] or lost > max(
        LOST * run["duration"] * run["cpus_used"], 0.3
    )


def rank(rows):
    """Give the rows of one table their ranks and intervals; the error holds for the whole table (Games-Howell)."""
    rows = sorted((row for row in rows if not row["missing"]), key=lambda row: row["mean"])
    logs = [row["logs"] for row in rows]
    alike = stats.tukey_hsd(*logs, equal_var=False).pvalue > 1 - LEVEL if len(rows) > 1 else None
    rest, place = list(range(len(rows))), 0
    while rest:  # those that cannot be told from the fastest of the rest share its rank
        first, place = rest[0], place + 1
        same = [i for i in rest if i == first or alike[first, i]]
        for i in same:
            rows[i]["rank"] = place
        rest = [i for i in rest if i not in same]
    for row in rows[1:]:
        # tukey_hsd(...).confidence_interval() takes seconds, as it makes all pairs'
        parts = [np.var(x, ddof=1) / len(x) for x in (logs[0], row["logs"])]
        df = sum(parts) ** 2 / (parts[0] ** 2 / (len(logs[0]) - 1) + parts[1] ** 2 / (len(row["logs"]) - 1))
        radius = stats.studentized_range.ppf(LEVEL, len(rows), df) * math.sqrt(sum(parts) / 2)
        row["relative"] = [math.exp(row["logs"].mean() - logs[0].mean() + x) for x in (0, -radius, radius)]


def welch(old, new, level=LEVEL):
    """Return the ratio of two rows' seconds and its interval by Welch's test, without interval if there are few runs."""
    ratio = new["mean"] / old["mean"]
    if old["missing"] or new["missing"]:
        return ratio, None, None
    low, high = stats.ttest_ind(new["logs"], old["logs"], equal_var=False).confidence_interval(level)
    return ratio, math.exp(low), math.exp(high)


def tables(rows):
    """Return title and ranked rows of every table: never GPU and CPU in one, nor different numbers of devices."""
    found = []
    for devices, device in sorted({(row["devices"], row["device"]) for row in rows}):
        some = [row for row in rows if (row["devices"], row["device"]) == (devices, device)]
        rank(some)
        some.sort(key=lambda row: (row.get("rank", math.inf), row["mean"]))
        found.append((f"{'one device' if devices == 1 else f'{devices} devices'}, {device.upper()}", some))
    singles = {(row["label"], row["device"]): row for row in rows if row["devices"] == 1}
    pairs = [row for row in rows if row["devices"] > 1 and (row["api"], row["device"]) in singles]
    for row in pairs:  # the intervals hold for all pairs together (Bonferroni)
        row["against_one"] = welch(singles[row["api"], row["device"]], row, 1 - (1 - LEVEL) / len(pairs))
    return found


def plus_minus(ratio, low, high):
    """Return a ratio with its interval: 1.03 ± 0.02, or 1.60 (1.00–2.56) if that is lopsided."""
    if low is None or high - ratio - (ratio - low) > 0.02:
        return f"{ratio:.2f}" + (f" ({low:.2f}–{high:.2f})" if low else "")
    return f"{ratio:.2f} ± {math.ceil((high - low) * 50) / 100:.2f}"


def percent(ratio, low, high):
    """Return by how many per cent a ratio is above 1: +3 ± 2 %."""
    return f"{(ratio - 1) * 100:+.0f}" + (f" ± {math.ceil((high - low) * 50)}" if low else "") + " %"


def markdown(header, rows, tight=False):
    """Return a Markdown table without empty columns; without padding, and with long names cut, if it is too wide else."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    cells = [[row[i].replace("|", "/") for i in kept] for row in rows]
    align = ["left", *["right"] * (len(kept) - 1)]
    text = tabulate.tabulate(cells, [header[i] for i in kept], "pipe", colalign=align, disable_numparse=True)
    if tight:
        text = re.sub(r"(?m)(?<=\|) | (?=\|)", "", text).replace("|:--", "|:").replace("|--", "|")
    over = len(text.partition("\n")[0]) - WIDTH
    if over > 0 and not tight:
        return markdown(header, [[cell.replace(" ± ", "±") for cell in row] for row in rows], True)
    if over > 0 and (width := max(len(row[0]) for row in rows)) > 10:
        return markdown(header, [[row[0][: max(width - over, 10)], *row[1:]] for row in rows], True)
    return text


def make_table(rows):
    """Return the table of one group."""
    header = ["script", "devices", "runs", "seconds", "relative", "rank", "epoch", "images/s", "memory", "accuracy"]
    cells, on_gpu = [], rows[0]["device"] == "gpu"
    for row in rows:
        marks = f" of {RUNS}" * bool(row["missing"]) + "*" * bool(row["disturbed"])
        line = [row["label"], f"{row['devices']} x {row['device']}", f"{len(row['runs'])}{marks}", f"{row['mean']:.2f}"]
        line += [plus_minus(*row["relative"]) if "relative" in row else "1.00" if "rank" in row else ""]
        line += [str(row.get("rank", "")), f"{row['epoch']:.2f} ± {row['spread']:.2f}", f"{row['rate']:,.0f}"]
        line += [f"{row['memory'] / 1e9:.1f} GB" if row["memory"] else "", f"{row['accuracy']:.4f}"]
        ratio = row.get("against_one")
        speedup = [f"{1 / ratio[0]:.2f}", f"{1 / ratio[0] / row['devices']:.0%}"] if ratio else ["", ""]
        cells.append(line + (speedup if on_gpu else [percent(*ratio) if ratio else ""]))
    return markdown(header + (["speedup", "efficiency"] if on_gpu else ["cost"]), cells)


def names(rows):
    """Return the scripts' names for a sentence."""
    return " and ".join(filter(None, [", ".join(row["label"] for row in rows[:-1]), rows[-1]["label"]]))


def make_verdict(found):
    """Return what the tables say: one sentence per table, one on several devices."""
    sentences = []
    for title, rows in found:
        ranked, short = [row for row in rows if "rank" in row], [row for row in rows if "rank" not in row]
        best, first = min(rows, key=lambda row: row["mean"]), [row for row in ranked if row["rank"] == 1]
        if not ranked:
            text = f"no ranks, as each script needs {RUNS} runs; {best['label']} has the shortest time, {best['mean']:.2f} s"
        elif len(first) == len(ranked) > 1:
            text = f"{names(first)} cannot be told apart ({first[0]['mean']:.2f} to {first[-1]['mean']:.2f} s)"
        else:
            text = f"{first[0]['label']} is fastest with {first[0]['mean']:.2f} s"
            text += f", {names(first[1:])} cannot be told from it" if first[1:] else ""
            behind = ranked[len(first) :]
            text += (
                f"; next is {behind[0]['label']}, {plus_minus(*behind[0]['relative'])} times as long" if behind else ""
            )
        text += f"; {names(short)} cannot be ranked yet" if ranked and short else ""
        sentences.append(f"On {title}: {text}.")
    for device in ("cpu", "gpu"):
        pairs = [row for _, rows in found for row in rows if "against_one" in row and row["device"] == device]
        ends = sorted(pairs, key=lambda row: row["against_one"][0])[:: max(len(pairs) - 1, 1)]
        if pairs and device == "cpu":
            each = " to ".join(f"{percent(*row['against_one'])} ({row['label']})" for row in ends)
            sentences.append(f"Several devices on one CPU share its cores and take {each} more time than one.")
        elif pairs:
            each = " to ".join(f"{1 / row['against_one'][0]:.2f} ({row['label']})" for row in reversed(ends))
            sentences.append(f"Several GPUs are faster than one by a factor of {each}.")
    return " ".join(sentences)


def name_data(row):
    """Return what the data are; MNIST are only those whose arrays have its hash."""
    if row["data"] == "MNIST" and row.get("data_sha256") != MNIST:
        return "not MNIST" if "data_sha256" in row else "MNIST, by an earlier file that has no hash of the arrays"
    return row["data"]


def make_warnings(rows):
    """Return what a reader must not miss."""
    data, slow = name_data(rows[0]), [row for row in rows if row["gpu"] != "none" and row["device"] == "cpu"]
    lines = [] if data.startswith("MNIST") else [f"**{data}: the accuracies say nothing about MNIST**"]
    if slow:
        lines.append(
            f"**WARNING: the machine has {rows[0]['gpu']}, but these ran on its CPU: {names(slow)}.** `uv run` brings"
        )
        lines[-1] += " CPU packages: install the GPUs' and add `--device gpu --python mx=PATH` (README: GPUs)."
    speeds = {run["round"]: run["sgemm_gflops"] for row in rows for run in row["runs"] if "sgemm_gflops" in run}
    if speeds and max(speeds.values()) > DRIFT * min(speeds.values()):
        each = ", ".join(f"round {number} {speed:.0f}" for number, speed in sorted(speeds.items()))
        lines.append(f"**WARNING: the machine's own speed drifted: SGEMM's GFLOP/s were {each}.**")
    return lines


def make_report(rows):
    """Return verdict, machine, tables and notes as Markdown."""
    found, pairs = tables(rows), {row["device"] for row in rows if "against_one" in row}
    parts = [*make_warnings(rows), make_verdict(found), "\n".join(f"- {line}" for line in describe(rows))]
    for title, some in found:
        parts += [f"### {title.capitalize().replace('cpu', 'CPU').replace('gpu', 'GPU')}", make_table(some)]
    disturbed = ", ".join(f"{row['label']} {row['disturbed']}" for row in rows if row["disturbed"])
    half = max(row["half"] for row in rows)
    notes = {
        "seconds: of training, geometric mean of the runs, each a process with its own seed": True,
        "relative: to the fastest of the table; the intervals hold at 95 % for the whole table (Games-Howell)": "relative",
        "rank: what cannot be told from the fastest shares rank 1, what of the rest not from its fastest rank 2": "rank",
        f"runs: a verdict on a script needs {RUNS}": any(row["missing"] for row in rows),
        f"\\*: something else used the CPUs before or during runs: {disturbed}": disturbed,
        "epoch: median ± half the distance of the quartiles; it and images/s leave out each run's first of several": True,
        "memory: peak of all processes of the script together": "mem_max_rss",
        f"accuracy: mean of the runs; ± {half:.4f} (95 %, one run): rows within that are not ranked by it": True,
        f"cost: more seconds than on one device; the devices share the CPU's {rows[0]['cpus_used']} cores": "cpu"
        in pairs,
        "speedup: seconds on one device over these; efficiency: speedup over the number of devices": "gpu" in pairs,
    }
    shown = [
        text
        for text, when in notes.items()
        if (any(when in r for r in rows) if isinstance(when, str) and when != disturbed else when)
    ]
    return "\n\n".join([*parts, "\n".join(f"- {text}" for text in shown)])


def describe(rows):
    """Return framework, system, hardware and settings, one line each."""
    runs = [run for row in rows for run in row["runs"]]
    one, keys = (
        runs[0],
        [key for key in {key for run in runs for key in run} if re.search("(?<!perf|thon)_version$", key)],
    )
    versions = ", ".join(sorted({f"{key[:-8]} {run[key]}" for run in runs for key in keys if key in run}))
    days, pythons = (sorted({str(run[key])[:10] for run in runs}) for key in ("date", "python_version"))
    speed = max(run.get("sgemm_gflops", 0) for run in runs)
    cpu = f"{one['cpu_model_name']}, {one['cpus_used']} cores" + f", SGEMM {speed:.0f} GFLOP/s" * bool(speed)
    memory = one["memory"] if "memory" in one else f"{one['memory_gib']:.0f} GiB"
    gpu = "no GPU" if one["gpu"] == "none" else f"{one['gpu']}, driver {one['gpu_driver']}"
    days = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return [
        f"Framework: {versions}",
        f"System: {one['os']}, {one['platform']}, Python {', '.join(pythons)}",
        f"Hardware: {cpu}; {memory} memory; {gpu}",
        f"Settings: {name_data(one)}; epochs: {one['epochs']}; batch per device: {one['batch_size']}; {days}",
    ]


def draw(rows, path):
    """Draw a PNG: seconds on the left, loss over seconds on the right; one pair of panels for CPUs, one for GPUs."""
    import matplotlib  # here, as it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = sorted({row["device"] for row in rows})
    rows = sorted(rows, key=lambda row: (row["devices"], row["style"], row["mean"]))
    fastest = {}
    for row in sorted(rows, key=lambda row: row["mean"]):
        fastest.setdefault(row["api"], len(fastest))
    rows.sort(key=lambda row: fastest[row["api"]])  # stable: one device first
    heights = [1 + 0.32 * sum(row["device"] == kind for row in rows) for kind in kinds]
    options = {"squeeze": False, "layout": "constrained", "height_ratios": heights, "figsize": (13, 2.2 + sum(heights))}
    figure, axes = plt.subplots(len(kinds), 2, **options)
    for (bars, lines), kind in zip(axes, kinds, strict=True):
        y, ticks = 0.0, {}
        for row in (row for row in rows if row["device"] == kind):
            y += 1 if row["api"] in ticks else 1.7
            ticks.setdefault(row["api"], []).append(y)
            color, (alpha, hatch, line) = f"C{fastest[row['api']] % 10}", row["style"]
            bars.barh(y, row["mean"], 0.95, color=color, alpha=alpha, hatch=hatch, edgecolor="white")
            seconds = [run["seconds"] for run in row["runs"]]
            bars.plot(seconds, [y] * len(seconds), "o", color="black", markersize=4.5, markeredgecolor="white")
            text = {"textcoords": "offset points", "va": "center", "fontsize": 8}
            bars.annotate(f"{row['mean']:.1f} s", (max(*seconds, row["mean"]), y), (7, 0), **text)
            times, losses = (np.mean([run[key] for run in row["runs"]], axis=0) for key in ("times", "losses"))
            lines.plot(
                np.cumsum(times), losses, line, color=color, marker=".", label=row["label"].removeprefix("mnist_")
            )
        bars.set_yticks([sum(ys) / len(ys) for ys in ticks.values()], [api.removeprefix("mnist_") for api in ticks])
        bars.set(
            title=f"seconds of training on {kind.upper()}s: shorter is faster", xlabel="seconds", ylim=(y + 0.8, 0.9)
        )
        bars.set_xlim(
            0, 1.12 * max(max(run["seconds"] for run in row["runs"]) for row in rows if row["device"] == kind)
        )
        lines.set(title=f"training loss on {kind.upper()}s", xlabel="seconds of training", ylabel="loss", yscale="log")
        lines.yaxis.set_major_formatter("{x:g}")
        lines.yaxis.set_minor_formatter("{x:g}")
        lines.legend(fontsize=8, ncols=2, handlelength=3.5)
        for axis in (bars, lines):
            axis.spines[["top", "right"]].set_visible(False)
    shapes = {"one device": STYLES[1], "several devices": STYLES[2], "Horovod's ranks": STYLES["hvd"]}
    used = [(name, style) for name, style in shapes.items() if style in [row["style"] for row in rows]]
    handles = [
        plt.Rectangle((0, 0), 1, 1, fc="gray", ec="white", alpha=a, hatch=h, label=name) for name, (a, h, _) in used
    ]
    handles += [plt.Line2D([], [], color="black", marker="o", linestyle="", label="a run")]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9, frameon=False)
    title = "MNIST benchmark" + ("" if name_data(rows[0]).startswith("MNIST") else f" ({name_data(rows[0])})")
    figure.suptitle(title, fontsize=12)
    figure.supxlabel("\n".join(describe(rows)), fontsize=8, x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, dpi=110, metadata={"Title": title, "Description": "\n".join(describe(rows))})
    write(path, image.getvalue())


def write(path, data):
    """Write a file, at once and whole or not at all; a link stays a link, the mode stays the mode."""
    path = Path(os.path.realpath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            Path(folder, "new").write_bytes(data)
            if path.exists():
                shutil.copymode(path, Path(folder, "new"))
            Path(folder, "new").replace(path)
    except OSError as error:
        sys.exit(f"error: cannot write {path}: {error.strerror}")


def write_readme(results):
    """Put verdict, tables and pictures of result files {path: rows} between the markers of the README."""
    try:
        text = README.read_bytes().decode()
        parts = []
        for path, rows in results.items():
            name = path.resolve().relative_to(HERE).as_posix()
            picture = f"![Seconds of training and loss]({name.removesuffix('.json')}.png)"
            parts += [make_report(rows), picture, f"Made from [{name}]({name}) by `uv run report.py {name} --readme`."]
        before, rest = text.split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError) as error:  # not there, not text, markers not once each, a result file elsewhere
        sys.exit(f"error: cannot put {', '.join(map(str, results))} into {README}: {error}")
    end = "\r\n" if "\r\n" in text else "\n"
    block = "\n\n".join([BEGIN, *parts, END]).replace("\n", end)
    write(README, (before + block + after).encode())


def compare(old_path, old, new, fail_above):
    """Print per script whether new is slower or faster than old; end the program as --fail-above says."""
    old, new = ({row["name"]: row for row in rows} for rows in (old, new))
    cells, slower = [], []
    if not old.keys() & new.keys():
        sys.exit(f"error: {old_path} has none of these scripts")
    for name, before, now in ((name, old.get(name), new.get(name)) for name in old | new):
        seconds = [f"{row['mean']:.2f}" if row else "" for row in (before, now)]
        if not before or not now:
            cells.append([name, *seconds, "", "only there" if before else "only here"])
            continue
        for key in ALIKE:
            if before.get(key) != now.get(key) and key in before and key in now:
                sys.exit(
                    f"error: cannot compare with {old_path}: {key} of {name} is {now[key]} here, {before[key]} there"
                )
        ratio, low, high = welch(before, now)
        few = f"no verdict: {RUNS} runs each are needed, these are {len(before['runs'])} and {len(now['runs'])}"
        if low is None and fail_above is not None:
            sys.exit(f"error: --fail-above: {name}: {few}")
        change = "" if low is None else f" ({(low - 1) * 100:+.1f} to {(high - 1) * 100:+.1f})"
        verdict = few if low is None else "slower" if low > 1 else "faster" if high < 1 else "no difference"
        cells.append([name, *seconds, f"{(ratio - 1) * 100:+.1f}{change} %", verdict])
        if fail_above is not None and (low - 1) * 100 > fail_above:
            slower.append(name)
    show(
        f"\n### Compared with {old_path}\n\n{markdown(['script', 'old (s)', 'new (s)', 'change', 'verdict'], cells)}\n"
    )
    show("- change: with its 95 % interval by Welch's test, each script for itself")
    before, now = ({key: value for row in rows.values() for key, value in row.items()} for rows in (old, new))
    for key in (key for key in before | now if key in MACHINE or key.endswith("_version")):
        if before.get(key) != now.get(key):
            show(f"- {key} is {now.get(key)} here, {before.get(key)} there")
    if slower:
        sys.exit(f"error: slower by more than {fail_above:g} %: {', '.join(slower)}")


def show(text):
    """Print; nobody may be reading, and the terminal may not know all characters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.replace("±", "+-").replace("–", "-").encode("ascii", "replace").decode()
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main():
    """Show the files; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files of benchmark.py")
    parser.add_argument("--readme", action="store_true", help="put all into README.md too, between its markers")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="say what is slower or faster than in this file")
    text = "with --compare: exit status 1 if a script is slower by more, by the lower end of the interval"
    parser.add_argument("--fail-above", type=float, metavar="PERCENT", help=text)
    args = parser.parse_args()
    if args.fail_above is not None and (not args.compare or not math.isfinite(args.fail_above)):
        parser.error("--fail-above goes with --compare and takes a number")
    if args.compare and len(args.files) > 1:
        parser.error("--compare takes one file")
    for path in [*args.files, *filter(None, [args.compare])]:
        if path.suffix != ".json" and str(path) != "-":  # the picture goes beside it, by the same name
            parser.error(f"{path} does not end with .json")
    results = {path: load(path) for path in args.files}
    old = load(args.compare) if args.compare else None
    for path, rows in results.items():
        show(f"## {path}\n\n{make_report(rows)}" if len(results) > 1 else make_report(rows))
    if args.compare:
        compare(args.compare, old, results[args.files[0]], args.fail_above)
    for path, rows in results.items():
        if str(path) != "-":
            draw(rows, path.with_suffix(".png"))
    if args.readme:
        write_readme(results)


if __name__ == "__main__":
    main()
