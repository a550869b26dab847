"""`hostbrake audit`: the answers, the exit codes, and text that acts on no terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from auditing import check, copy_trail, incident, key_of, lines_of, make_trail, rewrite
from click.testing import CliRunner, Result

from sensor.cli.main import cli
from sensor.record.audit.note import PrivateKey
from sensor.record.audit.trail import Audit


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trail(tmp_path_factory.mktemp("state"))


def audit(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["audit", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_verify_says_what_it_found(trail: Path, tmp_path: Path) -> None:
    good = audit("verify", "--trail", trail)
    assert good.exit_code == 0 and f"{trail}: good" in good.output and "8, each after its intent" in good.output
    assert "--key with a copy kept elsewhere" in good.output
    copy = copy_trail(trail, tmp_path / "copy")
    rewrite(copy, lambda lines: [*lines[:3], b"\x1b[31m\n", *lines[4:]])
    bad = audit("verify", "--trail", copy, "--key", str(key_of(trail)))
    assert bad.exit_code == 1 and "NOT what the sensor wrote" in bad.output and "\x1b" not in bad.output
    assert bad.output.startswith("trail-000000000000.jsonl:4: record 3 is no JSON\n")


def test_verify_as_json(trail: Path) -> None:
    report = json.loads(audit("verify", "--trail", trail, "--json").stdout)
    assert report["good"] and report["records"] == len(lines_of(trail)) and report["findings"] == []


def test_the_key_is_given_as_text_or_file(trail: Path, tmp_path: Path) -> None:
    printed = audit("key", "--trail", trail)
    assert printed.stdout == f"{key_of(trail)}\n"
    (tmp_path / "key").write_text(printed.stdout)
    for key in (printed.stdout.strip(), tmp_path / "key"):
        assert audit("verify", "--trail", trail, "--key", key).exit_code == 0
    other = str(PrivateKey("other", bytes(32)).public())
    assert audit("verify", "--trail", trail, "--key", other).exit_code == 1
    assert audit("verify", "--trail", trail, "--key", "rubbish").exit_code == 2


def test_what_is_not_there(tmp_path: Path, trail: Path) -> None:
    for command in (["verify"], ["show"], ["key"], ["export", "x", "-o", str(tmp_path / "b")]):
        result = audit(*command, "--trail", tmp_path / "nothing")
        assert result.exit_code == 1 and "no audit trail at" in result.stderr and "--trail" in result.stderr
    result = audit("verify", "--trail", trail, "--checkpoint", tmp_path / "nothing")
    assert result.exit_code == 1 and "No such file" in result.stderr


def test_show_knows_its_kinds_and_pads_no_line(trail: Path) -> None:
    done = audit("show", "--trail", trail, "--kind", "actions")
    assert done.exit_code == 2 and "action" in done.output
    assert all(line == line.rstrip() for line in audit("show", "--trail", trail).output.splitlines())


def test_show_filters(trail: Path) -> None:
    def shown(*options: str) -> list[dict[str, object]]:
        result = audit("show", "--trail", trail, "--json", *options)
        assert result.exit_code == 0
        return [json.loads(line) for line in result.stdout.splitlines()]

    assert len(shown()) == 34
    assert {record["kind"] for record in shown("--kind", "intent", "--kind", "action")} == {"intent", "action"}
    assert len(shown("--agent", "rome-rl")) == 24 and not shown("--agent", "another")
    assert [record["kind"] for record in shown("--id", "alert3")] == ["event", "verdict", "intent", "action"]
    assert [record["kind"] for record in shown("-n", "2")] == ["action", "stop"]
    middle = shown()[17]["time"]
    assert isinstance(middle, str) and shown("--since", middle)[0]["time"] == middle
    assert len(shown("--since", "1h")) == 34 and not shown("--since", "2100-01-01T00:00:00Z")
    assert audit("show", "--trail", trail, "--since", "yesterday").exit_code == 2


def test_show_to_people(trail: Path, tmp_path: Path) -> None:
    writer = Audit(tmp_path)
    incident(writer, "a[bold]", CommandLine="xmrig\x1b[2J\n --url", DestinationIp="10.0.0.1", DestinationPort=3333)
    writer.close()
    output = audit("show", "--trail", tmp_path / "audit").output
    lines = output.splitlines()
    assert len(lines) == 5 and "\x1b" not in output
    assert "xmrig\\x1b[2J\\n --url -> 10.0.0.1:3333" in lines[1] and "(alert a[bold])" in lines[1]
    assert lines[3].split()[2:5] == ["intent", "rome-rl", "alert=a[bold]"]


def test_a_bundle_proves_itself_and_any_change_of_it_is_found(trail: Path, tmp_path: Path) -> None:
    bundle, key = tmp_path / "bundle", str(key_of(trail))
    assert audit("export", "alert5", "--trail", trail, "-o", bundle).output == f"4 records to {bundle}\n"
    good = audit("verify", "--bundle", bundle, "--key", key)
    assert good.exit_code == 0 and "4 in the bundle" in good.output
    assert audit("verify", "--bundle", bundle).exit_code == 2, "its own key would prove nothing"
    whole = json.loads(bundle.read_bytes())
    changes = []
    for number in range(4):
        for name, value in (("line", whole["records"][number]["line"].replace("20", "19", 1)), ("proof", [])):
            changed = json.loads(bundle.read_bytes())
            changed["records"][number][name] = value
            changes.append(changed)
    changes.append(whole | {"records": [whole["records"][1], whole["records"][0]]})
    changes.append(whole | {"records": whole["records"][3:]})  # the action without its intent
    changes.append(whole | {"records": []})
    changes.append(whole | {"format": "another"})
    changes.append(whole | {"checkpoint": whole["checkpoint"].replace("\n34\n", "\n35\n")})
    changes.append([])
    for changed in changes:
        (tmp_path / "changed").write_text(json.dumps(changed))
        bad = audit("verify", "--bundle", tmp_path / "changed", "--key", key)
        assert bad.exit_code == 1, bad.output
    assert audit("verify", "--bundle", bundle, "--key", str(PrivateKey("o", bytes(32)).public())).exit_code == 1


def test_an_incident_brings_its_alerts(tmp_path: Path) -> None:
    writer = Audit(tmp_path)
    for alert in ("a", "b", "c"):
        incident(writer, alert)
    writer.append("notification", incident="i1", alerts=["a", "c"], to="Ada Example")
    writer.close()
    bundle = tmp_path / "bundle"
    assert audit("export", "--incident", "i1", "--trail", tmp_path / "audit", "-o", bundle).exit_code == 0
    records = [json.loads(entry["line"]) for entry in json.loads(bundle.read_bytes())["records"]]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 8, 9, 10, 11, 12]
    assert audit("verify", "--bundle", bundle, "--key", str(key_of(tmp_path / "audit"))).exit_code == 0


def test_what_cannot_be_exported(trail: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = audit("export", "nothing", "--trail", trail, "-o", tmp_path / "b")
    assert unknown.exit_code == 1 and "no record of the trail has the id nothing" in unknown.stderr
    assert audit("export", "--trail", trail, "-o", tmp_path / "b").exit_code == 2
    copy = copy_trail(trail, tmp_path / "copy")
    rewrite(copy, lambda lines: [lines[1], lines[0], *lines[2:]])
    changed = audit("export", "alert3", "--trail", copy, "-o", tmp_path / "b")
    assert changed.exit_code == 1 and "does not fit its checkpoint" in changed.stderr
    writer = Audit(tmp_path / "state")
    writer.append("start")
    writer.tick()
    writer._end_round()
    incident(writer, "late")
    monkeypatch.setattr("sensor.cli.audit.PATIENCE_S", 0.0)
    unsigned = audit("export", "late", "--trail", tmp_path / "state/audit", "-o", tmp_path / "b")
    assert unsigned.exit_code == 1 and "record 4 is not signed yet" in unsigned.stderr
    writer.close()
    assert check(tmp_path / "state/audit").is_good() and not (tmp_path / "b").exists()
