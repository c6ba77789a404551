"""What a command does before it imports anything that a variable of the environment could replace or change.

The commands need what this module leaves behind: an interpreter that no variable of its user has changed, and
USER_ENVIRONMENT, the variables that the scripts are to get.
"""

import os
import signal
import sys
from types import TracebackType

# Variables of Python that change neither modules nor warnings nor speed; all others would change a run or break a report
KEPT = ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
# Variables by which uv tells a program how it was started, and what it would start another one with
OF_UV_RUN = ("UV_RUN_RECURSION_DEPTH", "UV", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")


def is_foreign(name: str) -> bool:
    """Tell whether a variable would change the interpreter."""
    return name.startswith("PYTHON") and name not in KEPT


def restart_without_python_variables() -> None:
    """Start this command again without the variables that change the interpreter, if there are any."""
    kept = {name: value for name, value in os.environ.items() if not is_foreign(name)}
    if len(kept) < len(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], kept)


def user_environment(inherited: dict[str, str], prefix: str) -> dict[str, str]:
    """Return the variables for the scripts: the user's, without what belongs to the runner's own environment in prefix.

    A virtual environment of the user's own, another than the runner's, stays.
    """
    kept = {name: value for name, value in inherited.items() if not is_foreign(name)}
    if kept.get("VIRTUAL_ENV", prefix) == prefix:
        kept = {name: value for name, value in kept.items() if name not in OF_UV_RUN}
    folders = kept.get("PATH", os.defpath).split(os.pathsep)
    kept["PATH"] = os.pathsep.join(folder for folder in folders if folder != os.path.join(prefix, "bin"))
    return kept


def end_by_signal() -> None:
    """Let Ctrl-C end the command by the signal itself, without a traceback, during the imports too."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_standard_streams() -> None:
    """Open what the caller closed of the streams 0 to 2: their numbers would go to the next files opened."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)


def report_own_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an exception that nobody expected as what it is: a fault of this program, with its traceback."""
    sys.__excepthook__(kind, error, trace)
    name = os.path.basename(sys.argv[0])
    print(f"This is a fault of {name} itself. Please report it, with the lines above and the command.", file=sys.stderr)


USER_ENVIRONMENT = user_environment(dict(os.environ), sys.prefix)


def prepare() -> None:
    """Do all of it, as the first thing in a command."""
    end_by_signal()
    restart_without_python_variables()
    open_standard_streams()
    sys.excepthook = report_own_fault
