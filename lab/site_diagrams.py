"""Draws sequence diagrams as SVG, from the part of Mermaid's language that the pages use.

Sites that host code draw Mermaid themselves; this one needs no script and no network for it. Allowed are
``participant A as Label``, ``A->>B: text``, ``A-->>B: text`` (dashed) and ``Note over A,B: text``.
"""

from __future__ import annotations

import re
from html import escape

ROW, MARGIN, BOX = 42, 12, 34
PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
MESSAGE = re.compile(r"(\w+)(-{1,2})>>(\w+): (.+)")
NOTE = re.compile(r"Note over (\w+)(?:,\s*(\w+))?: (.+)")
CHARACTER = 7.6  # the width of a letter of the labels, in pixels: more than the mean


def svg(source: str) -> str:
    """The picture, in the text's own colour. Raises ValueError that names the line which cannot be drawn."""
    first, *lines = [line.strip() for line in source.strip().splitlines() if line.strip()]
    if first != "sequenceDiagram":
        raise ValueError(f"only a sequenceDiagram can be drawn, not {first!r}")
    labels = [found[2] for line in lines if (found := PARTICIPANT.fullmatch(line))]
    column = max([190, *(_width(label) + 20 for label in labels)])
    columns: dict[str, int] = {}
    heads: list[str] = []
    body: list[str] = []
    y = MARGIN + BOX + ROW
    for line in lines:
        if found := PARTICIPANT.fullmatch(line):
            columns[found[1]] = x = MARGIN + column // 2 + column * len(columns)
            heads += [_box(x, MARGIN, _width(found[2]), found[2], "actor")]
            continue
        if found := MESSAGE.fullmatch(line):
            start, end, text = found[1], found[3], found[4]
        elif found := NOTE.fullmatch(line):
            start, end, text = found[1], found[2] or found[1], found[3]
        else:
            raise ValueError(f"cannot draw the line {line!r}")
        if missing := {start, end} - columns.keys():
            raise ValueError(f"no participant {missing.pop()!r} in the line {line!r}")
        left, right = sorted((columns[start], columns[end]))
        if line.startswith("Note"):
            room = max(right - left, _width(text))
            body.append(_box((left + right) // 2, y - 22, room, text, "note", 30))
        else:
            body.append(_arrow(columns[start], columns[end], y, text, dashed=found[2] == "--"))
        y += ROW
    width, height = MARGIN * 2 + column * len(columns), y
    lifelines = [
        f'<line x1="{x}" y1="{MARGIN + BOX}" x2="{x}" y2="{height - MARGIN}" class="life"/>' for x in columns.values()
    ]
    title = escape(f"Sequence diagram: {', '.join(columns)}")
    marker = '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="sequence" {size} role="img"><title>{title}</title>'
    tip = f'<defs>{marker}<path d="M0 0 8 4 0 8z"/></marker></defs>'
    return "\n".join([opening, tip, *lifelines, *heads, *body, "</svg>"])


def _width(text: str) -> int:
    return int(len(text) * CHARACTER) + 24


def _box(x: int, y: int, width: int, text: str, kind: str, height: int = BOX) -> str:
    rectangle = f'<rect x="{x - width // 2}" y="{y}" width="{width}" height="{height}" rx="5" class="{kind}"/>'
    return f'{rectangle}<text x="{x}" y="{y + height // 2 + 4}" class="{kind}">{escape(text)}</text>'


def _arrow(start: int, end: int, y: int, text: str, *, dashed: bool) -> str:
    kind = "message answer" if dashed else "message"
    if start == end:  # what one does by itself: a loop to the right of its line
        path = f"M{start} {y - 8}h26v14h-24"
        label = f'<text x="{start + 34}" y="{y + 3}" class="left">{escape(text)}</text>'
        return f'<path d="{path}" class="{kind}" marker-end="url(#tip)"/>{label}'
    line = f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" class="{kind}" marker-end="url(#tip)"/>'
    return f'{line}<text x="{(start + end) // 2}" y="{y - 7}">{escape(text)}</text>'
