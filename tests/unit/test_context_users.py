from __future__ import annotations

import pwd
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor.context.users import Users


def eventually(users: Users, uid: int, name: str | None) -> bool:
    deadline = time.monotonic() + 20
    while users.name(uid) != name and time.monotonic() < deadline:
        time.sleep(0.005)
    return users.name(uid) == name


def test_root_has_its_name() -> None:
    assert Users().name(0) == "root"


def test_hostile_passwd_file(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(
        b"\xffx:x:90000001:::\nshort\n::::\na:x:-1:::\nb:x:\xc2\xb2:::\nfirst:x:90000002:\nsecond:x:90000002:\n"
    )
    users = Users(passwd)
    assert users.name(90000001) == "\\xffx"
    assert users.name(90000002) == "first"


def test_user_without_a_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def unknown(uid: int) -> None:
        asked.append(uid)
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    users = Users(tmp_path / "none", wait_s=20)
    assert users.name(4_000_000) is None
    assert users.name(4_000_000) is None
    assert asked == [4_000_000]
    assert users.unanswered == 0


def test_slow_name_service_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = threading.Event()

    def slow(uid: int) -> SimpleNamespace:
        release.wait(60)
        return SimpleNamespace(pw_name=f"user{uid}")

    monkeypatch.setattr(pwd, "getpwuid", slow)
    users = Users(tmp_path / "none", wait_s=0.2)
    began = time.monotonic()
    names = [users.name(uid) for uid in range(1000, 1100)]
    waited = time.monotonic() - began
    assert names == [None] * 100
    assert waited < 100 * 0.2 / 2, "only the first question may be waited for"
    assert users.unanswered == 100
    release.set()
    assert eventually(users, 1000, "user1000")
    assert eventually(users, 1099, "user1099")


def test_refresh_asks_anew_and_keeps_the_old_name_until_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release = threading.Event()
    release.set()
    name = "before"

    def getpwuid(_uid: int) -> SimpleNamespace:
        release.wait(60)
        return SimpleNamespace(pw_name=name)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    users = Users(tmp_path / "none", wait_s=20)
    assert users.name(5000) == "before"
    release.clear()
    name = "after"
    users.refresh()
    monkeypatch.setattr(users, "_wait_s", 0.01)
    assert users.name(5000) == "before"
    release.set()
    assert eventually(users, 5000, "after")


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=str(uid)))
    users = Users(tmp_path / "none", limit=50, wait_s=20)
    assert [users.name(uid) for uid in range(7000, 7200)] == [str(uid) for uid in range(7000, 7200)]
    assert len(users._names) <= 50
