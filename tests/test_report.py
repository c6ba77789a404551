"""report.py as a person runs it: what it prints, draws and writes, and how it ends."""

import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT, error_line, usage_error
from known import KNOWN, cells_of_markdown, write
from PIL import Image

import report
from harness import reporting, results


def start(*arguments, **options):
    """Return exit status, stdout and stderr of report.py in a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    command = [sys.executable, ROOT / "report.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def run(*arguments):
    """Return the same of its main function in this process, which has imported already what takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            report.main([*map(str, arguments)])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        err.write("" if end.code == status else f"{end.code}\n")
    return status, out.getvalue(), err.getvalue()


def test_it_prints_the_report_and_draws_the_picture(tmp_path):
    file = write(tmp_path / "known.json", KNOWN)
    status, out, err = start(file)
    assert (status, err) == (0, "")
    assert out == reporting.make_report(results.load(file)) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known.json", "known.png"]
    with Image.open(tmp_path / "known.png") as picture:
        assert "Known CPU" in picture.text["Description"]


def test_several_files_end_with_the_machines(tmp_path):
    files = [write(tmp_path / name, KNOWN) for name in ("x.json", "y.json")]
    status, out, err = run(*files)
    assert status == 0, err
    assert out.index(f"## {files[0]}") < out.index(f"## {files[1]}") < out.index("## By machine")


def test_stdin_is_a_file_too(tmp_path):
    text = write(tmp_path / "x.json", KNOWN).read_text()
    status, out, err = start("-", input=text, cwd=tmp_path)
    assert (status, err) == (0, "")
    assert "mx_gluon" in out
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_csv(tmp_path):
    status, _, err = run(write(tmp_path / "x.json", KNOWN), "--csv", tmp_path / "x.csv")
    assert status == 0, err
    assert (tmp_path / "x.csv").read_text().splitlines()[0].startswith("file,script,")


def test_csv_into_a_pipe(tmp_path):
    """What is no regular file is written to, and stays what it is."""
    file, pipe = write(tmp_path / "x.json", KNOWN), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    try:
        assert start(file, "--csv", pipe, timeout=60)[0] == 0
        assert reader.communicate(timeout=30)[0].startswith("file,script,")
    finally:
        reader.kill()
    assert pipe.is_fifo()


@pytest.mark.parametrize("line", ["printf '\\377' | {program} -", "{program} - <&-"])
def test_stdin_that_cannot_be_read(line):
    line = line.format(program=f"'{sys.executable}' '{ROOT}/report.py'")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert error_line(done.stderr, alone=True).startswith("error: cannot read ")


def test_comparison_and_its_exit_status(tmp_path):
    old = write(tmp_path / "old.json", KNOWN)
    new = write(tmp_path / "new.json", KNOWN | {"mnist_mx_keras.py": [33.0, 33.5, 34.0]}, cpu_model_name="New CPU")
    status, out, err = run(new, "--compare", old)
    assert status == 0, err
    changes = cells_of_markdown(out.partition("### Compared")[2])
    assert changes["mx_keras"]["verdict"] == "slower"
    assert changes["mx_gluon"]["verdict"] == "no difference"
    assert changes["mx_gluon_hvd"]["verdict"] == "none: 3 runs each are needed"
    assert "- here Hardware: New CPU" in out
    assert "- there Hardware: Known CPU" in out


def test_fail_above(tmp_path):
    """keras takes 9.8 % longer, at least 5.8 %."""
    three = {name: seconds for name, seconds in KNOWN.items() if len(seconds) == 3}
    old = write(tmp_path / "old.json", three)
    new = write(tmp_path / "new.json", three | {"mnist_mx_keras.py": [33.0, 33.5, 34.0]})
    assert run(new, "--compare", old, "--fail-above", 8)[0] == 0
    status, _, err = run(new, "--compare", old, "--fail-above", 5)
    assert (status, error_line(err)) == (1, "error: slower by more than 5 %: mnist_mx_keras.py")


def test_what_has_learnt_something_else_fails(tmp_path):
    """However fast it is; nor does its time count where all scripts are said to have moved."""
    three = {name: seconds for name, seconds in KNOWN.items() if len(seconds) == 3}
    old = write(tmp_path / "old.json", three)
    wrong = {"mnist_mx_keras.py": [1.0, 1.1, 1.2], "mnist_mx_sym.py": [1.0, 1.1, 1.2]}
    new = write(tmp_path / "new.json", three | wrong, accuracy=lambda s, _: 0.1 if s in wrong else 0.99)
    status, out, err = run(new, "--compare", old, "--fail-above", 5)
    assert (status, error_line(err)) == (1, "error: learnt something else: mnist_mx_keras.py, mnist_mx_sym.py")
    assert "All scripts together: +0.0 % (median of 2 scripts)" in out


def test_fail_above_needs_three_runs(tmp_path):
    old, new = (write(tmp_path / name, KNOWN) for name in ("old.json", "new.json"))
    status, _, err = run(new, "--compare", old, "--fail-above", 5)
    assert (status, error_line(err)) == (1, "error: --fail-above needs 3 runs of mnist_mx_gluon_hvd.py in both files")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x.png"],
        ["x.json", "--fail-above", "5"],
        ["-", "--readme"],
        ["x.json", "--compare", "y.json", "--fail-above", "nan"],
        ["x.json", "--compare", "y.json", "--fail-above", "inf"],
        ["x.json", "y.json", "--compare", "z.json"],
        ["-", "-"],
        ["-", "--compare", "-"],
        ["x.json", "--csv", "y.json"],
        ["x.json", "--csv", "x.png"],
    ],
    ids=str,
)
def test_mistakes_on_the_command_line(arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    usage_error(err)


def test_no_picture_in_the_place_of_something_else(tmp_path):
    (tmp_path / "x.png").write_text("mine")
    assert run(tmp_path / "x.png")[0] == 2
    assert (tmp_path / "x.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["none.json", "folder.json", "damaged.json"])
def test_files_that_are_none(tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "damaged.json").write_text("{}")
    status, out, err = run(tmp_path / name)
    assert (status, out) == (1, "")
    assert error_line(err, alone=True).startswith("error: cannot read ")


def test_a_folder_that_cannot_be_written(tmp_path):
    file = write(tmp_path / "x.json", KNOWN)
    (tmp_path / "x.png").mkdir()
    status, out, err = run(file, "--csv", tmp_path / "x.csv", "--compare", file)
    assert status == 1
    assert error_line(err).startswith("error: cannot write ")
    assert "mx_gluon" in out
    assert "### Compared with" in out  # what can be done is done
    assert (tmp_path / "x.csv").is_file()


def test_nobody_reads(tmp_path):
    processes = {}
    for i, redirection in enumerate((">&-", "> /dev/full", "| head -1", "2>&-")):
        file = write(tmp_path / f"{i}.json", KNOWN)
        line = f"'{sys.executable}' '{ROOT}/report.py' '{file}' {redirection}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes[redirection] = file, subprocess.Popen(line, shell=True, **pipes)
    for redirection, (file, process) in processes.items():
        _, err = process.communicate()
        assert (process.returncode, err) == (0, ""), redirection
        assert file.with_suffix(".png").exists(), redirection


def test_no_utf8(tmp_path):
    status, out, err = start(write(tmp_path / "x.json", KNOWN), env={"PYTHONIOENCODING": "ascii"})
    assert (status, err) == (0, "")
    assert "+- " in out
    assert out.isascii()


def test_settings_of_the_users_python_and_matplotlib_change_nothing(tmp_path):
    """A notebook's backend, folders that cannot be written, a matplotlibrc, a terminal of 7 columns, Python's own variables."""
    file = write(tmp_path / "x.json", KNOWN)
    status, out, err = start(file)
    assert (status, err) == (0, "")
    picture = file.with_suffix(".png").read_bytes()
    (tmp_path / "config").mkdir()
    for folder in (tmp_path, tmp_path / "config"):
        (folder / "matplotlibrc").write_text("figure.dpi: nonsense\nfont.size: 40\naxes.facecolor: red\n")
    (tmp_path / "argparse.py").write_text("raise SystemExit('not this one')\n")
    variables = {
        "MPLBACKEND": "module://nothing",
        "MPLCONFIGDIR": "/proc/none",
        "MATPLOTLIBRC": str(tmp_path),
        "HOME": "/proc/none",
        "XDG_CACHE_HOME": "",
        "COLUMNS": "7",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(tmp_path),
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
    }
    for folder in (variables["MPLCONFIGDIR"], str(tmp_path / "config")):
        assert start(file, env=variables | {"MPLCONFIGDIR": folder}, cwd=tmp_path) == (0, out, "")
        assert file.with_suffix(".png").read_bytes() == picture


def test_its_own_fault_is_shown_as_one(tmp_path):
    program = (
        f"import sys; sys.argv = ['report.py', 'x.json']; sys.path.insert(0, {str(ROOT)!r})\n"
        "from harness import startup; startup.prepare()\nimport report\nreport.run = lambda args: {}['of the program']\nreport.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "KeyError: 'of the program'" in done.stderr
    assert "This is a fault of report.py itself. Please report it" in done.stderr
    assert "error: cannot read" not in done.stderr


@pytest.mark.parametrize("program", ["report.py", "benchmark.py"])
def test_help_takes_no_second(program):
    """The packages that take seconds are loaded where they are needed: 0.2 s here on a quiet machine."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
    assert done.stdout.startswith("usage: ")
    assert min(seconds) < 1


def test_readme_holds_the_delivered_results(tmp_path):
    """The blocks in the README are what report.py makes of the result files it names."""
    text = (ROOT / "README.md").read_text()
    block = text.partition(reporting.RESULTS_BEGIN)[2].partition(reporting.RESULTS_END)[0]
    named = re.findall(r"\]\((results/[^)]+\.json)\)", block)
    assert named, "the README has no block of results"
    assert reporting.edit_readme(text, {name: results.load(ROOT / name) for name in named}) == text
    assert all((ROOT / name).with_suffix(".png").is_file() for name in named)


def test_notes_hold_the_reports_of_the_other_files():
    text, notes = (ROOT / "README.md").read_text(), (ROOT / "results/NOTES.md").read_text()
    block = text.partition(reporting.RESULTS_BEGIN)[2].partition(reporting.RESULTS_END)[0]
    for name in {*re.findall(r"results/\d[-\w]+\.json", text)} - {*re.findall(r"results/\d[-\w]+\.json", block)}:
        assert reporting.make_report(results.load(ROOT / name), heading="####") in notes, name


def script_as_it_is(script):
    """Return a script's bytes; a variant's are what the line of the notes that makes it prints."""
    if (ROOT / script).exists():
        return (ROOT / script).read_bytes()
    notes = (ROOT / "results/NOTES.md").read_text()
    (line,) = re.findall(rf"(?m)^    (sed .*) > {re.escape(script)}$", notes)
    return subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, check=True).stdout


def test_results_are_of_the_scripts_as_they_are_or_say_of_which():
    """Older ones are called "of the scripts of" their date, on every page that names their file."""
    for page in ("README.md", "results/NOTES.md"):
        text = (ROOT / page).read_text()
        for name in {*re.findall(r"\d{4}-\d\d-\d\d-[-\w]+\.json", text)}:
            runs = results.load(ROOT / "results" / name).runs
            old = {run.script for run in runs if hashlib.sha256(script_as_it_is(run.script)).hexdigest() != run.sha256}
            assert not old or f"of the scripts of {name[:10]}" in text, f"{page}: {name}: {old} have changed"


def test_tables_of_the_notes():
    """Their seconds are the means of the result files that they name."""
    from harness.rows import make_tables

    notes = (ROOT / "results/NOTES.md").read_text()
    tables = []
    for name in ("2-epochs", "batch-1000", "one-thread"):
        found = results.load(ROOT / f"results/2026-11-25-intel-xeon-2-cores-{name}.json")
        tables.append({row.label: f"{row.seconds:.1f}" for table in make_tables(found) for row in table.rows})
    of_500, of_1000, of_one = tables
    apis = {
        "Gluon": "mx_gluon",
        "Gluon, DataLoader": "mx_gluon_ds",
        "MXNet Module": "mx_sym",
        "keras-mxnet": "mx_keras",
        "tf.keras": "tf_keras",
        "PyTorch": "torch",
    }
    for api, script in apis.items():
        two = f"{script}_mgpu"
        assert f"| {api} | {of_500[script]} | {of_1000[script]} | {of_500[two]} |" in notes
        if script in of_one:
            assert f"| {api} | {of_one[script]} s | {of_one[two]} s |" in notes
    assert len(of_1000) == len(apis)
    assert len(of_one) == 2 * (len(apis) - 1)
