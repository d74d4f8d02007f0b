"""The one connection to a Docker Engine (or Podman) that drivers and election backends share.

:class:`~streamspace_engine.engine.Engine` makes calls, :func:`~streamspace_engine.events.follow` reads the event stream across
every loss of the engine, :mod:`~streamspace_engine.errors` lists what either raises, and
:func:`~streamspace_engine.credentials.registry_header` finds the credentials of an image's registry. The docker SDK serves that last
one only and is imported there: it costs 8 MB.
"""

from streamspace_engine.engine import Engine
from streamspace_engine.events import Down, Event, Resumed, follow

__all__ = ["Down", "Engine", "Event", "Resumed", "follow"]
