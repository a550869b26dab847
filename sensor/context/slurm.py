"""Whose a Slurm job is: user, account and name, as `scontrol show job` tells them.

A job's own environment says the same, but the job may have written it. scontrol may take seconds, since it asks the
controller: a thread asks, and the answer comes later.
"""

from __future__ import annotations

import os
import queue
import re
import select
import shutil
import subprocess
import threading
import time
from collections import OrderedDict

import msgspec

_TIMEOUT_S = 10.0
_ANSWER_BYTES = 1 << 20
_WAITING = 256
_KNOWN = 4096
_TRIES = 8
"""The pause after each is twice that before it, from two seconds on."""
_USER = re.compile(r"([^\s(]+)\(([0-9]{1,10})\)")


class Job(msgspec.Struct, frozen=True):
    """None: not known."""

    user: str | None = None
    uid: int | None = None
    account: str | None = None
    name: str | None = None


class Jobs:
    """Jobs by their id; at most some thousands, the oldest go first."""

    def __init__(self, command: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        """`command` instead of the scontrol that is on the PATH."""
        self.unanswered = 0
        """Questions that nobody answered in time, or not so that it can be believed."""
        self._command = command or shutil.which("scontrol")
        self._timeout_s = timeout_s
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How often asked, and when the next time may be."""
        self._open: set[str] = set()
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def missing(self) -> str | None:
        """Why no job's account or name is known: one sentence; None where they can be asked for."""
        return None if self._command else "there is no scontrol on the PATH"

    def look_up(self, job_id: str) -> Job | None:
        """None where it is not known; then it is asked for, some times, and `news` says when it is."""
        job = self._known.get(job_id)
        if job is None and self.may_learn(job_id):
            self._ask(job_id)
        return job

    def may_learn(self, job_id: str) -> bool:
        """Whether an answer may still come."""
        return self._command is not None and (job_id in self._open or self._tries.get(job_id, (0, 0))[0] < _TRIES)

    def is_asking(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._open)

    def news(self) -> list[str]:
        """Jobs that became known since the last call."""
        found = []
        while not self._told.empty():
            job_id, job = self._told.get()
            self._open.discard(job_id)
            if job is None:
                self.unanswered += 1
                continue
            self._tries.pop(job_id, None)
            self._known[job_id] = job
            found.append(job_id)
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return found

    def _ask(self, job_id: str) -> None:
        tries, due = self._tries.get(job_id, (0, 0.0))
        now = time.monotonic()
        if job_id in self._open or len(self._open) >= _WAITING or now < due:
            return
        self._open.add(job_id)
        self._tries[job_id] = tries + 1, now + 2.0 ** (tries + 1)
        if len(self._tries) > _KNOWN:
            self._tries.popitem(last=False)
        self._wanted.put(job_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="slurm", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            job_id = self._wanted.get()
            self._told.put((job_id, self._show(job_id)))

    def _show(self, job_id: str) -> Job | None:
        assert self._command is not None
        command = [self._command, "--oneliner", "show", "job", job_id]
        try:
            asked = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            return None
        with asked:
            assert asked.stdout is not None
            said = _read(asked.stdout.fileno(), time.monotonic() + self._timeout_s)
            if said is None:
                asked.kill()
            try:
                ended = asked.wait(self._timeout_s)
            except subprocess.TimeoutExpired:
                asked.kill()
                return None
        return parse_job(said.decode("utf-8", "backslashreplace"), job_id) if said and ended == 0 else None


def _read(descriptor: int, deadline: float) -> bytes | None:
    """All that comes until the end; None where that is not before `deadline`, or too much."""
    said = bytearray()
    while (left := deadline - time.monotonic()) > 0 and len(said) <= _ANSWER_BYTES:
        if not select.select([descriptor], [], [], left)[0]:
            break
        chunk = os.read(descriptor, 65_536)
        if not chunk:
            return bytes(said)
        said += chunk
    return None


def parse_job(answer: str, job_id: str) -> Job | None:
    """The answer of `scontrol --oneliner show job`; of an array one line for each of its jobs.

    Who submits a job chooses its name, comment and paths, and may write what looks like another field into them. So a
    line with two users is not believed at all; where there is one, no such text stands before it or between it and
    the account.
    """
    line = next((line for line in answer.split("\n") if line.startswith(f"JobId={job_id} ")), "")
    name, found, rest = line.partition(" JobName=")[2].partition(" UserId=")
    user = _USER.match(rest)
    if not found or user is None or " UserId=" in rest:
        return None
    account = re.search(r" Account=(\S+)", rest)
    said = account[1] if account and account[1] != "(null)" else None
    return Job(user=user[1], uid=int(user[2]), account=said, name=name or None)
