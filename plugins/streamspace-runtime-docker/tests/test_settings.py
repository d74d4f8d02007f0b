"""The driver's own variables, and what loading it costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamspace_runtime_docker
from streamspace_agent.config import Settings
from streamspace_agent.errors import ConfigError
from streamspace_runtime_docker.settings import CAPABILITIES, DockerSettings, load


def settings(**fields):
    return Settings(agent_id="docker-test", control_plane_url="ws://127.0.0.1:1", **fields)


def test_nothing_set_means_the_documented_defaults():
    own = load(settings(), {"STOP_TIMEOUT": " "})
    assert (own.engine_concurrency, own.stop_timeout, own.pull_stall_timeout) == (16, 10.0, 120.0)
    assert (own.session_shm_size, own.session_capabilities, own.publish_ports) == (1024**3, CAPABILITIES, "auto")


def test_values_are_read_as_people_write_them():
    own = load(
        settings(),
        {
            "PULL_STALL_TIMEOUT": "1m30s",
            "SESSION_SHM_SIZE": "512Mi",
            "SESSION_CAPABILITIES": "cap_chown, SETUID,SETUID",
            "PUBLISH_PORTS": "Always",
        },
    )
    assert (own.pull_stall_timeout, own.session_shm_size) == (90.0, 512 * 1024**2)
    assert (own.session_capabilities, own.publish_ports) == (("CHOWN", "SETUID"), "always")
    assert load(settings(), {"SESSION_CAPABILITIES": "none"}).session_capabilities == ()


def test_all_that_is_wrong_is_told_at_once():
    wrong = {
        "ENGINE_CONCURRENCY": "many",
        "STOP_TIMEOUT": "soon",
        "SESSION_SHM_SIZE": "big",
        "SESSION_CAPABILITIES": "CHOWN,rm -rf",
        "PUBLISH_PORTS": "perhaps",
    }
    with pytest.raises(ConfigError) as failure:
        load(settings(docker_host="ssh://host"), wrong)
    assert [re.match(r"\w+", problem)[0] for problem in failure.value.problems] == ["DOCKER_HOST", *wrong]
    assert "ssh:// is not supported" in failure.value.problems[0]


@pytest.mark.parametrize("host", ["unix:///run/docker.sock", "tcp://10.0.0.1:2376"])
def test_a_local_and_a_remote_engine_are_taken(host):
    assert load(settings(docker_host=host), {})


@pytest.mark.parametrize("host", ["", "unix://", "npipe:////./pipe/x", "/var/run/docker.sock"])
def test_other_engine_addresses_are_refused(host):
    with pytest.raises(ConfigError, match="DOCKER_HOST"):
        load(settings(docker_host=host), {})


def test_making_a_driver_loads_no_sdk():
    """A standby may never need it."""
    program = (
        "import sys, streamspace_runtime_docker as plugin; from streamspace_agent.config import Settings; "
        "plugin.create_runtime_driver(Settings(agent_id='docker-test', control_plane_url='ws://x'), {}); "
        "print([name for name in ('docker', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_setting_and_capability_is_documented():
    readme = (Path(streamspace_runtime_docker.__file__).parents[2] / "README.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", readme, re.MULTILINE))
    assert documented == {name.upper() for name in DockerSettings.model_fields}
    assert all(f"`{name}`" in readme for name in CAPABILITIES)
