"""The connection to a Docker Engine (or Podman) that drivers and election backends share.

* :class:`~streamspace_engine.engine.Engine` makes calls
* :func:`~streamspace_engine.events.follow` reads the event stream, and reconnects when it is lost
* :mod:`~streamspace_engine.errors` lists what both raise
* :mod:`~streamspace_engine.credentials` finds the credentials of an image's registry; it alone imports the docker SDK,
  which takes 8 MB of memory
"""

from streamspace_engine.engine import Engine
from streamspace_engine.events import Down, Event, Resumed, follow

__all__ = ["Down", "Engine", "Event", "Resumed", "follow"]
