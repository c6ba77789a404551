"""Files as the harness writes them, whole or not at all, and their names as they can be shown."""

import contextlib
import os
import shlex
from pathlib import Path
from urllib.parse import quote

SPARE = 100_000  # bytes that must fit on the disk besides twice the file that is there: a long run's results fit


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once and whole, or not at all; a link stays a link, a mode stays the mode. OSError if it cannot.

    What is no regular file, as a pipe, or is reached by a name of the system's, as /dev/stdout, is written to, not replaced.
    """
    if path.exists() and (not path.is_file() or path.is_relative_to("/dev") or path.is_relative_to("/proc")):
        with path.open("ab") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(path))
    new = neighbour(target, "new")  # on one disk, where the renaming is atomic
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            with contextlib.suppress(OSError):  # not every file system has modes
                new.chmod(target.stat().st_mode)
        new.replace(target)
    except BaseException:  # a signal may come too
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def neighbour(path: Path, purpose: str) -> Path:
    """Return the hidden file beside a file that serves a purpose for it."""
    return path.with_name(f".{path.name}.{purpose}")


def check_writable(path: Path) -> None:
    """Make the folder if need be, and raise OSError now if a file of some size cannot be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = neighbour(path, "probe")
    size = path.stat().st_size if path.exists() else 0
    try:
        probe.write_bytes(bytes(SPARE + 2 * size))
    finally:
        probe.unlink(missing_ok=True)


def shown(path: object) -> str:
    """Return a name as it can be printed in one line: what no terminal shows is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def as_word(path: object) -> str:
    """Return a name as a shell takes it."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{shown(text)}'"


def as_link(name: str) -> str:
    """Return a relative name as the target of a Markdown link: blanks, brackets and the like as %xx."""
    return quote(name, safe="/")
