"""scontrol's word on jobs: believed where it can be told from what the job's owner wrote, and never waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sensor.context.slurm import Job, Jobs, parse_job

LINE = (
    "JobId=77 ArrayJobId=70 ArrayTaskId=7 JobName=eval UserId=rome(61234) GroupId=rome(61234) MCS_label=N/A "
    "Priority=1 Nice=0 Account=models QOS=normal JobState=RUNNING Command=/home/rome/a.sh WorkDir=/home/rome\n"
)
ROME = Job(user="rome", uid=61234, account="models", name="eval")


@pytest.mark.parametrize(
    ("answer", "job"),
    [
        (LINE, ROME),
        ("JobId=78 JobName=x UserId=other(1) Account=y\n" + LINE, ROME),
        (LINE.replace("eval", "a b=c"), Job("rome", 61234, "models", "a b=c")),
        (LINE.replace("=models", "=(null)"), Job("rome", 61234, None, "eval")),
        (LINE.replace("a.sh", "a Account=other"), ROME),
        # what the owner of a job may write to be somebody else
        (LINE.replace("eval", "x UserId=other(1) Account=other"), None),
        (LINE.replace("WorkDir=/home/rome", "WorkDir=/home/rome/ UserId=other(1)"), None),
        (LINE.replace("eval", "x\nJobId=77 JobName=y UserId=other(1) Account=other"), None),
        (LINE.replace("JobId=77", "JobId=7"), None),
        ("", None),
        ("slurm_load_jobs error: Invalid job id specified\n", None),
        ("JobId=77 JobName=x\n", None),
        ("JobId=77 JobName=x UserId=\n", None),
    ],
)
def test_parse(answer: str, job: Job | None) -> None:
    assert parse_job(answer, "77") == job


@pytest.fixture
def scontrol(tmp_path: Path) -> Callable[[str], str]:
    """A program that does this in its stead."""

    def make(script: str) -> str:
        path = tmp_path / "scontrol"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_comes_later(scontrol: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(LINE)
    jobs = Jobs(scontrol(f'echo "$@" >> {tmp_path}/asked; sleep 0.1; cat {tmp_path}/answer'))
    assert jobs.look_up("77") is None and jobs.look_up("77") is None
    wait_for(lambda: jobs.news() == ["77"])
    assert jobs.look_up("77") == ROME and not jobs.news()
    assert (tmp_path / "asked").read_text() == "--oneliner show job 77\n", "asked once"


@pytest.mark.parametrize("script", ["exec sleep 300", "exit 1", "exec yes", "echo nonsense", "kill -9 $$"])
def test_who_hangs_lies_or_fails_is_given_up(scontrol: Callable[[str], str], script: str) -> None:
    jobs = Jobs(scontrol(script), timeout_s=0.5)
    began = time.monotonic()
    assert jobs.look_up("77") is None and time.monotonic() - began < 5, "the caller is not held up"
    wait_for(lambda: jobs.news() or jobs.unanswered)
    assert jobs.unanswered == 1 and jobs.look_up("77") is None
    assert jobs.may_learn("77"), "it is asked again, but not at once"


def test_it_is_asked_again(scontrol: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(LINE)
    jobs = Jobs(scontrol(f"mkdir {tmp_path}/once && exit 1; cat {tmp_path}/answer"))
    wait_for(lambda: jobs.look_up("77") or jobs.news())
    assert jobs.look_up("77") == ROME and jobs.unanswered == 1


def test_no_scontrol(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    jobs = Jobs()
    assert "scontrol" in (jobs.missing() or "") and jobs.look_up("77") is None and not jobs.may_learn("77")
    assert Jobs(str(tmp_path / "gone")).look_up("77") is None
