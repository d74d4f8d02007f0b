"""A newcomer sees what is being done before the first test runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_step_before_the_tests_is_told_and_that_the_tests_take_patience(docker_host):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "lab", "test", "-n", "0", "--collect-only", "-q", "tests/core/test_units.py"]
    done = subprocess.run(
        command,
        env=plain | {"DOCKER_HOST": docker_host},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    before, _, _ = done.stdout.partition("tests/core/test_units.py::")
    told = [line for line in before.splitlines() if line.startswith("lab: ")]
    assert any(line.startswith(f"lab: the Docker engine at {docker_host} answers") for line in told)
    assert re.match(r"lab: running the tests, \d+ files at a time on \d+ processors, the longest first\. ", told[-1]), (
        told[-1]
    )
    assert "may stand still for minutes" in told[-1]
    assert before.splitlines() == told, "nothing but what it does"
