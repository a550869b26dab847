"""uid -> user name, without ever waiting long for a directory service."""

from __future__ import annotations

import pwd
import threading
from pathlib import Path
from queue import SimpleQueue

_QUEUE_LIMIT = 256

_Question = tuple[int, threading.Event]


class Users:
    """Names of users: those of the passwd file at once, others from the name service (NSS) in a thread.

    NSS may ask a server that is slow or dead. So an event waits at most `wait_s` for a name, and not at all
    while an earlier question is still open: until then the user has the name of before, or none.
    """

    def __init__(self, passwd: Path = Path("/etc/passwd"), limit: int = 4096, wait_s: float = 0.02) -> None:
        self.unanswered = 0
        """Names that did not come in time."""
        self._passwd = passwd
        self._limit = limit
        self._wait_s = wait_s
        self._local = 0
        self._names: dict[int, str | None] = {}
        self._before: dict[int, str | None] = {}
        self._asked: set[int] = set()
        self._questions: SimpleQueue[_Question] | None = None
        self.refresh()

    def name(self, uid: int) -> str | None:
        """The user's name; None where there is none, or where it is not known yet."""
        try:
            return self._names[uid]
        except KeyError:
            return self._ask(uid)

    def refresh(self) -> None:
        """Read the passwd file anew and ask anew for all other names; call this about once a minute."""
        names: dict[int, str | None] = {}
        try:
            text = self._passwd.read_bytes().decode("utf-8", "backslashreplace")
        except OSError:  # a node without the file has all its users in NSS
            text = ""
        for line in text.split("\n"):
            fields = line.split(":", 3)
            if len(fields) == 4 and len(fields[2]) <= 10 and fields[2].isascii() and fields[2].isdigit():
                names.setdefault(int(fields[2]), fields[0])
        self._local = len(names)
        self._before = self._names
        self._names = names

    def _ask(self, uid: int) -> str | None:
        if self._questions is None:
            self._questions = SimpleQueue()
            threading.Thread(target=self._answer, name="users", daemon=True, args=(self._questions,)).start()
        idle = not self._asked
        answered = threading.Event()
        asked_before = uid in self._asked
        if not asked_before and len(self._asked) < _QUEUE_LIMIT:
            self._asked.add(uid)
            self._questions.put((uid, answered))
        if idle:
            answered.wait(self._wait_s)
        names = self._names
        if uid in names:
            return names[uid]
        self.unanswered += not asked_before
        return self._before.get(uid)

    def _answer(self, questions: SimpleQueue[_Question]) -> None:
        while True:
            uid, answered = questions.get()
            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OSError, OverflowError):
                answer = None
            else:
                answer = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if len(self._names) - self._local >= self._limit:
                self.refresh()
            self._names[uid] = answer
            self._asked.discard(uid)
            answered.set()
