"""`hostbrake report`: its answers and exit codes, the JSON, and a page into which no text breaks."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from auditing import settle
from click.testing import CliRunner, Result
from reporting import HOSTILE, NOW, Story, declared, eventful, report_of, story

from sensor.cli.main import cli
from sensor.record.audit import layout
from sensor.record.audit.note import PrivateKey
from sensor.record.audit.trail import Audit
from sensor.record.report.model import FORMAT, Report
from sensor.record.report.page import render

ELEMENTS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "main",
    "section",
    "footer",
    "p",
    "h1",
    "h2",
    "h3",
}
ELEMENTS |= {
    "div",
    "span",
    "bdi",
    "br",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
ELEMENTS |= {"figure", "figcaption", "svg", "g", "line", "circle", "rect", "path", "text", "details", "summary", "time"}
ELEMENTS |= {"code", "strong"}
AGENT = """
agent: {name}
purpose: p
owner: {{name: Ada Example, notify: ["mailto:ada@example.org"]}}
match: [{{cgroup: "/{name}"}}]
"""


@pytest.fixture(autouse=True)
def as_of_june(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW)


def report(state: Path, *arguments: str | Path) -> Result:
    agents = state / "agents.d"
    agents.mkdir(exist_ok=True, parents=True)
    options = ["--state-dir", str(state), "--agents", str(agents), *map(str, arguments)]
    result = CliRunner().invoke(cli, ["report", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def declare(state: Path, *names: str) -> None:
    (state / "agents.d").mkdir(exist_ok=True, parents=True)
    for name in names:
        (state / f"agents.d/{name}.yml").write_text(AGENT.format(name=name))


@pytest.fixture
def quiet_node(tmp_path: Path) -> Path:
    """One agent, drilled, and one response."""
    with story(tmp_path) as told:
        told.at(-40).start()
        told.at(3).respond()
        told.at(4).drill("rome-rl")
    declare(tmp_path, "rome-rl")
    return tmp_path


def test_a_good_answer(quiet_node: Path) -> None:
    result = report(quiet_node)
    assert result.exit_code == 0, result.output
    assert "Known after 0.4 ms, stopped after 3.5 ms." in result.output
    assert "1 of 1 agents passed one in 31 days" in result.output and "losses: none on record" in result.output
    assert re.search(
        r"audit trail: verifies; checkpoint over (\d+) of \1 records, until 2026-06-04T12:00:00Z", result.output
    )


def test_a_drill_is_overdue_after_31_days(quiet_node: Path) -> None:
    declare(quiet_node, "evals")
    result = report(quiet_node, "--since", "2026-06-20")
    assert result.exit_code == 1 and "NO: 1 agent without a drill in the last 31 days." in result.output
    assert re.search(r"evals +Ada Example +never", result.output)


def test_the_json_is_what_the_documentation_says(quiet_node: Path) -> None:
    said = json.loads(report(quiet_node, "--json").stdout)
    assert said["format"] == FORMAT and said["good"] is True and set(said) == set(Report.__struct_fields__)
    assert (said["since"], said["until"]) == ("2026-05-31T12:00:00.000000Z", "2026-06-30T12:00:00.000000Z")
    assert said["overall"]["stopped"] == {"count": 1, "median_ms": 3.5, "p99_ms": 3.5, "worst_ms": 3.5}
    text = (Path(__file__).parents[2] / "docs/REPORT.md").read_text()
    for name in Report.__struct_fields__:
        assert f"`{name}`" in text, f"docs/REPORT.md says nothing of {name}"


def test_an_eventful_month_on_a_terminal(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        eventful(told)
    declare(tmp_path, "rome-rl", "evals", "crawler")
    result = report(tmp_path)
    assert result.exit_code == 1
    for words in (
        "NO: 1 response failed.",
        "evals did NOT pass: miner",
        "incidents: 226",
        "12 kernel.exec: the ring was",
    ):
        assert words in result.output, words


@pytest.mark.parametrize("since", ["soon", "2026-13-01", "2030-01-01", "30"])
def test_since_has_to_be_a_time_in_the_past(tmp_path: Path, since: str) -> None:
    assert report(tmp_path, "--since", since).exit_code == 2


def test_no_trail(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = report(tmp_path / "nothing", "--html", page)
    assert result.exit_code == 1 and "There is no record to report from" in result.output
    assert "There is no record to report from" in page.read_text() and "No agent is declared" in page.read_text()


def test_a_key_kept_elsewhere(quiet_node: Path, tmp_path: Path) -> None:
    own = (quiet_node / "audit" / layout.PUBLIC_KEY).read_text().strip()
    assert json.loads(report(quiet_node, "--json", "--key", own).stdout)["trail"]["trusted_key"] is True
    other = str(PrivateKey("other", bytes(32)).public())
    assert report(quiet_node, "--key", other).exit_code == 1
    assert report(quiet_node, "--key", "rubbish").exit_code == 2
    kept = tmp_path / "kept"
    kept.write_bytes((quiet_node / "audit" / layout.CHECKPOINT).read_bytes())
    assert report(quiet_node, "--checkpoint", kept).exit_code == 0
    segment = quiet_node / "audit" / layout.segment_name(0)
    for name in (layout.CHECKPOINT, layout.CHECKPOINTS):
        (quiet_node / "audit" / name).unlink()
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-1]))
    cut = report(quiet_node, "--checkpoint", kept)
    assert cut.exit_code == 1 and "the end is missing" in cut.output


def test_a_faulty_agents_file_is_told(quiet_node: Path) -> None:
    (quiet_node / "agents.d/bad.yml").write_text("agent: [\x1b[31m")
    result = report(quiet_node, "--html", quiet_node / "page.html")
    assert result.exit_code == 1 and "bad.yml" in result.output and "\x1b" not in result.output
    assert "bad.yml" in (quiet_node / "page.html").read_text()


def test_where_the_page_cannot_be_written(quiet_node: Path) -> None:
    result = report(quiet_node, "--html", quiet_node / "no/such/place.html")
    assert result.exit_code == 1 and "No such file" in result.stderr


def test_it_reads_while_the_sensor_writes(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    try:
        audit.append("start", mode="enforce")
        settle(audit)
        audit.append("verdict", alert="a", agent="rome-rl", rule="r", level="high", detect_ms=2.0)
        result = report(tmp_path)
        assert result.exit_code == 0 and "audit trail: verifies; checkpoint over 1 of 2 records" in result.output
        assert audit.append("verdict", alert="b", agent="rome-rl", rule="r", level="high", detect_ms=4.0) == 2
        assert "Known after 3 ms" in report(tmp_path).output
    finally:
        audit.close()
    assert not audit.losses


class Reader(HTMLParser):
    """What a browser makes of a page, as far as it matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(told: Story) -> None:
    told.at(1).start(mode=HOSTILE, host=HOSTILE)
    for number in range(2):
        names = {"agent": HOSTILE, "owner": HOSTILE, "title": HOSTILE, "rule": HOSTILE, "command": HOSTILE}
        told.respond(**names, reason=HOSTILE, cgroup="/" + HOSTILE, outcome=("done", "failed")[number])
        told.now += 3600 * 10**9
    for agent in (None, HOSTILE):
        told.audit.append("drill", agent=agent, behaviour=HOSTILE, passed=False, error=HOSTILE)
    told.audit.append("notification", **{HOSTILE: HOSTILE, "alert": f"{1:032x}"[::-1]})
    told.audit.append("loss", what=HOSTILE)
    told.audit.append("loss", what="lost", lost={HOSTILE: 3})


def test_no_text_breaks_into_the_page(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        hostile(told)
    made, known, stopped = report_of(tmp_path, declared("rome-rl"))
    made.agent_faults.append(HOSTILE)
    made.trail.findings.append(HOSTILE)
    made.trail.set_aside.append(HOSTILE)
    made.trail.directory = HOSTILE
    text = render(made, known, stopped)
    read = Reader()
    read.feed(text)
    assert read.elements <= ELEMENTS, read.elements - ELEMENTS
    assert not [
        name for name in read.attributes if name.startswith("on") or name in ("style", "src", "href", "xlink:href")
    ]
    assert text.count("</style>") == 1 and "<script" not in text
    assert not [one for one in text if not one.isprintable() and one != "\n"]
    assert read.text.count("</script></style><script>alert(1)</script>") > 10
    assert "\\u202egpj.exe\\u2066" in read.text and "{{ 7*7 }}" in read.text


def test_the_policy_allows_the_page_its_style_and_nothing_else(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.start()
    text = render(*report_of(tmp_path))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    allowed = policy[1].replace("&#39;", "'").split("; ")
    assert allowed[0] == "default-src 'none'" and allowed[2:] == ["base-uri 'none'", "form-action 'none'"]
    assert re.fullmatch(r"style-src 'sha256-[A-Za-z0-9+/]{43}='", allowed[1])
    assert not re.search(r"https?://|//cdn|url\(|@import|@font-face", text)


def test_a_quiet_period_is_a_good_page(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.at(-1).start()
    text = render(*report_of(tmp_path))
    assert "Nothing happened in this period" in text and "No alert and no response was measured in this period" in text
    assert "no incident, no drill, no time without a sensor" in text and "The answer holds." in text


def test_hostile_text_acts_on_no_terminal(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        hostile(told)
    result = report(tmp_path)
    assert result.exit_code == 1 and not [one for one in result.output if not one.isprintable() and one != "\n"]
