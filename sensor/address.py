"""Where a person is reached. What is written may itself be a key, so no message here ever quotes it.

An address is a URL as apprise reads it, or says who keeps that URL: `file:/PATH`, whose only line it is, or
`credential:NAME`, which systemd hands to the service (systemd.exec(5), LoadCredential=).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sensor.duration import seconds
from sensor.faults import Fault
from sensor.yamlfile import Document
from sensor.yamlfile import Path as Place

_URL = re.compile(r"[a-z][a-z0-9+.-]*:[^\s\x00-\x1f]+", re.IGNORECASE)
_CREDENTIAL = re.compile(r"credential:[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_LARGEST = 4096
_KEYLESS = {"mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms"}
"""Services whose URL holds a key only as a password or a query; of every other one the URL itself is the key."""
_OPTIONS = {"to", "from", "name", "format", "overflow", "method", "smtp", "mode", "cc", "bcc", "reply", "verify"}
_OPTIONS |= {"cto", "rto", "retry", "wait", "subject"}
"""Parts of a query that are no keys."""


class AddressError(Exception):
    """The URL cannot be had from where it is kept; the message is one sentence without any of it."""


def check_address(text: str) -> None:
    """Raises ValueError where `text` is no address."""
    if text.startswith("file:"):
        if not _path(text).startswith("/") or "\0" in text:
            raise ValueError("file: needs an absolute path, as in file:/etc/hostbrake/keys/ada.url")
    elif text.startswith("credential:"):
        if not _CREDENTIAL.fullmatch(text):
            raise ValueError("credential: needs the name of a systemd credential, as in credential:ada.url")
    elif not _URL.fullmatch(text):
        raise ValueError("is no URL, such as mailto://user@example.org, nor file:/PATH, nor credential:NAME")


Address = Annotated[str, check_address]


def _patience(text: str) -> None:
    if not 60 <= seconds(text) <= 7 * 86_400:
        raise ValueError(f"{text!r} must be between 1m and 7d")


def _not_empty(items: list[object]) -> None:
    if not items:
        raise ValueError("needs at least one entry")


class Escalate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told where nobody acknowledges."""

    after: Annotated[str, _patience]
    """From the incident's beginning; see `sensor.duration`."""
    notify: Annotated[list[Address], _not_empty]


def read_address(text: str) -> str:
    """The URL. Raises AddressError."""
    if text.startswith("file:"):
        return _read(_path(text), _path(text))
    if text.startswith("credential:"):
        name = text.removeprefix("credential:")
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise AddressError(f"there is no credential {name}: LoadCredential= in the service's unit hands it over")
        return _read(f"{directory}/{name}", f"credential {name}")
    return text


def _path(text: str) -> str:
    path = text.removeprefix("file:")
    return path.removeprefix("//") if path.startswith("///") else path


def _read(path: str, called: str) -> str:
    try:
        # Waits for no writer of a FIFO.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if problem := _unsafe(Path(path), status):
                raise AddressError(f"{called} {problem}")
            lines = file.read(_LARGEST).decode().split()
    except OSError as error:
        raise AddressError(f"{called} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AddressError(f"{called} is not UTF-8") from None
    if len(lines) != 1 or not _URL.fullmatch(lines[0]):
        raise AddressError(f"{called} must hold one URL and nothing else")
    return lines[0]


def _unsafe(path: Path, status: os.stat_result) -> str | None:
    """Why a file must not be trusted with a URL: who reads it may page, who writes it is paged instead."""
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.geteuid()):
        return "may be written by others; chown it to root and chmod 600"
    if is_world_readable(path):
        return "may be read by everybody; chmod 600"
    return None


def is_world_readable(path: Path) -> bool:
    """Everybody may read it, and every directory on the way lets everybody through."""
    try:
        real = path.resolve()
        return bool(real.stat().st_mode & stat.S_IROTH) and all(
            above.stat().st_mode & stat.S_IXOTH for above in real.parents
        )
    except (OSError, RuntimeError):  # RuntimeError: a loop of links (Python 3.12 and older)
        return False


def holds_key(text: str) -> bool:
    """An inline URL that is, or may be, a secret."""
    if text.startswith(("file:", "credential:")):
        return False
    try:
        url = urlsplit(text)
        names = {name.lower() for name, _ in parse_qsl(url.query, keep_blank_values=True)}
        return url.scheme.lower() not in _KEYLESS or url.password is not None or not names <= _OPTIONS
    except ValueError:
        return True


def address_faults(places: Iterable[tuple[Place, Sequence[str]]], document: Document, path: str) -> list[Fault]:
    """The addresses of a file that everybody may read, either in it or where they are kept."""
    faults = []
    is_open = is_world_readable(Path(path))
    for place, addresses in places:
        where = ".".join(map(str, place))
        for index, address in enumerate(addresses):
            what = None
            if is_open and holds_key(address):
                what = "a URL with a key in a file that everybody may read; chmod 600, or use file: or credential:"
            elif address.startswith("file:"):
                what = _unsafe_file(Path(_path(address)))
            if what:
                faults.append(Fault(path, document.line_of((*place, index)), f"{where}[{index}]: {what}"))
    return faults


def _unsafe_file(path: Path) -> str | None:
    try:
        problem = _unsafe(path, path.stat())
    except OSError:  # it may come later: `hostbrake check` warns
        return None
    return f"{path} {problem}" if problem else None
