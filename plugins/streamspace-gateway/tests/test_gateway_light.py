"""What a replica that only stands by pays for the gateway."""

import subprocess
import sys

LOADED = """
import sys
from streamspace_agent.config import load
from streamspace_agent.plugins import Plugins
environ = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "WEB_GATEWAY": "127.0.0.1:3000"}
gateway = Plugins().gateway(load(environ), environ)
assert not gateway.status().addresses
heavy = ("h11", "streamspace_gateway.server", "streamspace_gateway.connection")
print(*(name for name in heavy if name in sys.modules))
"""


def test_a_gateway_that_does_not_serve_has_loaded_neither_parser_nor_server():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"
