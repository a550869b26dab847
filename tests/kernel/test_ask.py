"""Freeze and ask, on a live sensor: a frozen workload makes no progress, and goes on or dies as a person says."""

from __future__ import annotations

import grp
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from respond_helpers import is_empty
from sensor_helpers import Launch, alerts_of, hostbrake, logged, path_of, status_of, wait_for

from sensor.cli.staging import Sensor, start_in

pytestmark = pytest.mark.kernel

RULES = """
title: Wants {what}
id: {id}
logsource: {{product: linux, category: process_creation}}
detection: {{a: {{CommandLine|contains: 'want-{what}'}}, condition: a}}
level: high
tags: [{tags}]
response: {{action: {action}}}
"""
BILLING, LAUNCH, FREEZE = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2, 3))
AGENT = """
agent: rome
purpose: tests
owner: {{name: Ada Example, notify: ["mailto://ada@example.org"]}}
match: [{{cgroup: "{path}/**"}}]
approve: [billing, launching]
"""
WORK = """
import subprocess, sys, time
counter = open(sys.argv[1], "w")
print = lambda number: (counter.seek(0), counter.write(str(number)), counter.flush())
def ask(what):
    subprocess.run(["/bin/sh", "-c", f": want-{what}"])
number, asked = 0, 0
while True:
    number += 1
    print(number)
    wanted = open(sys.argv[2]).read().split()
    for what in wanted[asked:]:
        ask(what)
    asked = len(wanted)
    time.sleep(0.005)
"""
"""Counts, and wants what the second file says, each once."""


class Stage:
    """A sensor with rules and an agent of its own, and a workload that makes progress one can see."""

    def __init__(self, launch: Launch, cgroup: Path, directory: Path) -> None:
        self.launch, self.directory, self.cgroup = launch, directory, cgroup
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        rules = directory / "rules"
        rules.mkdir()
        for what, number, action, tags in (
            ("billing", BILLING, "alert", "hostbrake.billing"),
            ("launch", LAUNCH, "alert", "hostbrake.launching"),
            ("freeze", FREEZE, "freeze", "attack.impact"),
        ):
            (rules / f"{what}.yml").write_text(RULES.format(what=what, id=number, action=action, tags=tags))
        (directory / "agents.d").mkdir()
        (directory / "agents.d/rome.yml").write_text(AGENT.format(path=path_of(cgroup)))
        self.works: dict[str, Path] = {}

    def start(self, within: str = "15m", mode: str = "enforce", operators: str = "root") -> Sensor:
        settings = f"alert_window_s: 0\napprove_within: {within}\noperators: {operators}\n"
        (self.directory / "sensor.yml").write_text(settings)
        options = (f"--mode={mode}", f"--state-dir={self.state}", f"--rules={self.directory}/rules")
        self.sensor = self.launch(*options)
        return self.sensor

    def work(self, name: str = "job", place: str | None = None) -> Path:
        """A workload's cgroup, once it makes progress."""
        work = self.cgroup / (place or name)
        work.mkdir()
        counter, wants = self.directory / f"{name}.count", self.directory / f"{name}.wants"
        wants.touch()
        self.works[name] = work
        start_in(work, [sys.executable, "-S", "-c", WORK, counter, wants])
        wait_for(lambda: counter.exists() and self.goes_on(name), "it makes progress")
        return work

    def count(self, name: str) -> str:
        return (self.directory / f"{name}.count").read_text()

    def goes_on(self, name: str = "job") -> bool:
        before = self.count(name)
        return bool(wait_for(lambda: self.count(name) != before, f"{name} counts on"))

    def is_stuck(self, name: str = "job") -> bool:
        """It counts no further within what is otherwise sixty steps."""
        before = self.count(name)
        time.sleep(0.3)
        return self.count(name) == before

    def want(self, what: str, name: str = "job") -> None:
        with (self.directory / f"{name}.wants").open("a") as file:
            file.write(f"{what} ")

    def alerts(self, outcome: str | None = None) -> list[dict[str, Any]]:
        found = [alert for alert in alerts_of(self.sensor.alerts) if alert["rule"]["name"].startswith("Wants")]
        return [alert for alert in found if outcome in (None, alert["response"]["outcome"])]

    def cases(self) -> list[dict[str, Any]]:
        done = self.hostbrake("pending", "--json")
        assert done.returncode == 0, done.stderr
        cases: list[dict[str, Any]] = json.loads(done.stdout)["cases"]
        return cases

    def asked(self, what: str, name: str = "job", already: int = 0) -> dict[str, Any]:
        """Want something; the one new case, once its workload is frozen."""
        self.want(what, name)
        wait_for(lambda: len(self.alerts("pending")) > already, "frozen")
        assert frozen(self.works[name])
        cases = [case for case in self.cases() if case["rule"]["name"] == f"Wants {what}"]
        return cases[-1]

    def hostbrake(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return hostbrake(command, *arguments, "--control-socket", self.sensor.socket)

    def die(self) -> None:
        self.sensor.process.kill()
        self.sensor.process.wait()


@pytest.fixture
def stage(launch: Launch, cgroup: Path, tmp_path: Path) -> Stage:
    return Stage(launch, cgroup, tmp_path)


def reported(stage: Stage, outcome: str, asked: str) -> None:
    """In the report it is one incident, stopped when it was frozen and not when the answer came."""
    report = json.loads(hostbrake("report", "--json", "--since", "1h", "--state-dir", stage.state).stdout)
    (incident,) = report["incidents"]
    assert (incident["outcome"], incident["alerts"]) == (outcome, 1)
    assert f"root asked to {asked}: done" in [step["text"] for step in incident["steps"]]
    (pending,) = stage.alerts("pending")
    assert report["overall"]["deeds"][outcome] == report["overall"]["stopped"]["count"] == 1
    assert report["overall"]["stopped"]["worst_ms"] == incident["stopped_ms"] == pending["response"]["respond_ms"]


def frozen(work: Path) -> bool:
    return "frozen 1" in (work / "cgroup.events").read_text()


def test_what_needs_approval_is_frozen_shown_and_goes_on_when_approved(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    case = stage.asked("billing")
    assert stage.is_stuck()
    (alert,) = stage.alerts("pending")
    response = alert["response"]
    assert (response["action"], response["scope"], response["cgroup"]) == ("freeze", "cgroup", path_of(work))
    assert f"hostbrake approve {case['id']}" in response["reason"] and "UTC" in response["reason"]
    assert response["respond_ms"] >= response["detect_ms"] >= 0 and response["processes"] >= 1
    assert (case["agent"], case["owner"]) == ("rome", "Ada Example")
    assert case["cgroups"] == [{"path": path_of(work), "id": work.stat().st_ino}]
    assert "want-billing" in case["wanted"] and "Wants billing" in case["wanted"]
    assert any("WORK" in (p["command_line"] or "") or "python" in (p["command_line"] or "") for p in case["processes"])
    assert 0 < case["left_s"] <= 900 and any("python" in line for line in case["recent"])
    assert status_of(stage.sensor)["approvals"] == {"pending": 1, "grants": 0}
    shown = stage.hostbrake("pending").stdout
    assert case["id"] in shown and "Ada Example" in shown and f"hostbrake deny {case['id']}" in shown
    done = stage.hostbrake("approve", case["id"])
    assert (done.returncode, done.stderr) == (0, "") and "let go on" in done.stdout
    assert not frozen(work) and stage.goes_on() and stage.cases() == []
    decision = wait_for(lambda: stage.alerts("done"), "recorded")[0]
    assert decision["response"]["action"] == "freeze" and decision["workload"]["agent"] == "rome"
    assert decision["response"]["reason"] == "approved by root (uid 0)"
    assert f"case {case['id']}" in decision["event"]["reason"]
    stage.want("billing")  # once is once
    wait_for(lambda: len(stage.alerts("pending")) == 2, "asked again")


def test_deny_kills(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    case = stage.asked("billing")
    done = stage.hostbrake("deny", case["id"])
    assert (done.returncode, done.stderr) == (0, "") and "killed" in done.stdout and "verified after" in done.stdout
    assert is_empty(work) and not frozen(work)
    (alert,) = wait_for(lambda: stage.alerts("done"), "recorded")
    assert (alert["response"]["action"], alert["response"]["reason"]) == ("kill", "denied by root (uid 0)")
    reported(stage, "done", asked="deny")
    again = stage.hostbrake("deny", case["id"])
    assert again.returncode == 1 and again.stderr == f"hostbrake: case {case['id']} is closed: denied by root (uid 0)\n"
    for wrong in ("nosuch", "x" * 500, "\u202e\n"):
        done = stage.hostbrake("approve", wrong)
        assert done.returncode == 1 and "waits for an answer; waiting: none" in done.stderr


def test_the_audit_trail_has_the_question_the_answer_and_who_gave_it(stage: Stage) -> None:
    stage.start()
    stage.work()
    case = stage.asked("billing")
    assert stage.hostbrake("approve", case["id"], "--for", "2m").returncode == 0
    wait_for(lambda: stage.alerts("done"), "recorded")
    assert stage.sensor.stop() == 0
    done = hostbrake("audit", "show", "--json", "--trail", stage.state / "audit")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [(record["kind"], record.get("action"), record.get("outcome")) for record in records]
    asked, frozen_, told, answered = (
        kinds.index(wanted)
        for wanted in (
            ("intent", "freeze", None),
            ("action", "freeze", "pending"),
            ("request", None, None),
            ("action", "freeze", "done"),
        )
    )
    assert asked < frozen_ < answered and records[frozen_]["intent"] == records[asked]["index"] and told
    (request,) = [record for record in records if record.get("command") == "approve"]
    assert (request["user"], request["uid"], request["answer"]) == ("root", 0, "done")
    assert request["arguments"] == {"id": case["id"], "for_s": 120}
    (approval,) = [record for record in records if record["kind"] == "approval"]
    assert (approval["case"], approval["decision"], approval["for_s"]) == (case["id"], "approve", 120)
    assert "root" in approval["by"] and approval["index"] < records[answered]["index"]
    assert hostbrake("audit", "verify", "--trail", stage.state / "audit").returncode == 0
    reported(stage, "approved", asked="approve")


def test_a_rule_may_freeze_and_ask_by_itself(stage: Stage) -> None:
    stage.start()
    stage.work()
    case = stage.asked("freeze")
    assert stage.is_stuck()
    assert stage.hostbrake("approve", case["id"]).returncode == 0 and stage.goes_on()


def test_no_answer_is_a_denial(stage: Stage) -> None:
    stage.start(within="1s")
    work = stage.work()
    stage.want("billing")
    wait_for(lambda: is_empty(work), "denied")
    (alert,) = wait_for(lambda: stage.alerts("done"), "recorded")
    assert alert["response"]["action"] == "kill" and len(stage.alerts("pending")) == 1
    assert alert["response"]["reason"] == "denied by nobody, there was no answer within 1 s"


def test_approved_for_a_while(stage: Stage) -> None:
    stage.start()
    stage.work()
    case = stage.asked("billing")
    assert stage.hostbrake("approve", case["id"], "--for", "1h").returncode == 0
    stage.want("billing")
    (alert,) = wait_for(lambda: stage.alerts("none"), "let be and recorded")
    assert alert["response"]["reason"].startswith(f"approved by root (uid 0) as case {case['id']}, for another ")
    assert stage.goes_on() and stage.cases() == []
    assert "approved: rome may: Wants billing, for another " in stage.hostbrake("pending").stdout
    stage.asked("launch", already=1)  # another rule
    stage.die()
    stage.start()
    stage.work("other")
    stage.want("billing", "other")
    wait_for(lambda: len(stage.alerts("none")) == 2, "it still holds after a restart, and for all of the agent")
    assert stage.goes_on("other")


def test_two_cases_of_one_cgroup_need_two_answers(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    stage.want("billing+want-launch")
    wait_for(lambda: len(stage.alerts("pending")) == 2, "two questions")
    first, second = stage.cases()
    done = stage.hostbrake("approve", first["id"], "--once")
    assert done.returncode == 0 and "frozen until every case of it is answered" in done.stdout
    assert frozen(work) and stage.is_stuck() and [case["id"] for case in stage.cases()] == [second["id"]]
    assert stage.hostbrake("approve", second["id"]).returncode == 0
    assert stage.goes_on() and stage.cases() == []


def test_one_of_two_cases_denied_ends_the_other(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    stage.want("billing+want-launch")
    wait_for(lambda: len(stage.alerts("pending")) == 2, "two questions")
    assert stage.hostbrake("deny", stage.cases()[1]["id"]).returncode == 0
    assert is_empty(work)
    wait_for(lambda: stage.cases() == [], "nothing is left to ask about")


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_frozen_workload_outlives_the_sensor(stage: Stage, how: str) -> None:
    stage.start()
    work = stage.work()
    case = stage.asked("billing")
    if how == "killed":
        stage.die()
    else:
        assert stage.sensor.stop() == 0
    assert stage.is_stuck() and frozen(work)
    done = stage.hostbrake("pending")
    assert done.returncode == 1 and f"frozen without a case: {path_of(work)}" in done.stdout.replace("\n", "")
    stage.start()
    (again,) = stage.cases()
    assert (again["id"], again["wanted"], again["recent"]) == (case["id"], case["wanted"], case["recent"])
    assert again["left_s"] <= case["left_s"] and stage.is_stuck()
    assert stage.hostbrake("approve", case["id"]).returncode == 0
    assert stage.goes_on()


def test_a_deadline_that_passed_while_the_sensor_was_down(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    stage.asked("billing")
    stage.die()
    file = stage.state / "approvals.json"
    state = json.loads(file.read_text())
    state["cases"][0]["deadline"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    file.write_text(json.dumps(state))
    assert frozen(work) and not is_empty(work)
    stage.start()
    wait_for(lambda: is_empty(work), "denied")


def test_what_a_crash_cut_off_is_taken_up(stage: Stage) -> None:
    """As if the sensor had died between the word and the act: each is written before it is done."""
    stage.start()
    works = {name: stage.work(name) for name in ("asked", "approved", "denied")}
    ids = {name: stage.asked("billing", name, already)["id"] for already, name in enumerate(works)}
    stage.die()
    file = stage.state / "approvals.json"
    state = json.loads(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    for case in state["cases"]:
        name = next(name for name, number in ids.items() if number == case["id"])
        if name == "asked":
            case["held"] = False
        else:
            case["decision"], case["by"] = {"approved": "approve", "denied": "deny"}[name], "Ada"
    file.write_text(json.dumps(state))
    (works["asked"] / "cgroup.freeze").write_text("0")
    stage.start()
    wait_for(lambda: frozen(works["asked"]), "frozen, as was written")
    wait_for(lambda: is_empty(works["denied"]), "killed, as was written")
    wait_for(lambda: not frozen(works["approved"]), "let go on, as was written")
    wait_for(lambda: [case["id"] for case in stage.cases()] == [ids["asked"]], "one is left")


def test_damaged_state_thaws_nothing(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    stage.asked("billing")
    stage.die()
    (stage.state / "approvals.json").write_bytes(b'{"version": 1, "cases": [{}')
    stage.start()
    assert frozen(work) and stage.is_stuck()
    assert logged(stage.sensor, "approvals are damaged; what is frozen stays so")
    assert (stage.state / "approvals.json.damaged").exists()
    wait_for(lambda: status_of(stage.sensor)["lost"].get("approvals.damaged") == 1, "counted")
    done = stage.hostbrake("pending")
    assert done.returncode == 0 and path_of(work) in done.stdout.replace("\n", "")
    assert hostbrake("thaw", "--cgroup", work, "--state-dir", stage.state).returncode == 0
    assert stage.goes_on()


def test_state_that_cannot_be_written_keeps_it_frozen(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    case = stage.asked("billing")
    shutil.rmtree(stage.state)
    stage.state.write_text("no directory")
    done = stage.hostbrake("approve", case["id"])
    assert done.returncode == 1 and "so the workload stays frozen" in done.stderr and frozen(work)
    done = stage.hostbrake("deny", case["id"])
    assert done.returncode == 0 and is_empty(work), "a denial needs no disk"


def test_cases_of_what_is_gone_or_thawed_by_force_are_closed(stage: Stage) -> None:
    stage.start()
    gone, thawed = stage.work("gone"), stage.work("thawed")
    stage.asked("billing", "gone")
    case = stage.asked("billing", "thawed", already=1)
    assert len(stage.cases()) == 2
    (gone / "cgroup.kill").write_text("1")
    wait_for(lambda: is_empty(gone), "killed")
    gone.rmdir()
    done = hostbrake("thaw", "--cgroup", thawed, "--state-dir", stage.state)
    assert done.returncode == 1 and f"hostbrake approve {case['id']}, or thaw with --force" in done.stderr
    assert frozen(thawed)
    done = stage.hostbrake("thaw", "--cgroup", thawed, "--state-dir", stage.state, "--force")
    assert done.returncode == 0 and stage.goes_on("thawed")
    wait_for(lambda: stage.cases() == [], "closed")
    (closed,) = wait_for(lambda: stage.alerts("none"), "recorded")
    assert closed["response"]["reason"] == "nothing of it is left"
    (answered,) = wait_for(lambda: stage.alerts("done"), "recorded")
    assert answered["response"]["reason"] == "approved by root (uid 0)"


def test_who_thaws_without_an_answer_has_it_frozen_again_and_in_the_end_killed(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    case = stage.asked("billing")
    for times in range(1, 4):
        (work / "cgroup.freeze").write_text("0")
        expected = 1 + times
        wait_for(lambda: len(stage.alerts("pending")) == expected, "told")  # noqa: B023 (waited for in this turn)
        assert frozen(work) and [waiting["id"] for waiting in stage.cases()] == [case["id"]]
        assert "was thawed, and not by an answer" in stage.alerts("pending")[-1]["response"]["reason"]
    (work / "cgroup.freeze").write_text("0")
    wait_for(lambda: is_empty(work), "denied")


def test_thawed_by_force_while_no_sensor_runs(stage: Stage) -> None:
    stage.start()
    work = stage.work()
    stage.asked("billing")
    stage.die()
    thaw = ("thaw", "--cgroup", work, "--state-dir", stage.state)
    assert stage.hostbrake(*thaw).returncode == 1 and frozen(work)
    assert stage.hostbrake(*thaw, "--force").returncode == 0 and stage.goes_on()
    stage.start()
    assert stage.cases() == [] and stage.goes_on()


def test_monitor_mode_freezes_nothing(stage: Stage) -> None:
    stage.start(mode="monitor")
    stage.work()
    stage.want("billing")
    (alert,) = wait_for(stage.alerts, "told")
    assert (alert["response"]["action"], alert["response"]["outcome"]) == ("freeze", "would")
    assert stage.goes_on() and stage.cases() == []


def test_an_agent_does_not_answer_for_itself(stage: Stage) -> None:
    stage.start()
    stage.work()
    case = stage.asked("billing")
    other = stage.cgroup / "other"
    other.mkdir()
    enter = ("/bin/sh", "-c", f'echo $$ > "{other}/cgroup.procs" && exec "$@"', "sh")
    done = hostbrake("approve", case["id"], "--control-socket", stage.sensor.socket, before=enter)
    assert done.returncode == 1 and "of agent rome: a workload answers for none" in done.stderr
    assert stage.is_stuck()
    (line,) = [line for line in logged(stage.sensor, "control request") if line["verdict"] == "refused"]
    assert (line["command"], line["arguments"]["id"]) == ("approve", case["id"])


def test_a_cgroup_inside_a_frozen_one_waits_for_both_answers(stage: Stage) -> None:
    stage.start()
    outer = stage.work()
    inner = stage.work("inner", "job/inner")
    first = stage.asked("billing", "inner")
    second = stage.asked("billing", already=1)
    assert first["cgroups"][0]["path"] == path_of(inner) and second["cgroups"][0]["path"] == path_of(outer)
    done = stage.hostbrake("approve", first["id"])
    assert done.returncode == 0 and "frozen until every case of it is answered" in done.stdout
    assert frozen(inner) and stage.is_stuck("inner")
    assert stage.hostbrake("approve", second["id"]).returncode == 0
    assert stage.goes_on("inner") and stage.goes_on()


def test_a_member_of_the_operators_answers_and_others_do_not(stage: Stage) -> None:
    stage.start(operators="users")
    stage.work()
    case = stage.asked("billing")
    user = (
        "--reuid=65534",
        "--regid=65534",
        "--bounding-set=-all,+dac_read_search",
        "--inh-caps=-all,+dac_read_search",
    )
    last = ("--ambient-caps=+dac_read_search", "--no-new-privs")
    approve = ("approve", case["id"], "--control-socket", stage.sensor.socket)
    stage.sensor.socket.chmod(0o666)
    done = hostbrake(*approve, before=("setpriv", *user, "--clear-groups", *last))
    assert done.returncode == 1 and "only root and its operators may" in done.stderr and stage.is_stuck()
    stage.sensor.socket.chmod(0o660)
    done = hostbrake(*approve, before=("setpriv", *user, f"--groups={grp.getgrnam('users').gr_gid}", *last))
    assert (done.returncode, done.stderr) == (0, "") and stage.goes_on()
    (alert,) = wait_for(lambda: stage.alerts("done"), "recorded")
    assert alert["response"]["reason"].endswith("(uid 65534)")


def test_the_shipped_rules_have_kinds(launch: Launch, cgroup: Path, tmp_path: Path) -> None:
    """A connection to the metadata service; from a network namespace of its own, so that nothing leaves."""
    (tmp_path / "agents.d").mkdir()
    agent = AGENT.format(path=path_of(cgroup)).replace("billing, launching", "metadata")
    (tmp_path / "agents.d/rome.yml").write_text(agent)
    sensor = launch("--mode=enforce", f"--state-dir={tmp_path}/state")
    (cgroup / "job").mkdir()
    code = "import socket, time\ns = socket.socket()\ns.connect_ex(('169.254.169.254', 80))\ntime.sleep(600)"
    start_in(cgroup / "job", ["/usr/bin/unshare", "-n", sys.executable, "-S", "-c", code])
    (alert,) = wait_for(lambda: [a for a in alerts_of(sensor.alerts) if a["response"]["outcome"] == "pending"], "asked")
    assert alert["rule"]["name"] == "Connection to the cloud's metadata service" and frozen(cgroup / "job")


def test_an_unknown_kind_is_a_fault_with_its_place(stage: Stage) -> None:
    file = stage.directory / "agents.d/rome.yml"
    file.write_text(file.read_text().replace("launching]", "biling]"))
    done = hostbrake("check", "--rules", stage.directory / "rules", "--agents", file.parent, "--config", "/dev/null")
    assert done.returncode == 2
    assert f"{file}:6: approve[1]: no rule is of kind 'biling'; did you mean billing?" in done.stdout + done.stderr
