"""The runner's own order of things, where a whole run could not show it: what is kept when, and what counts."""

import signal
import time
import types

import pytest
from known import make_results, make_run

import benchmark
from harness import processes, results, runner
from harness.data import Data
from harness.errors import RunFailed, UserError
from harness.signals import Stop, Stopped


class Silent:
    """Progress that nobody looks at; end_with is raised when a run's last line is said."""

    def __init__(self, end_with=None):
        self.end_with = end_with

    def begin(self, step):
        pass

    def epoch(self, line):
        pass

    def say(self, text):
        pass

    def end(self, text):
        if self.end_with is not None:
            raise self.end_with


@pytest.fixture
def session(tmp_path):
    """Return a session of one script that is not run."""
    script = tmp_path / "mnist_mx_a.py"
    script.touch()
    job = types.SimpleNamespace(
        scripts=(script,),
        repeats=3,
        minutes=None,
        epochs=3,
        batch_size=500,
        devices=2,
        device="cpu",
        timeout=60.0,
        output=tmp_path / "x.json",
    )
    return runner.Session(job, Silent(), Stop(), None)


def make_setting(session):
    data = Data(session.job.output.parent, "MNIST", "0" * 64, 1, 1)
    return runner.Setting({script: "python" for script in session.job.scripts}, data, {}, False, None)


def test_the_time_of_a_failing_run_is_the_runs(session, monkeypatch):
    """Else all other runs would seem to take longer beside their processes, and --minutes would end early."""

    def fail(*_):
        time.sleep(0.2)
        raise RunFailed("exit status 1")

    monkeypatch.setattr(runner.processes, "run", fail)
    monkeypatch.setattr(runner.machine, "wait_until_idle", lambda *_: 0.0)
    runner.run_once(session, make_setting(session), session.job.scripts[0], {"seed": 42, "round": 1})
    assert session.failures == {"mnist_mx_a.py": "exit status 1"}
    assert session.spent >= 0.2


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_is_kept_before_a_word_is_said(session, monkeypatch, ends):
    """Ctrl-C may come while nobody reads what is said. A refused run is kept with the runs there are."""
    run = make_run("mnist_mx_a.py", 1.0)
    session.progress = Silent(end_with=Stopped(130))
    session.results = make_results({"mnist_mx_b.py": [1.0]})

    def end(*_):
        if ends:
            return run
        raise runner.RunRefused("the loss of epoch 1 is nan")

    monkeypatch.setattr(runner, "run_script", end)
    with pytest.raises(Stopped):
        runner.run_once(session, make_setting(session), session.job.scripts[0], {"seed": 42, "round": 1})
    kept = results.load(session.job.output)
    assert len(kept.runs) == (2 if ends else 1)
    assert [x.script for x in kept.refused] == ([] if ends else ["mnist_mx_a.py"])


def test_no_round_without_a_script_that_runs(session):
    assert len(list(runner.rounds_of(session, make_setting(session)))) == 3
    session.failures["mnist_mx_a.py"] = "exit status 1"
    assert list(runner.rounds_of(session, make_setting(session))) == []


def test_nothing_is_written_beside_another_runner(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with runner.lock(path):
        monkeypatch.setattr(runner, "check_writable", pytest.fail)
        with pytest.raises(UserError, match="is in use by process"), runner.lock(path):
            pass
    monkeypatch.undo()
    with runner.lock(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_leaves_no_lock(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "check_writable", full)
    with pytest.raises(UserError, match="No space left on device"), runner.lock(tmp_path / "x.json"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["install", "say"])
def test_a_signal_at_the_beginning_and_at_the_end(session, monkeypatch, moment):
    """It ends the command with its own status, without a traceback."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(processes, "Family", lambda: None)  # which would make the tests' process adopt others' orphans

    def stop(*_):
        raise Stopped(143)

    if moment == "install":
        monkeypatch.setattr(Stop, "install", stop)
    else:
        monkeypatch.setattr(Stop, "install", lambda _: None)
        monkeypatch.setattr(benchmark, "work", lambda session: session.failures.update(x="y"))
        monkeypatch.setattr(benchmark, "show_report", stop)
    assert benchmark.run(session.job) == 143
    assert before == {number: signal.getsignal(number) for number in before}
