"""Faults in files that a person wrote: all of them at once, each with its place."""

from __future__ import annotations

import msgspec


class Fault(msgspec.Struct, frozen=True, order=True):
    """One thing wrong in one file. `line` counts from 1; 0 means the file as a whole."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        """One line, whatever the file is called and holds."""
        return printable(f"{self.path}:{self.line}: {self.what}" if self.line else f"{self.path}: {self.what}")


class FaultsError(Exception):
    """Configuration, agents or rules cannot be used; `faults` says why, every one of them."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = sorted(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def printable(text: str) -> str:
    """`text` as a terminal may show it: line ends and whatever else would act on a terminal are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
