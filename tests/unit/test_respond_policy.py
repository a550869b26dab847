"""What is aimed at: scopes, workload boundaries, protected units. Nothing here acts on a cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensor.context.identity import TICK, guid, start_ticks
from sensor.events import NetworkConnection, ProcessCreation
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor
from sensor.respond.guards import Guards
from sensor.respond.plan import Plan, Planner, Target, boundary
from sensor.verdict import Action, Outcome, RuleInfo, Scope, Verdict

CONTAINER = "0123456789abcdef" * 4
JOB = "/system.slice/slurmstepd.scope/job_7"


@pytest.fixture
def root(tmp_path: Path) -> CgroupRoot:
    """A plain directory: policy asks the tree for names alone."""
    return CgroupRoot(tmp_path)


def make(root: CgroupRoot, *paths: str) -> None:
    for path in paths:
        Path(root.mount + path).mkdir(parents=True)


def event_at(path: str | None, cgroup_id: int | None = 9, container_id: str | None = None) -> ProcessCreation:
    return ProcessCreation(
        time=1,
        process_id=os.getpid() + 1_000_000_000,
        process_guid=guid(os.getpid() + 1_000_000_000, 0),
        cgroup_path=path,
        cgroup_id=cgroup_id,
        container_id=container_id,
        agent="rome",
    )


def planned(
    root: CgroupRoot,
    event: ProcessCreation,
    scope: Scope = "cgroup",
    action: Action = "kill",
    known: tuple[str, ...] = (),
) -> Plan:
    rule = RuleInfo(id="r", title="Rule", action=action, scope=scope)
    return Planner(root, Guards(root), lambda _: known).plan(Verdict(rule=rule, event=event))


@pytest.mark.parametrize(
    ("path", "container_id", "target", "workload"),
    [
        ("/rome.slice/x", None, "/rome.slice/x", False),
        (f"/system.slice/docker-{CONTAINER}.scope", CONTAINER, f"/system.slice/docker-{CONTAINER}.scope", True),
        (f"/system.slice/docker-{CONTAINER}.scope/a/b", CONTAINER, f"/system.slice/docker-{CONTAINER}.scope", True),
        (f"/docker/{CONTAINER}/{CONTAINER}/x", CONTAINER, f"/docker/{CONTAINER}", True),
        (f"/x/libpod-conmon-{CONTAINER}.scope", CONTAINER, f"/x/libpod-conmon-{CONTAINER}.scope", False),
        (f"{JOB}/step_0/user/task_3", None, f"{JOB}/step_0/user", True),
        (f"{JOB}/step_0/user", None, f"{JOB}/step_0/user", True),
        (f"{JOB}/step_0/slurm", None, f"{JOB}/step_0/slurm", False),
        (f"{JOB}/step_0/user/slurmstepd.scope/job_1/step_1/user/x", None, f"{JOB}/step_0/user", True),
        (f"{JOB}/step_0/username", None, f"{JOB}/step_0/username", False),
    ],
)
def test_the_workload_that_an_event_is_in(path: str, container_id: str | None, target: str, workload: bool) -> None:
    found, is_workload = boundary(event_at(path, container_id=container_id))
    assert (found.path, is_workload) == (target, workload)
    assert found.id == (9 if target == path else None)
    assert found.witness == (None if target == path else (path, 9))


@pytest.mark.parametrize(
    "path",
    [
        "/init.scope",
        "/system.slice/ssh.service",
        "/system.slice/system-getty.slice/getty@tty1.service",
        "/system.slice/systemd-journald.service",
        "/system.slice/containerd.service/below/it",
        "/system.slice/hostbrake.service",
        f"{JOB}/step_0/slurm",
        JOB,
        "/kubelet.slice/kubelet.service",
        "/site/node",
        "/site/node/below",
    ],
)
def test_node_services_are_protected(root: CgroupRoot, path: str) -> None:
    assert "is protected" in str(Guards(root, ["/site/n*"]).refusal(path))


@pytest.mark.parametrize(
    "path",
    [
        "/rome.slice/rome-1.service",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service",
        "/rome.slice/agent.scope/systemd-journald.service",
        "/docker/x",
        "/site/x",
    ],
)
def test_a_workload_is_not_protected_by_the_name_it_gives_itself(root: CgroupRoot, path: str) -> None:
    assert Guards(root, ["/site/n*"]).refusal(path) is None


def test_a_slice_that_holds_a_node_service_is_refused(root: CgroupRoot) -> None:
    make(root, "/system.slice/ssh.service", "/rome.slice/rome-1.service/below")
    assert "holds ssh.service" in str(Guards(root).refusal("/system.slice"))
    assert Guards(root).refusal("/rome.slice") is None


def test_a_container_inside_a_protected_unit_can_be_killed(root: CgroupRoot) -> None:
    path = f"/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{CONTAINER}"
    plan = planned(root, event_at(path, container_id=CONTAINER))
    assert plan.cgroups == (Target(path, 9),)


def test_agent_scope_takes_all_it_knows_but_not_what_is_protected_or_below_another(root: CgroupRoot) -> None:
    known = ("/rome.slice/a", "/rome.slice/a/b", "/system.slice/ssh.service", "/rome.slice/c")
    plan = planned(root, event_at("/rome.slice/c"), "agent", known=known)
    assert {target.path for target in plan.cgroups} == {"/rome.slice/a", "/rome.slice/c"}
    assert Target("/rome.slice/c", 9) in plan.cgroups, "the event's own is held by its id"
    assert plan.scope == "agent" and "ssh.service" in str(plan.reason)


def test_agent_scope_without_an_agents_cgroups_is_the_events_cgroup(root: CgroupRoot) -> None:
    plan = planned(root, event_at("/rome.slice/c"), "agent")
    assert (plan.scope, plan.cgroups) == ("cgroup", (Target("/rome.slice/c", 9),))


def test_agent_scope_in_slurm_is_every_step_and_never_the_job(root: CgroupRoot) -> None:
    make(
        root,
        *(f"{JOB}/{step}/{part}" for step in ("step_0", "step_1", "step_batch") for part in ("user/task_0", "slurm")),
    )
    plan = planned(root, event_at(f"{JOB}/step_0/user/task_0"), "agent")
    assert {target.path for target in plan.cgroups} == {
        f"{JOB}/{step}/user" for step in ("step_0", "step_1", "step_batch")
    }


@pytest.mark.parametrize("action", ["isolate", "freeze"])
def test_what_is_done_to_whole_cgroups_is_refused_for_a_process(root: CgroupRoot, action: Action) -> None:
    plan = planned(root, event_at(None), action=action)
    assert plan.refused and plan.reason and "only whole cgroups" in plan.reason


def test_only_cgroups_are_frozen(root: CgroupRoot) -> None:
    assert planned(root, event_at("/x"), action="freeze").cgroups == (Target("/x", 9),)
    for event, scope in ((event_at("/x"), "process"), (event_at("/init.scope"), "cgroup"), (event_at(None), "cgroup")):
        plan = planned(root, event, scope, action="freeze")  # type: ignore[arg-type]
        assert plan.refused and str(plan.reason).endswith("only whole cgroups are frozen")


def test_only_a_program_can_be_denied_after_the_kernel_let_it_begin(root: CgroupRoot) -> None:
    event = event_at("/x")
    assert isinstance(event, ProcessCreation)
    plan = planned(root, event, action="deny")
    assert not plan.refused and (plan.action, plan.scope, plan.process) == ("deny", "process", event.process_guid)
    connection = NetworkConnection(time=0, process_id=event.process_id, process_guid=event.process_guid)
    plan = planned(root, connection, action="deny")
    assert plan.refused and plan.reason and "it has happened" in plan.reason


def test_without_cgroup_and_process_there_is_no_target(root: CgroupRoot) -> None:
    event = event_at(None)
    event.process_guid = None
    plan = planned(root, event)
    assert plan.refused and plan.reason == "the cgroup is unknown; the process is unknown"


def test_an_alert_needs_nothing_done_and_times_count_from_the_kernels_event(root: CgroupRoot) -> None:
    guards = Guards(root)
    executor = Executor(root, Planner(root, guards), guards, "enforce")
    rule = RuleInfo(id="r", title="Rule")
    assert executor.begin(Verdict(rule=rule, event=event_at("/x"))) == Outcome(
        mode="enforce", action="alert", outcome="none"
    )
    live = event_at("/x")
    live.boottime = 1
    outcome = executor.begin(Verdict(rule=rule, event=live))
    assert isinstance(outcome, Outcome) and outcome.detect_ms is not None and outcome.detect_ms > 0
    assert executor.counts == {"alert none": 2} and executor.timeout() is None


def test_the_sensor_itself_is_never_a_target(root: CgroupRoot) -> None:
    event = event_at(None)
    event.process_id = os.getpid()
    event.process_guid = guid(os.getpid(), (start_ticks(os.getpid()) or 0) * TICK)
    plan = planned(root, event, "process")
    assert plan.refused and "the sensor or one of its ancestors" in str(plan.reason)
