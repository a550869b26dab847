r"""What a cgroup's path says of the workload in it: systemd unit, container, Kubernetes pod, Slurm job.

Whoever may make cgroups below its own may give them any name. So the outermost name that fits counts, which
only the node's own managers can make: a container's claim to be another container, or a service's to be
another service, is not believed. A pod counts only above its container, for the same reason.

Layouts, and where they come from:
- docker, podman, CRI-O, containerd's CRI and nerdctl name a systemd scope RUNTIME-ID.scope, or without
  systemd a directory ID or RUNTIME-ID; podman's `--cgroups=split` makes libpod-payload-ID. Ids are 64
  hexadecimal digits. RUNTIME-conmon-ID is the container's monitor, outside the container.
- kubelet (pkg/kubelet/cm/cgroup_manager_linux.go): kubepods[/QOS]/podUID, or with systemd
  kubepods[-QOS]-podUID.slice with "_" for "-" in the UID. A static pod's UID is an MD5 sum. containerd told
  to use no systemd below a kubelet that does makes kubepods-...-podUID.slice:cri-containerd:ID.
- Slurm (slurm.schedmd.com/cgroup_v2.html): [NODE_]slurmstepd.scope/job_N/step_S/user/task_T; as its cgroup v1
  plugin has it, slurm[_NODE]/uid_U/job_N.
- systemd (CONTROL_GROUP_INTERFACE, and cg_unescape in src/basic/cgroup-util.c): SLICE/UNIT, the name with a
  leading "_" where it could be taken for a file of the kernel's. \x2d stays: it is part of a unit's name.
  Below user@U.service a user's own manager makes units in turn, and there that unit counts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CONTAINER = re.compile(
    r"(?:(?:docker|libpod|libpod-payload|cri-containerd|crio|containerd|nerdctl|podman)-)?"
    r"([0-9a-f]{64})(?:\.scope)?"
)
_COLON_CONTAINER = re.compile(r"([^:]+\.slice):(?:cri-containerd|crio|docker|nerdctl|libpod):([0-9a-f]{64})")
_UID = r"[0-9a-f]{8}(?:(?P<gap>[-_])(?:[0-9a-f]{4}(?P=gap)){3}[0-9a-f]{12}|[0-9a-f]{24})"
_POD = re.compile(rf"pod({_UID})")
_POD_SLICE = re.compile(rf".*kubepods(?:-burstable|-besteffort)?-pod({_UID})\.slice", re.DOTALL)
_POD_PARENT = re.compile(r"kubepods|burstable|besteffort|guaranteed")
_JOB = re.compile(r"job_([0-9]{1,20})")
_SLURM_UID = re.compile(r"uid_[0-9]{1,10}")
_USER_MANAGER = re.compile(r"user@[^/]*\.service", re.DOTALL)


class Workload(NamedTuple):
    """What the path tells; None where it tells nothing."""

    systemd_unit: str | None = None
    container_id: str | None = None
    kubernetes_pod: str | None = None
    slurm_job_id: str | None = None
    system_unit: tuple[int, str] | None = None
    """The unit of the system's own manager, and where its name begins in the path."""


def parse(path: str) -> Workload:
    """The workload of the cgroup at `path`, counted from the root of the v2 hierarchy."""
    parts = path.split("/")[1:]
    system_unit, unit = _units(parts)
    pod, container = _container(parts)
    return Workload(unit, container, pod, _slurm_job(parts), system_unit)


def _units(parts: list[str]) -> tuple[tuple[int, str] | None, str | None]:
    system_unit: tuple[int, str] | None = None
    position = 1
    for part in parts:
        if part.endswith((".service", ".scope")):
            unit = part.removeprefix("_")
            if system_unit is not None:
                return system_unit, unit
            system_unit = position, unit
            if not _USER_MANAGER.fullmatch(unit):
                break
        position += len(part) + 1
    return system_unit, system_unit[1] if system_unit else None


def _container(parts: list[str]) -> tuple[str | None, str | None]:
    pod: str | None = None
    above = ""
    for part in parts:
        glued = _COLON_CONTAINER.fullmatch(part)
        slice_name, container = (glued[1], glued[2]) if glued else (part, None)
        if pod is None:
            found = _POD_SLICE.fullmatch(slice_name)
            if found is None and _POD_PARENT.fullmatch(above):
                found = _POD.fullmatch(part)
            pod = found[1].replace("_", "-") if found else None
        if container is None:
            alone = _CONTAINER.fullmatch(part)
            container = alone[1] if alone else None
        if container is not None:
            return pod, container
        above = part
    return pod, None


def _slurm_job(parts: list[str]) -> str | None:
    for index, part in enumerate(parts):
        job = _JOB.fullmatch(part)
        if job is None or index == 0:
            continue
        above = parts[index - 1]
        if above.endswith("slurmstepd.scope"):
            return job[1]
        if index >= 2 and _SLURM_UID.fullmatch(above) and parts[index - 2].partition("_")[0] == "slurm":
            return job[1]
    return None
