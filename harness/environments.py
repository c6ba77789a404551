"""The scripts' environments: made by uv, or interpreters that the user names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.files import shown
from harness.processes import ask
from harness.startup import USER_ENVIRONMENT

BUILD = 3600.0  # seconds that uv may take: gigabytes to download, Horovod to build
UV_NEEDED = "0.8.6"  # earlier ones do not know the header's extra-build-variables
DOWNLOADS = {"mx": "MXNet 0.4 GB", "tf": "TensorFlow 1.5 GB", "torch": "PyTorch 5.2 GB"}  # by mnist_KIND_...
# Variables by which uv would take another interpreter, another project or other settings than a script's header says
NOT_FOR_UV = re.compile(
    r"(UV_PYTHON|UV_PROJECT\w*|UV_ENV_FILE|UV_FROZEN|UV_LOCKED|UV_NO_SYNC|UV_WORKING_DIR\w*|VIRTUAL_ENV)"
)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
REASON = re.compile(r"(error:|\s*[×x✗]\s)")  # how the first line of uv's reason begins
LONGEST_REASON = 600  # characters


def kind_of(script: Path) -> str:
    """Return which environment a script is of: mx, tf or torch, by its name mnist_KIND_..."""
    return f"{script.stem}__".split("_")[1]


def uv_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for uv: the user's index, cache, proxies and offline mode, but not what replaces a script's header."""
    kept = {name: value for name, value in variables.items() if not NOT_FOR_UV.fullmatch(name)}
    return {**kept, "NO_COLOR": "1"}


def find_reason(errors: str, version: str) -> str:
    """Return what uv says is wrong, from where its reason begins to its end, in one line; version is uv's own."""
    if re.search("unknown field `extra-build-variables`|unexpected argument '--script'", errors):
        return f"{version or 'this uv'} is too old for the scripts' headers: uv {UV_NEEDED} or later is needed (uv self update)"
    lines = COLOUR.sub("", errors).splitlines()
    first = next((i for i, line in enumerate(lines) if REASON.match(line)), max(len(lines) - 3, 0))
    words = " ".join(re.sub(r"[│╰─▶├×]+", " ", line) for line in lines[first:]).split()
    text = shown(" ".join(words).removeprefix("error: "))
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def make_environment(script: Path) -> tuple[str | None, str]:
    """Return the interpreter of a script's environment, which uv makes, or None and why not; UserError without uv."""
    environment = uv_environment(USER_ENVIRONMENT)
    reason = ""
    for mode in ([], ["--offline"]):  # without network, uv's cache may do
        status, _, errors = ask("uv", "sync", "--quiet", *mode, "--script", script, timeout=BUILD, env=environment)
        if status in (124, 127):
            raise UserError(f"{errors}: install uv, or name the interpreters by --python")
        if status == 0:
            status, out, errors = ask("uv", "python", "find", "--script", script, env=environment)
            if status == 0:
                return out.splitlines()[-1], ""
        reason = reason or find_reason(errors, ask("uv", "--version", env=environment)[1])
    return None, f"uv cannot make its environment: {reason}"


def list_downloads(scripts: Sequence[Path], given: Mapping[str, Path]) -> list[str]:
    """Return what the scripts' environments bring, if it is not there yet."""
    kinds = {kind_of(script) for script in scripts} - set(given)
    found = [text for kind, text in DOWNLOADS.items() if kind in kinds]
    if "mx" in kinds and any("_hvd" in script.name for script in scripts):
        found.append("Horovod, built in 2 minutes")
    return found
