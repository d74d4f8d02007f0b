"""A control plane for development and tests of the StreamSpace Agent."""

from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.client import PlaneClient
from streamspace_devplane.errors import PlaneError
from streamspace_devplane.plane import DevPlane
from streamspace_devplane.process import DevPlaneProcess
from streamspace_devplane.settings import Settings

__all__ = ["DevPlane", "DevPlaneProcess", "Faults", "PlaneClient", "PlaneError", "Settings"]
