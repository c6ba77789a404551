# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2", "numpy==2.4.6", "pyperf==2.10.0", "scipy==1.17.1", "tabulate==0.10.0"]
# ///
"""Show result files of benchmark.py: verdict, tables, picture, README, comparison.

    uv run report.py results/x.json                                  # prints it, draws results/x.png
    uv run report.py results/x.json --readme                         # puts it into README.md too, between its markers
    uv run report.py new.json --compare old.json --fail-above 5      # exit status 1 if a script is slower by more than 5 %

The unit of all statistics is the run, one process.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this without a traceback, during the imports too

import argparse
import io
import math
import os
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pyperf
import scipy  # its stats load where they are used, as they take seconds
import tabulate

RUNS, LEVEL = 3, 0.95  # of a script, at least, for a verdict; of confidence
PRINTED = 0.01 / math.sqrt(12)  # seconds: standard deviation of what a script's two decimals hide
BUSY, LOST, DRIFT, WIDTH = 0.1, 0.02, 1.1, 120  # of CPUs: before a run, stolen or used by others; SGEMM's; of tables
README, BEGIN, END = Path(__file__).with_name("README.md"), "<!-- results:begin -->", "<!-- results:end -->"
MNIST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # SHA-256 of its four arrays
ALIKE = "epochs", "batch_size", "data", "data_sha256", "train_images", "devices", "device", "threads"
STYLES = {"one device": (1.0, "", "-"), "several devices": (0.55, "", "--"), "Horovod's ranks": (0.55, "///", ":")}
tabulate.MIN_PADDING = 0


def read_run(run):
    """Return a run's metadata and times; an exception if they are not as benchmark.py writes them."""
    data = {"cpus_used": 1, "round": 0, "gpu": "none", "cpu_model_name": "CPU"} | run.get_metadata()
    data["times"], data["losses"] = ([float(x) for x in data[f"epoch_{key}"].split()] for key in ("seconds", "losses"))
    data["seconds"] = run.values[0]
    keys = "epochs", "batch_size", "devices", "train_images", "test_images", "cpus_used"
    texts = "".join(data[key] for key in ("name", "data", "date", "os", "platform", "gpu", "gpu_driver"))
    figures = [value for value in data.values() if isinstance(value, (int, float))] + data["times"] + data["losses"]
    fine = all(isinstance(data.get(key, 1), int) and 0 < data.get(key, 1) < 10**9 for key in keys)
    fine = fine and all(0 <= figure < 1e15 for figure in figures) and all(str(x).isprintable() for x in data.values())
    fine = fine and len(data["times"]) == len(data["losses"]) == data["epochs"] and data["accuracy"] <= 1
    if not fine or not texts or data["device"] not in ("cpu", "gpu"):
        raise ValueError("impossible values")
    if data["data"] == "MNIST" and data.get("data_sha256") != MNIST:  # it is MNIST by the hash of its arrays only
        data["data"] = "not MNIST" if "data_sha256" in data else "MNIST by name: an earlier file, without hash"
    # an earlier file has the load average only, and in it the run before
    busy = data.get("cpus_busy_before", data.get("load_avg_1min", 0) - data["cpus_used"]) > BUSY * data["cpus_used"]
    lost = max(data.get("steal_seconds", 0), data.get("cpu_seconds_of_others", 0))
    data["disturbed"] = busy or lost > max(LOST * data["cpus_used"] * data.get("duration", 0), 0.3)
    return data


def load(path):
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        rows = [make_row([read_run(run) for run in bench.get_runs()]) for bench in pyperf.BenchmarkSuite.loads(text)]
        return rows if describe(rows) else None  # which needs the rest
    except Exception as error:  # noqa: BLE001 - of a damaged file, anything
        sys.exit(f"error: cannot read {path} as a result file of benchmark.py: {error!r:.100}")


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
    row |= {"spread": (high - low) / 2, "peak": max(run.get("mem_max_rss", 0) for run in runs)}
    row["accuracy"], n = np.mean([run["accuracy"] for run in runs]), row.get("test_images", 10_000)
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)  # Wilson's interval
    row["half"] = z * math.sqrt(n * row["accuracy"] * (1 - row["accuracy"]) + z**2 / 4) / (n + z**2)
    row["disturbed"] = sum(run["disturbed"] for run in runs)
    style = [*STYLES][2 if "_hvd" in row["name"] else row["devices"] > 1]
    return row | {"api": re.sub("_mgpu|_hvd", "", row["label"]), "style": style}


def rank(rows):
    """Give the rows of one table their ranks and intervals; the error holds for the whole table (Games-Howell)."""
    rows = sorted((row for row in rows if not row["missing"]), key=lambda row: row["mean"])
    logs = [row["logs"] for row in rows]
    alike = scipy.stats.tukey_hsd(*logs, equal_var=False).pvalue > 1 - LEVEL if len(rows) > 1 else None
    rest, place = list(range(len(rows))), 0
    while rest:  # those that cannot be told from the fastest of the rest share its rank
        first, place = rest[0], place + 1
        same = [i for i in rest if i == first or alike[first, i]]
        for i in same:
            rows[i]["rank"] = place
        rest = [i for i in rest if i not in same]
    for row in rows[1:]:  # as tukey_hsd(...).confidence_interval(), which takes seconds for all pairs
        parts = [np.var(x, ddof=1) / len(x) for x in (logs[0], row["logs"])]
        df = sum(parts) ** 2 / (parts[0] ** 2 / (len(logs[0]) - 1) + parts[1] ** 2 / (len(row["logs"]) - 1))
        radius = scipy.stats.studentized_range.ppf(LEVEL, len(rows), df) * math.sqrt(sum(parts) / 2)
        row["relative"] = [math.exp(row["logs"].mean() - logs[0].mean() + x) for x in (0, -radius, radius)]


def welch(old, new, level=LEVEL):
    """Return the ratio of two rows' seconds and its interval by Welch's test, without interval if there are few runs."""
    ratio = new["mean"] / old["mean"]
    if old["missing"] or new["missing"]:
        return ratio, None, None
    low, high = scipy.stats.ttest_ind(new["logs"], old["logs"], equal_var=False).confidence_interval(level)
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
    header = ["script", "runs", "seconds", "relative", "rank", "epoch", "images/s", "memory", "accuracy"]
    cells, on_gpu = [], rows[0]["device"] == "gpu"
    for row in rows:
        marks = f" of {RUNS}" * bool(row["missing"]) + "*" * bool(row["disturbed"])
        line = [row["label"], f"{len(row['runs'])}{marks}", f"{row['mean']:.2f}"]
        line += [plus_minus(*row["relative"]) if "relative" in row else "1.00" if "rank" in row else ""]
        line += [str(row.get("rank", "")), f"{row['epoch']:.2f} ± {row['spread']:.2f}", f"{row['rate']:,.0f}"]
        line += [f"{row['peak'] / 1e9:.2f} GB" if row["peak"] else "", f"{row['accuracy']:.4f}"]
        ratio = row.get("against_one")
        speedup = [f"{1 / ratio[0]:.2f}", f"{1 / ratio[0] / row['devices']:.0%}"] if ratio else ["", ""]
        cells.append(line + (speedup if on_gpu else [percent(*ratio) if ratio else ""]))
    return markdown(header + (["speedup", "efficiency"] if on_gpu else ["cost"]), cells)


def names(rows):
    return " and ".join(filter(None, [", ".join(row["label"] for row in rows[:-1]), rows[-1]["label"]]))


def make_verdict(found):
    sentences = []
    for title, rows in found:
        ranked, short = [row for row in rows if "rank" in row], [row for row in rows if "rank" not in row]
        first, behind = ([row for row in ranked if (row["rank"] == 1) == is_first] for is_first in (True, False))
        text = f"no ranks, as a script needs {RUNS} runs; shortest is {rows[0]['mean']:.2f} s, {rows[0]['label']}"
        if first:
            text = f"the fastest is {names(first)} with {first[0]['mean']:.2f} s"
        if first[1:]:
            text = f"{names(first)} cannot be told apart, {first[0]['mean']:.2f} to {first[-1]['mean']:.2f} s"
        if behind:
            times = plus_minus(*behind[0]["relative"])
            whom = f" as {first[0]['label']}" if first[1:] else ""
            text += f"; next is {behind[0]['label']}, {times} times as long{whom}"
        text += f"; {names(short)} cannot be ranked yet" if ranked and short else ""
        sentences.append(f"On {title}: {text}.")
    for device, what in (("cpu", "Several devices on one CPU share its cores and cost"), ("gpu", "Several GPUs cost")):
        pairs = [x for _, rows in found for x in rows if x["device"] == device and x.get("against_one", (0, 0))[1]]
        ends = sorted(pairs, key=lambda row: row["against_one"][0])[:: max(len(pairs) - 1, 1)]
        each = " to ".join(f"{percent(*row['against_one'])} ({row['label']})" for row in ends)
        sentences += [f"{what} {each} in time over one."] if pairs else []
    return " ".join(sentences)


def make_report(rows):
    """Return warnings, verdict, machine, tables and notes as Markdown."""
    data, slow = rows[0]["data"], [row for row in rows if row["gpu"] != "none" and row["device"] == "cpu"]
    parts = [] if data.startswith("MNIST") else [f"**{data}: the accuracies say nothing about MNIST**"]
    if slow:
        text = "`uv run` brings CPU packages: install the GPUs' and add `--device gpu --python mx=PATH` (README, GPUs)."
        parts.append(f"**WARNING: the machine has {slow[0]['gpu']}, but these ran on its CPU: {names(slow)}.** {text}")
    speeds = {run["round"]: run["sgemm_gflops"] for row in rows for run in row["runs"] if "sgemm_gflops" in run}
    if speeds and max(speeds.values()) > DRIFT * min(speeds.values()):
        each = ", ".join(f"round {number} {speed:.0f}" for number, speed in sorted(speeds.items()))
        parts.append(f"**WARNING: the machine's own speed drifted: SGEMM's GFLOP/s were {each}.**")
    parts += [make_verdict(found := tables(rows)), "\n".join(f"- {line}" for line in describe(rows))]
    for title, some in found:
        parts += [f"### {title[0].upper()}{title[1:]}", make_table(some)]
    notes = [
        "seconds: geometric mean of the runs; relative: with intervals that hold at 95 % for the table (Games-Howell)",
        "rank: what cannot be told from the fastest shares its rank, and so on among the rest",
        "epoch: median ± half the distance of the quartiles; it and images/s leave out a run's first; memory: peak",
        f"accuracy: mean; rows within {max(row['half'] for row in rows):.4f}, a run's 95 % half-width, are not ranked by it",
        "cost: in seconds, over one device; speedup: the inverse, on GPUs",
    ]
    if disturbed := ", ".join(f"{row['label']} {row['disturbed']}" for row in rows if row["disturbed"]):
        notes.append(f"\\*: something else used the CPUs before or during runs: {disturbed}")
    return "\n\n".join([*parts, "\n".join(f"- {text}" for text in notes)])


def describe(rows):
    one, runs = rows[0], [run for row in rows for run in row["runs"]]
    found = {(key[:-8], run[key]) for run in runs for key in run if re.search("(?<!perf|thon)_version$", key)}
    days, pythons = (sorted({str(run[key])[:10] for run in runs}) for key in ("date", "python_version"))
    speed, days = max(run.get("sgemm_gflops", 0) for run in runs), " to ".join(dict.fromkeys([days[0], days[-1]]))
    cpu = f"{one['cpu_model_name']}, {one['cpus_used']} cores" + f", SGEMM {speed:.0f} GFLOP/s a core" * bool(speed)
    memory = one.get("memory") or f"{one['memory_gib']:.0f} GiB"
    gpu = "no GPU" if one["gpu"] == "none" else f"{one['gpu']}, driver {one['gpu_driver']}"
    return [
        f"Versions: {', '.join(' '.join(map(str, pair)) for pair in sorted(found))}; Python {', '.join(pythons)}",
        f"Hardware: {cpu}; {memory} memory; {gpu}; {one['os']}, {one['platform']}",
        f"Settings: {one['data']}; epochs: {one['epochs']}; batch per device: {one['batch_size']}; {days}",
    ]


def draw(rows, path):
    """Draw a PNG: seconds on the left, loss over seconds on the right; one pair of panels for CPUs, one for GPUs."""
    from matplotlib import figure, lines, patches  # here, as they take a second

    apis = list(dict.fromkeys(row["api"] for row in sorted(rows, key=lambda row: row["mean"])))
    rows = sorted(rows, key=lambda row: (apis.index(row["api"]), row["devices"], "_hvd" in row["name"]))
    kinds = sorted({row["device"] for row in rows})
    heights = [1 + 0.32 * sum(row["device"] == kind for row in rows) for kind in kinds]
    picture = figure.Figure((13, 2.2 + sum(heights)), layout="constrained")
    axes = picture.subplots(len(kinds), 2, squeeze=False, height_ratios=heights)
    for (bars, curves), kind in zip(axes, kinds, strict=True):
        y, ticks, some = 0.0, {}, [row for row in rows if row["device"] == kind]
        widest = max(run["seconds"] for row in some for run in row["runs"])
        for row in some:
            y += 1 if row["api"] in ticks else 1.7
            ticks.setdefault(row["api"], []).append(y)
            color, (alpha, hatch, line) = f"C{apis.index(row['api']) % 10}", STYLES[row["style"]]
            bars.barh(y, row["mean"], 0.95, color=color, alpha=alpha, hatch=hatch, edgecolor="white")
            seconds = [run["seconds"] for run in row["runs"]]
            bars.plot(seconds, [y] * len(seconds), "o", color="black", markersize=4.5, markeredgecolor="white")
            bars.text(max(*seconds, row["mean"]) + 0.015 * widest, y, f"{row['mean']:.1f} s", va="center", fontsize=8)
            times, losses = (np.mean([run[key] for run in row["runs"]], axis=0) for key in ("times", "losses"))
            label = row["label"].removeprefix("mnist_")
            curves.plot(np.cumsum(times), losses, line, color=color, marker=".", label=label)
        bars.set_yticks([sum(ys) / len(ys) for ys in ticks.values()], [api.removeprefix("mnist_") for api in ticks])
        bars.set(title=f"on {kind.upper()}s", xlabel="seconds", ylim=(y + 0.8, 0.9), xlim=(0, 1.13 * widest))
        curves.set(title=f"on {kind.upper()}s", xlabel="seconds of training", ylabel="training loss", yscale="log")
        curves.yaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
        curves.legend(fontsize=8, ncols=2, handlelength=3.5)
    handles = [patches.Rectangle((0, 0), 1, 1, label=x, fc="gray", alpha=a, hatch=h) for x, (a, h, _) in STYLES.items()]
    handles.append(lines.Line2D([], [], color="black", marker="o", linestyle="", label="a run"))
    picture.legend(handles=handles, loc="outside upper right", ncols=4, fontsize=9, frameon=False)
    picture.suptitle(title := f"MNIST benchmark ({rows[0]['data']}): shorter is faster", x=0.01, ha="left")
    picture.supxlabel(text := "\n".join(describe(rows)), fontsize=8, x=0.01, ha="left")
    picture.savefig(image := io.BytesIO(), dpi=110, metadata={"Title": title, "Description": text})
    write(path, image.getvalue())


def write(path, data):
    """Write a file, at once and whole or not at all; a link stays a link, the mode stays the mode."""
    path = Path(os.path.realpath(path))
    try:
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(data)
        if path.exists():
            new.chmod(path.stat().st_mode)
        new.replace(path)
    except OSError as error:
        sys.exit(f"error: cannot write {path}: {error.strerror}")


def write_readme(results):
    """Put verdict, tables and pictures of result files {path: rows} between the markers of the README."""
    try:
        text = README.read_bytes().decode()
        newline, parts, pictures = "\r\n" if "\r\n" in text else "\n", [], []
        for path, rows in results.items():
            name = path.resolve().relative_to(README.resolve().parent).as_posix()
            parts += [make_report(rows), f"[Result file]({name}), shown by `uv run report.py {name} --readme`."]
            pictures += [f"![Seconds of training and loss]({name.removesuffix('.json')}.png)"]
        before, rest = text.replace("\r\n", "\n").split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError) as error:  # not there, not text, markers not once each, a result file elsewhere
        sys.exit(f"error: cannot put {', '.join(map(str, results))} into {README}: {error}")
    there = r"(!\[Seconds of training and loss\].*\n*)+"  # keeps its place; a new one ends the block
    before, moved = re.subn(there, lambda _: "".join(f"{picture}\n\n" for picture in pictures), before, count=1)
    text = before + "\n\n".join([BEGIN, *parts, *pictures * (not moved), END]) + after
    write(README, text.replace("\n", newline).encode())


def compare(old_path, old, new, fail_above):
    """Print per script whether new is slower or faster than old; end the program as --fail-above says."""
    old, new = ({row["name"]: row for row in rows} for rows in (old, new))
    if not (both := [name for name in new if name in old]):
        sys.exit(f"error: {old_path} has none of these scripts")
    cells, slower, header = [], [], ["script", "old (s)", "new (s)", "change", "verdict"]
    for before, now in ((old[name], new[name]) for name in both):
        for key in (key for key in ALIKE if key in before and key in now and before[key] != now[key]):
            sys.exit(f"error: {key} of {now['name']} is {now[key]} here, {before[key]} in {old_path}: cannot compare")
        ratio, low, high = welch(before, now)
        if low is None and fail_above is not None:
            sys.exit(f"error: --fail-above needs {RUNS} runs of {now['name']} in both files")
        change, verdict = f"{(ratio - 1) * 100:+.1f} %", f"none: {RUNS} runs each are needed"
        if low is not None:
            change += f" ({(low - 1) * 100:+.1f} to {(high - 1) * 100:+.1f})"
            verdict = "slower" if low > 1 else "faster" if high < 1 else "no difference"
            slower += [now["name"]] if fail_above is not None and (low - 1) * 100 > fail_above else []
        cells.append([now["label"], f"{before['mean']:.2f}", f"{now['mean']:.2f}", change, verdict])
    show(f"\n### Compared with {old_path}\n\n{markdown(header, cells)}\n")
    show("- change: with its 95 % interval by Welch's test, every script for itself")
    show(f"- only in one of the files: {', '.join(sorted(old.keys() ^ new.keys())) or 'none'}")
    for there, here in zip(*(describe(list(rows.values())) for rows in (old, new)), strict=True):
        if there != here:
            show(f"- here {here}\n- there {there}")
    if slower:
        sys.exit(f"error: slower by more than {fail_above:g} %: {', '.join(slower)}")


def show(text):
    """Print; nobody may be reading, and the terminal may not know all characters."""
    if "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower():
        text = text.replace("±", "+-").replace("–", "-").encode("ascii", "replace").decode()
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files of benchmark.py")
    parser.add_argument("--readme", action="store_true", help="put all into README.md too, between its markers")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="say what is slower or faster than in this file")
    parser.add_argument("--fail-above", type=float, metavar="PERCENT", help="with --compare: if slower, exit status 1")
    args = parser.parse_args()
    wrong = args.fail_above is not None and not (args.compare and math.isfinite(args.fail_above))
    if wrong or (args.compare and len(args.files) > 1):
        parser.error("--compare takes one file, --fail-above goes with --compare and takes a number")
    for path in (path for path in [*args.files, args.compare] if path and path.suffix != ".json" and str(path) != "-"):
        parser.error(f"{path} does not end with .json")  # the picture goes beside it, by the same name
    results, old = {path: load(path) for path in args.files}, args.compare and load(args.compare)
    for path, rows in results.items():
        show(f"## {path}\n" * (len(results) > 1) + make_report(rows))
        if str(path) != "-":
            draw(rows, path.with_suffix(".png"))
    if args.readme:
        write_readme(results)
    if args.compare:
        compare(args.compare, old, results[args.files[0]], args.fail_above)


if __name__ == "__main__":
    main()
