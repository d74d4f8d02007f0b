"""Durations, Kubernetes quantities and byte counts: parsed from text, and formatted for people."""

import math
import re
from decimal import Decimal

MAX_LENGTH = 100
"""Characters. A longer duration or quantity is refused without parsing it."""

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h|d)")
_DURATIONS = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?:(?P<exponent>[eE][+-]?[0-9]+)|(?P<suffix>[KMGTPE]i|[numkMGTPE]?))"
)
_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}


def parse_duration(text: str) -> float:
    """Parse ``30s``, ``1m30s``, ``500ms``, ``8h`` or ``45`` into seconds. Raises ValueError with an example."""
    text = text.strip()
    seconds = math.inf
    if len(text) > MAX_LENGTH:
        pass
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        seconds = float(text)
    elif _DURATIONS.fullmatch(text):
        seconds = sum(float(m["number"]) * _SECONDS[m["unit"]] for m in _DURATION.finditer(text))
    if math.isfinite(seconds):
        return seconds
    raise ValueError(f"{text[:40]!r} is not a duration: write for example 30s, 1m30s, 500ms or 45 (seconds)")


def parse_quantity(text: str | float) -> Decimal:
    """Parse a Kubernetes quantity exactly: ``500m``, ``1.5``, ``2Gi``, ``100M``, ``1e3``. Raises ValueError."""
    written = str(text).strip()
    match = _QUANTITY.fullmatch(written) if len(written) <= MAX_LENGTH else None
    if match and not match["exponent"]:
        return Decimal(match["number"]) * _SUFFIX[match["suffix"]]
    if match and abs(int(match["exponent"][1:])) <= 30:
        return Decimal(written)
    raise ValueError(f"{str(text)[:40]!r} is not a quantity: write for example 500m, 2, 512Mi or 2Gi")


def format_bytes(number: float) -> str:
    """Format bytes for people: ``512 B``, ``2.1 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.1f}".removesuffix(".0") + f" {unit}"
        number /= 1024
    return f"{number:.1f}".removesuffix(".0") + " TiB"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 session``, ``2 sessions``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Format seconds for people: ``350 ms``, ``2.4 s``, ``3 min 20 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
