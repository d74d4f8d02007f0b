"""The plugins of the pages on writing plugins, taken from there as they stand, installed and run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"^```\w+\n# (\S+/?\S*\.\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


PAGES = ROOT / "docs/plugins"


class Project:
    """One plugin of the tutorial, installed into a folder of its own."""

    def __init__(self, page, folder):
        self.folder = folder / "project"
        self.site = folder / "site"
        self.files = dict(CODE.findall((PAGES / page).read_text()))
        for name, text in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index")
        self.run("-m", "pip", "install", *quiet, "--target", self.site, self.folder, check=True)

    def run(self, *arguments, check=False, **environ):
        environ = {**os.environ, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1", **environ}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=environ, check=check, capture_output=True, text=True, timeout=100
        )

    def plugins(self, **environ):
        return json.loads(self.run("-m", "streamspace_agent", "plugins", "--json", **environ).stdout)

    def test(self, *options):
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests")


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return Project("election.md", tmp_path_factory.mktemp("backend"))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return Project("commands.md", tmp_path_factory.mktemp("command"))


def test_the_agent_finds_the_backend_and_can_use_it(backend):
    answer = backend.plugins(ENABLE_HA="true", LEADER_ELECTION_BACKEND="sqlite")
    row = next(row for row in answer["plugins"] if (row["kind"], row["name"]) == ("election", "sqlite"))
    assert (row["distribution"], row["chosen"], row["loads"]) == ("streamspace-elect-sqlite", True, True)
    assert not any("sqlite" in problem for problem in answer["problems"])


def test_the_backend_passes_the_suite_without_a_warning(backend):
    done = backend.test()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^4\d passed in", done.stdout, re.MULTILINE), done.stdout
    assert "Warning" not in done.stdout + done.stderr


def test_the_backend_heeds_a_lease_duration(backend):
    code = """if True:
        from streamspace_agent.config import load
        from streamspace_agent.plugins import Plugins
        from streamspace_agent.election.timing import lease_duration_warnings
        given = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h", "ENABLE_HA": "true"}
        settings = load({**given, "LEADER_ELECTION_BACKEND": "sqlite", "LEASE_DURATION": "20s"})
        timing = Plugins().election_backend(settings, {}).timing
        print(timing.lease, timing.renew_every, lease_duration_warnings(settings, timing))
    """
    assert backend.run("-c", code, check=True).stdout == "20.0 4.0 []\n"


def test_the_backend_refuses_a_wrong_setting_in_one_line(backend):
    code = """if True:
        from streamspace_agent.cli.main import fail
        from streamspace_agent.config import load
        from streamspace_agent.errors import AgentError
        from streamspace_agent.plugins import Plugins
        given = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h", "LEADER_ELECTION_BACKEND": "sqlite"}
        try:
            Plugins().election_backend(load(given), {"ELECTION_DB": "here.db"})
        except AgentError as error:
            fail(str(error), error.exit_code)
    """
    done = backend.run("-c", code)
    assert done.returncode == 2
    assert done.stderr.startswith("docker-agent: ELECTION_DB=here.db is relative")


def test_the_backend_is_as_short_as_the_tutorial_promises(backend):
    assert len(backend.files["src/streamspace_elect_sqlite/backend.py"].splitlines()) < 90


def test_the_command_is_registered_beside_the_sessions_own_and_passes_the_kit(command):
    rows = {(row["kind"], row["name"]): row for row in command.plugins()["plugins"]}
    assert rows["commands", "notice"]["loads"], rows
    done = command.test()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "Warning" not in done.stdout + done.stderr


def test_a_fault_in_the_backend_is_found_and_shown_with_its_values(backend, tmp_path):
    """The suite reaches third parties with the same sharpness that it has here."""
    path = backend.site / "streamspace_elect_sqlite" / "backend.py"
    sound = path.read_text()
    assert sound.count("max(there.epoch if there else 0, me.epoch_floor) + 1") == 1
    path.write_text(sound.replace("max(there.epoch if there else 0, me.epoch_floor) + 1", "me.epoch_floor + 1"))
    try:
        done = backend.test("-k", "epoch")
    finally:
        path.write_text(sound)
    assert done.returncode == 1
    assert "assert 1 == (1800000000000 + 1002)" in done.stdout


def test_the_backend_is_built_for_publication_as_the_tutorial_says(backend):
    assert "\npython -m build " in (PAGES / "publishing.md").read_text()
    done = backend.run("-m", "build", "--no-isolation")
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted(path.name for path in (backend.folder / "dist").iterdir())
    assert built == ["streamspace_elect_sqlite-1.0-py3-none-any.whl", "streamspace_elect_sqlite-1.0.tar.gz"]


def test_a_check_of_the_backend_creates_nothing(backend, tmp_path):
    """It may run as root, whose file the agent could not open."""
    more = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "STATE_DIR": str(tmp_path / "state")}
    more |= {"ENABLE_HA": "true", "LEADER_ELECTION_BACKEND": "sqlite", "ELECTION_DB": str(tmp_path / "election.db")}
    checked = backend.run("-m", "streamspace_agent", "check", **more)
    assert "the store answers; nobody leads now" in checked.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_backend_heeds_the_lease_profile(backend):
    code = """if True:
        from streamspace_agent.config import load
        from streamspace_agent.plugins import Plugins
        given = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h", "LEADER_ELECTION_BACKEND": "sqlite"}
        print(Plugins().election_backend(load(given), {"LEASE_PROFILE": "steady"}).timing.lease)
    """
    assert backend.run("-c", code, check=True).stdout == "15.0\n"
