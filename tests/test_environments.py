"""uv: what it is told, and what is made of its answers."""

import os
from pathlib import Path

import pytest

from harness import environments, startup
from harness.errors import UserError

NO_SOLUTION = """  × No solution found when resolving script dependencies:
  ╰─▶ Because mxnet was not found in the package registry and you require mxnet==1.9.1, we can conclude that your requirements
      are unsatisfiable.

  hint: Packages were unavailable because the network was disabled.
"""
NETWORK = """error: Request failed after 3 retries
  Caused by: Failed to fetch: `https://pypi.org/simple/mxnet/`
  Caused by: dns error
"""
OLD_UV = """warning: Failed to parse `uv.toml`
error: TOML parse error at line 5, column 1
  |
5 | [tool.uv]
  | ^^^^^^^^^
unknown field `extra-build-variables`
"""


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (
            NO_SOLUTION,
            "No solution found when resolving script dependencies: Because mxnet was not found in the package registry",
        ),
        (
            NETWORK,
            "Request failed after 3 retries Caused by: Failed to fetch: `https://pypi.org/simple/mxnet/` Caused by: dns error",
        ),
        (OLD_UV, "uv 0.8.5 is too old for the scripts' headers: uv 0.8.6 or later is needed"),
        ("error: unexpected argument '--script' found", "uv 0.8.5 is too old"),
        ("warning: slow disk\n\x1b[31merror\x1b[0m: no room", "no room"),
        ("something else", "something else"),
        ("", ""),
    ],
)
def test_the_reason_is_what_uv_begins_with(errors, reason):
    assert environments.find_reason(errors, "uv 0.8.5").startswith(reason)


def test_a_long_reason_is_cut():
    assert len(environments.find_reason("error: " + "x" * 9999, "")) == 600


def test_variables_for_uv():
    variables = {
        "UV_INDEX_URL": "1",
        "UV_CACHE_DIR": "1",
        "UV_OFFLINE": "1",
        "HTTPS_PROXY": "1",
        "UV_PYTHON_DOWNLOADS": "1",
        "UV_PYTHON": "3.13",
        "UV_PROJECT": "/x",
        "UV_PROJECT_ENVIRONMENT": "/x",
        "UV_ENV_FILE": "/x",
        "VIRTUAL_ENV": "/x",
    }
    kept = environments.uv_environment(variables)
    assert sorted(kept) == [
        "HTTPS_PROXY",
        "NO_COLOR",
        "UV_CACHE_DIR",
        "UV_INDEX_URL",
        "UV_OFFLINE",
        "UV_PYTHON_DOWNLOADS",
    ]


def test_variables_for_the_scripts():
    """The user's, but what belongs to the runner's own environment; the user's other virtual environment stays."""
    prefix = "/cache/runner"
    variables = {
        "PATH": f"{prefix}/bin:/usr/bin",
        "VIRTUAL_ENV": prefix,
        "UV": "/bin/uv",
        "OMP_NUM_THREADS": "3",
        "PYTHONPATH": "/x",
    }
    assert startup.user_environment(variables, prefix) == {"PATH": "/usr/bin", "OMP_NUM_THREADS": "3"}
    assert startup.user_environment({"PATH": "/mine/bin", "VIRTUAL_ENV": "/mine"}, prefix)["VIRTUAL_ENV"] == "/mine"


@pytest.mark.parametrize(
    ("name", "foreign"), [("PYTHONPATH", True), ("PYTHONSAFEPATH", True), ("PYTHONUTF8", False), ("HOME", False)]
)
def test_variables_that_change_the_interpreter(name, foreign):
    assert startup.is_foreign(name) is foreign


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mnist_mx_a.py", "mx"), ("mnist_tf_keras_mgpu.py", "tf"), ("mnist_torch.py", "torch"), ("other.py", "")],
)
def test_kinds_of_environments(name, kind):
    assert environments.kind_of(Path(name)) == kind


def fake_uv(tmp_path, monkeypatch, text):
    (tmp_path / "uv").write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setitem(startup.USER_ENVIRONMENT, "PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_without_network_the_cache_may_do(tmp_path, monkeypatch):
    fake_uv(
        tmp_path,
        monkeypatch,
        'case "$*" in *find*) echo /its/python;; *--offline*) ;; *) echo "error: dns" >&2; exit 2;; esac',
    )
    assert environments.make_environment(Path("x.py")) == ("/its/python", "")


def test_the_first_reason_is_told(tmp_path, monkeypatch):
    """That of the attempt with network: the other would say that it was offline."""
    fake_uv(
        tmp_path,
        monkeypatch,
        'case "$*" in *--offline*) echo "error: offline" >&2;; *) echo "error: no compiler" >&2;; esac; exit 2',
    )
    assert environments.make_environment(Path("x.py")) == (None, "uv cannot make its environment: no compiler")


def test_without_uv(monkeypatch):
    monkeypatch.setitem(startup.USER_ENVIRONMENT, "PATH", "/none")
    with pytest.raises(
        UserError, match="uv: No such file or directory: install uv, or name the interpreters by --python"
    ):
        environments.make_environment(Path("x.py"))


def test_what_is_downloaded():
    scripts = [Path(f"mnist_{name}.py") for name in ("mx_a", "mx_a_hvd", "torch")]
    assert environments.list_downloads(scripts, {}) == ["MXNet 0.4 GB", "PyTorch 5.2 GB", "Horovod, built in 2 minutes"]
    assert environments.list_downloads(scripts, {"mx": Path("python")}) == ["PyTorch 5.2 GB"]
