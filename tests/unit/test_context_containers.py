"""What runtimes write of their containers, as far as it is read: fixtures as docker, containerd, podman and CRI-O."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.context.containers import Container, Containers

ID = "5f3b9c0e" * 8
STORAGE = "var/lib/containers/storage"
Told = Callable[[Path], None]


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))


def docker(root: Path, top: str = "var/lib/docker") -> None:
    said = {
        "ID": ID,
        "Name": "/rome-1",
        "Image": "sha256:" + ID,
        "Config": {"Image": "registry.example/rome:1", "Labels": {"agent": "rome"}, "Env": ["agent=milan"]},
    }
    put(root / top / "containers" / ID / "config.v2.json", said)


def docker_elsewhere(root: Path) -> None:
    put(root / "etc/docker/daemon.json", {"data-root": "/data/docker"})
    docker(root, "data/docker")


def docker_over_containerd(root: Path) -> None:
    put(root / f"run/containerd/io.containerd.runtime.v2.task/moby/{ID}/config.json", {"annotations": {"a": "b"}})
    docker(root)


def podman(root: Path) -> None:
    database = root / STORAGE / "db.sql"
    database.parent.mkdir(parents=True)
    said = {"name": "rome-1", "rootfsImageName": "registry.example/rome:1", "labels": {"agent": "rome"}}
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE ContainerConfig (ID TEXT PRIMARY KEY NOT NULL, Name TEXT, PodID TEXT, JSON TEXT)"
        )
        connection.execute(
            "INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", (ID, "rome-1", orjson.dumps(said).decode())
        )
    connection.close()


def crio(root: Path) -> None:
    notes = {
        "io.kubernetes.container.name": "rome-1",
        "io.kubernetes.cri-o.ImageName": "registry.example/rome:1",
        "io.kubernetes.cri-o.Labels": '{"agent": "rome"}',
    }
    put(root / f"run/containers/storage/overlay-containers/{ID}/userdata/config.json", {"annotations": notes})


@pytest.mark.parametrize("told", [docker, docker_elsewhere, docker_over_containerd, podman, crio])
def test_name_image_and_labels(tmp_path: Path, told: Told) -> None:
    assert Containers(tmp_path).missing() is not None
    told(tmp_path)
    assert Containers(tmp_path).missing() is None
    expected = Container(name="rome-1", image="registry.example/rome:1", labels={"agent": "rome"})
    assert Containers(tmp_path).look_up(ID) == expected
    assert Containers(tmp_path).look_up("a" * 64) is None


@pytest.mark.parametrize("top", ["run/containerd", "run/k3s/containerd", "run/docker/containerd/daemon"])
def test_containerd_annotations_are_its_labels(tmp_path: Path, top: str) -> None:
    notes = {"io.kubernetes.cri.container-name": "rome-1", "io.kubernetes.cri.image-name": "rome:1", "odd": 7}
    put(tmp_path / top / f"io.containerd.runtime.v2.task/k8s.io/{ID}/config.json", {"annotations": notes})
    found = Containers(tmp_path).look_up(ID)
    assert found is not None and (found.name, found.image) == ("rome-1", "rome:1")
    assert found.labels["io.kubernetes.cri.container-name"] == "rome-1" and "odd" not in found.labels


def test_storage_of_podman_without_sqlite(tmp_path: Path) -> None:
    metadata = orjson.dumps({"image-name": "rome:1", "name": "rome-1"}).decode()
    entries = [{"id": "b" * 64}, {"id": ID, "metadata": metadata}]
    put(tmp_path / STORAGE / "overlay-containers/containers.json", entries)
    assert Containers(tmp_path).look_up(ID) == Container(name="rome-1", image="rome:1")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"Config": 1, "Name": []}', b"\xff\xfe", b'{"Config": {"Labels": [1]}}']
)
def test_a_record_that_makes_no_sense_tells_nothing(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", content)
    put(tmp_path / STORAGE / "db.sql", content)
    put(tmp_path / STORAGE / "overlay-containers/containers.json", content)
    put(tmp_path / STORAGE / "overlay-containers" / ID / "userdata/config.json", content)
    assert Containers(tmp_path).look_up(ID) in (None, Container())


@pytest.mark.parametrize("text", ["", "..", "a" * 63, "A" * 64, "../" * 21 + "a", "a" * 63 + "/"])
def test_only_ids_are_looked_up(tmp_path: Path, text: str) -> None:
    put(tmp_path / "var/lib/docker/containers" / "config.v2.json", {"Name": "x"})
    assert Containers(tmp_path).look_up(text) is None
