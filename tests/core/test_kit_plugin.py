"""What pytest loads wherever the agent is installed: next to nothing, until somebody asks."""

import subprocess
import sys

CODE = """
import sys, pytest
before = set(sys.modules)
import streamspace_agent.testing.plugin
print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
"""


def test_the_pytest_plugin_imports_nothing_but_itself():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["streamspace_agent", "streamspace_agent.testing", "streamspace_agent.testing.plugin"]


def test_the_plugin_is_loaded_by_pytest_itself(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("streamspace_agent")
