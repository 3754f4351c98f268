"""A plan as a picture: the operators of EXPLAIN's text as boxes, rows flow upwards.

The text has a line for each operator, indented below the one that reads it. Over executors it is
cut into stages, each in a frame of its own; `[Stage n] => …` is where its rows arrive.
"""

from __future__ import annotations

import dataclasses
import html
import re

_STAGE = re.compile(r"^┌─+ (?P<name>[^─]*?)(?: ── (?P<more>.*))?$")
_TASKS = re.compile(r"\btasks=\d+")
_ARRIVES = re.compile(r"^\[(?P<stage>Stage \d+)\] => (?P<line>.*)$")
_METRICS = re.compile(r",? metrics=\[(.*)\]$")
_SHOWN = {"output_rows": "{} rows", "elapsed_compute": "{} of a processor"}

# Pixels, and letters of a line.
_LETTER, _LETTERS_MAX, _LINE = 6.6, 44, 15
_GAP_X, _GAP_Y, _EDGE = 24, 40, 8


class Picture(str):
    """SVG, which shows itself in a notebook."""

    def _repr_svg_(self) -> str:
        return str(self)


@dataclasses.dataclass
class _Box:
    lines: list[str]
    whole: str
    stage: str = ""
    """What is written above it: it is the last operator of a stage."""
    arrives: str = ""
    children: list[_Box] = dataclasses.field(default_factory=list["_Box"])
    x: float = 0
    """Of its middle."""
    y: float = 0

    @property
    def width(self) -> float:
        return max(len(line) for line in self.lines) * _LETTER + 2 * _EDGE

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + _EDGE


def drawn(plan: str) -> Picture:
    """The picture of a physical plan, as EXPLAIN has it."""
    roots = _trees(plan)
    right, bottom = 0.0, 0.0
    for root in roots:
        right, deepest = _placed(root, right, _GAP_Y)
        bottom = max(bottom, deepest)
    parts = [part for root in roots for part in _parts(root)]
    size = f'width="{right:.0f}" height="{bottom + _GAP_Y:.0f}"'
    style = 'font-family="ui-monospace, monospace" font-size="11" text-anchor="middle"'
    return Picture(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>')


def _trees(plan: str) -> list[_Box]:
    """The operators that nothing reads, with those below them."""
    roots: dict[str, list[_Box]] = {"": []}
    above: list[_Box] = []
    stage, title = "", ""
    arrivals: list[_Box] = []
    for line in plan.splitlines():
        text = line.strip()
        head = _STAGE.match(text)
        if head:
            stage, above = head["name"].strip(), []
            tasks = _TASKS.search(head["more"] or "")
            title = f"{stage}, {tasks[0]}" if tasks else stage
            roots.setdefault(stage, [])
        elif text and not text.startswith("└"):
            framed = line.lstrip()[2:] if text.startswith("│") else line
            depth = (len(framed) - len(framed.lstrip())) // 2
            box = _box(framed.strip())
            del above[depth:]
            if above:
                above[-1].children.append(box)
            else:
                box.stage = title
                roots[stage].append(box)
            above.append(box)
            if box.arrives:
                arrivals.append(box)
    for box in arrivals:
        box.children += roots.pop(box.arrives, [])
    return [box for boxes in roots.values() for box in boxes]


def _box(text: str) -> _Box:
    arrives = _ARRIVES.match(text)
    line = arrives["line"] if arrives else text
    metrics = _METRICS.search(line)
    said = line[: metrics.start()] if metrics else line
    name, _, more = said.partition(": ")
    lines = [name.rstrip(":,"), *([more] if more else [])]
    if metrics:
        found = dict(part.split("=", 1) for part in metrics[1].split(", ") if "=" in part)
        lines.append(", ".join(words.format(found[key]) for key, words in _SHOWN.items() if key in found))
    shown = [one if len(one) <= _LETTERS_MAX else one[: _LETTERS_MAX - 1] + "…" for one in lines if one]
    return _Box(shown, text, arrives=arrives["stage"] if arrives else "")


def _placed(box: _Box, left: float, top: float) -> tuple[float, float]:
    """Gives a box and those below it their places: where the next one may begin, and the lowest end."""
    box.y = top
    right, bottom = left, top + box.height
    for child in box.children:
        right, deepest = _placed(child, right, top + box.height + _GAP_Y)
        bottom = max(bottom, deepest)
    if right < left + box.width + _GAP_X:
        # It is wider than all below it, which move below its middle.
        aside = (left + box.width + _GAP_X - right) / 2
        for child in box.children:
            _moved(child, aside)
        right = left + box.width + _GAP_X
    middle = (box.children[0].x + box.children[-1].x) / 2 if box.children else (left + right) / 2
    box.x = max(middle, left + (box.width + _GAP_X) / 2)
    return right, bottom


def _moved(box: _Box, aside: float) -> None:
    box.x += aside
    for child in box.children:
        _moved(child, aside)


def _parts(box: _Box) -> list[str]:
    """The elements of a box and of those below it; lines first, for boxes lie on them."""
    made: list[str] = []
    for child in box.children:
        ends = f'x1="{child.x:.1f}" y1="{child.y:.1f}" x2="{box.x:.1f}" y2="{box.y + box.height:.1f}"'
        made.append(f'<line {ends} stroke="#888"/>')
    corner = f'x="{box.x - box.width / 2:.1f}" y="{box.y:.1f}"'
    made.append(f"<g><title>{html.escape(box.whole)}</title>")
    made.append(f'<rect {corner} width="{box.width:.1f}" height="{box.height:.1f}" rx="4" fill="#f4f6fa" stroke="#456"/>')
    for place, line in enumerate(box.lines):
        weight = ' font-weight="bold"' if place == 0 else ""
        at = f'x="{box.x:.1f}" y="{box.y + (place + 1) * _LINE - 1:.1f}"'
        made.append(f'<text {at} fill="#123"{weight}>{html.escape(line)}</text>')
    if box.stage:
        at = f'x="{box.x - box.width / 2:.1f}" y="{box.y - 5:.1f}" text-anchor="start"'
        made.append(f'<text {at} fill="#888">{html.escape(box.stage)}</text>')
    made.append("</g>")
    return made + [part for child in box.children for part in _parts(child)]
