"""`hostbrake kill` on live cgroups: exit 0 only when nothing is left alive."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from respond_helpers import MOUNT, is_dead, spawn_in, wait_for

pytestmark = pytest.mark.kernel

HOSTBRAKE = (sys.executable, "-c", "from sensor.cli.main import main; main()")


@pytest.fixture
def empty() -> Iterator[str]:
    """A configuration file with nothing in it, so that this machine's own does not count."""
    yield "/dev/null"


def hostbrake(*arguments: str | Path, within: Path | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `hostbrake kill`, run in a cgroup of its own if given."""
    argv: list[str] = [*HOSTBRAKE, "kill", *map(str, arguments)]
    if within is not None:
        argv = ["/bin/sh", "-c", f'echo $$ > "{within}/cgroup.procs" && exec "$@"', "sh", *argv]
    done = subprocess.run(argv, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def agents(directory: Path, **matches: str) -> Path:
    """A directory of agents: name -> one flow-style match list."""
    directory.mkdir(exist_ok=True)
    for name, match in matches.items():
        (directory / f"{name}.yml").write_text(
            f"agent: {name}\npurpose: test\nowner: {{name: A, notify: ['mailto://a@example.org']}}\nmatch: {match}\n"
        )
    return directory


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_a_cgroup_and_all_below_it(cgroup: Path, form: str) -> None:
    (cgroup / "below").mkdir()
    processes = [*spawn_in(cgroup, count=3), *spawn_in(cgroup / "below", count=2)]
    code, out, err = hostbrake("--cgroup", f"/{cgroup.name}" if form == "relative" else cgroup)
    assert (code, err) == (0, "")
    assert all(is_dead(process.pid) for process in processes)
    assert out.startswith("killed 5 processes in 1 cgroup in ") and out.endswith(" ms\n")


def test_json(cgroup: Path) -> None:
    spawn_in(cgroup, count=2)
    code, out, _ = hostbrake("--cgroup", cgroup, "--json")
    report = json.loads(out)
    assert code == 0 and report.pop("ms") > 0
    assert report == {"cgroups": [f"/{cgroup.name}"], "processes": 2, "survivors": [], "left": []}


def test_nothing_running_is_nothing_left_alive(cgroup: Path) -> None:
    assert hostbrake("--cgroup", cgroup)[0] == 0


def test_an_agent_by_its_globs_and_nobody_else(cgroup: Path, tmp_path: Path, empty: str) -> None:
    paths = [cgroup / name for name in ("rome/a", "rome/b", "oslo", "rome-2.service", "other.service")]
    for path in paths:
        path.mkdir(parents=True)
    rome_a, rome_b, oslo, unit, other = (spawn_in(path)[0] for path in paths)
    directory = agents(
        tmp_path / "agents",
        rome=f'[{{cgroup: "/{cgroup.name}/rome/**"}}, {{systemd: "rome-*.service"}}]',
        oslo=f'[{{cgroup: "/{cgroup.name}/oslo"}}]',
    )
    code, out, err = hostbrake("rome", "--agents", directory, "--config", empty)
    assert (code, err) == (0, "")
    assert out.startswith("killed 3 processes in 2 cgroups in ")
    assert [is_dead(p.pid) for p in (rome_a, rome_b, unit, oslo, other)] == [True, True, True, False, False]
    code, _, _ = hostbrake("--all", "--agents", directory, "--config", empty)
    assert code == 0 and is_dead(oslo.pid) and not is_dead(other.pid)


def test_an_agent_whose_cgroup_holds_another_agents(cgroup: Path, tmp_path: Path, empty: str) -> None:
    for name in ("outer/inner", "outer/mine"):
        (cgroup / name).mkdir(parents=True)
    inner, mine = spawn_in(cgroup / "outer/inner")[0], spawn_in(cgroup / "outer/mine")[0]
    directory = agents(
        tmp_path / "agents",
        outer=f'[{{cgroup: "/{cgroup.name}/outer/**"}}]',
        inner=f'[{{cgroup: "/{cgroup.name}/outer/inner"}}]',
    )
    assert hostbrake("outer", "--agents", directory, "--config", empty)[0] == 0
    assert is_dead(mine.pid) and not is_dead(inner.pid)
    spawn_in(cgroup / "outer")
    code, _, err = hostbrake("outer", "--agents", directory, "--config", empty)
    assert code == 1 and f"what runs in /{cgroup.name}/outer itself" in err


def test_an_unknown_agent_lists_those_that_are_known(tmp_path: Path, empty: str) -> None:
    directory = agents(tmp_path / "agents", rome='[{cgroup: "/x"}]', oslo='[{cgroup: "/y"}]')
    code, _, err = hostbrake("roma", "--agents", directory, "--config", empty)
    assert code == 2 and err == f"hostbrake: no agent 'roma' in {directory}; known: oslo, rome\n"


def test_a_match_that_names_no_cgroup_is_said_and_is_no_success(cgroup: Path, tmp_path: Path, empty: str) -> None:
    (process,) = spawn_in(cgroup)
    directory = agents(tmp_path / "agents", rome=f'[{{cgroup: "/{cgroup.name}"}}, {{user: rome}}]')
    code, _, err = hostbrake("rome", "--agents", directory, "--config", empty)
    assert code == 1 and "`user: rome`" in err and is_dead(process.pid)


def test_a_users_jobs(cgroup: Path, tmp_path: Path, empty: str) -> None:
    jobs = cgroup / "slurmstepd.scope"
    own, other = jobs / "job_77/step_0/user/task_0", jobs / "job_78/step_0/user/task_0"
    for task in (own, other):
        task.mkdir(parents=True)
    (process,) = spawn_in(own, "/usr/bin/setpriv", "--reuid=61234", "--clear-groups", "/bin/sleep", "1000")
    (bystander,) = spawn_in(other)
    directory = agents(tmp_path / "agents", rome="[{slurm_user: '61234'}]")
    wait_for(lambda: "\nUid:\t61234" in Path(f"/proc/{process.pid}/status").read_text(), "the job's user")
    code, _, err = hostbrake("rome", "--agents", directory, "--config", empty)
    assert code == 0 and is_dead(process.pid) and not is_dead(bystander.pid), err


def test_broken_files_do_not_keep_anyone_from_killing(cgroup: Path, tmp_path: Path) -> None:
    (process,) = spawn_in(cgroup)
    directory = agents(tmp_path / "agents", rome=f'[{{cgroup: "/{cgroup.name}"}}]', broken="[{nothing: 1}]")
    config = tmp_path / "sensor.yml"
    config.write_text("mode: [broken\n")
    code, _, err = hostbrake("rome", "--agents", directory, "--config", config)
    assert code == 0 and is_dead(process.pid)
    assert f"{config}:" in err and "broken.yml:" in err
    code, _, err = hostbrake("--all", "--agents", directory, "--config", config)
    assert code == 1 and "files with faults" in err


def test_cgroup_root_limits_where_agents_are_looked_for(cgroup: Path, tmp_path: Path, empty: str) -> None:
    for name in ("in/x", "out/x"):
        (cgroup / name).mkdir(parents=True)
    inside, outside = spawn_in(cgroup / "in/x")[0], spawn_in(cgroup / "out/x")[0]
    directory = agents(tmp_path / "agents", rome=f'[{{cgroup: "/{cgroup.name}/**/x"}}]')
    code, _, _ = hostbrake("rome", "--agents", directory, "--config", empty, "--cgroup-root", cgroup / "in")
    assert code == 0 and is_dead(inside.pid) and not is_dead(outside.pid)


@pytest.mark.parametrize("path", ["/", "//", str(MOUNT)])
def test_the_root_is_refused(path: str) -> None:
    code, out, err = hostbrake("--cgroup", path)
    assert (code, out) == (2, "") and err == "hostbrake: not killed: the root cgroup is never acted on\n"


@pytest.mark.parametrize("target", [".", "own"])
def test_own_cgroup_and_its_ancestors_are_refused(cgroup: Path, target: str) -> None:
    (cgroup / "own").mkdir()
    (bystander,) = spawn_in(cgroup / "own")
    code, out, err = hostbrake("--cgroup", cgroup / target, within=cgroup / "own")
    assert (code, out) == (2, "") and err.endswith("holds this command\n")
    assert not is_dead(bystander.pid)


@pytest.mark.parametrize("path", ["/no/such", "relative", "/../etc", "/a\nb", "", "/" + "x" * 5000])
def test_what_is_no_cgroup_is_bad_usage(path: str) -> None:
    code, _, err = hostbrake("--cgroup", path)
    assert code == 2 and err.startswith("hostbrake: there is no cgroup ") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("rome", "--all"), ("--all", "--cgroup", "/x"), ("rome", "--timeout", "-1")])
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    assert hostbrake(*arguments)[0] == 2


def test_what_survives_is_named_and_is_no_success(cgroup: Path) -> None:
    """A process that a tracer holds at its exit stands for one in an uninterruptible sleep."""
    (process,) = spawn_in(cgroup)
    code = f"""
import ctypes, time
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(0x4206, {process.pid}, 0, 0x40), flush=True)  # PTRACE_SEIZE, PTRACE_O_TRACEEXIT
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout is not None and tracer.stdout.readline() == b"0\n"
            exit_code, _, err = hostbrake("--cgroup", cgroup, "--timeout", "0.3")
        finally:
            tracer.kill()
    assert exit_code == 1
    assert err == f"alive: {process.pid} (sleep, state t, traced by {tracer.pid})\n"


def test_it_imports_no_more_than_it_needs(cgroup: Path) -> None:
    code = f"""
import sys
from sensor.cli.kill import kill
kill(["--cgroup", {str(cgroup)!r}], standalone_mode=False)
"""
    report = f"import atexit, sys; atexit.register(lambda: print(*sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", report], stdout=subprocess.PIPE, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.decode().splitlines()[-1].split()}
    assert "click" in loaded
    assert not loaded & {"sigma", "pyroute2", "psutil", "structlog", "rich", "yaml", "msgspec"}
