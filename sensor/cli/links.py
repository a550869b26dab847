"""What in an agent's list of programs is but a link here, and so limits another file than its author may think."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from sensor.agents_file import AgentFile
from sensor.match.limits import compile_limits

_NAME = re.compile(r"\*{1,2}/([^/*?\[]+)")
_PATH = re.compile(r"(?:/[^/*?\[]+)+")


def links(agents: Iterable[AgentFile]) -> Iterator[str]:
    """One sentence for each name or path that leads to a file which its list does not have."""
    for agent in agents:
        if agent.exec is None:
            continue
        limits = compile_limits(agent)
        for key, globs, programs in (("deny", agent.exec.deny, limits.deny), ("allow", agent.exec.allow, limits.allow)):
            for glob in globs:
                path = _on_this_node(glob)
                if path is not None and not programs.match(real := os.path.realpath(path)):
                    yield f"agent {agent.agent}: exec.{key} {glob} does not mean {path}: that is a link to {real}"


def _on_this_node(glob: str) -> str | None:
    if name := _NAME.fullmatch(glob):
        return shutil.which(name[1], path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return glob if _PATH.fullmatch(glob) and Path(glob).exists() else None
