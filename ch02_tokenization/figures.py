"""The drawings of chapter 2: tokens in colour, merges as a tree, windows over documents."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

__all__ = ["readable", "draw_tokens", "draw_merges", "draw_windows"]

TINTS = ("#cfe0ef", "#f7d9c9", "#d3ebe3", "#f8e9bd", "#e3d7ea")
INK = "#222222"
LAST_DRAWN = 0x530  # Latin, Greek and Cyrillic end here: what the book's font can draw
CHARACTERS = 76  # in a line of tokens
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "→"})


def readable(token: bytes) -> str:
    """A token as it can be printed: "·" for a space, "⏎" for a line break, else bytes in hex.

    >>> readable(b" owl"), readable(b"\\xf0\\x9f")
    ('·owl', '\\\\xf0\\\\x9f')
    """
    try:
        text = token.decode().translate(VISIBLE)
    except UnicodeDecodeError:
        return _in_hex(token)
    drawn = all(ord(c) < LAST_DRAWN or c in "⏎→" for c in text) and text.isprintable()
    return text if drawn else _in_hex(token)


def _in_hex(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def draw_tokens(rows: Sequence[tuple[str, Sequence[bytes]]], title: str) -> None:
    """Each row of tokens as coloured boxes, under its label; long rows go on in the next line."""
    lines = [line for label, tokens in rows for line in _lines(label, tokens)]
    _, axes = plt.subplots(figsize=(7, 0.33 * len(lines) + 0.5))
    for y, (label, boxes) in enumerate(lines):
        axes.text(0, y, label, va="center", fontsize=9, color="#555555")
        for x, width, text, tint in boxes:
            _box(axes, x, y, width, text, tint)
    axes.set(xlim=(0, CHARACTERS + 1), ylim=(len(lines) - 0.5, -0.6), title=title)
    axes.axis("off")


def _lines(label: str, tokens: Sequence[bytes]) -> list[tuple[str, list[tuple]]]:
    """The row broken into lines of boxes: place, width, text, tint."""
    lines, boxes, x = ([(label, [])] if label else []), [], 0.0
    for i, token in enumerate(tokens):
        text = readable(token)
        width = len(text) + 0.8
        if x + width > CHARACTERS:
            lines.append(("", boxes))
            boxes, x = [], 0.0
        boxes.append((x, width, text, TINTS[i % len(TINTS)]))
        x += width + 0.35
    return [*lines, ("", boxes)]


def _box(axes: Axes, x: float, y: float, width: float, text: str, tint: str) -> None:
    shape = FancyBboxPatch(
        (x + 0.15, y - 0.36),
        width - 0.3,
        0.72,
        boxstyle="round,pad=0.02,rounding_size=0.25",
        mutation_aspect=0.3,
        facecolor=tint,
        edgecolor="#777777",
        linewidth=0.6,
    )
    axes.add_patch(shape)
    style = {"va": "center_baseline", "ha": "center", "fontsize": 8.5, "color": INK}
    axes.text(x + width / 2, y, text, family="monospace", **style)


def draw_merges(word: Sequence[str], merges: Sequence[tuple[str, str]], title: str) -> None:
    """How a word becomes tokens: a line for each merge that does something, in order."""
    symbols = [(symbol, i, i + 1) for i, symbol in enumerate(word)]  # text, first, last + 1
    rows = [("characters", symbols)]
    for rank, pair in enumerate(merges, start=1):
        merged = []
        for symbol, start, end in symbols:
            if merged and (merged[-1][0], symbol) == pair:
                merged[-1] = ("".join(pair), merged[-1][1], end)
            else:
                merged.append((symbol, start, end))
        if merged != symbols:
            rows.append((f"merge {rank}: {pair[0]} + {pair[1]}", merged))
        symbols = merged
    places = np.cumsum([0, *(len(symbol) + 1.6 for symbol in word)])
    _, axes = plt.subplots(figsize=(7, 0.42 * len(rows) + 0.5))
    for y, (label, symbols) in enumerate(rows):
        axes.text(-1, y, label, ha="right", va="center", fontsize=9, color="#555555")
        for symbol, start, end in symbols:
            width = places[end] - places[start]
            _box(axes, places[start], y, width, symbol, TINTS[0] if end - start == 1 else TINTS[1])
    axes.set(xlim=(-22, places[-1] + 1), ylim=(len(rows) - 0.4, -0.7), title=title)
    axes.axis("off")


def draw_windows(
    inputs: np.ndarray, targets: np.ndarray, pieces: Sequence[str], end_id: int, title: str
) -> None:
    """Each window as a line of boxes, inputs above targets; ends of text are dark.

    `pieces` are the spelled tokens, by id.
    """
    rows = [row for pair in zip(inputs, targets, strict=True) for row in pair]
    _, axes = plt.subplots(figsize=(7, 0.36 * len(rows) + 0.6))
    document = 0
    for y, row in enumerate(rows):
        axes.text(-0.15, y, ("input", "target")[y % 2], ha="right", va="center", fontsize=9)
        for x, id in enumerate(row):
            end = id == end_id
            document += int(end and y % 2 == 0)
            tint = "#333333" if end else TINTS[document % 2] if y % 2 == 0 else "#eeeeee"
            box = plt.Rectangle((x + 0.03, y - 0.42), 0.94, 0.84, facecolor=tint, edgecolor="none")
            axes.add_patch(box)
            style = {"ha": "center", "va": "center", "fontsize": 8, "family": "monospace"}
            axes.text(x + 0.5, y, pieces[id], color="white" if end else INK, **style)
    axes.set(xlim=(-1.2, inputs.shape[1]), ylim=(len(rows) - 0.4, -0.6), title=title)
    axes.axis("off")
