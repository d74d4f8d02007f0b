"""Each block of code on the site is run by a test or says why not; test_deployments_documented does it for its page."""

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "core/README.md")]
PAGES += [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(r"^```\{.*?^```\n?", re.DOTALL | re.MULTILINE)
PARSED = {"python": ast.parse, "toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}
SHELL = {"bash", "sh", "console"}
SHOWN = {"text", "mermaid"}  # read by people; a picture is drawn by the build

RUN_BY = {
    "tests/integration/test_first_steps.py": r"\.venv/bin/(docker-agent|streamspace-devplane)|^docker tag ",
    "tests/packaging/test_packaging.py": r"^make (-C \S+ )?wheels|^pip install ",
    "tests/docs/test_tutorial.py": r"^python -m build",
    "tests/lab": r"^make demo",
    "tests/core/test_cli.py": r"^docker-agent( (check|status|plugins|--help))?$|^(\w+=\S+ )+docker-agent$",
    "plugins/streamspace-devplane/tests/test_devplane_cli.py": r"^streamspace-devplane ",
    "plugins/streamspace-elect-swarm/tests": r"^docker (config|service) inspect ",
}
"""Which tests run a line: the first whose pattern is in it."""
NOT_RUN = {
    r"^export ": "an example's values",
    r"^make (env|check|docs|test|test-fast|coverage)\b": "what runs this test came from it, or would run it again",
    r"pytest plugins/streamspace-runtime-docker|lab\.dockerd import load": "takes an engine beside this one",
    r"^python -m venv|^/tmp/fresh/": "the tests of packaging install into fresh environments of their own",
}


def lines(text):
    joined = text.replace("\\\n", " ")
    found = (re.sub(r"\s+# .*|\s{2,}#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in found if line and not line.startswith("#")]


def blocks_of(path):
    """The language and text of each block; the site's directives look like blocks, and are none."""
    return BLOCK.findall(DIRECTIVE.sub("", path.read_text()))


def blocks(languages):
    found = [(path, language, text) for path in PAGES for language, text in blocks_of(path)]
    return [
        pytest.param(language, text, id=f"{path.relative_to(ROOT)}-{number}")
        for number, (path, language, text) in enumerate(found)
        if language in languages
    ]


@pytest.mark.parametrize(("language", "text"), blocks(SHELL))
def test_each_line_for_a_shell_is_run_by_tests_or_says_why_not(language, text):
    patterns = [*NOT_RUN, *RUN_BY.values()]
    assert [line for line in lines(text) if not any(re.search(pattern, line) for pattern in patterns)] == []


def test_the_tests_that_run_lines_are_there_and_each_pattern_is_of_use():
    text = [line for case in blocks(SHELL) for line in lines(case.values[1])]
    assert [name for name in RUN_BY if not (ROOT / name).exists()] == []
    patterns = [*NOT_RUN, *RUN_BY.values()]
    assert [pattern for pattern in patterns if not any(re.search(pattern, line) for line in text)] == []


@pytest.mark.parametrize(("language", "text"), blocks(set(PARSED)))
def test_other_code_can_be_read_and_imports_what_exists(language, text):
    parsed = PARSED[language](text)
    imports = [node for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)] if language == "python" else []
    for node in imports:
        if node.module.startswith("streamspace_") and "sqlite" not in node.module:
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_no_block_is_of_a_language_that_nothing_looks_at():
    known = {*SHELL, *SHOWN, *PARSED, "ini", "nginx"}
    assert [(path.name, text) for path in PAGES for language, text in blocks_of(path) if language not in known] == []
