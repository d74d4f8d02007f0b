"""The README's table and ``--help`` say what the Settings model says: nothing more, nothing less, nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamspace_agent.cli import options
from streamspace_agent.config import ALIASES, Settings, is_secret, variable

ROOT = Path(__file__).resolve().parents[2]


def table():
    """The rows of the README's settings: variable, option, meaning, default."""
    section = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.fixture(scope="module")
def shown_help():
    command = [sys.executable, "-m", "streamspace_agent", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return " ".join(text.split())


def test_the_readme_lists_every_setting_in_the_order_of_the_help_and_no_other():
    assert list(table()) == [variable(field) for field in options.grouped()]


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_the_readme_tells_a_settings_option_meaning_and_default(field):
    option, meaning, default = table()[variable(field)]
    assert option == ", ".join(f"`{o.opts[0]}`" for o in options.setting_options() if o.field == field)
    assert meaning == Settings.model_fields[field].description.replace("|", "\\|")
    required = Settings.model_fields[field].is_required()
    assert default == ("required" if required else f"`{options.default_text(field)}`".replace("`-`", "-"))


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_the_help_tells_a_settings_option_variable_meaning_and_default(shown_help, field):
    info = Settings.model_fields[field]
    default = "required" if info.is_required() else f"default: {options.default_text(field)}"
    names = f"{variable(field)} or {variable(field)}_FILE" if is_secret(field) else variable(field)
    assert f"{info.description} [{names}, {default}]" in shown_help
    dashed = field.replace("_", "-")
    assert re.search(rf"--{dashed}{'-file' if is_secret(field) else ''}\b", shown_help)


def test_the_readme_tells_the_other_names_of_a_setting():
    section = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2]
    for alias in ALIASES:
        assert f"`{alias}`" in section
