"""report.py: known numbers give known tables, the verdict's error rate, comparison, README, and damaged files."""

import contextlib
import hashlib
import io
import json
import math
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyperf
import pytest
from conftest import ROOT
from PIL import Image
from scipy import stats

sys.path.insert(0, str(ROOT))
import report

signal.signal(signal.SIGINT, signal.default_int_handler)  # report.py sets it for itself
KNOWN = {
    "mnist_mx_keras.py": [30.0, 30.5, 31.0],
    "mnist_mx_gluon.py": [10.0, 10.2, 10.4],
    "mnist_mx_sym.py": [10.1, 10.3, 10.5],
    "mnist_mx_gluon_hvd.py": [16.0],
    "mnist_mx_gluon_mgpu.py": [8.0, 8.1, 8.2],
}


def write(path, durations, **more):
    """Write a result file with known durations {script: seconds of each run}."""
    benches = []
    for name, seconds in durations.items():
        devices = 2 if "_mgpu" in name or "_hvd" in name else 1
        metadata = {"name": name, "devices": devices, "device": "cpu", "threads": 4}
        metadata |= {"epochs": 3, "batch_size": 500, "train_images": 60_300, "test_images": 10_000, "data": "MNIST"}
        metadata |= {"epoch_seconds": "9.00 2.00 4.00", "epoch_losses": "0.4000 0.2000 0.1000", "accuracy": 0.99}
        metadata |= {"mxnet_version": "1.9.1", "python_version": "3.11.7"}
        metadata |= {"cpu_model_name": "Known CPU", "cpus_used": 4}
        metadata |= {"memory_gib": 23.5, "gpu": "none", "gpu_driver": "none", "os": "Known OS", "platform": "Linux-6"}
        metadata |= {"date": "2026-11-23 12:00:00", "unit": "second", "data_sha256": report.MNIST, "mem_max_rss": 10**9}
        metadata |= {
            "cpus_busy_before": 0.1,
            "steal_seconds": 0.0,
            "cpu_seconds_of_others": 0.1,
            "duration": 40.0,
        } | more
        runs = [metadata | {"round": i, "sgemm_gflops": 100.0 + i} for i in range(len(seconds))]
        runs = [pyperf.Run([s], metadata=m, collect_metadata=False) for s, m in zip(seconds, runs, strict=True)]
        benches.append(pyperf.Benchmark(runs))
    pyperf.BenchmarkSuite(benches).dump(str(path), replace=True)
    return path


def start(*arguments, **environment):
    """Return exit status, stdout and stderr of report.py in a process of its own, as a person starts it."""
    command, environment = [sys.executable, ROOT / "report.py", *map(str, arguments)], os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def run(*arguments, program=ROOT / "report.py"):
    """Return the same of the program run in this process, which has imported already what takes seconds."""
    out, err, argv, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [str(program), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        err.write("" if end.code == status else f"{end.code}\n")
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return status, out.getvalue(), err.getvalue()


def table(text):
    """Return the cells of all Markdown tables by the name of their script."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if row[0].startswith("mnist_")}


def rows_of(durations):
    """Return rows as rank takes them."""
    rows = [{"logs": np.log(x), "mean": math.exp(np.log(x).mean()), "missing": max(3 - len(x), 0)} for x in durations]
    report.rank(rows)
    return rows


def test_table_of_known_numbers(tmp_path):
    status, out, err = start(write(tmp_path / "known.json", KNOWN))
    assert status == 0 and run(tmp_path / "known.json") == (status, out, err), err
    rows = table(out)
    assert list(rows) == [f"mnist_mx_{x}" for x in ("gluon", "sym", "keras", "gluon_mgpu", "gluon_hvd")]
    # 60,300 images are 120 steps of 500; after the first epoch, 2 + 4 seconds for two epochs
    expected = ["3", "10.20", "1.00", "1", "3.00 ± 1.00", "20,000", "1.00 GB", "0.9900"]
    assert rows["mnist_mx_gluon"] == expected
    assert rows["mnist_mx_sym"][2:4] == ["1.01 ± 0.06", "1"] and rows["mnist_mx_keras"][3] == "2"
    assert rows["mnist_mx_gluon_mgpu"][-1] == "-21 ± 5 %" and rows["mnist_mx_gluon_hvd"][-1] == "+57 %"
    assert rows["mnist_mx_gluon_hvd"][:4] == ["1 of 3", "16.00", "", ""]
    assert "On one device, CPU: mnist_mx_gluon and mnist_mx_sym cannot be told apart, 10.20 to 10.30 s; next is" in out
    assert "the fastest is mnist_mx_gluon_mgpu with 8.10 s; mnist_mx_gluon_hvd cannot be ranked yet." in out
    assert "and cost -21 ± 5 % (mnist_mx_gluon_mgpu) in time over one." in out  # what has no error is no verdict
    assert "rows within 0.0020" in out
    assert "**" not in out and "*:" not in out and max(map(len, out.splitlines())) < 500
    with Image.open(tmp_path / "known.png") as picture:
        assert picture.width > 1000 and "Known CPU" in picture.text["Description"]
    status, out, _ = run(write(tmp_path / "one.json", {name: x[:1] for name, x in KNOWN.items()}))
    assert status == 0 and "relative |" not in out and "no ranks, as a script needs 3 runs" in out
    assert "in time over one" not in out
    assert all(row[0] == "1 of 3" for row in table(out).values())


def test_wide_tables_and_thirteen_rows(tmp_path):
    """GPU and CPU are never in one table; whatever the names, no table is wider than 120 characters."""
    apis = "mx_gluon", "mx_gluon_ds", "mx_keras", "mx_sym", "tf_keras", "torch"
    names = [f"mnist_{x}{end}.py" for x in apis for end in ("", "_mgpu")]
    known = {name: [10.0 + i, 10.1 + i, 10.3 + i] for i, name in enumerate([*names, "mnist_mx_gluon_hvd.py"])}
    gpus = write(tmp_path / "gpu.json", known, device="gpu", gpu="2 x X", gpu_driver="1")
    status, out, err = run(gpus)
    assert status == 0 and len(table(out)) == 13 and "CPU" not in out.partition("###")[2].partition("- seconds")[0], err
    assert table(out)["mnist_mx_gluon_mgpu"][-2:] == ["0.91", "46%"] and "ran on its CPU" not in out
    both = pyperf.BenchmarkSuite.load(str(gpus))
    long = f"mnist_mx_{'x' * 99}.py"
    cpus = write(tmp_path / "cpu.json", {long: [1.0]}, gpu="2 x X", gpu_driver="1")
    for bench in pyperf.BenchmarkSuite.load(str(cpus)):
        both.add_benchmark(bench)
    both.dump(str(tmp_path / "both.json"))
    status, out, err = run(tmp_path / "both.json")
    assert status == 0 and re.findall("### (.*)", out) == ["One device, CPU", "One device, GPU", "2 devices, GPU"], err
    assert (
        f"the machine has 2 x X, but these ran on its CPU: {long[:-3]}.**" in out
        and "--device gpu --python mx=PATH" in out
    )
    assert max(len(line) for line in out.splitlines() if line.startswith("|")) <= 120


def test_what_a_reader_must_not_miss(tmp_path):
    for more, words in (
        ({"data": "MNIST", "data_sha256": "0" * 64}, "**not MNIST: the accuracies"),
        (
            {"data": "stand-in digits, not MNIST", "data_sha256": "0" * 64},
            "**stand-in digits, not MNIST: the accuracies",
        ),
        ({"cpus_busy_before": 0.5}, "\n- \\*: something else used the CPUs before or during runs: mnist_mx_keras 3, "),
        ({"steal_seconds": 4.0}, " 3* |"),
        ({"cpu_seconds_of_others": 4.0}, " 3* |"),
    ):
        status, out, err = run(write(tmp_path / "x.json", KNOWN, **more))
        assert status == 0 and words in out, (words, out, err)
    for i, speed in ((1, 108.0), (2, 111.0)):
        bench = pyperf.Benchmark.load(str(write(tmp_path / "x.json", {"mnist_mx_a.py": [1.0, 1.1]})))
        bench.get_runs()[1]._metadata["sgemm_gflops"] = speed
        bench.dump(str(tmp_path / "x.json"), replace=True)
        assert ("the machine's own speed drifted" in run(tmp_path / "x.json")[1]) == (i == 2)


def test_ranks_are_those_of_games_howell():
    rng = np.random.default_rng(1)
    logs = [rng.normal(middle, 0.01, n) for middle, n in ((1, 5), (1.005, 4), (1.1, 3), (1.11, 6), (1.3, 3))]
    rows = rows_of([np.exp(x) for x in logs])
    assert [row["rank"] for row in rows] == [1, 1, 2, 2, 3]
    interval = stats.tukey_hsd(*logs, equal_var=False).confidence_interval(0.95)
    for i in range(1, 5):
        assert np.allclose(np.log(rows[i]["relative"][1:]), [interval.low[i, 0], interval.high[i, 0]], atol=1e-4)


def test_runs_without_spread(tmp_path):
    """Seconds are printed with two decimals: a spread below that is not known, and is no proof."""
    same = {"mnist_mx_a.py": [0.03] * 3, "mnist_mx_b.py": [0.03] * 3}
    same |= {"mnist_mx_c.py": [0.04] * 4, "mnist_mx_d.py": [9.0] * 3}
    status, out, err = start(write(tmp_path / "x.json", same))
    assert status == 0 and "nan" not in out and not err, err
    assert [row[3] for row in table(out).values()] == ["1", "1", "2", "3"]


@pytest.mark.parametrize("counts", [[3] * 6, [5] * 6, [3, 10, 5, 3, 4, 10]])
def test_alike_scripts_are_seldom_told_apart(counts, monkeypatch):
    """In 8 % of the tables at most; seconds vary between processes, and epochs within one."""
    monkeypatch.setattr(stats.studentized_range, "ppf", lambda *_: 1.0)  # no intervals: fast
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(150):
        runs = [10 * np.exp(rng.normal(0, 0.01, n)) + rng.normal(0, 0.1, (10, n)).sum(axis=0) for n in counts]
        means, errors = np.transpose([(np.log(x).mean(), np.log(x).std(ddof=1)) for x in runs])
        parts = (part[side] for side in np.triu_indices(6, 1) for part in (means, errors, np.array(counts)))
        if min(stats.ttest_ind_from_stats(*parts, equal_var=False).pvalue) < 0.05:  # else Games-Howell sees none: fast
            wrong += any(row["rank"] > 1 for row in rows_of(runs))
    assert wrong <= 0.08 * 150


def test_compare(tmp_path):
    old = write(tmp_path / "old.json", KNOWN)
    new = {"mnist_mx_gluon.py": [10.1, 10.3, 10.5, 10.3], "mnist_mx_sym.py": [9.1, 9.3, 9.5], "mnist_mx_x.py": [1.0]}
    new = write(tmp_path / "new.json", new | {"mnist_mx_keras.py": [33.0, 33.5, 34.0]}, cpu_model_name="New CPU")
    status, out, err = run(new, "--compare", old)
    assert status == 0, err
    rows = table(out.partition("### Compared")[2])
    assert [row[3] for row in rows.values()] == ["no difference", "faster", "slower"]
    low, high = stats.ttest_ind(
        *(np.log(x) for x in ([33.0, 33.5, 34.0], KNOWN["mnist_mx_keras.py"])), equal_var=False
    ).confidence_interval()
    change = f"+9.8 % ({math.expm1(low) * 100:+.1f} to {math.expm1(high) * 100:+.1f})"
    assert rows["mnist_mx_keras"][:3] == ["30.50", "33.50", change]
    assert "only in one of the files: mnist_mx_gluon_hvd.py, mnist_mx_gluon_mgpu.py, mnist_mx_x.py" in out
    assert (
        "- here Hardware: New CPU" in out
        and "- there Hardware: Known CPU" in out
        and "Versions" not in out.partition("###  Comp")[2]
    )
    for percent, fails in ((8, False), (5, True)):  # the interval's lower end is 5.8
        status, _, err = run(new, "--compare", old, "--fail-above", percent)
        assert status == fails and ("error: slower by more than 5 %: mnist_mx_keras.py" in err) == fails
    one, twenty = (
        write(tmp_path / f"{n}.json", {"mnist_mx_a.py": list(x)})
        for n, x in ((1, [10.0]), (20, np.linspace(10.6, 10.8, 20)))
    )
    status, out, err = run(twenty, "--compare", one)
    assert status == 0 and table(out.partition("### Compared")[2])["mnist_mx_a"][3] == "none: 3 runs each are needed"
    three = write(tmp_path / "3.json", {"mnist_mx_a.py": [9.9, 10.0, 10.1]})
    assert run(twenty, "--compare", three, "--fail-above", 3)[0] == 1  # all runs are used
    for arguments, words in (
        ((twenty, "--compare", one, "--fail-above", 5), "--fail-above needs 3 runs of mnist_mx_a.py"),
        ((twenty, "--compare", old), "has none of these scripts"),
        (
            (
                new,
                "--compare",
                write(tmp_path / "x.json", KNOWN, epochs=4, epoch_seconds="1 1 1 1", epoch_losses="1 1 1 1"),
            ),
            "epochs of",
        ),
        (
            (new, "--compare", write(tmp_path / "y.json", KNOWN, threads=8)),
            "threads of mnist_mx_gluon.py is 4 here, 8 in",
        ),
        ((new, "--compare", tmp_path / "none.json"), "cannot read"),
    ):
        status, _, err = run(*arguments)
        assert status == 1 and err.startswith("error: ") and words in err and err.count("\n") == 1, err
    for arguments in (
        ["--fail-above", 5],
        *(["--compare", old, "--fail-above", x] for x in ("nan", "inf", "five")),
        [old, "--compare", old],
    ):
        assert run(new, *arguments)[0] == 2


def test_files_that_are_none(tmp_path):
    """No traceback, one line, and no picture in the place of something else."""
    good = write(tmp_path / "good.json", KNOWN).read_text()
    for name in ("x.png", "x", "x.json.gz"):
        (tmp_path / name).write_text(good)
        assert run(tmp_path / name)[0] == 2 and (tmp_path / name).read_text() == good
    (tmp_path / "folder.json").mkdir()
    texts = {
        "x.json": '{"version": "1.0"}',
        "y.json": "",
        "z.json": "[" * 100_000,
        "none.json": None,
        "folder.json": None,
    }
    for name, text in texts.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        status, out, err = run(tmp_path / name)
        assert (status, out) == (1, "") and err.startswith("error: cannot read ") and err.count("\n") == 1, err


def test_damaged_files(tmp_path):
    """Every value replaced by what does not belong there, and cut and changed text: a line or a report, no traceback."""
    text = write(tmp_path / "x.json", {"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b_mgpu.py": [1.0]}).read_text()
    rng, texts = random.Random(0), []
    for match in re.finditer(r'(?<=:)("[^"]*"|[\d.]+)', text):
        texts += [
            text[: match.start()] + wrong + text[match.end() :]
            for wrong in ("null", '"\\u001b"', "NaN", "1e999", "-1", "[]", '"x"', "9" * 400, "0")
        ]
    for _ in range(300):
        i, j = sorted(rng.choices(range(len(text)), k=2))
        texts += [text[:i] + text[min(j, i + 9) :], text[:i] + rng.choice('0"{}[],:-e') + text[i + 1 :], text[:j]]
    refused = 0
    for damaged in texts:
        (tmp_path / "x.json").write_text(damaged)
        try:
            report.make_report(report.load(tmp_path / "x.json"))
        except SystemExit as error:
            refused += str(error).startswith("error: cannot read ")
    assert refused > len(texts) / 2


def test_nobody_reads_and_no_utf8(tmp_path):
    file = write(tmp_path / "x.json", KNOWN)
    command, processes = f"'{sys.executable}' '{ROOT}/report.py' '{tmp_path}/", []
    for i, redirection in enumerate((">&-", "> /dev/full", "| head -1", "2>&-")):
        shutil.copy(file, tmp_path / f"{i}.json")
        line = f"{command}{i}.json' {redirection}"
        processes.append(subprocess.Popen(line, shell=True, stdout=-1, stderr=-1, text=True))
    for i, process in enumerate(processes):
        _, err = process.communicate()
        assert process.returncode == 0 and "Traceback" not in err and (tmp_path / f"{i}.png").is_file(), err
    status, out, err = start(file, PYTHONIOENCODING="ascii")
    assert status == 0 and "1.01 +- 0.06" in out and out.isascii(), err


def test_readme_changes_between_its_markers_only(tmp_path):
    shutil.copy(ROOT / "report.py", tmp_path)
    readme, before, after = tmp_path / "README.md", "# Title\n\n| a | table |\n\n", "\n\nwords é\n\n\n"
    (tmp_path / "results").mkdir()
    file = write(tmp_path / "results/known.json", KNOWN)
    options = {"program": tmp_path / "report.py"}
    for end in ("\n", "\r\n"):
        readme.write_bytes(f"{before}{report.BEGIN}\nOLD\n{report.END}{after}".replace("\n", end).encode())
        readme.chmod(0o640)
        for _ in range(2):  # once more changes nothing
            status, out, err = run(file, "--readme", **options)
            assert status == 0, err
            text = readme.read_bytes().decode()
            assert text.count("\n") == text.count(end) and readme.stat().st_mode & 0o777 == 0o640
            block = text.replace(end, "\n").removeprefix(before + report.BEGIN).removesuffix(report.END + after)
            assert len(block) == len(text.replace(end, "\n")) - len(before + report.BEGIN + report.END + after)
            assert out.strip() in block and "OLD" not in block and str(tmp_path) not in block
            assert "(results/known.json)" in block and "![" in block and "(results/known.png)" in block
        old = report.BEGIN + report.END + "\n"
        line = "![Seconds of training and loss]({})"  # where a picture stands before the block, the new one goes there
        readme.write_bytes(f"# T\n\n{line.format('old.png')}\n\nx\n\n{old}".replace("\n", end).encode())
        for _ in range(2):
            assert run(file, "--readme", **options)[0] == 0
            text = readme.read_bytes().decode()
            start = f"# T\n\n{line.format('results/known.png')}\n\nx\n\n{report.BEGIN}\n".replace("\n", end)
            assert text.startswith(start) and text.count("![") == 1
    for text in ("no markers", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN}{report.END}" * 2):
        readme.write_text(text)
        status, _, err = run(file, "--readme", **options)
        assert status == 1 and err.startswith("error: ") and readme.read_text() == text


def test_readme_holds_the_delivered_results(tmp_path):
    """The block in the README is what report.py makes of the result files it names."""
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\((results/[^)]+\.json)\)", text.partition(report.BEGIN)[2].partition(report.END)[0])
    assert named, "the README has no block of results"
    for name in [*named, "report.py", "README.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    status, _, err = run(*(tmp_path / name for name in named), "--readme", program=tmp_path / "report.py")
    assert status == 0 and (tmp_path / "README.md").read_text() == text, err
    assert all((ROOT / name).with_suffix(".png").is_file() for name in named)
    notes, names = (ROOT / "results/NOTES.md").read_text(), re.findall(r"results/\d[-\w]+\.json", text)
    for name in {*names} - {*named}:  # the notes hold the report of every other file
        assert report.make_report(report.load(ROOT / name)).replace("### ", "#### ") in notes, name
    for name in {*names}:
        for bench in json.loads((ROOT / name).read_text())["benchmarks"]:  # they ran the scripts as they are here
            script, sha256 = (bench["metadata"][key] for key in ("name", "sha256"))
            assert hashlib.sha256((ROOT / script).read_bytes()).hexdigest() == sha256, f"{name}: {script} has changed"


def test_tables_of_the_notes():
    """Their seconds are the means of the result files that they name."""
    notes = (ROOT / "results/NOTES.md").read_text()
    tables = []
    for name in ("2-epochs", "batch-1000", "one-thread"):
        rows = report.load(ROOT / f"results/2026-11-25-intel-xeon-2-cores-{name}.json")
        tables.append({row["label"].removeprefix("mnist_"): f"{row['mean']:.1f}" for row in rows})
    of_500, of_1000, of_one = tables
    apis = {
        "Gluon": "mx_gluon",
        "Gluon, DataLoader": "mx_gluon_ds",
        "MXNet Module": "mx_sym",
        "keras-mxnet": "mx_keras",
    }
    apis |= {"tf.keras": "tf_keras", "PyTorch": "torch"}
    for api, script in apis.items():
        two = f"{script}_mgpu"
        assert f"| {api} | {of_500[script]} | {of_1000[script]} | {of_500[two]} |" in notes
        if script in of_one:
            assert f"| {api} | {of_one[script]} s | {of_one[two]} s |" in notes
    assert len(of_1000) == len(apis) and len(of_one) == 2 * (len(apis) - 1)
