"""Globs over cgroup paths, unit names and names of containers and jobs: matched, ranked, compared."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKEN = re.compile(r"/\*\*(?=/|$)|\*\*|\*|\?|[^*?/]|/")
_REGEX = {"/**": r"(?:/.*)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]", "any": r"."}
_OTHER = "x"
"""Stands in a witness for any character that neither glob names."""
_STATES = 200_000
"""How far a search for a witness goes."""


def compile_glob(glob: str, paths: bool = True) -> re.Pattern[str]:
    """`**` crosses slashes, `*` and `?` do not; "/x/**" covers /x itself. For use with fullmatch.

    Without `paths` a slash is a character like others: `*` is any text.
    """
    return re.compile("".join(_REGEX.get(token) or re.escape(token) for token in _tokens(glob, paths)), re.DOTALL)


def literal_length(glob: str) -> int:
    """Characters before the first wildcard."""
    return len(re.split(r"[*?]", glob, maxsplit=1)[0])


def plain_image(image: str) -> str:
    """Without the parts that are implied: "docker.io/library/alpine:latest" is "alpine"."""
    for prefix in ("docker.io/library/", "docker.io/"):
        image = image.removeprefix(prefix)
    return image.removesuffix(":latest")


def witness(one: str, other: str, paths: bool = True) -> str | None:
    """A short text that both globs match, of `paths` one without empty parts; None where there is none.

    Gives up, and says None, where the search grows beyond reason.
    """
    if not _ends_agree(one, other) or (paths and _parts_differ(one, other)):
        return None
    machines = _Machine(one, paths), _Machine(other, paths)
    alphabet = sorted({_OTHER, "/", *machines[0].letters, *machines[1].letters}, key=lambda c: (c != _OTHER, c))
    start = machines[0].start, machines[1].start
    queue, seen = [(start, "")], {(start, False)}
    for (left, right), text in queue:
        if machines[0].accepts(left) and machines[1].accepts(right) and not (paths and text[1:].endswith("/")):
            return text
        if len(seen) > _STATES:
            return None
        for letter in alphabet:
            if paths and letter == "/" == text[-1:]:
                continue
            after = machines[0].step(left, letter), machines[1].step(right, letter)
            state = after, letter == "/"
            if all(after) and state not in seen:
                seen.add(state)
                queue.append((after, text + letter))
    return None


def _parts_differ(one: str, other: str) -> bool:
    """Whether a part between slashes, before any that may be several, is not the same word in both."""
    for part, other_part in zip(one.split("/"), other.split("/"), strict=False):
        if "**" in part or "**" in other_part:
            return False
        if part != other_part and not {"*", "?"}.intersection(part + other_part):
            return True
    return False


def _ends_agree(one: str, other: str) -> bool:
    """Whether what stands before the first wildcards, and after the last, fits together."""
    ends = []
    for glob in (one, other):
        parts = re.split(r"[*?]+", glob)
        # "/**" at the end, and "/**/", may stand for nothing: the slash before it pins nothing
        ends.append((parts[0].rstrip("/"), parts[-1].lstrip("/") if len(parts) > 1 else parts[0]))
    (head, tail), (other_head, other_tail) = ends
    heads = head.startswith(other_head) or other_head.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _tokens(glob: str, paths: bool) -> Iterable[str]:
    if not paths:
        return ({"*": "**", "?": "any"}.get(letter, letter) for letter in glob)
    return (match[0] for match in _TOKEN.finditer(glob))


class _Machine:
    """A glob as an automaton: a state is the set of places in it that a text may have led to."""

    def __init__(self, glob: str, paths: bool) -> None:
        self._steps: list[str] = []
        for token in _tokens(glob, paths):
            self._steps += ["(/", "**"] if token == "/**" else [token]
        self.letters = {step for step in self._steps if len(step) == 1 and step not in "*?"}
        self.start = self._closure({0})

    def accepts(self, state: frozenset[int]) -> bool:
        return len(self._steps) in state

    def step(self, state: frozenset[int], letter: str) -> frozenset[int]:
        found = set()
        for place in state:
            step = self._steps[place] if place < len(self._steps) else ""
            if step in ("*", "**") and (letter != "/" or step == "**"):
                found.add(place)
            elif step in (letter, "any", "(/" if letter == "/" else "?"):
                found.add(place + 1)
        return self._closure(found)

    def _closure(self, places: set[int]) -> frozenset[int]:
        pending = list(places)
        while pending:
            place = pending.pop()
            step = self._steps[place] if place < len(self._steps) else ""
            beyond = place + 1 if step in ("*", "**") else place + 2 if step == "(/" else place
            if beyond not in places:
                places.add(beyond)
                pending.append(beyond)
        return frozenset(places)
