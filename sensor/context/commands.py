"""Whether a program runs what it reads from standard input: a shell or interpreter told nothing else."""

from __future__ import annotations

from collections.abc import Sequence

_SHELLS = frozenset(
    (
        *("ash", "bash", "bsd-csh", "csh", "dash", "elvish", "es", "fish", "ksh", "mksh", "nu", "pdksh", "pwsh"),
        *("rbash", "rc", "rksh", "rzsh", "sh", "tcsh", "xonsh", "yash", "zsh"),
    )
)
_MULTI = ("busybox", "toybox")
_INTERPRETERS = frozenset(
    (
        *("R", "bun", "deno", "expect", "guile", "ipython", "irb", "julia", "lua", "luajit", "node", "nodejs"),
        *("perl", "php", "pypy", "python", "ruby", "tclsh"),
    )
)
_SHELL_VALUES = ("--rcfile", "--init-file", "-o", "+o", "-O", "+O")
"""Options whose value is the next argument (bash(1), zsh(1))."""
_CODE = frozenset("cemrEpf")
"""Letters of an interpreter's options that say what to run."""
_LONG_CODE = ("--eval", "--print", "--run", "--file", "--execute")


def reads_commands(image: str, args: Sequence[str]) -> bool:
    """By the name of the file that runs, a version behind it aside, and as its manual reads arguments."""
    name = image.rpartition("/")[2]
    rest = list(args[1:])
    if name in _MULTI and args:
        name = args[0].rpartition("/")[2].removeprefix("-")
        if name in _MULTI and rest:
            name = rest.pop(0)
    name = name.rstrip("0123456789.")
    if name in _SHELLS:
        return _shell_reads(rest)
    return name in _INTERPRETERS and ("-i" in rest or all(_leaves_open(arg) for arg in rest))


def _leaves_open(arg: str) -> bool:
    """The argument of an interpreter says nothing of what to run."""
    if arg.startswith("--"):
        return not arg.startswith(_LONG_CODE)
    return arg.startswith("-") and not _CODE.intersection(arg)


def _shell_reads(rest: list[str]) -> bool:
    takes_value = False
    for arg in rest:
        if takes_value:
            takes_value = False
        elif arg in _SHELL_VALUES:
            takes_value = True
        elif arg.startswith("--") or arg == "-":
            if arg in ("--command", "--version", "--help"):
                return False
        elif arg[:1] not in ("-", "+"):
            return False  # a script
        elif arg[0] == "-" and "c" in arg:
            return False
        elif arg[0] == "-" and "s" in arg:
            return True
    return True
