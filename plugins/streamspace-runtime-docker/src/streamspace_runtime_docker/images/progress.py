"""The progress of one pull, summed up over its layers.

Engines have two image stores, which report differently (measured on 20.10 and on 28.5 with each store):

* Both announce every layer as ``Pulling fs layer``; sizes come only then.
* The classic store fetches three layers at a time, of all pulls together; the others wait. A layer's first bytes come
  with its size. ``Verifying Checksum`` and ``Extracting`` (in bytes) may be silent for long.
* containerd's store fetches all layers of all pulls at once and writes them in blocks of 1 MiB: a layer reports
  nothing, not even its size, before its first block. A layer that is smaller, or fast, may never report its size.
  ``Downloading`` is repeated ten times a second, changed or not, also at the full size while the layer is written.
  ``Extracting`` counts seconds. A lost connection is reopened silently.
* containerd's store keeps the blocks of a cancelled pull for eight hours, and the next pull begins with them. A second
  pull of an image shows the bytes of the first, and continues them when the first is cancelled. A layer that exists is
  ``Already exists``, or, when all exist, not reported at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent.runtime import Progress
from streamspace_agent.units import format_bytes

_UNSTARTED = frozenset({"Pulling fs layer", "Waiting"})
_FETCHED = frozenset({"Download complete", "Verifying Checksum", "Extracting", "Pull complete"})
_EXISTS = "Already exists"


@dataclass(slots=True)
class _Layer:
    status: str = ""
    current: int = 0
    total: int = 0
    """Bytes to fetch; 0 until the engine reports them."""
    unpacked: int = 0

    def verified(self) -> bool:
        """Is it fetched, and being verified or written, which may take long?"""
        return self.status == "Verifying Checksum" or (
            self.status not in _FETCHED and bool(self.total) and self.current == self.total
        )


class PullProgress:
    """Sums up the engine's messages about one pull."""

    def __init__(self, *, containerd: bool = False) -> None:
        self.containerd = containerd
        self._layers: dict[str, _Layer] = {}
        self._shown = 0

    def take(self, line: Mapping[str, Any]) -> bool:
        """Add one message; True when it shows progress. Mere retries are none."""
        name, status = str(line.get("id", "")), str(line.get("status", ""))
        if status.startswith("Retrying"):
            return False
        if not name or status.startswith("Pulling from"):
            return True
        layer = self._layers.setdefault(name, _Layer())
        moved, layer.status = layer.status != status, status
        detail = line.get("progressDetail") or {}
        current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
        if status == "Extracting":
            if "units" not in detail:  # else it counts the seconds that pass
                moved |= layer.unpacked != current
                layer.unpacked = current
        elif current or total:
            moved |= layer.current != current
            layer.current, layer.total = current, max(total, current) if total > 0 else 0
        if status in _FETCHED:
            layer.current = layer.total = layer.total or layer.current
        return moved

    def queued(self) -> bool:
        """Does every layer that is still missing wait for one of the slots that all pulls share?

        A fetched layer may wait for another: layers are unpacked in their order, but not fetched in it.
        """
        left = self._left() - {"Download complete"}
        return not self.containerd and bool(left) and left <= _UNSTARTED

    def busy(self) -> bool:
        """Is a layer verified or unpacked, or ready to be? The engine may be silent for long meanwhile."""
        left = self._left()
        verified = any(layer.verified() for layer in self._layers.values())
        return verified or "Extracting" in left or left == {"Download complete"}

    def fetching(self) -> int:
        """The number of layers that are not fetched completely."""
        return sum(layer.status not in _FETCHED and layer.status != _EXISTS for layer in self._layers.values())

    def _left(self) -> set[str]:
        return {layer.status for layer in self._layers.values()} - {_EXISTS, "Pull complete"}

    def progress(self) -> Progress:
        """The sum. ``total`` is 0 until every layer's size is known, and whenever the percentage would fall."""
        layers = [layer for layer in self._layers.values() if layer.status != _EXISTS]
        current = sum(layer.current for layer in layers)
        known = all(layer.total or layer.status in _FETCHED for layer in layers)
        total = sum(layer.total for layer in layers) if known else 0
        percent = current * 100 // total if total else 0
        if percent < self._shown:
            total = 0
        self._shown = max(self._shown, percent)
        done = sum(layer.status == "Pull complete" for layer in layers)
        detail = f"{done} of {len(layers)} layers" if layers else "asking the registry"
        if current and not total:
            detail = f"{format_bytes(current)} so far, {detail}"
        if self.queued():
            detail = f"waits for the engine, which has other layers to fetch, {detail}"
        elif any(layer.status == "Extracting" for layer in layers):
            detail = f"unpacking, {detail}"
        return Progress("pulling", current, total, detail)
