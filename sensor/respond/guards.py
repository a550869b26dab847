"""What is never killed as a whole: the root, init, the sensor itself, and the services that keep a node alive."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable

from sensor.respond import process
from sensor.respond.cgroupfs import CgroupRoot

PROTECTED: tuple[str, ...] = (
    # the system itself
    "init.scope",
    "systemd-*.service",
    "dbus.service",
    "dbus-broker.service",
    "polkit.service",
    "auditd.service",
    "rsyslog.service",
    "getty@*.service",
    "serial-getty@*.service",
    # time, network and storage
    "chrony*.service",
    "ntp*.service",
    "networking.service",
    "NetworkManager*.service",
    "firewalld.service",
    "multipathd.service",
    "iscsid.service",
    "rpc*.service",
    "nfs-*.service",
    "autofs.service",
    # the operator's way in; sessions have scopes of their own
    "ssh.service",
    "sshd.service",
    "sssd.service",
    "*-guest-agent.service",
    "amazon-ssm-agent.service",
    # what only starts other people's work, and keeps that work in its own cgroup
    "cron.service",
    "crond.service",
    "atd.service",
    # containers, Kubernetes, Slurm
    "containerd.service",
    "docker.service",
    "cri-docker.service",
    "crio.service",
    "crio-conmon-*.scope",
    "libpod-conmon-*.scope",
    "podman.service",
    "kubelet.service",
    "k3s*.service",
    "rke2*.service",
    "munge.service",
    "slurm*.service",
    "slurmstepd.scope",
    "*_slurmstepd.scope",
    # GPUs
    "nvidia-*.service",
    "dcgm*.service",
    # the brakes
    "hostbrake*.service",
)
"""Units; a glob that starts with "/" would be matched against the whole path."""


class Guards:
    """Says of a cgroup or process why it must not be acted on."""

    def __init__(
        self, root: CgroupRoot, protect: Iterable[str] = (), own: str = "the sensor itself", within: str = "/"
    ) -> None:
        """`protect`: globs over unit names, or over paths where they start with "/", besides `PROTECTED`.

        `own`: this process, in refusals. `within`: nothing outside this cgroup is acted on.
        """
        self._own = own
        self.within = within
        globs = [*PROTECTED, *protect]
        self._root = root
        self._lineage_of: tuple[int, int] | None = None
        self._spared: set[int] = set()
        self._units = _any_of(glob for glob in globs if not glob.startswith("/"))
        self._paths = _any_of(glob.rstrip("/") for glob in globs if glob.startswith("/"))

    def refusal(self, path: str, workload: bool = False) -> str | None:
        """Why the cgroup at `path` is not to be killed or frozen, or None.

        `workload`: it is known to hold a container or a Slurm step's user processes alone, and so may lie
        inside a protected unit.
        """
        path = "/" + path.strip("/")
        if path == "/":
            return "the root cgroup is never acted on"
        if outside := self.outside(path):
            return outside
        for pid, whose in ((1, "init"), (os.getpid(), self._own)):
            own = self._cgroup_of(pid)
            if own is not None and _holds(path, own):
                return f"{path} holds {whose}"
        if workload:
            return None
        if what := self._protected(path):
            return f"{path} is protected: {what} keeps this node running"
        held = self._protected_below(path)
        return f"{path} holds {held}, which is protected" if held else None

    def outside(self, path: str) -> str | None:
        """That the cgroup at `path` is not in the part of the hierarchy that is watched, or None where it is."""
        if self.within == "/" or _holds(self.within, path):
            return None
        return f"{path} is not within the watched {self.within}"

    def process_refusal(self, pid: int) -> str | None:
        """Why process `pid` is not to be killed, or None."""
        if pid == 1:
            return "process 1 is init"
        stat = process.read_stat(pid)
        if stat is not None and process.is_kernel_thread(stat):
            return f"process {pid} ({stat.comm}) is a kernel thread"
        if pid in self.spared():
            return f"process {pid} is the sensor or one of its ancestors"
        return None

    def spared(self) -> set[int]:
        """Processes that no kill may reach: init, kthreadd, the sensor and its ancestors."""
        key = os.getpid(), os.getppid()
        if key != self._lineage_of:  # a process is only ever given to one of its ancestors
            self._lineage_of = key
            self._spared = {1, 2} | process.lineage(os.getpid())
        return self._spared

    def _protected(self, path: str) -> str | None:
        """The protected unit or path that `path` lies in."""
        unit = _unit_of(path)
        if unit is not None and self._units.fullmatch(unit):
            return unit
        parts = path.split("/")
        ancestors = ("/".join(parts[:end]) for end in range(2, len(parts) + 1))
        return next((above for above in ancestors if self._paths.fullmatch(above)), None)

    def _protected_below(self, path: str) -> str | None:
        return next((what for below in self._root.below(path) if (what := self._protected(below))), None)

    @staticmethod
    def _cgroup_of(pid: int) -> str | None:
        """The process's v2 cgroup; None where it has none."""
        lines = (process.read_proc(f"{pid}/cgroup") or b"").split(b"\n")
        path = next((line[3:] for line in lines if line.startswith(b"0::")), None)
        return None if path is None else path.decode(errors="backslashreplace")


def _holds(path: str, other: str) -> bool:
    return other == path or other.startswith(path + "/")


def _unit_of(path: str) -> str | None:
    """The unit that systemd itself made: units below it (user managers, delegation) are the workload's own."""
    return next((part for part in path.split("/") if part and not part.endswith(".slice")), None)


def _any_of(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")
