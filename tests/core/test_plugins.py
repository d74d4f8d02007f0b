"""Real distributions in a folder on the path, and a process of its own for each look at them."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from streamspace_agent import __version__
from streamspace_agent.errors import PluginError
from streamspace_agent.plugins import ELECTION, RUNTIME, choose

pytestmark = pytest.mark.slow


BACKEND = """
    import streamspace_agent
    from streamspace_agent.election.standalone import StandaloneBackend

    class Backend(StandaloneBackend):
        name = "{name}"

    @streamspace_agent.hookimpl
    def create_election_backend(settings, environ):
        return Backend()
"""

CHOOSE = """
import sys
from streamspace_agent.cli.main import fail
from streamspace_agent.config import load
from streamspace_agent.errors import AgentError
from streamspace_agent.plugins import Plugins
try:
    settings = load({"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h", "LEADER_ELECTION_BACKEND": sys.argv[1]})
    backend = Plugins().election_backend(settings, {})
except AgentError as error:
    fail(str(error), error.exit_code)
print(backend.name)
print(*sorted(m for m in sys.modules if m.startswith("tiny_")))
"""


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder):
        self.folder = folder

    def add(
        self, dist, code, *, entry=None, kind="election", module=None, requires=f"streamspace-agent=={__version__}"
    ):
        module = module or dist.replace("-", "_")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.folder / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        )
        info.joinpath("entry_points.txt").write_text(f"[streamspace_agent.{kind}]\n{entry or dist} = {module}\n")

    def run(self, *command, **environ):
        environ = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", **environ}
        return subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=60)

    def choose(self, name):
        return self.run(sys.executable, "-c", CHOOSE, name)

    def refusal(self, name):
        """The one line with which the choice is refused."""
        result = self.choose(name)
        assert result.returncode == 2, result
        assert "Traceback" not in result.stderr
        (line,) = result.stderr.splitlines()
        return line


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_the_chosen_plugin_is_loaded_and_no_other(site):
    site.add("tiny-good", BACKEND.format(name="good"), entry="good")
    site.add("tiny-other", "raise RuntimeError('must not be imported')", entry="other")
    result = site.choose("good")
    assert result.stdout.splitlines() == ["good", "tiny_good"], result.stderr


def refusal_without(name):
    """As `Site.refusal`, in an environment where none of our own plugins is installed (tests/packaging has a real
    one)."""
    with pytest.raises(PluginError) as caught:
        choose(ELECTION, name, found=[])
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_missing_plugin_is_told_with_the_pip_command_that_brings_it_and_never_a_strangers():
    line = refusal_without("redis")
    assert "LEADER_ELECTION_BACKEND=redis is not installed" in line
    assert "pip install PATH/streamspace_elect_redis-*.whl, from where this agent's wheels are" in line
    assert not re.search(r"pip install '?streamspace", line)  # an index may have anybody's under that name


def test_a_typo_is_answered_with_the_nearest_name(site):
    site.add("tiny-zookeeper", BACKEND.format(name="zookeeper"), entry="zookeeper")
    line = site.refusal("zokeeper")
    assert "did you mean zookeeper?" in line
    assert "pip install" not in line
    assert "zookeeper" in line.partition("installed: ")[2].partition(")")[0]


def test_a_typo_of_what_is_not_installed_is_answered_with_both():
    assert "did you mean redis? pip install PATH/streamspace_elect_redis-*.whl" in refusal_without("redsi")


@pytest.mark.parametrize("name", ["podman", "Podman"])
def test_podman_is_told_to_be_used_by_the_docker_driver(name):
    with pytest.raises(PluginError) as caught:
        choose(RUNTIME, name)
    assert "set RUNTIME_DRIVER=docker, and DOCKER_HOST to Podman's socket" in str(caught.value)


def test_a_name_that_resembles_none_is_told_what_to_install(site):
    assert "entry point 'quantum' in the group streamspace_agent.election" in site.refusal("quantum")


def test_a_name_offered_twice_names_both_distributions(site):
    site.add("tiny-one", BACKEND.format(name="same"), entry="same")
    site.add("tiny-two", BACKEND.format(name="same"), entry="same")
    assert "is offered twice, by tiny-one and tiny-two: uninstall one of them" in site.refusal("same")


def test_the_same_distribution_seen_twice_on_the_path_is_one_plugin(site, tmp_path):
    site.add("tiny-good", BACKEND.format(name="good"), entry="good")
    again = Site(tmp_path / "again")
    again.folder.mkdir()
    again.add("tiny-good", BACKEND.format(name="good"), entry="good")
    environ = {**os.environ, "PYTHONPATH": f"{site.folder}:{again.folder}"}
    result = subprocess.run(
        [sys.executable, "-c", CHOOSE, "good"], env=environ, check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_a_plugin_for_another_core_is_refused_with_both_versions(site):
    site.add("tiny-old", BACKEND.format(name="old"), entry="old", requires="streamspace-agent<0.1,>=0.0.1")
    line = site.refusal("old")
    assert "tiny-old 1.0 needs streamspace-agent" in line
    assert f"this is {__version__}" in line


def test_a_requirement_that_its_marker_switches_off_does_not_count(site):
    requires = 'streamspace-agent<0.1; python_version < "3"'
    site.add("tiny-good", BACKEND.format(name="good"), entry="good", requires=requires)
    assert site.choose("good").returncode == 0


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module_of_mine", "ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("this is no python", "SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ],
)
def test_a_plugin_that_fails_to_import_is_named_with_the_cause(site, code, cause):
    site.add("tiny-broken", code, entry="broken")
    line = site.refusal("broken")
    assert "election plugin broken of tiny-broken 1.0 failed to load: " in line
    assert cause in line


def test_an_async_hook_is_refused(site):
    site.add("tiny-async", BACKEND.format(name="x").replace("    def create", "    async def create"), entry="x")
    assert site.refusal("x").endswith("create_election_backend must not be async")


def test_a_hook_with_unknown_arguments_is_refused(site):
    site.add("tiny-args", BACKEND.format(name="x").replace("settings, environ", "config"), entry="x")
    assert "config" in site.refusal("x")


def test_a_misspelt_hook_is_refused(site):
    site.add("tiny-misspelt", BACKEND.format(name="x").replace("create_election_backend", "create_election"), entry="x")
    assert "create_election" in site.refusal("x")


def test_a_plugin_without_the_hook_is_told_how_to_mark_one(site):
    site.add("tiny-empty", "x = 1", entry="x")
    assert site.refusal("x").endswith("mark one function with @streamspace_agent.hookimpl")


@pytest.mark.parametrize(("made", "named"), [("None", "NoneType"), ("'text'", "str"), ("Backend", "ABCMeta")])
def test_a_hook_that_makes_the_wrong_thing_is_refused(site, made, named):
    site.add("tiny-wrong", BACKEND.format(name="x").replace("return Backend()", f"return {made}"), entry="x")
    assert site.refusal("x").endswith(f"made {named}, must be ElectionBackend")


def test_a_hook_that_raises_is_named_with_the_cause(site):
    site.add("tiny-raises", BACKEND.format(name="x").replace("return Backend()", "return {}['key']"), entry="x")
    assert site.refusal("x").endswith("failed: KeyError: 'key'")


def test_a_plugins_own_setting_error_is_passed_on_as_it_is(site):
    code = BACKEND.format(name="x") + "    from streamspace_agent.errors import ConfigError\n"
    code = code.replace("return Backend()", "raise ConfigError(['TINY_PORT is not a number'])")
    site.add("tiny-settings", code, entry="x")
    assert site.refusal("x") == "docker-agent: TINY_PORT is not a number"


COMMANDS = """
    import streamspace_agent

    async def handler(command, context):
        return {{}}

    @streamspace_agent.hookimpl
    def register_commands(register):
        register("{action}", handler)
"""


def test_an_installed_command_plugin_adds_its_actions_to_the_sessions_own(site):
    site.add("tiny-extra", COMMANDS.format(action="take_screenshot"), entry="extra", kind="commands")
    result = site.run(
        sys.executable, "-c", "from streamspace_agent.plugins import Plugins; print(*Plugins().commands().actions)"
    )
    assert result.stdout.split() == [
        "hibernate_session",
        "start_session",
        "stop_session",
        "take_screenshot",
        "wake_session",
    ]


def test_two_handlers_for_one_action_are_an_error_that_names_both(site):
    site.add("tiny-extra", COMMANDS.format(action="stop_session"), entry="extra", kind="commands")
    code = "from streamspace_agent.plugins import Plugins; Plugins().commands()"
    result = site.run(sys.executable, "-c", code)
    assert "'stop_session' is registered twice" in result.stderr
    assert "tiny-extra" in result.stderr
    assert "streamspace-agent" in result.stderr


def test_the_list_of_plugins_shows_why_one_cannot_be_used_and_survives_it(site):
    site.add("tiny-good", BACKEND.format(name="good"), entry="good")
    site.add("tiny-exits", "raise SystemExit(7)", entry="exits")
    site.add("tiny-old", BACKEND.format(name="old"), entry="old", requires="streamspace-agent<0.1")
    command = (sys.executable, "-m", "streamspace_agent", "plugins")
    result = site.run(*command, "--enable-ha", "--leader-election-backend", "good", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)["plugins"]}
    assert (rows["good"]["loads"], rows["good"]["chosen"]) == (True, True)
    assert (rows["exits"]["loads"], rows["exits"]["chosen"]) == (False, False)
    assert "SystemExit: 7" in rows["exits"]["problem"]
    assert "needs streamspace-agent<0.1" in rows["old"]["problem"]
    assert rows["sessions"]["loads"]
    text = site.run(*command, "--enable-ha", "--leader-election-backend", "old")
    assert text.returncode == 1
    assert next(line for line in text.stdout.splitlines() if line.startswith("* election")).split()[2] == "old"
    assert "tiny-old 1.0 needs streamspace-agent<0.1" in text.stderr


def test_a_plugin_that_can_be_loaded_is_not_called_usable(site):
    """What its hook or its store says is found out by ``check`` only."""
    site.add("tiny-raises", RAISES, entry="raises")
    listed = site.run(sys.executable, "-m", "streamspace_agent", "plugins", **chosen("raises"))
    line = next(line for line in listed.stdout.splitlines() if line.startswith("* election"))
    assert line.split()[1:] == ["election", "raises", "tiny-raises", "1.0", "loads"]
    assert listed.returncode == 0


RAISES = """
    import streamspace_agent

    @streamspace_agent.hookimpl
    def create_election_backend(settings, environ):
        return environ["NOT_THERE"]
"""

AWAY = BACKEND.replace(
    'name = "{name}"',
    """name = "{name}"

        async def preflight(self):
            from streamspace_agent.errors import BackendUnavailable
            try:
                raise OSError(2, "no such file")
            except OSError as error:
                raise BackendUnavailable("TINY_DB: /nowhere: cannot be opened") from error""",
)


def chosen(name):
    given = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "ENABLE_HA": "true"}
    return {**given, "LEADER_ELECTION_BACKEND": name}


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_hook_that_raises_shows_its_traceback_where_debugging_is_on_and_only_there(site, tmp_path, command):
    site.add("tiny-raises", RAISES, entry="raises")
    for level, shown in (("info", False), ("debug", True)):
        more = {**chosen("raises"), "LOG_LEVEL": level, "STATE_DIR": str(tmp_path / "state")}
        done = site.run(sys.executable, "-m", "streamspace_agent", command, **more)
        output = done.stdout + done.stderr
        assert "plugin raises of tiny-raises 1.0 failed: KeyError: 'NOT_THERE'" in output
        assert ('return environ["NOT_THERE"]' in output) == shown


def test_a_check_shows_a_backends_own_words_with_the_variable_that_they_name(site, tmp_path):
    site.add("tiny-away", AWAY.format(name="away"), entry="away")
    more = {**chosen("away"), "STATE_DIR": str(tmp_path / "state")}
    done = site.run(sys.executable, "-m", "streamspace_agent", "check", **more)
    assert "the election store does not answer: TINY_DB: /nowhere: cannot be opened" in done.stdout
