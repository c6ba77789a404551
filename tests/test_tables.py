"""Rows, tables, verdicts: known figures give known cells, worked out by hand."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from known import KNOWN, cells_of_markdown, make_results
from scipy import stats

from harness import comparison, export, machines, reporting, rows, tables, verdict
from harness.errors import UserError
from harness.results import Refusal
from harness.statistics import Estimate


def row_of(results, script):
    return next(row for table in rows.make_tables(results) for row in table.rows if row.script == script)


def report(durations, **more):
    return reporting.make_report(make_results(durations, **more))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (1.12, None, None, "1.12"),
        (1.03, 1.012, 1.048, "1.03 ± 0.02"),
        (1.1, 1.0999, 1.1001, "1.10 ± 0.01"),  # rounded up: never 0.00
        (1.6, 1.0, 2.56, "1.60 (1.00–2.56)"),
        (1.004, 1.002, 1.006, "1.004 ± 0.002"),  # 1.00 ± 0.01 would hide that it excludes 1
        (0.95, 0.912, 0.99, "0.95 ± 0.04"),
        (1.0, 0.995, 1.005, "1.00 ± 0.01"),
    ],
)
def test_ratios_with_their_errors(ratio, low, high, text):
    assert tables.format_ratio(Estimate(ratio, low, high)) == text


def test_cells_of_known_runs():
    """60,300 images are 120 steps of 500; after the first epoch, two epochs in 2 + 4 seconds."""
    found = cells_of_markdown(report(KNOWN))
    gluon = {
        "runs": "3",
        "seconds": "10.20",
        "relative": "1.00",
        "rank": "1",
        "images/s": "20,000",
        "GB": "1.00",
        "accuracy": "0.9900",
    }
    assert found["mx_gluon"] == gluon
    assert found["mx_sym"]["seconds"] == "10.30"
    assert list(found) == ["mx_gluon", "mx_sym", "mx_keras", "mx_gluon_mgpu", "mx_gluon_hvd"]


def test_images_per_second_of_two_devices():
    """Steps take 1,000 images: 60 of them."""
    row = row_of(make_results(KNOWN), "mnist_mx_gluon_mgpu.py")
    assert row.rate == pytest.approx(60_000 * 2 / 6)


def test_the_first_epoch_counts_where_there_is_no_other():
    results = make_results({"mnist_mx_a.py": [9.0]}, epochs=1, epoch_seconds="9.00", epoch_losses="0.1")
    assert row_of(results, "mnist_mx_a.py").rate == pytest.approx(60_000 / 9)


def test_memory_is_the_peak_of_all_runs():
    results = make_results({"mnist_mx_a.py": [9.0] * 3}, mem_max_pss=lambda _, number: number * 10**9)
    assert cells_of_markdown(reporting.make_report(results))["mx_a"]["GB"] == "3.00"


def test_speedup_and_efficiency_on_gpus():
    """Twice as fast on four GPUs: speedup 2, efficiency a half. On a CPU the ratio alone is shown."""
    durations = {"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_a_mgpu.py": [5.0, 5.05]}
    gpus = {
        "device": "gpu",
        "gpu": "4 x X",
        "gpu_driver": "1",
        "devices": lambda script, _: 4 if "_mgpu" in script else 1,
    }
    row = row_of(make_results(durations, **gpus), "mnist_mx_a_mgpu.py")
    assert row.speedup == pytest.approx(2.0)
    assert row.efficiency == pytest.approx(0.5)
    found = cells_of_markdown(report(durations, **gpus))["mx_a_mgpu"]
    assert (found["speedup"], found["eff."]) == ("2.00", "50%")
    assert found["to one"].startswith("0.50 ±")
    assert "speedup" not in cells_of_markdown(report(durations))["mx_a_mgpu"]


def test_several_devices_against_one():
    """A constant ratio in all rounds: 0.80, and the error is the rounding's."""
    row = row_of(
        make_results({"mnist_mx_a.py": [10.0, 11.0, 12.0], "mnist_mx_a_mgpu.py": [8.0, 8.8, 9.6]}), "mnist_mx_a_mgpu.py"
    )
    assert row.against_one.ratio == pytest.approx(0.8)
    assert row.against_one.high < 0.81


def test_horovod_is_the_sibling_of_the_same_script():
    assert row_of(make_results(KNOWN), "mnist_mx_gluon_hvd.py").against_one.ratio == pytest.approx(16 / 10, rel=0.02)


def test_a_rank_alone_is_nobodys_sibling():
    """With --devices 1 Horovod's row stands on one device, beside the script that the others are compared with."""
    devices = {"devices": lambda script, _: 2 if "_mgpu" in script else 1}
    seconds = {"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_a_hvd.py": [20.0, 20.1], "mnist_mx_a_mgpu.py": [5.0, 5.05]}
    row = row_of(make_results(seconds, **devices), "mnist_mx_a_mgpu.py")
    assert row.against_one.ratio == pytest.approx(0.5)


def test_gpu_and_cpu_are_never_in_one_table():
    results = make_results(KNOWN, device=lambda script, _: "gpu" if "sym" in script else "cpu")
    found = {table.title: [row.label for row in table.rows] for table in rows.make_tables(results)}
    assert found == {
        "one device, CPU": ["mx_gluon", "mx_keras"],
        "2 devices, CPU": ["mx_gluon_mgpu", "mx_gluon_hvd"],
        "one device, GPU": ["mx_sym"],
    }


def test_runs_stand_in_the_settings_where_they_are_the_same():
    text = report({"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [2.0, 2.1]})
    assert "; 2 runs each; 2026-11-23" in text
    assert "runs" not in cells_of_markdown(text)["mx_a"]
    assert "runs each" not in report(KNOWN)


def test_disturbed_runs_are_marked():
    text = report(
        {"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [2.0, 2.1]},
        steal_seconds=lambda script, _: 4.0 if "_b" in script else 0.0,
    )
    found = cells_of_markdown(text)
    assert (found["mx_a"]["seconds"], found["mx_b"]["seconds"]) == ("1.05", "2.05*")
    assert "something else used the CPUs before or during runs: mnist_mx_b 2" in text


def test_refused_runs_are_counted():
    results = make_results({"mnist_mx_a.py": [1.0, 1.1]}).with_refusal(
        Refusal("mnist_mx_a.py", 3, "the loss of epoch 2 is nan")
    )
    results = results.with_refusal(Refusal("mnist_mx_z.py", 1, "the accuracy is 1.5"))
    text = reporting.make_report(results)
    assert cells_of_markdown(text)["mx_a"]["refused"] == "1"
    assert "mnist_mx_a round 3 (the loss of epoch 2 is nan); mnist_mx_z round 1 (the accuracy is 1.5)" in text


def test_verdict_of_ranked_scripts():
    text = report(
        {
            "mnist_mx_a.py": [10.0, 10.2, 10.4],
            "mnist_mx_b.py": [10.01, 10.21, 10.38],
            "mnist_mx_c.py": [30.0, 30.5, 31.3],
        }
    )
    assert text.startswith(
        "On one device, CPU: mnist_mx_a and mnist_mx_b cannot be told apart, 10.20 to 10.20 s; next is mnist_mx_c, 3.00"
    )
    assert "times as long as mnist_mx_a." in text


def test_verdict_says_who_is_next_and_who_is_last():
    durations = {
        "mnist_mx_a.py": [10.0, 10.2, 10.4],
        "mnist_mx_b.py": [12.0, 12.25, 12.47],
        "mnist_mx_c.py": [12.05, 12.2, 12.5],
        "mnist_mx_d.py": [30.0, 30.6, 31.2],
    }
    ratio = r"\d\.\d\d ± 0\.0\d"
    next_two = f"next are mnist_mx_b and mnist_mx_c, which cannot be told apart, {ratio} to {ratio} times as long"
    last = f"last is mnist_mx_d, {ratio} times as long"
    text = report(durations)
    assert re.match(f"On one device, CPU: the fastest is mnist_mx_a with 10.20 s; {next_two}; {last}\\.", text), text
    del durations["mnist_mx_d.py"]
    assert re.match(f"On one device, CPU: the fastest is mnist_mx_a with 10.20 s; {next_two}\\.", report(durations))


def test_verdict_says_how_many_rounds_would_tell():
    text = report({"mnist_mx_a.py": [10.0, 10.0, 10.0, 10.0], "mnist_mx_b.py": [10.3, 9.9, 10.3, 9.9]})
    logs = np.log([1.03, 0.99, 1.03, 0.99])  # two scripts: the paired t-test, of n rounds
    n = next(n for n in range(2, 99) if stats.t.sf(logs.mean() / logs.std(ddof=1) * math.sqrt(n), n - 1) < 0.025)
    assert f"If mnist_mx_a and mnist_mx_b differ as measured, {n} rounds would tell them apart; these are 4." in text


def test_one_round_has_plain_ratios_and_says_what_is_missing():
    text = report({"mnist_mx_a.py": [100.0], "mnist_mx_b.py": [112.0]})
    assert cells_of_markdown(text)["mx_b"]["relative"] == "1.12"
    assert "no ranks and no intervals yet, as these need two rounds that share two scripts" in text
    assert "rank" not in cells_of_markdown(text)["mx_b"]
    assert "± 0.00" not in text


def test_scripts_without_shared_rounds_are_named():
    text = report({"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_b.py": [11.0, 11.1], "mnist_mx_c.py": [None, None, 9.0]})
    assert "mnist_mx_c shared no rounds with the others, so no ratio says how they compare" in text
    assert cells_of_markdown(text)["mx_c"]["relative"] == ""


def test_what_learnt_something_else_is_not_compared():
    """It is the shortest, and would be the reference."""
    accuracy = {"accuracy": lambda script, _: 0.11 if "_a" in script else 0.98}
    text = report({"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [2.0, 2.1], "mnist_mx_c.py": [3.0, 3.2]}, **accuracy)
    found = cells_of_markdown(text)
    assert text.startswith("On one device, CPU: the fastest is mnist_mx_b with 2.05 s; ")
    assert "mnist_mx_a has learnt something else (accuracy 0.1100 is not above chance) and is not compared" in text
    assert (found["mx_a"]["rank"], found["mx_b"]["rank"]) == ("", "1")
    assert list(found) == ["mx_b", "mx_c", "mx_a"]


def test_nobody_has_learnt_anything():
    text = report({"mnist_mx_a.py": [1.0, 1.1], "mnist_mx_b.py": [2.0, 2.1]}, accuracy=0.098)
    assert text.startswith("On one device, CPU: no script has learnt what it should; ")


def test_a_slow_round_is_named():
    durations = {
        f"mnist_mx_{name}.py": [s * 1.05, s, s * 1.001, s] for name, s in (("a", 10.0), ("b", 20.0), ("c", 30.0))
    }
    text = report(durations)
    assert "- round 1 was 5 % slower than the others in all scripts; the ratios do not contain it" in text
    assert not text.startswith("- round")


@pytest.mark.parametrize(("rounds", "said"), [(4, True), (5, False)])
def test_spread_that_was_not_checked_is_said(rounds, said):
    values = [1.0, 1.01, 1.0, 1.01, 1.0][:rounds]
    text = report({f"mnist_mx_{name}.py": [x * (10 + i) for x in values] for i, name in enumerate("abc")})
    assert ("spreads more than the others was not checked: that needs 5 rounds" in text) is said


def test_a_wide_script_is_named():
    narrow = {
        f"mnist_mx_{name}.py": [10 + i + x for x in (0.01, 0.02, 0.0, 0.01, 0.02, 0.0)] for i, name in enumerate("abcd")
    }
    text = report(narrow | {"mnist_mx_e.py": [20, 25, 18, 22, 26, 17]})
    assert "- mnist_mx_e spread more than the others: their intervals are from their own differences" in text


def test_warnings_come_after_the_verdict():
    text = report(KNOWN, data="stand-in digits, not MNIST", data_sha256="1" * 64)
    first, second, *_ = text.split("\n\n")
    assert first.startswith("On one device")
    assert second == "**stand-in digits, not MNIST: the accuracies say nothing about MNIST**"


def test_gpus_that_were_not_used_are_said_loudly():
    text = report(KNOWN, gpu="2 x Tesla, V100", gpu_driver="1")
    assert "**WARNING: the machine has 2 x Tesla, V100, but these ran on its CPU: mnist_mx_gluon, mnist_mx_sym" in text
    assert "--device gpu --python mx=PATH" in text


def test_what_pytorch_is():
    said = "PyTorch (torch) runs eager, and its scripts tell glibc to keep freed memory"
    assert said in report({"mnist_torch.py": [1.0], "mnist_torch_compiled.py": [2.0]})
    assert "PyTorch (torch, torch_mgpu) runs" in report({"mnist_torch_mgpu.py": [1.0], "mnist_torch.py": [2.0]})
    assert "PyTorch" not in report(KNOWN | {"mnist_torch_compiled.py": [2.0]})


def test_settings_name_the_variables_that_tune_a_framework():
    assert "; 3 runs each; variables OMP_NUM_THREADS=1; 2026-11-23" in report(
        {"mnist_mx_a.py": [1.0, 1.1, 1.2]}, environment="OMP_NUM_THREADS=1"
    )
    assert "variables" not in report(KNOWN)


def test_gpu_memory_is_explained_where_it_is_known():
    gpu = {"device": "gpu", "gpu": "1 x V100", "gpu_driver": "1"}
    text = report({"mnist_mx_a.py": [1.0]}, **gpu, gpu_mem_max=2 * 10**9)
    assert cells_of_markdown(text)["mx_a"]["GPU GB"] == "2.00"
    assert "- GPU GB: the most that was seen in a few looks, which may miss the peak" in text
    assert "GPU GB:" not in report({"mnist_mx_a.py": [1.0]}, **gpu)


def test_hardware_names_cores_and_quota():
    text = report(KNOWN, cores=2, cpus_used=4, cpu_quota=1.5)
    assert (
        "- Hardware: Known CPU, 2 cores, 4 CPUs, a quota of 1.5 CPUs; 24 GiB memory; no GPU; Known OS, Linux-6; SGEMM 100"
        in text
    )


def test_no_cell_ends_early():
    """A name with what Markdown takes for itself, and a long one: the table keeps its columns."""
    text = report({"mnist_mx_a|b*c.py": [1.0], f"mnist_mx_{'x' * 99}.py": [2.0]})
    found = cells_of_markdown(text)
    assert list(found) == ["mx_a/b*c", "mx_" + "x" * 13 + "…"]
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) < 120


def test_the_sentence():
    results = make_results({"mnist_mx_a.py": [10.0, 10.2], "mnist_mx_b.py": [20.0, 20.4]})
    sentence = verdict.make_sentence(results, rows.make_tables(results))
    expected = (
        "On one device, CPU: the fastest is mnist_mx_a with 10.10 s; next is mnist_mx_b, 2.00 ± 0.01 times as long"
    )
    assert sentence == f"{expected} (3 epochs of MNIST; Known CPU, 4 cores; 23 November 2026)."


def two_machines(ratio):
    a = make_results({"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_b.py": [12.0, 12.12], "mnist_mx_c.py": [20.0, 20.3]})
    b = make_results(
        {"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_b.py": [10 * ratio, 10.1 * ratio]},
        cpu_model_name="Other CPU",
        cores=64,
    )
    return {Path("a.json"): a, Path("b.json"): b}


def test_several_machines_in_one_table():
    text = machines.make_machines(two_machines(1.5))
    found = cells_of_markdown(text)
    assert found["mx_a"] == {"A": "1.00", "B": "1.00"}
    assert found["mx_b"]["B"].startswith("1.50 ±")
    assert found["mx_c"]["B"] == ""
    assert "- A: Known CPU, 4 cores; " in text
    assert "- B: Other CPU, 64 cores, 4 CPUs; " in text
    assert "No two scripts are told apart in opposite orders." in text


def test_an_order_differs_where_both_intervals_exclude_one():
    assert "The order differs: mx_a is faster than mx_b on A and slower on B." in machines.make_machines(
        two_machines(0.8)
    )
    assert "The order differs" not in machines.make_machines(two_machines(0.9999))  # not told apart on B


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"epochs": 1, "epoch_losses": "1", "epoch_seconds": "1"}, "epochs"),
        ({"batch_size": 100}, "batch"),
        ({"data_sha256": "1" * 64}, "data"),
        ({"sha256": "1" * 64}, "other versions of mnist_mx_a.py"),
    ],
)
def test_files_of_other_work_are_left_out(more, why):
    files = two_machines(1.5) | {Path("c.json"): make_results({"mnist_mx_a.py": [10.0, 10.1]}, **more)}
    text = machines.make_machines(files)
    assert "- c.json is not in these tables: " in text
    assert why in text
    assert "C" not in cells_of_markdown(text)["mx_a"]


def test_comparison_says_first_how_all_moved_together():
    old = make_results(
        {"mnist_mx_a.py": [10.0, 10.1, 10.2], "mnist_mx_b.py": [20.0, 20.1, 20.2], "mnist_mx_c.py": [1.0]}
    )
    new = make_results(
        {"mnist_mx_a.py": [11.0, 11.1, 11.2], "mnist_mx_b.py": [20.1, 20.0, 20.2], "mnist_mx_d.py": [1.0]}
    )
    changes = comparison.compare(old, new, Path("old.json"))
    assert [change.verdict for change in changes] == ["slower", "no difference"]
    text = comparison.make_comparison(changes, old, new, Path("old.json"))
    ratio = math.exp((math.log(11.0 * 11.1 * 11.2) - math.log(10.0 * 10.1 * 10.2)) / 3)
    assert f"All scripts together: {(ratio - 1) * 50:+.1f} % (median of 2 scripts)" in text
    assert "only in one of the files: mnist_mx_c.py, mnist_mx_d.py" in text


def test_no_verdict_over_what_learnt_something_else():
    old = make_results({"mnist_mx_a.py": [10.0, 10.1, 10.2]})
    new = make_results({"mnist_mx_a.py": [5.0, 5.1, 5.2]}, accuracy=0.1)
    [change] = comparison.compare(old, new, Path("old.json"))
    assert change.verdict == "none: it has learnt something else"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"threads": 8}, "threads of mnist_mx_a.py is 4 here, 8 in old.json: cannot compare"),
        ({"device": "gpu"}, "device of"),
        ({"epochs": 1, "epoch_losses": "1", "epoch_seconds": "1"}, "epochs of"),
    ],
)
def test_other_work_is_not_compared(more, why):
    with pytest.raises(UserError, match=why):
        comparison.compare(
            make_results({"mnist_mx_a.py": [1.0]}, **more), make_results({"mnist_mx_a.py": [1.0]}), Path("old.json")
        )


def test_csv_has_one_line_a_run_with_units_in_its_header():
    text = export.make_csv({Path("x.json"): make_results(KNOWN), Path("y.json"): make_results(KNOWN)}).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 2 * 13
    first = next(line for line in lines if line["script"] == "mnist_mx_gluon.py" and line["round"] == "2")
    assert (first["file"], first["training_seconds"], first["peak_memory_bytes"], first["quota_cpus"]) == (
        "x.json",
        "10.2",
        "1000000000",
        "",
    )
    assert (first["cpu_seconds"], first["others_cpu_seconds"], first["steal_cpu_seconds"]) == ("30.0", "0.1", "0.0")


README = "# Title\n\n<!-- sentence:begin -->\nOLD\n<!-- sentence:end -->\n\n| a |\n\n<!-- results:begin -->\nOLD\n<!-- results:end -->\n\nend é\n"


OCCASION = "3 epochs of MNIST; Known CPU, 4 cores; 23 November 2026"


def edit(text, names=("results/x.json",)):
    return reporting.edit_readme(text, {name: make_results(KNOWN) for name in names})


def test_readme_changes_between_its_markers_only():
    text = edit(README)
    assert edit(text) == text  # once more changes nothing
    assert text.startswith("# Title\n\n<!-- sentence:begin -->\nOn one device, CPU: ")
    assert text.endswith("<!-- results:end -->\n\nend é\n")
    assert "OLD" not in text
    assert report(KNOWN) in text
    assert "[Result file](results/x.json), shown by `uv run report.py results/x.json`." in text
    assert f"![Seconds of training: {OCCASION}](results/x.png)" in text


def test_a_picture_before_the_block_keeps_its_place():
    text = edit("# T\n\n![Seconds of training and loss](old.png)\n\nx\n\n" + README)
    assert text.startswith(f"# T\n\n![Seconds of training: {OCCASION}](results/x.png)\n\nx\n")
    assert text.count("![") == 1
    text = edit(text, ("results/x.json", "results/y.json"))
    above, _, block = text.partition("<!-- results:begin -->")
    assert above.count("![") == above.count("results/x.png") == 1  # the first file's
    assert block.count("![") == block.count("results/y.png") == 1  # the others' stand with their tables


def test_several_files_in_the_readme_end_with_the_machines():
    text = edit(README, ("results/x.json", "results/y.json"))
    assert text.count("[Result file]") == text.count("![") == 2
    assert text.count("`uv run report.py results/y.json`") == 1
    assert text.count(f"\n### {OCCASION}\n") == 2
    assert text.count("\n#### One device, CPU\n") == 2
    assert "## By machine" in text


def test_columns_are_explained_once_in_the_readme():
    """Under a later file's tables only what was not said before."""
    text = edit(README, ("results/x.json", "results/y.json"))
    assert text.count("\n- rank: ") == text.count("\n- images/s: ") == 1
    assert text.count("\n- the other columns: as above\n") == 1
    assert text.index("\n- the other columns: as above\n") > text.index("results/x.json")
    alone = report(KNOWN)
    assert "as above" not in alone and "\n- rank: " in alone


def test_files_of_different_work_are_not_compared_in_the_readme():
    files = {"results/x.json": make_results(KNOWN), "results/y.json": make_results(KNOWN, batch_size=100)}
    text = reporting.edit_readme(README, files)
    assert text.count("\n### 3 epochs of MNIST; Known CPU") == 2
    assert "## By machine" not in text


@pytest.mark.parametrize("other", [{"device": "gpu"}, {"devices": 3}])
def test_files_of_other_devices_are_not_compared(other):
    """The same scripts on a CPU and on a GPU have no table in common."""
    files = {"results/x.json": make_results(KNOWN), "results/y.json": make_results(KNOWN, **other)}
    assert "## By machine" not in reporting.edit_readme(README, files)
    text = machines.make_machines({Path(name): results for name, results in files.items()})
    assert "y.json is not in these tables: its scripts ran on other devices" in text


def test_machines_never_mix_versions_of_a_script():
    """The third file agrees with the first, which does not have the script, but not with the second."""
    two = {"mnist_mx_a.py": [10.0, 10.1], "mnist_mx_b.py": [12.0, 12.1]}
    three = two | {"mnist_mx_z.py": [13.0, 13.1]}
    files = {
        Path("a.json"): make_results(two),
        Path("b.json"): make_results(three),
        Path("c.json"): make_results(three, sha256=lambda s, _: ("1" if "_z" in s else "0") * 64),
    }
    text = machines.make_machines(files)
    assert "- c.json is not in these tables: other versions of mnist_mx_z.py" in text
    assert "- B: " in text


@pytest.mark.parametrize("name", ["results/a b (1) [x].json", "results/ü.json", "results/a\nb.json"])
def test_links_to_names_with_blanks_and_brackets(name):
    text = edit(README, (name,))
    [link] = [line for line in text.splitlines() if line.startswith("[Result file]")]
    target = link.partition("](")[2].partition(")")[0]
    assert not set(target) & set(" ()[]\n")
    assert f"]({target.removesuffix('.json')}.png)" in text


def test_a_readme_without_sentence_gets_its_block():
    assert "OLD" not in edit("x\n<!-- results:begin -->\nOLD\n<!-- results:end -->\n")


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- results:begin -->",
        "<!-- results:end --><!-- results:begin -->",
        README * 2,
        README.replace("<!-- sentence:end -->", ""),
    ],
)
def test_readmes_without_whole_markers_are_left_alone(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(UserError, match="cannot put"):
        reporting.write_readme(tmp_path / "README.md", {tmp_path / "x.json": make_results(KNOWN)})
    assert (tmp_path / "README.md").read_text() == text


def test_line_ends_and_mode_of_the_readme_stay(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes(README.replace("\n", "\r\n").encode())
    readme.chmod(0o640)
    reporting.write_readme(readme, {tmp_path / "x.json": make_results(KNOWN)})
    text = readme.read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n") > 20
    assert readme.stat().st_mode & 0o777 == 0o640
