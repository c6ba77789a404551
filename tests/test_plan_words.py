"""What the runner says before its first run: how many there are and how long they take, in the words of the time left."""

from pathlib import Path
from types import SimpleNamespace as Fake

import pytest

from harness import plan, runner


@pytest.mark.parametrize("seconds, words", [(60, "60 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_time_of_the_plan(monkeypatch, tmp_path, seconds, words):
    said = []
    job = Fake(minutes=None, repeats=2, scripts=[Path("mnist_mx_a.py")], epochs=3, pythons={}, data_dir=tmp_path)
    session = Fake(job=job, results=Fake(runs=[]), progress=Fake(say=said.append))
    clockwork = Fake(expect_all=lambda scripts, known: seconds)
    monkeypatch.setattr(plan, "plan_rounds", lambda *_: [Fake(scripts=job.scripts)] * 2)
    runner.say_plan(session, clockwork, 100)
    job.minutes = 30
    runner.say_plan(session, clockwork, 100)
    assert said[0].startswith(f"2 runs, epochs 3: some {words} if")
    assert said[2].startswith(f"rounds of 1 runs, epochs 3, as many as fit into 30 min: one takes some {words} if")
