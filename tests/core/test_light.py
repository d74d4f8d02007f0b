"""What a start and a standby load: counted, since times on a busy machine say little."""

import subprocess
import sys

from streamspace_agent.health.replicas import StatusSocket
from tests.core.test_cli import LEADER

STANDBY = """
import sys
from importlib import metadata
from unittest.mock import patch
from streamspace_agent.agent import Agent
from streamspace_agent.config import load
settings = load({"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "ENABLE_HA": "true", **MORE})
with patch.object(metadata, "entry_points", wraps=metadata.entry_points) as looks:
    Agent(settings, {})
"""
GATEWAY = {"WEB_GATEWAY": "127.0.0.1:3000"}


def output(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code, *arguments):
    """The names of the modules that an interpreter has loaded when it has run the code."""
    return set(output(f"{code}\nprint('\\n' + ' '.join(sys.modules))", *arguments).splitlines()[-1].split())


def test_a_standby_has_loaded_nothing_that_only_a_leader_or_a_scrape_needs(tmp_path):
    """Each costs 4 to 50 ms of processor time at the start, and up to 6 MB for good."""
    more = {"STATE_DIR": str(tmp_path), "LOCK_FILE_PATH": str(tmp_path / "lock"), **GATEWAY}
    modules = loaded(STANDBY.replace("MORE", repr(more)))
    assert "streamspace_runtime_docker" in modules
    others = {
        "anyio", "docker", "h11", "httpcore", "requests", "streamspace_engine.connection",  # the engine
        "streamspace_agent.commands.templates",  # the models of templates
        "urllib3",  # the registration
        "http.server", "prometheus_client", "streamspace_agent.health.endpoint",  # HEALTH_ADDRESS
        "streamspace_gateway.server",
        "redis", "streamspace_elect_swarm",  # the backends that were not chosen
    }  # fmt: skip
    assert others & modules == set()


def test_a_start_looks_up_the_entry_points_of_all_distributions_once(tmp_path):
    more = {"STATE_DIR": str(tmp_path), "LOCK_FILE_PATH": str(tmp_path / "lock"), **GATEWAY}
    assert output(STANDBY.replace("MORE", repr(more)) + "\nprint(looks.call_count)") == "1\n"


def test_the_help_builds_no_model_and_reads_no_metadata():
    code = (
        "import sys\n"
        "from streamspace_agent.config import Place, Settings\n"
        "from streamspace_agent.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print(Place.__pydantic_complete__, Settings.__pydantic_complete__, 'importlib.metadata' in sys.modules)"
    )
    assert output(code).endswith("\nFalse False False\n")


def test_a_healthy_agent_answers_healthcheck_without_click_pydantic_asyncio_and_metadata(tmp_path):
    """A container asks every 15 s."""
    code = (
        "import os, sys\n"
        "from streamspace_agent.__main__ import main\n"
        f"os.environ |= {{'AGENT_ID': 'agent-1', 'STATE_DIR': {str(tmp_path)!r}}}\n"
        "main()"
    )
    with StatusSocket(tmp_path / "agent-1", "host-1", lambda: LEADER):
        modules = loaded(code, "healthcheck")
        assert output(code, "healthcheck", "--ready") == "host-1 leader: ready\n"
    others = {"asyncio", "click", "email", "importlib.metadata", "pydantic", "streamspace_agent.config"}
    assert others & modules == set()
