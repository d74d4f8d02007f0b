"""The names that a page may use, read from the code: settings, metrics, options, exit codes, error codes."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamspace_agent.cli.exit_codes import EXIT_CODES
from streamspace_agent.cli.main import cli
from streamspace_agent.config import ALIASES, Settings, is_secret, variable
from streamspace_agent.errors import COMMAND_CODES
from streamspace_agent.health.metrics import TABLE, full_name
from streamspace_runtime_docker.settings import DockerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).resolve().parents[1]
(_DEVPLANE,) = entry_points(group="console_scripts", name="streamspace-devplane")
PROGRAMS: Mapping[str, click.Command] = {"docker-agent": cli, "streamspace-devplane": _DEVPLANE.load()}

# Variables of other programs that the pages speak about. A test demands that each is still in use.
FOREIGN_VARIABLES = {
    *("COMPOSE_PROJECT_NAME", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),  # Docker's clients
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),  # a convention of many programs
    *("REDISCLI_AUTH",),  # redis-cli
    *("EX_TEMPFAIL",),  # sysexits
    *("ELECTION_DB", "STORE_PASSWORD", "STORE_PASSWORD_FILE"),  # the plugins of the tutorial
    *("DAC_OVERRIDE", "NET_BIND_SERVICE"),  # Linux capabilities
}
FOREIGN_WORDS = {"non_idempotent", "max_fails"}  # nginx
VARIABLE = re.compile(r"(?<![.\w])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
METRIC = re.compile(r"\bstreamspace_agent_\w+")
EXIT_CODE = re.compile(r"\bexit(?:s with)? codes? (\d+)(?:(?:,| and| or) (\d+))?", re.IGNORECASE)
ERROR_CODE = re.compile(r"(?:fails?|failed|ends?|refused) with$|error codes?$|(?:error code|fails with) .*\bor$")
WORD = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")


@cache
def settings() -> Mapping[str, str]:
    """Every setting of the agent and of the Docker driver, and its anchor on the page of the settings."""
    fields = [*Settings.model_fields, *DockerSettings.model_fields]
    found = {variable(field): anchor("setting", variable(field)) for field in fields}
    secret = [field for field in Settings.model_fields if is_secret(field)]
    found |= {f"{variable(field)}_FILE": found[variable(field)] for field in secret}
    return found | {name: found[variable(field)] for name, field in ALIASES.items()}


@cache
def variables() -> frozenset[str]:
    """Every variable that a page may name: those that the product, lab and tests read, and FOREIGN_VARIABLES."""
    sources = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("lab/*")]
    sources += [ROOT / "Makefile", *ROOT.glob("deployments/**/*.yaml")]
    text = "\n".join(path.read_text() for path in sources if path.is_file() and path != Path(__file__).resolve())
    read = {
        name for pair in re.findall(r"""["']([A-Z][A-Z0-9_]+)["']|\$[{(]?([A-Z][A-Z0-9_]+)""", text) for name in pair
    }
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    return frozenset({*settings(), *read, *re.findall(r"STREAMSPACE_TEST_\w+", tests), *FOREIGN_VARIABLES})


@cache
def constants() -> frozenset[str]:
    """Every module's constants, which the reference of the contract may name."""
    nodes = (node for path in ROOT.glob("core/src/**/*.py") for node in ast.walk(ast.parse(path.read_text())))
    stored = (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return frozenset(name for name in stored if VARIABLE.fullmatch(name))


@cache
def metrics() -> Mapping[str, str]:
    return {full_name(row): anchor("metric", full_name(row)) for row in TABLE}


@cache
def error_codes() -> Mapping[str, str]:
    return {code: anchor("error", code) for code, _ in COMMAND_CODES}


def exit_codes() -> frozenset[str]:
    return frozenset(code for code, _ in EXIT_CODES)


@cache
def words() -> frozenset[str]:
    """Every word with an underscore in the source of what we ship."""
    sources = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("**/pyproject.toml")]
    return frozenset(word for path in sources for word in WORD.findall(path.read_text())) | FOREIGN_WORDS


def anchor(kind: str, name: str) -> str:
    return f"{kind}-{name.lower().replace('_', '-')}"


def options(command: click.Command) -> set[str]:
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own | set(command.context_settings.get("help_option_names", ["--help"]))


def unknown_options(line: str) -> Iterable[str]:
    """The options in a shell line that its program, one of ours, does not have."""
    for program, command in PROGRAMS.items():
        for given in re.findall(rf"(?:^|[\s(;|]){program} ([^|;#)\n]*)", line):
            here, known = command, options(command)
            for word in given.split():
                if isinstance(here, click.Group) and word in here.commands:
                    here = here.commands[word]
                    known |= options(here)
                elif word.startswith("--") and (name := re.match(r"--[a-z][a-z-]*", word)) and name[0] not in known:
                    yield f"{program} has no option {name[0]}"
                elif here is command and re.fullmatch(r"[a-z]+", word) and isinstance(here, click.Group):
                    break  # a value, or running text
