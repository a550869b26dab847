"""Addresses are keys: they come from where nobody else can read or write them, and no message quotes one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.address import AddressError, check_address, holds_key, is_world_readable, read_address
from sensor.agents_file import load_agents
from sensor.config import load_config
from sensor.faults import FaultsError

TOKEN = "hunter2token"
AGENT = """\
agent: rome
purpose: tests
owner:
  name: Ada
  notify:
    - {first}
  escalate:
    after: {after}
    notify: ["{second}"]
match: [{{cgroup: /a.slice}}]
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter, as /etc/hostbrake is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def agent_file(directory: Path, first: str, second: str = "mailto://eve@example.org", after: str = "15m") -> Path:
    file = directory / "rome.yml"
    file.write_text(AGENT.format(first=first, second=second, after=after))
    file.chmod(0o644)
    return file


def faults_of(directory: Path) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        load_agents(directory)
    assert TOKEN not in str(caught.value)
    return [str(fault).removeprefix(f"{directory}/") for fault in caught.value.faults]


@pytest.mark.parametrize(
    "text",
    ["pagerduty://key", "mailto:ada@example.org", "file:/etc/a b.url", "file:///etc/a.url", "credential:ada.url"],
)
def test_addresses(text: str) -> None:
    check_address(text)


@pytest.mark.parametrize(
    "text", ["", "ring me", f"://{TOKEN}", f"file:{TOKEN}", "file:", f"credential:../{TOKEN}", f"a://{TOKEN}\nb"]
)
def test_what_is_none_is_told_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|path|credential") as caught:
        check_address(text)
    assert TOKEN not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    holds_key(text)
    try:
        check_address(text)
    except ValueError:
        return
    assert not any(c in text for c in "\n\r") or text.startswith("file:")


@pytest.mark.parametrize(
    ("url", "is_key"),
    [
        ("mailto://ada@example.org", False),
        ("mailto:ada@example.org", False),
        ("mailto://example.org?to=ada@example.org&smtp=mail.example.org", False),
        ("json://127.0.0.1:8080/hook", False),
        (f"mailto://ada:{TOKEN}@example.org", True),
        (f"mailto://example.org?user=ada&pass={TOKEN}", True),
        (f"json://127.0.0.1/hook?+Authorization={TOKEN}", True),
        (f"slack://{TOKEN}/a/b", True),
        (f"pagerduty://{TOKEN}", True),
        (f"discord://1/{TOKEN}", True),
        ("http://[broken", True),
        ("file:/etc/hostbrake/keys/ada.url", False),
        ("credential:ada.url", False),
    ],
)
def test_which_urls_are_keys(url: str, is_key: bool) -> None:
    assert holds_key(url) is is_key


def test_a_key_in_a_file_that_everybody_may_read_is_a_fault_of_its_line(public: Path) -> None:
    file = agent_file(public, f"slack://{TOKEN}/b/c", f"pagerduty://{TOKEN}")
    says = "a URL with a key in a file that everybody may read; chmod 600, or use file: or credential:"
    assert faults_of(public) == [
        f"rome.yml:6: owner.notify[0]: {says}",
        f"rome.yml:9: owner.escalate.notify[0]: {says}",
    ]
    file.chmod(0o640)
    (agent,) = load_agents(public)
    assert agent.owner.notify == [f"slack://{TOKEN}/b/c"]


def test_in_a_directory_of_ones_own_nobody_else_reads(public: Path) -> None:
    closed = public / "closed"
    closed.mkdir(mode=0o700)
    file = agent_file(closed, f"slack://{TOKEN}/b/c")
    assert not is_world_readable(file) and load_agents(closed)
    closed.chmod(0o711)
    assert is_world_readable(file) and faults_of(closed)


def test_the_same_holds_for_the_configuration(public: Path) -> None:
    file = public / "sensor.yml"
    file.write_text(f"mode: monitor\nnotify:\n  operators:\n    - mailto://a@example.org\n    - slack://{TOKEN}/b/c\n")
    file.chmod(0o644)
    with pytest.raises(FaultsError) as caught:
        load_config(file, {})
    assert [fault.line for fault in caught.value.faults] == [5] and TOKEN not in str(caught.value)
    file.chmod(0o600)
    config = load_config(file, {})
    assert config.notify is not None and len(config.notify.operators) == 2
    assert load_config(file, {"notify": None}).notify is None


@pytest.mark.parametrize(("mode", "says"), [(0o644, "may be read by everybody"), (0o620, "may be written by others")])
def test_a_kept_url_that_others_reach_is_refused_when_loaded_and_when_read(public: Path, mode: int, says: str) -> None:
    kept = public / "ada.url"
    kept.write_text(f"slack://{TOKEN}/b/c\n")
    kept.chmod(mode)
    agent_file(public, f"file:{kept}")
    (fault,) = faults_of(public)
    assert fault.startswith(f"rome.yml:6: owner.notify[0]: {kept} {says}")
    with pytest.raises(AddressError, match=says):
        read_address(f"file:{kept}")
    kept.chmod(0o600)
    assert load_agents(public) and read_address(f"file:{kept}") == f"slack://{TOKEN}/b/c"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_kept_url_of_another_user_is_refused(public: Path) -> None:
    kept = public / "ada.url"
    kept.write_text("slack://a/b/c")
    kept.chmod(0o600)
    os.chown(kept, 65534, 65534)
    with pytest.raises(AddressError, match="may be written by others"):
        read_address(f"file:{kept}")


def test_a_kept_url_may_come_later(tmp_path: Path) -> None:
    agent_file(tmp_path, f"file:{tmp_path}/none.url")
    assert load_agents(tmp_path)
    with pytest.raises(AddressError, match=r"none\.url cannot be read: No such file or directory"):
        read_address(f"file:{tmp_path}/none.url")


@pytest.mark.parametrize(
    "content", [b"", f"{TOKEN}\n".encode(), f"slack://{TOKEN}\nslack://b".encode(), b"\xff\xfe", b"x" * 100_000]
)
def test_what_a_file_must_hold(tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "ada.url"
    kept.write_bytes(content)
    kept.chmod(0o600)
    with pytest.raises(AddressError) as caught:
        read_address(f"file:{kept}")
    assert TOKEN not in str(caught.value) and "xxx" not in str(caught.value)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(AddressError, match="is no file"):
        read_address(f"file:{tmp_path}/pipe")


def test_credentials_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(AddressError, match=r"no credential ada\.url: LoadCredential="):
        read_address("credential:ada.url")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(AddressError, match=r"credential ada\.url cannot be read"):
        read_address("credential:ada.url")
    (tmp_path / "ada.url").write_text(f"slack://{TOKEN}/b/c")
    (tmp_path / "ada.url").chmod(0o400)
    assert read_address("credential:ada.url") == f"slack://{TOKEN}/b/c"


@pytest.mark.parametrize(
    ("after", "second", "says"),
    [
        ("soon", "mailto://eve@example.org", "'soon' is no length of time"),
        ("5s", "mailto://eve@example.org", "'5s' must be between 1m and 7d"),
        ("8d", "mailto://eve@example.org", "'8d' must be between 1m and 7d"),
        ("15m", "mailto://ada@example.org", "names an address of the owner, who did not answer there"),
    ],
)
def test_escalations_that_make_no_sense(tmp_path: Path, after: str, second: str, says: str) -> None:
    agent_file(tmp_path, "mailto://ada@example.org", second, after)
    (fault,) = faults_of(tmp_path)
    assert says in fault
