"""What a container's runtime says of it: name, image and labels, read from the runtime's own records.

A workload cannot write these files. None of the runtimes is asked: its socket may be slow, or gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

_RECORD_BYTES = 16 * 1024 * 1024
_HEX = frozenset("0123456789abcdef")
_BUSY_S = 0.02
"""How long a look-up waits for podman to finish a transaction."""
_TASKS = (
    "run/containerd/io.containerd.runtime.v2.task",
    "run/k3s/containerd/io.containerd.runtime.v2.task",
    "run/docker/containerd/daemon/io.containerd.runtime.v2.task",
)
_STORAGE = ("run/containers/storage", "var/lib/containers/storage")


class Container(msgspec.Struct, frozen=True):
    """What is known of a container; None or empty where its runtime does not say."""

    name: str | None = None
    image: str | None = None
    labels: dict[str, str] = {}


def label_of(key: str, value: str) -> str:
    """A label as agents' files write it."""
    return f"{key}={value}"


class Containers:
    """Looks containers up by id. `root` is where the node's file system is."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._readers: tuple[Callable[[str], Container | None], ...] = (
            self._docker,
            self._podman,
            self._crio,
            self._containerd,
            self._storage,
        )

    def look_up(self, container_id: str) -> Container | None:
        """None where no runtime has a record of it that can be read."""
        if len(container_id) != 64 or not _HEX.issuperset(container_id):
            return None
        found = (reader(container_id) for reader in self._readers)
        return next((container for container in found if container is not None), None)

    def missing(self) -> str | None:
        """Why nothing is known of any container: one sentence; None where some runtime keeps records here."""
        places = [self._docker_root() / "containers", *(self._root / top for top in (*_TASKS, *_STORAGE))]
        if any(place.is_dir() for place in places):
            return None
        return "no records of docker, containerd, podman or CRI-O are where they keep them"

    def _docker(self, container_id: str) -> Container | None:
        """docker: DATA_ROOT/containers/ID/config.v2.json (moby, container/container.go: Name, Config.Image and
        Config.Labels).
        """
        said = _json(self._docker_root() / "containers" / container_id / "config.v2.json")
        if said is None:
            return None
        config = _object(said, "Config")
        name = _text(said.get("Name"))
        return Container(
            name=name.lstrip("/") if name else None,
            image=_text(config.get("Image")),
            labels=_labels(config.get("Labels")),
        )

    def _docker_root(self) -> Path:
        said = _json(self._root / "etc/docker/daemon.json") or {}
        root = _text(said.get("data-root"))
        return self._root / (root.lstrip("/") if root else "var/lib/docker")

    def _containerd(self, container_id: str) -> Container | None:
        """containerd: the annotations in the bundle's config.json (OCI runtime specification), as CRI and nerdctl
        set them (containerd, internal/cri/annotations; nerdctl, pkg/labels). Labels proper are in a database that
        only containerd can read.
        """
        for namespace in (below for top in _TASKS for below in _directories(self._root / top)):
            notes = _object(_json(namespace / container_id / "config.json"), "annotations")
            if notes:
                return Container(
                    name=_first(notes, ("io.kubernetes.cri.container-name", "nerdctl/name")),
                    image=_text(notes.get("io.kubernetes.cri.image-name")),
                    labels=_labels(notes),
                )
        return None

    def _podman(self, container_id: str) -> Container | None:
        """podman, where its database is SQLite, as it is for new installations from 4.8 on (libpod/sqlite_state.go,
        and ContainerConfig in libpod/container_config.go).
        """
        database = self._root / "var/lib/containers/storage/db.sql"
        if not database.is_file():
            return None
        import sqlite3  # noqa: PLC0415 (few nodes have podman)

        # A name may hold what a URI gives a meaning.
        uri = f"{database.absolute().as_uri()}?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
                row = connection.execute("SELECT JSON FROM ContainerConfig WHERE ID = ?", (container_id,)).fetchone()
        except sqlite3.Error:
            return None
        said = _parse(row[0].encode()) if row and isinstance(row[0], str) else None
        if said is None:
            return None
        return Container(
            name=_text(said.get("name")), image=_text(said.get("rootfsImageName")), labels=_labels(said.get("labels"))
        )

    def _crio(self, container_id: str) -> Container | None:
        """CRI-O: the annotations in the container's config.json (cri-o, pkg/annotations)."""
        for top in _STORAGE:
            path = self._root / top / "overlay-containers" / container_id / "userdata/config.json"
            notes = _object(_json(path), "annotations")
            if any(key.startswith("io.kubernetes.cri-o.") for key in notes):
                labels = _text(notes.get("io.kubernetes.cri-o.Labels"))
                return Container(
                    name=_first(notes, ("io.kubernetes.container.name", "io.kubernetes.cri-o.Name")),
                    image=_first(notes, ("io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.Image")),
                    labels=_labels(_parse(labels.encode()) if labels else None),
                )
        return None

    def _storage(self, container_id: str) -> Container | None:
        """podman and CRI-O of any age: containers/storage's list (containers.go), whose metadata name the container
        and its image, but no labels.
        """
        for top in _STORAGE:
            for name in ("containers.json", "volatile-containers.json"):
                listed = _decode(self._root / top / "overlay-containers" / name)
                for entry in listed if isinstance(listed, list) else ():
                    if isinstance(entry, dict) and entry.get("id") == container_id:
                        told = _parse(str(entry.get("metadata", "")).encode()) or {}
                        return Container(
                            name=_first(told, ("name", "container-name")), image=_text(told.get("image-name"))
                        )
        return None


def _decode(path: Path) -> Any:
    """What a JSON file holds; None where it cannot be told."""
    try:
        with path.open("rb") as file:
            data = file.read(_RECORD_BYTES + 1)
        return orjson.loads(data) if len(data) <= _RECORD_BYTES else None
    except (OSError, orjson.JSONDecodeError):
        return None


def _json(path: Path) -> dict[str, Any] | None:
    said = _decode(path)
    return said if isinstance(said, dict) else None


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


def _object(said: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    value = said.get(key) if said else None
    return value if isinstance(value, dict) else {}


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _first(notes: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((text for key in keys if (text := _text(notes.get(key)))), None)


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}
