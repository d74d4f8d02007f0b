"""The steps of docs/first-desktop.md, as they stand there, on a real engine."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.until import until_sync
from streamspace_devplane.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/first-desktop.md").read_text()
PLANE, AGENT, START = re.findall(
    r"^```bash\n(.*?)^```", PAGE.partition("## Do it by hand")[2], re.DOTALL | re.MULTILINE
)
BIN = Path(sys.executable).parent


@pytest.fixture
def shell(docker_host, agent_id, tmp_path, swept):
    """Prepares lines of the page for a shell: this environment's programs, and names and places of this test's own."""
    environ = {**os.environ, "DOCKER_HOST": docker_host, "NETWORK_NAME": f"{agent_id}-net", "HOME": str(tmp_path)}
    environ["STATE_DIR"] = str(tmp_path / "state")

    def prepare(text, **more):
        text = text.replace("make env\n", "").replace(".venv/bin/", f"{BIN}/").replace("my-agent", agent_id)
        lines = [line for line in text.splitlines() if not line.startswith("export ")]
        return {"args": ["sh", "-ec", "\n".join(lines)], "cwd": ROOT, "env": {**environ, **more}}

    return prepare


@contextmanager
def running(**process):
    """A process of its own group, with what it prints in a file."""
    log = Path(process["env"]["HOME"], f"{os.urandom(3).hex()}.log")
    with log.open("w") as output:
        child = subprocess.Popen(**process, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield log
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(40)


@pytest.fixture
def image(docker_client, desktop_image):
    """The name of the sample's image, which the page's command makes; it is taken away again."""
    name = TEMPLATES["desktop"]["spec"]["baseImage"]
    yield name
    assert docker_client.images.get(name).id == docker_client.images.get(desktop_image).id
    docker_client.images.remove(name, noprune=True)


def test_the_steps_of_a_first_desktop_lead_to_one_that_runs(shell, agent_id, image, tmp_path):
    folder = tmp_path / "plane"
    assert re.search(r"serve --agent my-agent$", PLANE, re.MULTILINE)
    with running(**shell(PLANE.replace("serve ", f"serve --port 0 --state-dir {folder} "))) as log:
        said = until_sync(lambda: re.search(r"CONTROL_PLANE_URL +(\S+)\n", log.read_text()), log.read_text)
        url = said[1]
        (key,) = re.findall(rf"key of {agent_id} +(\S+)", log.read_text())
        given = {"AGENT_ID": agent_id, "CONTROL_PLANE_URL": url, "AGENT_API_KEY_FILE": key}
        assert set(re.findall(r"^export (\w+)=", AGENT, re.MULTILINE)) == {*given, "STATE_DIR"}
        check, agent = [line for line in AGENT.splitlines() if not line.startswith("export ")]
        checked = subprocess.run(**shell(check, **given), capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        with running(**shell(f"exec {agent}", **given)):
            here = {"STREAMSPACE_DEVPLANE_URL": url.replace("ws:", "http:")}
            start, listing = (
                shell(line, **here) | {"capture_output": True, "text": True} for line in START.splitlines()
            )

            def listed():
                return subprocess.run(**listing).stdout

            until_sync(lambda: agent_id in listed() and "online" in listed(), "the agent is online")
            started = subprocess.run(**start, timeout=90)
            assert started.returncode == 0, started.stdout + started.stderr
            assert re.search(r"desktop.*running", listed())
            name = re.search(r"ada-desktop-[0-9a-f]{8}", listed())[0]
            stop = [BIN / "streamspace-devplane", "stop", name, "--delete-volumes", "--wait"]
            subprocess.run(stop, env={**os.environ, **here}, check=True)
