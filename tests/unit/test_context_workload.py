from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.context.workload import parse

ID = "5f3b9c0e" * 8
OTHER = "ab12cd34" * 8
POD = "57e67067-89e4-4001-bdd4-8632d39ea02b"
POD_ = POD.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

# path, systemd unit, container, pod, Slurm job
LAYOUTS = [
    ("/", None, None, None, None),
    ("/rome.slice/job", None, None, None, None),
    ("/init.scope", "init.scope", None, None, None),
    ("/system.slice/ssh.service", "ssh.service", None, None, None),
    ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None, None, None),
    ("/system.slice/_cpu.service", "cpu.service", None, None, None),
    (r"/system.slice/dev-disk\x2done.service", r"dev-disk\x2done.service", None, None, None),
    ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None, None, None),
    (f"{USER}/app.slice/foo.service", "foo.service", None, None, None),
    (f"{USER}/init.scope", "init.scope", None, None, None),
    (USER, "user@1000.service", None, None, None),
    # docker
    (f"/docker/{ID}", None, ID, None, None),
    (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID, None, None),
    (f"/rome.slice/{ID}", None, ID, None, None),
    # podman
    (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID, None, None),
    (f"/libpod_parent/libpod-{ID}", None, ID, None, None),
    (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None, None, None),
    (f"{USER}/user.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID, None, None),
    (f"{USER}/app.slice/redis.service/libpod-payload-{ID}", "redis.service", ID, None, None),
    (
        f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope/container",
        f"libpod-{ID}.scope",
        ID,
        None,
        None,
    ),
    # nerdctl
    (f"/system.slice/nerdctl-{ID}.scope", f"nerdctl-{ID}.scope", ID, None, None),
    # Kubernetes: systemd driver
    (
        f"{BURSTABLE}/kubepods-burstable-pod{POD_}.slice/cri-containerd-{ID}.scope",
        f"cri-containerd-{ID}.scope",
        ID,
        POD,
        None,
    ),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{ID}.scope", f"crio-{ID}.scope", ID, POD, None),
    (
        f"{BURSTABLE}/kubepods-burstable-pod{POD_}.slice/crio-conmon-{ID}.scope",
        f"crio-conmon-{ID}.scope",
        None,
        POD,
        None,
    ),
    (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{STATIC}.slice/cri-containerd-{ID}.scope",
        f"cri-containerd-{ID}.scope",
        ID,
        STATIC,
        None,
    ),
    # Kubernetes: cgroupfs driver
    (f"/kubepods/burstable/pod{POD}/{ID}", None, ID, POD, None),
    (f"/kubepods/pod{POD}/{ID}", None, ID, POD, None),
    (f"/kubepods/besteffort/pod{STATIC}/crio-{ID}", None, ID, STATIC, None),
    (f"/kubepods/burstable/pod{POD}", None, None, POD, None),
    # Kubernetes: kubelet with systemd, containerd without
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{POD_}.slice:cri-containerd:{ID}",
        "containerd.service",
        ID,
        POD,
        None,
    ),
    # Slurm
    (
        "/system.slice/slurmstepd.scope/job_1392969/step_0/user/task_0",
        "slurmstepd.scope",
        None,
        None,
        "1392969",
    ),
    (
        "/system.slice/gpu01_slurmstepd.scope/job_7/step_batch/user/task_special",
        "gpu01_slurmstepd.scope",
        None,
        None,
        "7",
    ),
    ("/system.slice/slurmstepd.scope/system", "slurmstepd.scope", None, None, None),
    ("/slurm/uid_1000/job_42/step_0/task_0", None, None, None, "42"),
    ("/slurm_gpu01/uid_1000/job_42", None, None, None, "42"),
    # Claims of a workload to be another
    (f"/system.slice/docker-{ID}.scope/docker-{OTHER}.scope", f"docker-{ID}.scope", ID, None, None),
    (f"/docker/{ID}/kubepods/pod{POD}/{OTHER}", None, ID, None, None),
    ("/system.slice/rome-1.service/ssh.service", "rome-1.service", None, None, None),
    (f"{USER}/app.slice/foo.service/bar.service", "foo.service", None, None, None),
    ("/rome.slice/job_42", None, None, None, None),
    ("/rome.slice/uid_0/job_42", None, None, None, None),
    (f"/rome.slice/pod{POD}", None, None, None, None),
    (f"/docker/{ID}x", None, None, None, None),
    (f"/docker/{ID.upper()}", None, None, None, None),
    (f"/docker/{ID}\n", None, None, None, None),
    ("/slurm/uid_1/job_4\n2", None, None, None, None),
]


@pytest.mark.parametrize(("path", "unit", "container", "pod", "job"), LAYOUTS)
def test_layout(path: str, unit: str | None, container: str | None, pod: str | None, job: str | None) -> None:
    workload = parse(path)
    found = (
        workload.systemd_unit,
        workload.container_id,
        workload.kubernetes_pod,
        workload.slurm_job_id,
    )
    assert found == (unit, container, pod, job)


@given(st.lists(st.sampled_from([part for row in LAYOUTS for part in row[0].split("/")]) | st.text()))
def test_any_path_is_read_without_fault(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    workload = parse(path)
    if workload.system_unit is not None:
        start, unit = workload.system_unit
        assert path[start:].removeprefix("_").startswith(unit)
    assert workload.container_id is None or workload.container_id in path
