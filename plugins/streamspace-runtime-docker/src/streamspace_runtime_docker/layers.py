"""What an engine tells of one pull, layer by layer, summed up.

Engines have two image stores, which tell it differently (measured on 20.10 and on 28.5 with each store):

* Both announce every layer as ``Pulling fs layer``; only then come sizes.
* The classic one fetches three layers at a time, of all pulls together; the others wait. Each tells its size with its
  first bytes. ``Verifying Checksum`` and ``Extracting`` (in bytes) may be silent for long.
* containerd's fetches all layers of all pulls at once, and writes them in blocks of 1 MiB: a layer tells nothing before
  its first block, its size included, and goes on in blocks. A layer smaller than that, or a fast one, may never tell its
  size. ``Downloading`` is repeated ten times a second, changed or not, also at the full size, while the layer is written
  out. ``Extracting`` counts seconds. A connection that breaks is made anew without a word.
* containerd's keeps the blocks of a pull that was cut, for eight hours: the next one begins with them. A second pull of
  an image shows the bytes of the first, and goes on with them where the first is cut. What is there is ``Already
  exists``, or, where everything is, not told at all.
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
    """Bytes to fetch; 0 where the engine has not told them."""
    unpacked: int = 0

    def verified(self) -> bool:
        """Is it here and being checked or written out, which may take long?"""
        return self.status == "Verifying Checksum" or (
            self.status not in _FETCHED and bool(self.total) and self.current == self.total
        )


class Layers:
    """The engine's messages about one pull."""

    def __init__(self, *, containerd: bool = False) -> None:
        self.containerd = containerd
        self._layers: dict[str, _Layer] = {}
        self._shown = 0

    def take(self, line: Mapping[str, Any]) -> bool:
        """Add one message; True when it shows progress. An engine that only tries again gets nowhere."""
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
        """Does every layer that is not there yet wait for one of the slots that the engine shares among all pulls?

        One that is fetched may wait for another: they are unpacked in their order, and not fetched in it.
        """
        left = self._left() - {"Download complete"}
        return not self.containerd and bool(left) and left <= _UNSTARTED

    def busy(self) -> bool:
        """Is a layer verified or unpacked, or does it wait for that alone? The engine may be silent over it for long."""
        left = self._left()
        verified = any(layer.verified() for layer in self._layers.values())
        return verified or "Extracting" in left or left == {"Download complete"}

    def fetching(self) -> int:
        """Layers of which bytes are still to come."""
        return sum(layer.status not in _FETCHED and layer.status != _EXISTS for layer in self._layers.values())

    def _left(self) -> set[str]:
        return {layer.status for layer in self._layers.values()} - {_EXISTS, "Pull complete"}

    def progress(self) -> Progress:
        """``total`` only where every layer's size is known, and only while the percentage does not fall; bytes are told
        in words otherwise.
        """
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
