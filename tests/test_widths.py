"""Tables in a real browser: no scroll bar and no wrapped cell in the 838 px of a README on GitHub.

By headless Chromium with GitHub's own style, from npm's github-markdown-css, and Debian's fonts-noto-core and fonts-liberation.
"""

import html
import json
import re
import shutil
import subprocess
import tarfile

import pytest
from conftest import ROOT
from known import make_results
from markdown_it import MarkdownIt

from harness import reporting, results
from harness.machines import make_machines

WIDTH = 838  # px
STYLE = "github-markdown-css@5.9.0"
APIS = ("mx_gluon", "mx_gluon_ds", "mx_keras", "mx_sym", "tf_keras", "torch")
NAMES = [f"mnist_{api}{end}.py" for api in APIS for end in ("", "_mgpu")] + ["mnist_mx_gluon_hvd.py"]
MEASURE = """
const found = [...document.querySelectorAll("table")].map(table => ({
  needs: table.scrollWidth, has: table.clientWidth,
  wrapped: [...table.querySelectorAll("th, td")].filter(cell => {
    const range = document.createRange(); range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map(box => Math.round(box.bottom))).size > 1;
  }).map(cell => cell.textContent)}));
document.body.textContent = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def measure(tmp_path_factory):
    """Return a function that lays Markdown out and returns needed and given width and wrapped cells of each table."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium or not shutil.which("npm"):
        pytest.skip("needs Chromium and npm: apt-get install chromium npm fonts-noto-core fonts-liberation")
    folder = tmp_path_factory.mktemp("browser")
    packed = subprocess.run(["npm", "pack", "--silent", STYLE], cwd=folder, capture_output=True, text=True, check=False)
    if packed.returncode:
        pytest.skip(f"needs npm's {STYLE}: {packed.stderr[-200:]}")
    with tarfile.open(folder / packed.stdout.strip()) as archive:
        style = archive.extractfile("package/github-markdown-light.css").read().decode()

    def lay_out(text):
        body = MarkdownIt("commonmark").enable("table").render(text)
        page = f"<meta charset=utf-8><style>{style}</style><body style='margin:0'><div class=markdown-body style='width:{WIDTH}px'>{body}</div>"
        (folder / "page.html").write_text(f"<!doctype html>{page}<script>{MEASURE}</script>")
        command = [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            f"--user-data-dir={folder}/profile",
        ]
        done = subprocess.run(
            [*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return json.loads(html.unescape(re.sub("<[^>]*>", "", done.stdout.partition("<body")[2].partition(">")[2])))

    return lay_out


def check(tables):
    assert tables
    for table in tables:
        assert table["needs"] <= table["has"] <= WIDTH, table
        assert not table["wrapped"], table


def spread(seconds, ratio):
    """Return seconds of three rounds, whose middle is known."""
    return [seconds / ratio, seconds, seconds * ratio]


def test_delivered_results(measure):
    text = "\n\n".join(reporting.make_report(results.load(path)) for path in sorted((ROOT / "results").glob("*.json")))
    check(measure(text))


def test_thirteen_rows_of_large_figures(measure):
    """12,345.67 s, lopsided intervals, disturbed and refused runs, other numbers of runs in a row."""
    more = {"mem_max_pss": 123 * 10**9, "steal_seconds": 99.0}
    durations = {name: spread(9_000 + 500 * i, 1 + 0.05 * (-1) ** i) for i, name in enumerate(NAMES)}
    durations["mnist_torch.py"] = durations["mnist_torch.py"][:2]
    check(measure(reporting.make_report(make_results(durations, **more))))


def test_gpus(measure):
    """With memory of the GPUs, speedup and efficiency."""
    more = {"device": "gpu", "gpu": "2 x X", "gpu_driver": "1", "gpu_mem_max": 78 * 10**9, "mem_max_pss": 12 * 10**9}
    durations = {name: spread(100 + 5 * i, 1.01) for i, name in enumerate(NAMES)}
    check(measure(reporting.make_report(make_results(durations, **more))))


def test_long_names(measure):
    check(
        measure(
            reporting.make_report(make_results({f"mnist_mx_{'w' * 99}{i}.py": spread(100 + i, 1.01) for i in range(3)}))
        )
    )


def test_four_machines(measure):
    durations = {name: spread(100 + 5 * i, 1 + 0.03 * (-1) ** i) for i, name in enumerate(NAMES)}
    check(measure(make_machines({ROOT / f"{name}.json": make_results(durations, hostname=name) for name in "abcd"})))
