"""The drawings of chapter 1. Each function takes what it draws; the notebook computes it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

__all__ = [
    "draw_bigrams",
    "draw_cross_entropy",
    "draw_descent",
    "draw_map",
    "draw_orders",
    "draw_surprise",
    "draw_temperatures",
]

INK, RED, GREEN, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#666666"
PALE, WARM, LEAF, PLAIN = "#e3ecf5", "#f8e4dd", "#e0f0ed", "#f4f4f4"


def draw_map() -> None:
    """The way of a text through a language model, in training and in use."""
    _, axes = plt.subplots(figsize=(7, 7.2))
    axes.set(xlim=(0, 100), ylim=(0, 101.5))
    axes.axis("off")
    axes.set_title("From a text to the probabilities of its next token")
    stages = [
        ("text", '"The owl"', PLAIN),
        ("tokens: pieces of text, as numbers (ch. 2)", "(T,)", PALE),
        ("embeddings and positions: vectors (ch. 3, 4)", "(T, d_model)", PALE),
        ("n_layers blocks, one like the other (ch. 3, 4)", "(T, d_model)", PALE),
        ("norm, output head: a score per token (ch. 4)", "(T, vocab_size)", PALE),
        ("softmax: probabilities", '" naps" 0.3, " sings" 0.2, ...', PLAIN),
    ]
    heights = [96, 84, 72, 60, 48, 36]
    for (name, detail, colour), y in zip(stages, heights, strict=True):
        _box(axes, 1, y - 3.8, 51, 8, f"{name}\n{detail}", colour)
    for upper, lower in pairwise(heights):
        _arrow(axes, (26, upper - 4.2), (26, lower + 4.8))
    _draw_block(axes)
    _draw_uses(axes)
    for x, width, label in (
        (1, 30, "pretraining (ch. 5)\non all kinds of text"),
        (35.5, 30, "alignment (ch. 6)\non conversations"),
        (70, 29, "performance\n(appendix)"),
    ):
        _box(axes, x, 0.5, width, 8, label, LEAF)
    _arrow(axes, (31.5, 4.5), (35, 4.5))
    _arrow(axes, (66, 4.5), (69.5, 4.5))


def _box(axes, x, y, width, height, text, colour, size=8.5) -> None:
    style = "round,pad=0,rounding_size=1.2"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, style, facecolor=colour, edgecolor=INK, linewidth=1)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(axes, start, end, colour=INK, bend="arc3,rad=0") -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "connectionstyle": bend}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _draw_block(axes) -> None:
    """What is inside one block, at the right of the stack."""
    x = 62
    axes.add_patch(
        FancyBboxPatch(
            (x - 4, 44), 41, 50, "round,pad=0,rounding_size=1.5", fc="white", ec=GREY, ls="--"
        )
    )
    axes.text(x + 16.5, 90.7, "one block", ha="center", va="center", fontsize=9, weight="bold")
    parts = [(83, "norm"), (75.5, "attention: look back (ch. 3)"), (58.5, "norm")]
    parts.append((51, "feed-forward: digest (ch. 4)"))
    for y, name in parts:
        _box(axes, x + 5, y - 2.4, 31, 5, name, PALE if "norm" in name else WARM, 8)
    for y in (68, 46.5):
        axes.text(x + 20.5, y - 0.2, "+", ha="center", va="center", fontsize=13, weight="bold")
    _arrow(axes, (x + 20.5, 80.4), (x + 20.5, 78.2))
    _arrow(axes, (x + 20.5, 73), (x + 20.5, 69.6))
    _arrow(axes, (x + 20.5, 66.2), (x + 20.5, 61.2))
    _arrow(axes, (x + 20.5, 56), (x + 20.5, 53.8))
    axes.plot([x + 20.5, x + 20.5], [88.6, 85.6], color=INK, lw=1.3, ls="-")
    for top, bottom in ((87.2, 67.8), (64.5, 46.3)):  # the residual stream passes by
        axes.plot([x + 20.5, x + 1, x + 1], [top, top, bottom], color=RED, lw=1.6, ls="-")
        _arrow(axes, (x + 1, bottom), (x + 18.8, bottom), RED)
    for y in (77.5, 55.4):
        axes.text(
            x - 1, y, "residual", rotation=90, ha="center", va="center", fontsize=8, color=RED
        )
    axes.plot([52, 58], [64, 94], color=GREY, lw=0.8, ls=":")
    axes.plot([52, 58], [56.4, 44], color=GREY, lw=0.8, ls=":")


def _draw_uses(axes) -> None:
    """What becomes of the probabilities: a token when writing, a loss when training."""
    _box(
        axes, 1, 15, 43, 11, "in use, sampling (ch. 4):\ndraw a token, put it behind the text", WARM
    )
    _box(
        axes, 52, 15, 47, 11, "in training, loss (ch. 1 and 5):\n-log P(the token that came)", WARM
    )
    _arrow(axes, (17, 32), (17, 26.4))
    _arrow(axes, (40, 32), (60, 26.4))
    axes.plot([0.2, -2.2, -2.2], [20.5, 20.5, 96], color=RED, lw=1.3, ls="-", clip_on=False)
    _arrow(axes, (-2.2, 96), (1, 96), RED)
    axes.text(
        -3.9, 60, "the text, now longer by a token",
        rotation=90, ha="center", va="center", fontsize=8, color=RED, clip_on=False,
    )  # fmt: skip
    axes.plot([80, 80, 55.2, 55.2], [26.4, 41.2, 41.2, 72], color=RED, lw=1.3, ls="--")
    for y in (48, 60, 72):  # whatever has weights: output head, blocks, embeddings
        _arrow(axes, (55.4, y), (52, y), RED)
    axes.text(
        81.5, 35, "gradients change\nthe weights\n(dashed)",
        ha="left", va="center", fontsize=8, color=RED,
    )  # fmt: skip


def draw_cross_entropy(p: float, q: Sequence[float], bits: Sequence[float], best: float) -> None:
    """What each belief `q` about a coin costs, when heads come up with probability `p`."""
    _, axes = plt.subplots()
    axes.plot(q, bits, label="cross-entropy: what the belief q costs")
    axes.axhline(best, color=GREY, linestyle="--", linewidth=1.2, label="entropy: the floor")
    axes.plot(p, best, "o", color=RED, markersize=8, zorder=3)
    axes.annotate("the belief that is true", (p, best), (p, best - 0.4), ha="center", color=RED)
    axes.set(xlim=(0, 1), ylim=(0, 4), xlabel="q: believed probability of the commoner sentence")
    axes.set(ylabel="bits per sentence", title="No belief costs less than the truth")
    axes.legend(loc="upper center")


def draw_surprise(text: str, rows: Mapping[str, Sequence[float]], columns: int = 66) -> None:
    """The text once for each row of costs, every character on a ground as dark as it was dear."""
    lines = _wrap(text, columns)
    height = 0.19 * len(lines) * len(rows) + 0.36 * len(rows) + 0.62
    figure, panels = plt.subplots(len(rows), figsize=(7, height), squeeze=False)
    for axes, (title, bits) in zip(panels[:, 0], rows.items(), strict=True):
        grid = np.full((len(lines), columns), np.nan)
        for y, (start, line) in enumerate(lines):
            grid[y, : len(line)] = bits[start : start + len(line)]
            for x, character in enumerate(line):
                colour = "white" if grid[y, x] > 3.5 else "black"
                glyph = character.replace("\n", "¶")
                axes.text(
                    x, y + 0.05, glyph, ha="center", va="center", fontsize=8,
                    family="monospace", color=colour,
                )  # fmt: skip
        image = axes.imshow(grid, vmin=0, vmax=6, aspect="auto", cmap="Blues")
        axes.set_title(f"{title}: {sum(bits):.0f} bits", fontsize=10)
        axes.axis("off")
    bar = figure.colorbar(image, ax=panels[:, 0], location="bottom", aspect=50, fraction=0.06)
    bar.set_label("bits for this character (6 or more: darkest)", fontsize=9)


def _wrap(text: str, columns: int) -> list[tuple[int, str]]:
    """Lines of at most so many characters, broken after a space, and where each starts."""
    lines, start = [], 0
    while start < len(text):
        end = min(start + columns, len(text))
        if (newline := text.find("\n", start, end)) >= 0:
            end = newline + 1
        elif end < len(text) and (space := text.rfind(" ", start, end)) > start:
            end = space + 1
        lines.append((start, text[start:end]))
        start = end
    return lines


def draw_bigrams(probabilities: np.ndarray, characters: Sequence[str]) -> None:
    """The table of a bigram model: a row for what came, a column for what may come next."""
    figure, axes = plt.subplots(figsize=(7, 6.4))
    image = axes.imshow(np.sqrt(probabilities), cmap="Blues", vmin=0, vmax=1)
    names = [{"\n": "¶", " ": "·"}.get(c, c) for c in characters]
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set(xlabel="next character (¶ is a new line, · a space)", ylabel="character before")
    axes.set_title("Few characters can follow a given one")
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    ticks = [0, 0.01, 0.1, 0.25, 0.5, 1]
    bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("probability")


def draw_descent(losses: Sequence[float], counted: float) -> None:
    """The loss of gradient descent, and by how much it is above that of the counts."""
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses)
    left.axhline(counted, color=GREY, linestyle="--", linewidth=1.2)
    left.annotate("the counts", (1, counted), (1, counted + 0.04), color=GREY, va="bottom")
    left.set(xscale="log", xlabel="step", ylabel="nats per character")
    left.set_title("It falls to the counts ...")
    right.plot(steps, np.array(losses) - counted, color=RED)
    right.set(xscale="log", yscale="log", xlabel="step", ylabel="nats above the counts")
    right.set_title("... and comes ever closer")


def draw_temperatures(
    rows: Mapping[str, np.ndarray], characters: Sequence[str], after: str
) -> None:
    """The same distribution at several temperatures, a panel each."""
    figure, panels = plt.subplots(1, len(rows), figsize=(7, 2.6), sharey=True)
    for axes, (title, p) in zip(panels, rows.items(), strict=True):
        axes.bar(range(len(p)), p, color=INK)
        axes.set_xticks(range(len(p)), [{" ": "␣"}.get(c, c) for c in characters], fontsize=9)
        axes.grid(axis="x", visible=False)
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("probability")
    figure.suptitle(
        f'A low temperature favours the likeliest followers of "{after}"',
        x=0.01, ha="left", fontsize=11, weight="bold",
    )  # fmt: skip


def draw_orders(curves: Mapping[str, Sequence[float]], floor: float) -> None:
    """Bits per byte of n-grams against their order, with the floor."""
    _, axes = plt.subplots(figsize=(7, 4))
    for (name, bits), marker in zip(curves.items(), "osD", strict=False):
        axes.plot(range(1, len(bits) + 1), bits, marker=marker, markersize=4, label=name)
    axes.axhline(floor, color=GREY, linestyle=(0, (1, 1)), linewidth=1.6, label="the floor")
    axes.set_yscale("log", base=2)
    most = max(len(bits) for bits in curves.values())
    axes.set_xticks(range(1, most + 1, max(1, most // 12)))
    ticks = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="order of the n-gram (the characters it sees, and the one it predicts)")
    axes.set(
        ylabel="bits per byte", title="Counting levels off above the floor; only a leak goes below"
    )
    axes.legend()
