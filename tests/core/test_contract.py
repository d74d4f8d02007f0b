"""What a plugin may import stands in one table, and our own plugins import nothing else."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamspace_agent.plugins.contract import CONTRACT, FORMER_PATHS

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
NAMES = [(module, name) for module, names in CONTRACT.items() for name in names]


def beyond_the_contract(source: str) -> Iterator[str]:
    """The names of the core that a module imports without being allowed to, as ``module.name``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "streamspace_agent")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "streamspace_agent":
            for alias in node.names:
                if alias.name not in CONTRACT.get(node.module, ()):
                    yield f"{node.module}.{alias.name}"


def descriptions(module: str) -> dict[str, str]:
    """The docstring of each class and function at the top of a module, and the string below each assignment.

    What the module takes from another of the core's is described there.
    """
    body = ast.parse(Path(importlib.import_module(module).__file__).read_text()).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and str(after.value.value)
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target): below or "" for target in targets}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamspace_agent."):
            taken = descriptions(node.module)
            found |= {alias.name: taken[alias.name] for alias in node.names if alias.name in taken}
    return found


@pytest.mark.parametrize("plugin", sorted(PLUGINS.glob("streamspace-*/src/*/")), ids=lambda path: path.name)
def test_our_plugins_import_from_the_core_what_the_contract_names_and_nothing_else(plugin):
    found = {path.name: [*beyond_the_contract(path.read_text())] for path in plugin.rglob("*.py")}
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_an_import_beyond_the_contract_is_seen_whichever_way_it_is_written():
    ways = {
        "import streamspace_agent.journal": "streamspace_agent.journal",
        "from streamspace_agent import journal": "streamspace_agent.journal",
        "from streamspace_agent.errors import JournalError": "streamspace_agent.errors.JournalError",
    }
    assert [*beyond_the_contract("\n".join(ways))] == [*ways.values()]
    assert [*beyond_the_contract("from streamspace_agent.errors import LeaseLost\nimport asyncio")] == []


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_everything_in_the_contract_exists_and_says_what_it_is(module, name):
    assert hasattr(importlib.import_module(module), name)
    assert descriptions(module)[name], f"{module}.{name} needs a docstring"


@pytest.mark.parametrize(("former", "path"), FORMER_PATHS.items())
def test_a_module_that_moved_still_offers_its_names_at_the_former_path(former, path):
    for name in importlib.import_module(former).__all__:
        assert getattr(importlib.import_module(former), name) is getattr(importlib.import_module(path), name)
        assert name in CONTRACT[path]
