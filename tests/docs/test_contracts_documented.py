"""Every hook, entry-point group, exit code and setting of a plugin is told to users, with its exact arguments."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from streamspace_agent import errors, plugins
from streamspace_agent.agent import SECOND_SIGNAL
from streamspace_agent.cli.exit_codes import EXIT_CODES
from streamspace_agent.commands import Register
from streamspace_agent.plugins import hookspecs
from streamspace_agent.testing.election import ElectionBackendSuite
from streamspace_agent.testing.runtime import RuntimeDriverSuite

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = (ROOT / "docs/plugins/index.md").read_text()
COMMANDS = (ROOT / "docs/plugins/commands.md").read_text()
HOOKS = [
    function
    for _, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, "streamspace_agent_spec")
]


def subclasses(cls):
    return {cls}.union(*(subclasses(each) for each in cls.__subclasses__()))


def test_the_hooks_are_those_of_the_kinds_of_plugins():
    assert sorted(hook.__name__ for hook in HOOKS) == sorted(kind.hook for kind in plugins.KINDS)


@pytest.mark.parametrize("kind", plugins.KINDS, ids=lambda kind: kind.name)
def test_a_hook_is_documented_with_its_arguments_its_group_and_what_chooses_it(kind):
    hook = next(hook for hook in HOOKS if hook.__name__ == kind.hook)
    call = f"`{kind.hook}({', '.join(inspect.signature(hook).parameters)})`"
    row = next(line for line in PLUGINS.splitlines() if line.startswith(f"| {call} |"))
    assert f"| `{kind.group}` |" in row
    assert f"`{kind.variable}`" in row or not kind.variable
    assert hook.__doc__
    assert kind.group in hook.__doc__
    assert not kind.variable or kind.variable in hook.__doc__


def test_the_callback_of_command_plugins_is_documented_with_its_arguments():
    told = []
    for name, parameter in inspect.signature(Register.__call__).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in told:
            told.append("*")
        told.append(name if parameter.default is parameter.empty else f"{name}={parameter.default}")
    assert f"`register({', '.join(told)})`" in COMMANDS


@pytest.mark.parametrize("suite", [ElectionBackendSuite, RuntimeDriverSuite])
def test_every_fixture_that_a_suite_asks_for_is_told_in_its_module(suite):
    module = inspect.getmodule(suite)
    demanded = re.findall(r'"override the fixture (\w+)"', inspect.getsource(module))
    assert demanded
    for name in demanded:
        assert f"* ``{name}``: " in module.__doc__


def test_the_table_of_exit_codes_which_help_and_reference_print_has_each_that_can_occur_and_no_other():
    raised = {error.exit_code for error in subclasses(errors.AgentError) if error.__module__ == errors.__name__}
    source = (ROOT / "core/src/streamspace_agent/cli/main.py").read_text()
    spoken = {int(code) for call in re.findall(r"sys\.exit\((.*)\)", source) for code in re.findall(r"\b\d+\b", call)}
    assert {int(code) for code, _ in EXIT_CODES} == raised | spoken | {0, errors.EXIT_LEADERSHIP, SECOND_SIGNAL}


def test_the_table_of_error_codes_has_each_that_a_command_can_fail_with_and_no_other():
    named = dict(errors.COMMAND_CODES)
    assert len(named) == len(errors.COMMAND_CODES)
    sources = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/streamspace-runtime-docker/src/**/*.py")]
    raised, strings = set(), set()
    for path in sources:
        if path.name == "errors.py" and path.parent.name == "streamspace_agent":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
                raised |= set(re.findall(r"^([a-z]+(?:_[a-z]+)+): ", node.value)) - REASONS
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CommandFailed" and node.args:
                raised |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    assert raised - named.keys() == set()
    unused = {code for code in named if not any(text == code or text.startswith(f"{code}: ") for text in strings)}
    assert unused == set()


@pytest.mark.parametrize(
    "name", sorted(error.__name__ for error in subclasses(errors.AgentError) if error.__module__ == errors.__name__)
)
def test_every_error_stands_in_the_tree_with_its_exit_code(name):
    error = getattr(errors, name)
    line = next(line for line in errors.__doc__.splitlines() if f":exc:`{name}`" in line)
    own = vars(error).get("exit_code", 1)
    assert own == 1 or f"({own})" in line


REASONS = {"idle_timeout", "max_session_duration"}  # of a state that nobody asked for, not of a command
VARIABLE = re.compile(r"""environ(?:\.get\(|\[)"([A-Z][A-Z0-9_]+)\"""")
OPERATING = {"DOCKER_CONFIG"}  # belongs to Docker's own client


@pytest.mark.parametrize("plugin", sorted((ROOT / "plugins").glob("streamspace-*")), ids=lambda path: path.name)
def test_a_plugins_readme_names_every_variable_that_it_reads(plugin):
    source = "\n".join(path.read_text() for path in plugin.glob("src/**/*.py"))
    readme = (plugin / "README.md").read_text()
    read = set(VARIABLE.findall(source)) - OPERATING
    for fields in re.findall(r"class \w+Settings\(BaseModel\):(.*?)(?=^class |\Z)", source, re.DOTALL | re.MULTILINE):
        read |= {field.upper() for field in re.findall(r"^    (\w+): .* = Field\(", fields, re.MULTILINE)}
    if "timing import" in source and "profile_of" in source:
        read |= {"LEASE_PROFILE", "LEASE_DURATION"}
    assert {name for name in read if f"`{name}`" not in readme} == set()
