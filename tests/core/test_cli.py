import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamspace_agent import __version__
from streamspace_agent.cli import options
from streamspace_agent.cli.main import cli
from streamspace_agent.cli.parsing import GivenSettings
from streamspace_agent.config import Settings, is_secret
from streamspace_agent.controlplane.link import LinkStatus
from streamspace_agent.election.status import ElectionStatus, Role
from streamspace_agent.errors import ConfigError
from streamspace_agent.gateway import GatewayStatus
from streamspace_agent.health import Snapshot
from streamspace_agent.health.replicas import StatusSocket
from streamspace_agent.sessions.reconciler import EngineStatus

pytestmark = pytest.mark.slow


CLEAN = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
REQUIRED = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9"}
LEADER = Snapshot(
    "agent-1", "host-1", 1, Path("/proc/self/ns/pid").stat().st_ino, "host", "0.1.0",
    "file", Role.LEADER, ElectionStatus(leader="host-1", epoch=17), LinkStatus(connected=True), EngineStatus(up=True),
    GatewayStatus(), sessions={"running": 3},
)  # fmt: skip

# A driver and a command plugin for real processes: the driver answers from a file.
DRIVER = """
import asyncio, json, os, streamspace_agent
from streamspace_agent.election import Problem
from streamspace_agent.runtime import Leftover, RuntimeDriver, Session, SessionState

class Driver(RuntimeDriver):
    name = "tiny"
    capabilities = None
    def __init__(self, path): self.path = path
    def state(self): return json.load(open(self.path))
    async def start(self, spec, report): raise NotImplementedError
    async def stop(self, session_id, *, delete_volumes=False): raise NotImplementedError
    async def hibernate(self, session_id): raise NotImplementedError
    async def wake(self, session_id, report): raise NotImplementedError
    async def prove(self, session_id): raise NotImplementedError
    async def inspect(self, session_id): return None
    async def sessions(self):
        if self.state().get("hang"):
            open(self.path + ".hangs", "w").close()
            await asyncio.sleep(3600)
        return [Session(s, SessionState.RUNNING, s) for s in self.state()["sessions"]]
    def events(self): raise NotImplementedError
    async def connect(self, session_id, port): raise NotImplementedError
    async def leftovers(self, known):
        return [Leftover("volume", n, "its session is gone", 7200.0) for n in self.state()["volumes"] if n not in known]
    async def remove(self, leftover):
        state = self.state()
        state["volumes"].remove(leftover.name)
        with open(self.path, "w") as file: json.dump(state, file)
    async def stats(self, session_id): return None
    async def check(self): return [Problem(*p) for p in self.state().get("problems", [])]
    async def describe(self): return {"engine": "tiny 1.0"}
    async def aclose(self): pass

@streamspace_agent.hookimpl
def create_runtime_driver(settings, environ):
    return Driver(environ["TINY_STATE"])
"""


@pytest.fixture
def site(tmp_path):
    """The environment of an agent whose driver is a plugin in a folder of its own."""
    folder = tmp_path / "site"
    (folder / "tiny-1.0.dist-info").mkdir(parents=True)
    (folder / "tiny.py").write_text(DRIVER)
    (folder / "tiny-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (folder / "tiny-1.0.dist-info" / "entry_points.txt").write_text("[streamspace_agent.runtime]\ntiny = tiny\n")
    (tmp_path / "engine.json").write_text(json.dumps({"sessions": ["s1"], "volumes": ["s1", "s2", "s3"]}))
    return {
        **REQUIRED,
        "PYTHONPATH": str(folder),
        "RUNTIME_DRIVER": "tiny",
        "TINY_STATE": str(tmp_path / "engine.json"),
        "STATE_DIR": str(tmp_path / "state"),
    }


def agent(*arguments, **environ):
    """Run the real command in a process of its own."""
    command = [sys.executable, "-m", "streamspace_agent", *arguments]
    environ = {**CLEAN, **environ}
    return subprocess.run(
        command, env=environ, check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def given(monkeypatch, *arguments, **environ):
    """The settings' options as a command got them."""
    seen = []
    monkeypatch.setattr("streamspace_agent.cli.main.execute", seen.append)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    (only,) = seen
    assert isinstance(only, GivenSettings)
    return only


# Options


@pytest.mark.parametrize(
    "arguments",
    [
        ("--region", "north", "run"),
        ("run", "--region", "north"),
        ("--region", "north"),
        ("--region", "south", "run", "--region", "north"),
    ],
)
def test_an_option_may_stand_before_or_after_the_command_or_without_one(monkeypatch, arguments):
    settings, _ = given(monkeypatch, *arguments, **REQUIRED, REGION="variable").settings()
    assert settings.region == "north"


def test_every_setting_is_an_option_and_in_a_group_once():
    assert sorted(options.grouped()) == sorted(Settings.model_fields)
    assert {option.field for option in options.setting_options()} == set(Settings.model_fields)


def test_no_secret_can_be_given_on_the_command_line():
    names = {option.opts[0] for option in options.setting_options() if is_secret(option.field)}
    assert names == {"--agent-api-key-file", "--redis-url-file", "--redis-url"}


@pytest.mark.parametrize(
    "url", ["redis://user:hunter22@redis", "rediss://:hunter22@redis:6379/0", "redis://redis?password=hunter22"]
)
def test_a_redis_url_with_a_password_is_refused_because_ps_would_show_it(monkeypatch, url):
    with pytest.raises(ConfigError, match=r"ps shows .* REDIS_URL_FILE") as caught:
        given(monkeypatch, "--redis-url", url, **REQUIRED).settings()
    assert "hunter22" not in str(caught.value)


def test_a_redis_url_without_a_password_may_be_given_and_beats_variable_and_file(monkeypatch):
    taken = given(monkeypatch, "--redis-url", "redis://a:1", **REQUIRED, REDIS_URL_FILE="/none")
    settings, environ = taken.settings()
    assert settings.redis_url.get_secret_value() == environ["REDIS_URL"] == "redis://a:1"
    assert "REDIS_URL_FILE" not in environ


def test_a_secret_file_given_as_an_option_beats_every_variable(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-file")
    taken = given(
        monkeypatch, "--agent-api-key-file", str(tmp_path / "key"), **REQUIRED, API_KEY="x", AGENT_API_KEY="y"
    )
    assert taken.settings()[0].agent_api_key.get_secret_value() == "from-file"


@pytest.mark.parametrize(("flag", "value"), [("--enable-ha", True), ("--no-enable-ha", False)])
def test_a_switch_can_be_turned_on_and_off(monkeypatch, flag, value):
    settings, _ = given(monkeypatch, flag, **REQUIRED, ENABLE_HA=str(not value)).settings()
    assert settings.enable_ha is value


# Help, errors


def test_help_says_what_it_is_how_to_start_and_what_the_exit_codes_mean():
    result = agent("--help")
    assert result.returncode == 0
    for text in ("start an agent:\n", "docker-agent check", "Exit codes:", *options.GROUPS, *cli.commands):
        assert text in result.stdout, text
    assert not result.stderr


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_of_its_own_without_the_settings(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--agent-id" not in result.output


@pytest.mark.parametrize("command", sorted(set(cli.commands) - {"run"}))
def test_every_command_but_run_speaks_json(command):
    assert "--json" in CliRunner().invoke(cli, [command, "--help"]).output


@pytest.mark.parametrize("arguments", [(), ("run",)])
def test_missing_settings_are_one_line_each_and_exit_code_2(arguments):
    result = agent(*arguments)
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("docker-agent: AGENT_ID is not set: ")
    assert second.startswith("docker-agent: CONTROL_PLANE_URL is not set: ")
    assert not result.stdout


@pytest.mark.parametrize("command", ["run", "check", "status"])
@pytest.mark.parametrize(
    ("wrong", "right"), [("AGNET_ID", "AGENT_ID"), ("AGENTID", "AGENT_ID"), ("CONTROLPLANE_URL", "CONTROL_PLANE_URL")]
)
def test_a_required_setting_under_a_misspelt_name_is_told_when_the_start_fails(command, wrong, right):
    if command == "status" and right != "AGENT_ID":
        return  # it needs no other
    environ = {**REQUIRED, wrong: REQUIRED[right], "SSH_AGENT_PID": "7"}
    del environ[right]
    result = agent(command, **environ)
    assert f"{right} is not set: " in result.stdout + result.stderr
    assert f"{wrong} is set, but is no setting: did you mean {right}?" in result.stdout + result.stderr
    assert "SSH_AGENT_PID" not in result.stdout + result.stderr


def test_an_empty_key_file_ends_the_start_with_its_name_unless_something_else_opens_the_door(site, tmp_path):
    (tmp_path / "key").write_text("\n")
    result = agent("run", **site, AGENT_API_KEY_FILE=str(tmp_path / "key"))
    assert result.returncode == 2
    assert result.stderr == (
        f"docker-agent: AGENT_API_KEY_FILE: {tmp_path}/key is empty: write the agent's key into it, on one line\n"
    )
    kept = tmp_path / "state" / "agent-1" / "api-key"
    kept.parent.mkdir(parents=True)
    kept.write_text("k" * 64)
    assert "is empty" not in agent("check", **site, AGENT_API_KEY_FILE=str(tmp_path / "key")).stdout


def test_a_missing_plugin_ends_the_start_with_the_pip_command_that_brings_it():
    result = agent("run", **REQUIRED, RUNTIME_DRIVER="swarm9")
    assert result.returncode == 2
    assert result.stderr.startswith("docker-agent: RUNTIME_DRIVER=swarm9 is not installed")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("no-such-command",), ("run", "surplus")])
def test_a_wrong_command_line_is_told_without_a_traceback(arguments):
    result = agent(*arguments, **REQUIRED)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [("--version",), ("version",)])
def test_the_version_is_shown(arguments):
    assert agent(*arguments).stdout == f"docker-agent {__version__}\n"


def test_the_version_in_json():
    assert json.loads(agent("version", "--json").stdout)["version"] == __version__


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m streamspace_agent --help | head -c 1"
    result = subprocess.run(["sh", "-c", command], env=CLEAN, check=False, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("U", "")


@pytest.mark.parametrize("arguments", ["--help", "run"])
def test_a_start_imports_no_heavy_library(arguments):
    heavy = {"docker", "redis", "uvicorn", "starlette", "prometheus_client", "requests", "hypothesis", "pytest"}
    code = (
        "import sys; from unittest.mock import patch\n"
        "from streamspace_agent.cli import main\n"
        "with patch('streamspace_agent.cli.main.execute'):\n"
        "    main.cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, arguments], env=CLEAN, check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert not heavy & set(result.stdout.splitlines()[-1].split())


# Commands beside a running agent


def test_status_shows_the_replicas_and_its_exit_code_whether_one_leads(tmp_path):
    environ = {"AGENT_ID": "agent-1", "STATE_DIR": str(tmp_path)}
    standby = replace(LEADER, instance="host-2", role=Role.STANDBY, link=LinkStatus())
    none = agent("status", **environ)
    assert (none.returncode, none.stdout) == (4, "")
    assert "no agent agent-1 runs here" in none.stderr
    with StatusSocket(tmp_path / "agent-1", "host-2", lambda: standby):
        assert agent("status", **environ).returncode == 1
        with StatusSocket(tmp_path / "agent-1", "host-1", lambda: LEADER):
            shown = agent("status", **environ)
            documents = json.loads(agent("status", "--json", **environ).stdout)
    assert shown.returncode == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[1:] == [
        ["host-1", "leader", "17", "up", "-", "3", "running"],
        ["host-2", "standby", "17", "-", "-", "3", "running"],
    ]
    assert [document["role"] for document in documents] == ["leader", "standby"]


def test_status_shows_a_problem_below_its_replica_and_a_leader_elsewhere(tmp_path):
    away = replace(LEADER, role=Role.STANDBY, election=ElectionStatus(leader="host-7"), loop_tick_age=60.0)
    with StatusSocket(tmp_path / "agent-1", "host-1", lambda: away):
        shown = agent("status", "--agent-id", "agent-1", "--state-dir", str(tmp_path)).stdout
    assert "! the main loop has not turned for 60 s" in shown
    assert "leads from another host: host-7" in shown


def test_healthcheck_needs_the_agents_id_and_state_folder_only(tmp_path):
    environ = {"AGENT_ID": "agent-1", "STATE_DIR": str(tmp_path)}
    assert agent("healthcheck", **environ).returncode == 1
    cut_off = replace(LEADER, link=LinkStatus())
    with StatusSocket(tmp_path / "agent-1", "host-1", lambda: cut_off):
        alive = agent("healthcheck", **environ)
        ready = agent("healthcheck", "--ready", "--json", **environ)
    assert (alive.returncode, ready.returncode) == (0, 1)
    assert alive.stdout == "host-1 leader: no connection to the control plane\n"
    assert json.loads(ready.stdout) == {"healthy": False, "message": alive.stdout.strip()}


def test_check_tells_settings_driver_and_connection_and_fails_on_a_fatal_one(site):
    result = agent("check", "--json", **site)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    levels = {finding["subject"]: finding["level"] for finding in found["findings"]}
    assert levels == {
        "settings": "ok", "plugins": "ok", "state": "ok", "engine": "ok", "control plane": "FATAL", "election": "ok",
            "gateway": "ok",
    }  # fmt: skip
    (fatal,) = [finding for finding in found["findings"] if finding["level"] == "FATAL"]
    assert fatal["message"] == "cannot connect to 127.0.0.1:9 (127.0.0.1): Connection refused"
    assert fatal["fix"]
    assert found["ok"] is False


def test_check_shows_each_wrong_setting_as_a_finding():
    result = agent("check")
    assert result.returncode == 1
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["FATAL", "settings", "AGENT_ID"],
        ["FATAL", "settings", "CONTROL_PLANE_URL"],
    ]


def test_wrong_plugins_are_among_all_that_is_wrong():
    lines = agent("run", **REQUIRED, MAX_CPU="lots", RUNTIME_DRIVER="dokcer", ENABLE_HA="yes",
                  LEADER_ELECTION_BACKEND="reddis", STATE_DIR="rel").stderr.splitlines()  # fmt: skip
    assert [re.match(r"docker-agent: (\w+)", line)[1] for line in lines] == [
        "STATE_DIR", "MAX_CPU", "RUNTIME_DRIVER", "LEADER_ELECTION_BACKEND",
    ]  # fmt: skip


def ends_in_json(result, code):
    assert result.returncode == code
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    ends = [line for line in lines if "exit_code" in line]
    assert {(line["level"], line["exit_code"]) for line in ends} == {("error", code)}
    return [line["message"] for line in ends]


def test_a_log_in_json_tells_the_end_in_json_too(site):
    assert ends_in_json(agent("--log-format", "json", **site, MAX_CPU="lots", MAX_SESSIONS="x"), 2) == [
        "MAX_CPU=lots is not a number: write for example 100, in cores and without a unit",
        "MAX_SESSIONS=x is not a whole number: write for example 100",
    ]
    (missing,) = ends_in_json(agent(**{**site, "RUNTIME_DRIVER": "none"}, LOG_FORMAT="json"), 2)
    assert missing.startswith("RUNTIME_DRIVER=none is not installed")
    (address,) = ends_in_json(agent(**site, LOG_FORMAT="json", HEALTH_ADDRESS="192.0.2.1:80"), 2)
    assert address.startswith("HEALTH_ADDRESS")
    plain = agent(**site, HEALTH_ADDRESS="192.0.2.1:80").stderr
    assert plain.count("HEALTH_ADDRESS") == 1
    assert plain.splitlines()[-1].startswith("docker-agent: HEALTH_ADDRESS")


def test_check_shows_the_drivers_problems_with_their_fixes(site, tmp_path):
    problems = [["the disk is nearly full", "free some", False], ["no such network", "create it", True]]
    (tmp_path / "engine.json").write_text(json.dumps({"sessions": [], "volumes": [], "problems": problems}))
    lines = agent("check", **site).stdout
    assert "warning  engine         the disk is nearly full\n                        -> free some" in lines
    assert "FATAL    engine         no such network" in lines


@pytest.mark.skipif(os.getuid() != 0 and not os.access("/proc", os.R_OK), reason="needs /proc")
def test_check_tells_a_state_folder_that_cannot_be_written(site):
    result = agent("check", "--state-dir", "/proc/streamspace", **site)
    assert "FATAL    state          STATE_DIR: cannot write in /proc" in result.stdout


def volumes(tmp_path):
    return json.loads((tmp_path / "engine.json").read_text())["volumes"]


def test_gc_lists_and_removes_nothing_where_nobody_can_be_asked(site, tmp_path):
    result = agent("gc", **site)
    assert result.returncode == 2
    assert result.stdout.splitlines() == [
        "volume s2 (2 h 0 min old): its session is gone",
        "volume s3 (2 h 0 min old): its session is gone",
    ]
    assert "--yes" in result.stderr
    assert volumes(tmp_path) == ["s1", "s2", "s3"]


def test_gc_asks_the_engine_only_and_needs_no_control_plane(site):
    del site["CONTROL_PLANE_URL"]
    assert agent("gc", "--dry-run", **site).returncode == 0


def test_gc_with_dry_run_only_lists(site, tmp_path):
    result = agent("gc", "--dry-run", "--yes", "--json", **site)
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert ([item["name"] for item in found["leftovers"]], found["removed"]) == (["s2", "s3"], [])
    assert volumes(tmp_path) == ["s1", "s2", "s3"]


def test_gc_with_yes_removes_what_no_session_needs(site, tmp_path):
    assert agent("gc", "--yes", **site).returncode == 0
    assert volumes(tmp_path) == ["s1"]
    assert agent("gc", **site).stdout == "nothing to remove\n"


def test_gc_spares_what_a_command_in_the_journal_will_need(site, tmp_path):
    code = (
        "import sys; from pathlib import Path; from streamspace_agent.journal import Journal\n"
        "Journal(Path(sys.argv[1]), 1).receive('c1', 'start_session', {'sessionId': 's2'})"
    )
    journal = tmp_path / "state" / "agent-1" / "journal.db"
    subprocess.run([sys.executable, "-c", code, journal], check=True, timeout=60)
    assert agent("gc", "--yes", **site).returncode == 0
    assert volumes(tmp_path) == ["s1", "s2"]


@pytest.mark.parametrize(("answer", "left"), [("y", ["s1"]), ("n", ["s1", "s2", "s3"])])
def test_gc_asks_on_a_terminal(site, tmp_path, answer, left):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "streamspace_agent", "gc"]
    with subprocess.Popen(command, env={**CLEAN, **site}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the terminal's other end is closed
            pass
        assert process.wait(timeout=60) == 0, shown
    os.close(ours)
    assert b"Remove these 2?" in shown
    assert volumes(tmp_path) == left


def test_an_interrupt_is_quiet(site, tmp_path):
    (tmp_path / "engine.json").write_text('{"hang": true}')
    # A suite that runs as a job in the background has SIGINT ignored, and so would have its children.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "streamspace_agent", "gc"]
    with subprocess.Popen(command, env={**CLEAN, **site}, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "engine.json.hangs").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")
