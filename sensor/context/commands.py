"""Whether a program runs what it reads from standard input: a shell or interpreter told nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHELL = re.compile(r"(?:a|ba|rba|da|z|rz|k|rk|mk|pdk|ya|c|tc|bsd-c)?sh[\d.]*|fish|nu|pwsh|elvish|xonsh|rc|es")
_MULTI = frozenset(("busybox", "toybox"))
_INTERPRETER = re.compile(
    r"i?python[\d.]*|pypy[\d.]*|perl[\d.]*|i?ruby[\d.]*|irb|node|nodejs|deno|bun|php[\d.]*|lua(?:jit)?[\d.]*"
    r"|tclsh[\d.]*|expect|R|julia|guile[\d.]*"
)
_SHELL_VALUES = frozenset(("--rcfile", "--init-file", "-o", "+o", "-O", "+O"))
"""Options whose value is the next argument (bash(1), zsh(1))."""
_CODE = re.compile(r"-[A-Za-z]*[cemrEpf].*|--(?:eval|print|run|file|execute).*")
"""An interpreter's options that say what to run."""


def reads_commands(image: str, args: Sequence[str]) -> bool:
    """By the name of the file that runs, and as its manual reads arguments."""
    name = image.rpartition("/")[2]
    rest = list(args[1:])
    if name in _MULTI:
        name = args[0].rpartition("/")[2].removeprefix("-") if args else ""
        if name in _MULTI and rest:
            name = rest.pop(0)
    if _SHELL.fullmatch(name):
        return _shell_reads(rest)
    if _INTERPRETER.fullmatch(name):
        return "-i" in rest or all(arg == "-" or (arg.startswith("-") and not _CODE.fullmatch(arg)) for arg in rest)
    return False


def _shell_reads(rest: list[str]) -> bool:
    takes_value = False
    for arg in rest:
        if takes_value:
            takes_value = False
        elif arg in _SHELL_VALUES:
            takes_value = True
        elif arg in ("-", "--"):
            continue
        elif arg[:1] not in ("-", "+"):
            return False  # a script
        elif arg.startswith("--"):
            if arg.lower() in ("--command", "--version", "--help"):
                return False
        elif arg[:1] == "-" and "c" in arg[1:]:
            return False
        elif arg[:1] == "-" and "s" in arg[1:]:
            return True
    return True
