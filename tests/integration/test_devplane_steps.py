"""The first steps of the dev plane's README, on a real engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

from streamspace_devplane.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "plugins/streamspace-devplane/README.md"


def test_the_image_of_the_first_session_is_made_by_the_documented_command(docker_host, docker_client, desktop_image):
    image = TEMPLATES["desktop"]["spec"]["baseImage"]
    (line,) = re.findall(rf"^docker tag .* {re.escape(image)}$", README.read_text(), re.MULTILINE)
    line = line.replace(".venv/bin/python", sys.executable)
    try:
        subprocess.run(["sh", "-ec", line], cwd=ROOT, env={**os.environ, "DOCKER_HOST": docker_host}, check=True)
        assert docker_client.images.get(image).id == docker_client.images.get(desktop_image).id
    finally:
        docker_client.images.remove(image, noprune=True)
