"""A process's identity across pid reuse, boots and hosts: the ProcessGuid of events."""

from __future__ import annotations

import os

from sensor.node import boot_id

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds in one of the ticks that /proc/PID/stat counts starts in (proc(5), field 22, starttime)."""


def guid(tgid: int, start: int) -> str:
    """The ProcessGuid of a process: boot id, thread group id and start in ticks since boot.

    `start` is task_struct.start_boottime in nanoseconds. Ticks, because /proc shows no more than those.
    """
    return f"{boot_id()}-{tgid}-{start // TICK}"


def parse_guid(text: str) -> tuple[int, int] | None:
    """(tgid, start in ticks) of a process of this boot; None for another boot's guid and for what is none."""
    boot, _, rest = text.partition("-")
    tgid, _, ticks = rest.partition("-")
    if boot != boot_id() or not (_is_number(tgid) and _is_number(ticks)):
        return None
    return int(tgid), int(ticks)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def stat_fields(tgid: int) -> list[bytes] | None:
    """/proc/PID/stat from field 3 (state) on, or None where there is no such process (any more)."""
    try:
        with open(f"/proc/{tgid}/stat", "rb") as stat:
            text = stat.read()
    except OSError:
        return None
    return text[text.rindex(b")") + 2 :].split()  # field 2 is the name, which may hold anything, ")" too


def start_ticks(tgid: int) -> int | None:
    """When the process that has this pid now began, in ticks since boot; None where there is none.

    Equal to the second part of `parse_guid` exactly if the pid still belongs to that process.
    """
    fields = stat_fields(tgid)
    return int(fields[19]) if fields else None


def uid_and_cgroup(tgid: int) -> tuple[int, str] | None:
    """The real user of a process, and its cgroup's path in the v2 hierarchy; None where it has ended."""
    try:
        with open(f"/proc/{tgid}/status", "rb") as status:
            uid = next((int(line.split()[1]) for line in status if line.startswith(b"Uid:")), None)
        with open(f"/proc/{tgid}/cgroup", "rb") as cgroup:
            lines = cgroup.read().split(b"\n")
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith(b"0::")), None)
    return None if uid is None or path is None else (uid, path.decode("utf-8", "backslashreplace"))
