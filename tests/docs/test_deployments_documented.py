"""deployments/README.md and the files beside it know every setting there is, and no other."""

import re
from pathlib import Path

import pytest

from streamspace_agent.cli import options
from streamspace_agent.config import ALIASES, Settings, is_secret, variable
from streamspace_runtime_docker.settings import DockerSettings
from tests.integration.deployments import readme

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
README = (FOLDER / "README.md").read_text()
COMPOSE = sorted((FOLDER / "compose").glob("*.yaml"))
STACKS = [*COMPOSE, FOLDER / "swarm/docker-swarm.yaml"]
OF_DRIVER = {variable(field) for field in DockerSettings.model_fields}
OF_PLUGINS = OF_DRIVER | {
    "FENCE_FROZEN_LEADER",
    "LEASE_PROFILE",
    "REDIS_TLS_CA_FILE",
    "REDIS_TLS_CERT_FILE",
    "REDIS_TLS_KEY_FILE",
}
OF_BACKEND = {
    "docker-compose.ha-file.yaml": {"FENCE_FROZEN_LEADER"},
    "docker-compose.ha-redis.yaml": OF_PLUGINS - OF_DRIVER - {"FENCE_FROZEN_LEADER"},
    "docker-swarm.yaml": {"LEASE_PROFILE"},
}
PROXIES = {"HTTPS_PROXY", "NO_PROXY"}
# A secret stands in the file that a _FILE variable names, where the deployment hands one over.
BY_FILE = {"AGENT_API_KEY", "REDIS_URL"}


def rows(title):
    section = README.partition(f"\n### {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    table = section.strip().partition("\n\n")[0]
    cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:])
    return {row[0]: row[1:] for row in cells}


def set_in(path):
    """The names in the file's environment, and the variables that it takes from the shell."""
    text = path.read_text()
    return set(re.findall(r"^ +([A-Z][A-Z0-9_]+):", text, re.MULTILINE)), set(re.findall(r"(?<!\$)\$\{(\w+)", text))


def test_the_readme_lists_every_setting_in_the_order_of_the_help_with_meaning_and_default():
    expected = {}
    for field in options.grouped():
        info, name = Settings.model_fields[field], variable(field)
        names = f"`{name}`, `{name}_FILE`" if is_secret(field) else f"`{name}`"
        last = info.examples[0] if info.is_required() else options.default_text(field)
        expected[names] = [info.description, f"`{last}`".replace("`-`", "-")]
    assert list({**rows("Required"), **rows("Optional")}.items()) == list(expected.items())


def test_the_readme_lists_every_setting_of_the_docker_driver_with_meaning_and_default():
    table = README.partition("Of the Docker driver,")[2].partition("\n\n")[2].partition("\n\n")[0]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    fields = DockerSettings.model_fields
    assert [[row[0], row[1].replace("`", "")] for row in cells] == [
        [variable(field), (info.description or "").replace("`", "")] for field, info in fields.items()
    ]
    given = DockerSettings(**{row[0].lower(): row[2] for row in cells})
    assert given == DockerSettings()


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.name)
def test_a_file_lets_an_operator_set_every_setting_that_matters_to_it(path):
    names, _ = set_in(path)
    wanted = {variable(field) for field in Settings.model_fields}
    wanted -= {"LOCK_FILE_PATH"} if "ha-file" not in path.name else set()
    wanted -= {"LEASE_DURATION"} if "redis" not in path.name and "swarm" not in path.name else set()
    wanted -= {"LEADER_ELECTION_BACKEND"} if "standalone" in path.name else set()
    wanted -= {"REDIS_URL"} if "redis" not in path.name else set()
    wanted |= OF_DRIVER | OF_BACKEND.get(path.name, set()) | {"DOCKER_CONFIG"} | PROXIES
    missing = {name for name in wanted - names if not (name in BY_FILE and f"{name}_FILE" in names)}
    assert missing == set()


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.name)
def test_a_file_takes_no_variable_that_the_readme_does_not_tell(path):
    known = {variable(field) for field in Settings.model_fields} | set(ALIASES) | OF_PLUGINS | PROXIES
    known |= {f"{name}_FILE" for name in BY_FILE}
    _, taken = set_in(path)
    own = set(re.findall(r"^\| `(\w+)` \|", README.partition("take instead:")[2], re.MULTILINE))
    assert taken - known <= own


def test_the_readme_tells_no_variable_of_the_files_that_none_takes():
    own = set(
        re.findall(r"^\| `([A-Z_]+)` \|", README.partition("take instead:")[2].partition("\n## ")[0], re.MULTILINE)
    )
    assert own == own & set().union(*(set_in(path)[1] for path in STACKS))


def test_the_example_of_the_env_file_names_only_settings_and_their_defaults():
    text = (FOLDER / "systemd/docker-agent.env.example").read_text()
    pairs = re.findall(r"^#?([A-Z][A-Z0-9_]+)=(\S*)$", text, re.MULTILINE)
    fields = {variable(field): field for field in Settings.model_fields}
    assert pairs
    assert {name for name, _ in pairs} <= fields.keys()
    plain = text.partition("#PLATFORM")[1] + text.partition("#PLATFORM")[2].partition("\n\n")[0]
    for name, value in re.findall(r"^#([A-Z_]+)=(\S+)$", plain, re.MULTILINE):
        assert value == options.default_text(fields[name])


def test_the_example_of_the_compose_files_settings_names_only_what_they_take():
    text = (FOLDER / "compose/env.example").read_text()
    names = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))
    assert {"AGENT_ID", "CONTROL_PLANE_URL", "AGENT_API_KEY_FILE", "COMPOSE_PROJECT_NAME"} <= names
    assert names - {"COMPOSE_PROJECT_NAME"} <= set().union(*(set_in(path)[1] for path in COMPOSE))


def test_every_command_of_the_readme_has_a_module_that_must_run_it_or_a_reason_why_none_does():
    assert [line for line in readme.lines() if readme.run_by(line) == "none"] == []
    modules = {path.stem for path in Path(readme.__file__).parent.glob("test_*.py")}
    assert set(readme.RUN_BY) <= modules
    assert {readme.run_by(line) for line in readme.lines()} == {*readme.RUN_BY, None}  # each has lines of its own
    assert [reason for reason in readme.NOT_RUN if not any(re.search(reason, line) for line in readme.lines())] == []


def test_no_command_of_the_readme_asks_for_a_container_that_may_be_gone_or_ends_in_an_error_where_nothing_is_left():
    """Compose's `exec` wants number 1, which is gone after an update; `rm` without arguments fails; `--time` is
    deprecated."""
    agents = [line for line in readme.lines() if re.search(r"docker-compose .* exec (?!redis )", line)]
    bare = [line for line in readme.lines() if re.search(r"\brm\b.*\$\(", line)]
    assert [*agents, *bare, *(line for line in readme.lines() if "--time " in line)] == []


def test_the_units_differ_only_where_a_replica_has_to():
    one, template = (
        (FOLDER / "systemd" / name).read_text().splitlines()
        for name in ("docker-agent.service", "docker-agent@.service")
    )
    assert [line for line in template if line not in one and not line.startswith(("#", "Description="))] == [
        "EnvironmentFile=-/etc/streamspace/docker-agent-%i.env"
    ]
    assert [line for line in one if line not in template and not line.startswith(("#", "Description="))] == []


def test_every_file_that_the_readme_names_is_there():
    tree = README.partition("```\n")[2].partition("```")[0]
    names = re.findall(r"[\w.@-]+\.(?:yaml|service|example|md)", tree)
    assert names
    for name in names:
        assert list(FOLDER.rglob(name)), name
