"""The thread and the process that sends, against a real web server: what arrives, and what survives what."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from notifying import Phone, agent, alert, wait_for

from sensor.config import Notify
from sensor.record.log import configure
from sensor.record.notify import dispatch
from sensor.record.notify import notifier as notifier_module
from sensor.record.notify.notifier import MISSING, Notifier

TOKEN = "hunter2token"

RUN = """
import sys, time, json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from notifying import agent, alert
from sensor.config import Notify
from sensor.record.notify.notifier import Notifier
notifier = Notifier(Notify(), [agent("rome", sys.argv[1])], Path(sys.argv[2]), "node1")
notifier.start()
notifier.offer(alert())
time.sleep(600)
"""


@pytest.fixture
def phone() -> Iterator[Phone]:
    found = Phone()
    yield found
    found.close()


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    """Where the log goes."""
    file = tmp_path / "log"
    with file.open("w") as stream:
        configure(stream)
        yield file
        configure()


Make = Callable[..., Notifier]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Starts notifiers that keep their incidents in one directory and retry soon."""
    monkeypatch.setattr(dispatch, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(dispatch, "LAST_RETRY_S", 0.5)
    monkeypatch.setattr(dispatch, "_SOON_S", 0.05)
    made: list[Notifier] = []

    def make(*agents: Any, **config: Any) -> Notifier:
        made.append(Notifier(Notify(**config), agents, tmp_path / "notify", "node1"))
        made[-1].start()
        return made[-1]

    yield make
    for notifier in made:
        notifier.close()


def sent(notifier: Notifier, count: int = 1) -> None:
    wait_for(lambda: notifier.status()["sent"] >= count, f"{count} sent")


def failed(notifier: Notifier, count: int = 1) -> dict[str, Any]:
    wait_for(lambda: notifier.status()["failed"] >= count, f"{count} failed")
    return dict(notifier.status()["last_failure"])


def sender_of(notifier: Notifier) -> int:
    assert notifier._courier is not None and notifier._courier._process is not None
    return notifier._courier._process.pid


def test_a_message_arrives_once_at_the_right_owner(make: Make, phone: Phone) -> None:
    notifier = make(agent("rome", phone.url("ada")), agent("oslo", phone.url("bob")), operators=[phone.url("ops")])
    notifier.offer(alert("rome", severity=47, action="alert", outcome="none"))
    notifier.offer(alert("rome"))
    sent(notifier)
    assert phone.paths() == ["/ada"]
    assert phone.got[0][1] == {
        "version": "1.0",
        "title": "Hostbrake on node1: agent rome: Cryptocurrency miner by its name",
        "message": phone.got[0][1]["message"],
        "attachments": [],
        "type": "failure",
    }
    lines = phone.got[0][1]["message"].splitlines()
    assert lines[:3] == ["What: xmrig ran 'xmrig'", "Level: critical, 1 alert so far", "Who: agent rome, owner Ada"]
    assert lines[4:] == [
        "Done: killed",
        "Incident: 1000000000",
        "On node1:",
        "  hostbrake ack 1000000000",
        "  hostbrake kill rome",
    ]
    status = notifier.status()
    assert (status["incidents"], status["unacknowledged"], status["waiting"]) == (1, 1, 0)
    assert notifier.losses() == {"inbox_full": 0, "state_damaged": 0, "evicted": 0}


def test_acknowledged_from_outside(make: Make, phone: Phone) -> None:
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    sent(notifier)
    assert notifier.acknowledge("nothing", "uid 0") == {
        "error": "there is no incident 'nothing'; hostbrake ack lists them"
    }
    assert notifier.acknowledge("1000000000", "uid 0")["incident"]["acknowledged"] == "uid 0"
    wait_for(lambda: notifier.status()["unacknowledged"] == 0, "acknowledged")
    assert [found["acknowledged"] for found in notifier.incidents()["incidents"]] == ["uid 0"]
    notifier.close()
    again = make(agent("rome", phone.url("ada")))
    wait_for(lambda: again.incidents()["incidents"], "it is remembered")
    assert again.incidents()["incidents"][0]["acknowledged"] == "uid 0"


def test_a_service_that_fails_is_tried_again(make: Make, phone: Phone) -> None:
    phone.answer = 503
    notifier = make(agent("rome", phone.url(TOKEN)))
    notifier.offer(alert())
    found = failed(notifier, 2)
    assert (found["to"], found["why"]) == ("owner Ada", "the service answered with status 503")
    phone.answer = 200
    sent(notifier)
    assert notifier.status()["waiting"] == 0


def test_one_that_drops_the_connection(make: Make, phone: Phone) -> None:
    phone.answer = "drop"
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    assert failed(notifier)["why"] == "the service could not be reached"


def test_one_that_hangs_holds_up_nobody_else_and_never_the_caller(make: Make, phone: Phone) -> None:
    phone.answer = "hang"
    notifier = make(agent("rome", phone.url("ada?rto=2")), agent("oslo", phone.url("bob"), owner="Bob"))
    notifier.offer(alert("rome"))
    wait_for(phone.paths, "the first is under way")
    phone.answer = 200
    notifier.offer(alert("oslo", number=2))
    sent(notifier)
    assert phone.paths()[:2] == ["/ada", "/bob"]
    assert failed(notifier)["why"] == "the service could not be reached"
    sent(notifier, 2)


def test_a_sender_that_never_answers_is_given_up(make: Make, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "ANSWER_S", 3.0)
    phone.answer = "hang"
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    assert failed(notifier)["why"] == "no answer within 3 s"


def test_a_sender_that_dies_is_replaced(make: Make, phone: Phone) -> None:
    phone.answer = "hang"
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    wait_for(phone.paths, "under way")
    phone.answer = 200
    os.killpg(sender_of(notifier), signal.SIGKILL)
    assert failed(notifier)["why"] == "the sender ended"
    sent(notifier)
    assert phone.paths() == ["/ada", "/ada"]


def test_the_sender_holds_no_privilege_and_no_key_in_sight(make: Make, phone: Phone) -> None:
    phone.answer = "hang"
    notifier = make(agent("rome", phone.url(TOKEN)))
    notifier.offer(alert())
    wait_for(phone.paths, "under way")
    pid = sender_of(notifier)
    fork = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    for process in (pid, fork):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
        assert status["NoNewPrivs"] == "1"
        for what in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{process}/{what}").read_bytes()


def test_what_is_owed_outlives_a_restart(make: Make, phone: Phone, tmp_path: Path) -> None:
    phone.answer = 503
    notifier = make(agent("rome", phone.url(TOKEN)))
    notifier.offer(alert())
    failed(notifier)
    notifier.close()
    kept = tmp_path / "notify/incidents.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert TOKEN not in kept.read_text()
    before = len(phone.got)
    phone.answer = 200
    again = make(agent("rome", phone.url(TOKEN)))
    sent(again)
    assert len(phone.got) == before + 1
    again.close()
    third = make(agent("rome", phone.url(TOKEN)))
    third.offer(alert("other"))
    wait_for(lambda: third.status()["incidents"] == 1, "loaded")
    assert third.status()["waiting"] == 0 and len(phone.got) == before + 1


@pytest.mark.parametrize("answer", ["hang", 503])
def test_kill_9_in_the_middle(make: Make, phone: Phone, tmp_path: Path, answer: int | str) -> None:
    phone.answer = answer
    url = phone.url("ada")
    with subprocess.Popen([sys.executable, "-c", RUN, url, str(tmp_path / "notify"), Path(__file__).parent]) as process:
        wait_for(phone.paths, "a try")
        process.kill()
    before = len(phone.got)
    phone.answer = 200
    notifier = make(agent("rome", url))
    sent(notifier)
    assert len(phone.got) == before + 1 and notifier.status()["incidents"] == 1
    notifier.close()
    again = make(agent("rome", url))
    wait_for(lambda: again.status()["incidents"] == 1, "loaded")
    assert again.status()["waiting"] == 0 and len(phone.got) == before + 1


def test_no_key_in_logs_state_or_answers(make: Make, phone: Phone, tmp_path: Path, logged: Path) -> None:
    phone.answer = 500
    kept = tmp_path / "ada.url"
    kept.write_text(f"not a URL {TOKEN}")
    kept.chmod(0o600)
    refused = f"json://ada:{TOKEN}@127.0.0.1:9/{TOKEN}"
    addresses = [phone.url(TOKEN), refused, f"nosuch://{TOKEN}", f"slack://{TOKEN}", f"file:{kept}"]
    agents = [agent(f"a{number}", address, owner=str(number)) for number, address in enumerate(addresses)]
    notifier = make(*agents, operators=[phone.url(TOKEN)])
    for number in range(len(agents)):
        notifier.offer(alert(f"a{number}", number=number + 1))
        notifier.test(f"a{number}")
    notifier.offer(alert(None, number=99))
    failed(notifier, 6)
    said = json.dumps([notifier.status(), notifier.incidents(), notifier.losses(), *map(notifier.tested, range(6))])
    notifier.close()
    said += logged.read_text()
    said += "".join(file.read_text() for file in (tmp_path / "notify").rglob("*") if file.is_file())
    said += repr([notifier._dispatcher.next(time.time()), notifier._dispatcher._budgets])
    assert "notification failed" in said and "must hold one URL" in said and TOKEN not in said


def test_a_kept_url_is_read_when_it_is_needed(make: Make, phone: Phone, tmp_path: Path) -> None:
    kept = tmp_path / "ada.url"
    notifier = make(agent("rome", f"file:{kept}"))
    notifier.offer(alert())
    assert failed(notifier)["why"] == f"{kept} cannot be read: No such file or directory"
    kept.write_text(phone.url("later") + "\n")
    sent(notifier)
    assert phone.paths() == ["/later"]


def test_test_messages(make: Make, phone: Phone) -> None:
    notifier = make(agent("rome", phone.url("mail"), "json://127.0.0.1:9"))

    def ended() -> list[str]:
        addresses = notifier.tested(ticket)["addresses"]
        return addresses if addresses and None not in addresses else []

    ticket = notifier.test("rome")["test"]
    assert wait_for(ended, "both ended") == ["", "the service could not be reached"]
    assert phone.got[0][1]["title"] == "Hostbrake on node1: a test" and phone.got[0][1]["type"] == "info"
    assert notifier.status()["sent"] == 0 and notifier.tested(99) == {"addresses": None}
    ticket = notifier.test(None)["test"]
    wait_for(lambda: notifier.tested(ticket) == {"addresses": []}, "there are no operators")


def test_without_apprise_it_says_so_and_waits(
    make: Make, tmp_path: Path, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apprise.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    assert failed(notifier)["why"] == MISSING
    monkeypatch.delenv("PYTHONPATH")
    sent(notifier)
    monkeypatch.setattr(notifier_module, "find_spec", lambda _: None)
    assert notifier.missing() == {"notifications": MISSING}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"version":2,"incidents":[]}', b"\xff" * 99, b'{"version":1,"incidents":[{"id":1}]}']
)
def test_a_damaged_file_is_set_aside_and_counted(make: Make, phone: Phone, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notify").mkdir()
    (tmp_path / "notify/incidents.json").write_bytes(content)
    notifier = make(agent("rome", phone.url("ada")))
    wait_for(lambda: notifier.losses().get("state_damaged") == 1, "counted")
    assert (tmp_path / "notify/incidents.json.damaged").read_bytes() == content


def test_one_that_others_may_write_is_not_believed(make: Make, phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "notify").mkdir()
    (tmp_path / "notify/incidents.json").write_text('{"version":1,"incidents":[]}')
    (tmp_path / "notify/incidents.json").chmod(0o666)
    notifier = make(agent("rome", phone.url("ada")))
    wait_for(lambda: notifier.losses().get("state_damaged"), "counted")


def test_where_nothing_can_be_written_down_it_is_told_all_the_same(
    make: Make, phone: Phone, tmp_path: Path, logged: Path
) -> None:
    (tmp_path / "notify").write_text("in the way")
    notifier = make(agent("rome", phone.url("ada")))
    notifier.offer(alert())
    sent(notifier)
    assert "a crash now would lose incidents" in logged.read_text()


def test_the_inbox_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "INBOX", 5)
    notifier = Notifier(Notify(), [agent("rome", "json://127.0.0.1:9")], tmp_path, "node1")
    for number in range(8):
        notifier.offer(alert(number=number))
    assert notifier.losses()["inbox_full"] == 3
    notifier.close()
