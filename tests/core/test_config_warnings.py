import re
from pathlib import Path

import pytest

from streamspace_agent.config import Settings, load
from streamspace_agent.config_warnings import RecordingEnviron, config_warnings

REPOSITORY = Path(__file__).parents[2]
REQUIRED = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "wss://control.example.com"}


def said(plugins=(), **environ):
    environ = {**REQUIRED, **environ}
    return list(config_warnings(load(environ), environ, plugins))


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEADER_ELECTION_BACKEND", "redis"), ("REDIS_URL", "redis://r"), ("LOCK_FILE_PATH", "/x"),
     ("LEASE_DURATION", "5s")],
)  # fmt: skip
def test_a_setting_of_high_availability_that_is_off_is_told(name, value):
    assert said(**{name: value}) == [f"{name} has no effect without ENABLE_HA=true: this agent runs alone"]
    assert said(**{name: value}, ENABLE_HA="true") == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("LEADER_ELECTON_BACKEND", "LEADER_ELECTION_BACKEND"),
        ("ENABLED_HA", "ENABLE_HA"),
        ("MAX_SESSION", "MAX_SESSIONS"),
        ("AGENT_API_KEYFILE", "AGENT_API_KEY_FILE"),
        ("STOP_TIMOUT", "STOP_TIMEOUT"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(wrong, right):
    (hint,) = said(("STOP_TIMEOUT",), **{wrong: "x"})
    assert hint == f"{wrong} is set, but is no setting: did you mean {right}?"


def test_names_of_other_programs_pass_and_so_does_every_documented_one():
    others = (
        "PATH HOME HOSTNAME LANG TZ DOCKER_CONFIG DOCKER_CERT_PATH DOCKER_TLS_VERIFY STATE_DIRECTORY RUNTIME_DIRECTORY"
    )
    others += " LOGS_DIRECTORY INVOCATION_ID JOURNAL_STREAM AWS_REGION REDIS_PORT REDIS_HOST LOG_FILE HTTPS_PROXY"
    names = dict.fromkeys(others.split(), "x")
    pages = [*REPOSITORY.glob("plugins/*/README.md"), *REPOSITORY.glob("deployments/**/*.y*ml")]
    documented = {name for page in pages for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", page.read_text())}
    assert len(documented) > 30
    core = {
        name for name in documented if {name.lower(), name.lower().removesuffix("_file")} & Settings.model_fields.keys()
    }
    names |= dict.fromkeys(documented - core, "x")
    assert said(**names) == []


def test_the_shipped_files_give_no_hint():
    shipped = REPOSITORY / "deployments" / "compose" / "docker-compose.standalone.yaml"
    variables = dict(re.findall(r"^  ([A-Z_]+): \"?([^\s\"$]+)\"?$", shipped.read_text(), re.MULTILINE))
    assert variables["ENABLE_HA"] == "false"
    assert said(**variables) == []


def test_an_empty_credential_of_systemd_is_named_unless_something_else_opens_the_door(tmp_path):
    (tmp_path / "key").touch()
    empty = {"AGENT_API_KEY_FILE": str(tmp_path / "key"), "STATE_DIR": str(tmp_path)}
    assert said(**empty) == []  # any other empty file is no matter of a hint: see test_cli
    empty["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    assert said(**empty) == [f"AGENT_API_KEY_FILE: {tmp_path}/key is empty, so there is no API key"]
    assert said(**empty, AGENT_API_KEY="k" * 64) == []
    assert said(**empty, TLS_CERT_FILE=__file__, TLS_KEY_FILE=__file__) == []
    (tmp_path / "agent-1").mkdir()
    (tmp_path / "agent-1" / "api-key").write_text("k")
    assert said(**empty) == []


def test_what_a_plugin_asks_for_is_remembered_and_what_it_copies_is_not():
    environ = RecordingEnviron({"A": "1", "B": "2"})
    assert (environ.get("A"), environ.get("C", "")) == ("1", "")
    assert dict(environ) == {**environ} == {"A": "1", "B": "2"}
    assert environ.names == {"A", "C"}
