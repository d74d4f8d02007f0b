"""``--help`` says what the Settings model says, nothing more and nothing less. test_site judges the site's tables."""

import re
import subprocess
import sys

import pytest

from streamspace_agent.cli import options
from streamspace_agent.config import Settings, is_secret, variable


@pytest.fixture(scope="module")
def shown_help():
    command = [sys.executable, "-m", "streamspace_agent", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return " ".join(text.split())


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_the_help_tells_a_settings_option_variable_meaning_and_default(shown_help, field):
    info = Settings.model_fields[field]
    default = "required" if info.is_required() else f"default: {options.default_text(field)}"
    names = f"{variable(field)} or {variable(field)}_FILE" if is_secret(field) else variable(field)
    assert f"{info.description} [{names}, {default}]" in shown_help
    dashed = field.replace("_", "-")
    assert re.search(rf"--{dashed}{'-file' if is_secret(field) else ''}\b", shown_help)
