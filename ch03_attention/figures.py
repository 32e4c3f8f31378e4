"""The chapter's drawings. Each takes data; the notebook shows what was drawn.

Shapes: T queries, S keys, D head_dim, H heads.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.patches import FancyArrowPatch, Rectangle

__all__ = [
    "draw_cube",
    "draw_extrapolation",
    "draw_heatmaps",
    "draw_lookup",
    "draw_memory",
    "draw_qkv",
    "draw_rotation",
    "draw_saturation",
    "draw_sinusoids",
    "draw_text_weights",
    "draw_tiles",
    "print_table",
]

INK, WARM, SEA, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#888888"


def print_table(
    rows: Mapping[str, Sequence[float]] | Sequence[tuple[str, Sequence[float]]],
    columns: Sequence[str],
    digits: int = 2,
) -> None:
    """Print named rows of numbers under named columns; masked scores appear as -inf."""
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    first = max(len(name) for name, _ in pairs) + 1
    width = max(digits + 4, *(len(name) + 2 for name in columns))
    print(" " * first + "".join(f"{name:>{width}}" for name in columns))
    for name, numbers in pairs:
        # Adding 0.0 turns the negative zero of floating point into a plain one.
        cells = (f"{round(float(x), digits) + 0.0:{width}.{digits}f}" for x in numbers)
        print(f"{name:<{first}}" + "".join(cells))


def _heatmap(axes, matrix, rows, columns, limit: float, digits: int | None) -> None:
    matrix = np.asarray(matrix, dtype=float)
    finite = np.where(np.isfinite(matrix), matrix, np.nan)
    low = -limit if np.nanmin(finite) < 0 else 0
    colours = "RdBu" if low < 0 else "Blues"
    axes.imshow(finite, cmap=colours, vmin=low, vmax=limit, aspect="equal")
    for i, j in np.ndindex(matrix.shape):
        if not np.isfinite(matrix[i, j]):
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#dddddd", hatch="///"))
            axes.patches[-1].set_edgecolor("#bbbbbb")
        elif digits is not None:
            dark = abs(matrix[i, j]) > 0.6 * limit
            colour = "white" if dark else "#222222"
            size = 7.5 if digits < 2 else 6.8
            text = _short(matrix[i, j], digits)
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    size = 9 if len(columns) < 12 else 7.5
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=size)
    axes.grid(False)


def _short(number: float, digits: int) -> str:
    """The number for a small cell: whole ones as they are, others without the leading zero."""
    number = round(float(number), digits) + 0.0  # + 0.0 makes a plain zero of a negative one
    return f"{number:g}" if number == int(number) else f"{number:.{digits}f}".replace("0.", ".", 1)


def draw_heatmaps(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    title: str = "",
    digits: int | None = 1,
    axis_names: tuple[str, str] = ("query (asks)", "key (is asked)"),
) -> None:
    """Tables of numbers side by side, darker for larger; what is masked is hatched."""
    columns = rows if columns is None else columns
    width = 7.4 if len(panels) > 1 else 5.6
    height = width / len(panels) * len(rows) / len(columns) + 0.85 + 0.5 * (len(rows) < 6)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, height))
    axes = np.atleast_1d(axes)
    for ax, (name, matrix) in zip(axes, panels.items(), strict=True):
        values = np.abs(np.asarray(matrix, dtype=float))
        limit = max(float(values[np.isfinite(values)].max()), 1e-9)
        _heatmap(ax, matrix, rows if ax is axes[0] else [""] * len(rows), columns, limit, digits)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(axis_names[1])
    axes[0].set_ylabel(axis_names[0])
    if len(panels) > 1:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    else:
        axes[0].set_title(title)


def draw_qkv(
    x: Float[np.ndarray, "T C"],
    projections: Mapping[str, Float[np.ndarray, "T D"]],
    words: Sequence[str],
    x_columns: Sequence[str],
    columns: Mapping[str, Sequence[str]],
) -> None:
    """The tokens' vectors and the three that are made of them: a row for each token."""
    panels = {"x: what it is": (x, x_columns)}
    panels |= {name: (matrix, columns[name]) for name, matrix in projections.items()}
    figure, axes = plt.subplots(1, 4, figsize=(7.4, 4.0), width_ratios=[len(x_columns), 4, 4, 4])
    for ax, (name, (matrix, names)) in zip(axes, panels.items(), strict=True):
        rows = words if ax is axes[0] else [""] * len(words)
        _heatmap(ax, matrix, rows, names, float(np.abs(matrix).max()), 0)
        ax.set_title(name, fontsize=9.5)
    figure.suptitle(
        "One vector, three readings: what a token asks, offers and carries",
        fontsize=11,
        fontweight="bold",
        x=0.01,
        ha="left",
    )


def draw_lookup(words: Sequence[str], weights: Sequence[float], query: int, title: str) -> None:
    """Arrows from a query back to the keys, the thicker the more attention."""
    _, axes = plt.subplots(figsize=(7, 2.0))
    for j, (word, weight) in enumerate(zip(words, weights, strict=True)):
        axes.text(
            j,
            0,
            word,
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold" if j == query else "normal",
        )
        axes.text(j, -0.42, f"{weight:.2f}", ha="center", fontsize=9, color=INK)
        if j != query:
            axes.add_patch(
                FancyArrowPatch(
                    (query, 0.2),
                    (j, 0.2),
                    connectionstyle=f"arc3,rad={0.12 + 0.28 / (query - j)}",
                    arrowstyle="-|>",
                    mutation_scale=9 + 12 * weight,
                    linewidth=0.6 + 9 * weight,
                    color=INK,
                    alpha=0.25 + 0.7 * min(1.0, 2 * weight),
                )
            )
    axes.set_xlim(-0.7, len(words) - 0.3)
    axes.set_ylim(-0.6, 1.2)
    axes.axis("off")
    axes.set_title(title)


def draw_saturation(
    spread: Mapping[int, tuple[float, float]],
    rows: Mapping[str, Sequence[float]],
) -> None:
    """Left: the spread of q k against D, plain and scaled. Right: one row of weights of each."""
    _, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1))
    widths = list(spread)
    left.loglog(widths, [a for a, _ in spread.values()], "o-", color=WARM, label="q · k")
    left.loglog(widths, [b for _, b in spread.values()], "s--", color=INK, label="q · k / √D")
    left.set_xticks(widths, [str(w) for w in widths])
    left.minorticks_off()
    left.yaxis.set_major_formatter("{x:g}")
    left.set_xlabel("head_dim D")
    left.set_ylabel("standard deviation of the score")
    left.set_title("Scores grow like √D")
    left.legend()
    n = len(next(iter(rows.values())))
    styles = [(WARM, "//"), (INK, "")]
    for k, ((name, row), (colour, hatch)) in enumerate(zip(rows.items(), styles, strict=True)):
        x = np.arange(n) + (k - 0.5) * 0.4
        right.bar(x, row, 0.4, label=name, color=colour, hatch=hatch, edgecolor="white")
    right.set_xticks(range(n))
    right.set_xlabel(f"key (the first {n} of a row)")
    right.set_ylabel("attention weight")
    right.set_title(f"Unscaled: one takes all (D = {widths[-1]})")
    right.legend(loc="upper left")


def draw_cube(weights: Float[np.ndarray, "H T S"], words: Sequence[str]) -> None:
    """Heads x queries x keys as a block of small cubes, darker for larger weights."""
    H, T, S = weights.shape
    figure = plt.figure(figsize=(7, 4.9))
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    gap = 4  # between the slices, so that each can be seen
    filled = np.zeros((S, 1 + gap * (H - 1), T), dtype=bool)
    colours = np.zeros((*filled.shape, 4))
    for h in range(H):
        for i in range(T):
            for j in range(i + 1):
                place = (j, gap * h, T - 1 - i)
                filled[place] = True
                shade = float(weights[h, i, j]) / float(weights[h].max())
                colours[place] = plt.get_cmap("Blues")(0.08 + 0.85 * shade)
    axes.voxels(filled, facecolors=colours, edgecolor="#99999955", linewidth=0.4, shade=False)
    ticks = np.arange(T) + 0.5
    axes.set_xticks(ticks, words, rotation=35, ha="right", fontsize=8)
    axes.set_zticks(ticks, list(reversed(words)), fontsize=8)
    axes.set_yticks([gap * h + 0.5 for h in range(H)], [f"head {h}" for h in range(H)], fontsize=8)
    axes.set_xlabel("keys", labelpad=12)
    axes.set_zlabel("queries", labelpad=8)
    axes.set_box_aspect((S, 1.6 * filled.shape[1], T), zoom=0.92)
    axes.view_init(elev=22, azim=-58)
    axes.set_title("The weights are a block: heads × queries × keys")


def draw_sinusoids(table: Float[np.ndarray, "T C"], title: str) -> None:
    """Position vectors as rows, and the product of the middle one with every other."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), width_ratios=[1.3, 1])
    image = left.imshow(table, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left, shrink=0.8)
    left.set_xlabel("column")
    left.set_ylabel("position")
    left.grid(False)
    left.set_title(title)
    middle = len(table) // 2
    right.plot(np.arange(len(table)) - middle, table @ table[middle])
    right.set_xlabel("distance in positions")
    right.set_ylabel("product of two rows")
    right.set_title("The nearest rows are most alike")


def draw_rotation(q: complex, k: complex, places: Sequence[tuple[int, int]], angle: float) -> None:
    """A query and a key as arrows, turned by their positions: the angle between them stays."""
    _, axes = plt.subplots(1, len(places), figsize=(7.2, 2.9))
    for ax, (m, n) in zip(axes, places, strict=True):
        circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
        ax.plot(circle.real, circle.imag, color="#cccccc", linewidth=0.8, linestyle="-")
        arrows = [
            (q * np.exp(1j * m * angle), INK, f"query\nat {m}"),
            (k * np.exp(1j * n * angle), WARM, f"key\nat {n}"),
        ]
        for arrow, colour, label in arrows:
            ax.annotate(
                "",
                (arrow.real, arrow.imag),
                (0, 0),
                arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2},
            )
            tip = 1.38 * arrow / abs(arrow)
            ax.text(tip.real, tip.imag, label, ha="center", va="center", fontsize=8.5, color=colour)
        product = (q * np.exp(1j * m * angle) * np.conj(k * np.exp(1j * n * angle))).real
        ax.set_title(f"distance {m - n}: q · k = {product:.2f}", fontsize=9.5, loc="center")
        ax.set_xlim(-1.75, 1.75)
        ax.set_ylim(-1.75, 1.75)
        ax.set_aspect("equal")
        ax.axis("off")


def draw_extrapolation(
    curves: Mapping[str, Sequence[float]], trained_length: int, n: int = 8
) -> None:
    """Loss by position in the window, each point the mean of `n` positions."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    for (name, curve), marker in zip(curves.items(), "osD^v", strict=True):
        means = np.asarray(curve).reshape(-1, n).mean(1)
        x = n * np.arange(len(means)) + n / 2
        axes.plot(x, means, marker=marker, markersize=3.5, linewidth=1.3, label=name)
    axes.axvspan(0, trained_length, color="#eeeeee", zorder=0)
    axes.text(trained_length / 2, axes.get_ylim()[1] * 0.93, "trained", ha="center", fontsize=9)
    axes.set_xscale("log", base=2)
    ticks = [t for t in (8, 16, 32, 64, 128, 256, 512) if t <= len(curve)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel("position in the window (tokens)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title("Beyond the trained length most kinds of position fail")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_tiles(n: int, block: int) -> None:
    """Which tiles of the table of scores are computed, and which lie wholly behind the mask."""
    _, axes = plt.subplots(figsize=(4.2, 3.6))
    n_blocks = -(-n // block)
    for i in range(n_blocks):
        for j in range(n_blocks):
            colour = "#f4f4f4" if j > i else "#9ab8d6" if j < i else "#dbe7f3"
            tile = Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white", linewidth=2)
            axes.add_patch(tile)
            label = "skip" if j > i else str(j + 1)
            axes.text(j + 0.5, i + 0.5, label, ha="center", va="center", fontsize=9)
    axes.set_xlim(0, n_blocks)
    axes.set_ylim(n_blocks, 0)
    edges = range(n_blocks + 1)
    axes.set_xticks(edges, [str(min(n, block * e)) for e in edges])
    axes.set_yticks(edges, [str(min(n, block * e)) for e in edges])
    axes.set_aspect("equal")
    axes.grid(False)
    axes.set_xlabel("keys")
    axes.set_ylabel("queries")
    axes.set_title("Row by row, tile after tile")


def draw_memory(lengths: Sequence[int], curves: Mapping[str, Sequence[float]], title: str) -> None:
    """Bytes against length, both on logarithmic axes."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    for (name, n_bytes), marker in zip(curves.items(), "osD", strict=False):
        axes.loglog(lengths, np.asarray(n_bytes) / 2**20, marker=marker, markersize=4, label=name)
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("MiB")
    axes.set_title(title)
    axes.legend()


def draw_text_weights(
    words: Sequence[str],
    panels: Mapping[str, tuple[int, Sequence[float]]],
    title: str,
    per_line: int = 98,
) -> None:
    """A text, once for each panel, every token shaded by how much the boxed query attends to it."""
    lines = 1 + _columns(words, per_line)[-1][0]
    height = (lines + 1.6) * len(panels) * 0.19 + 0.5
    figure, axes = plt.subplots(len(panels), 1, figsize=(7.4, height))
    for ax, (name, (query, weights)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        strongest = max(weights)
        for j, (word, (line, column)) in enumerate(
            zip(words, _columns(words, per_line), strict=True)
        ):
            if j > query:
                break
            shade = float(weights[j]) / strongest
            box = Rectangle((column, line), len(word), 0.92, facecolor=WARM, alpha=0.85 * shade)
            ax.add_patch(box)
            if j == query:
                ax.add_patch(
                    Rectangle((column, line), len(word), 0.92, fill=False, edgecolor=INK, lw=1.4)
                )
            ax.text(column, line + 0.5, word, fontsize=8.2, family="DejaVu Sans Mono", va="center")
        ax.set_xlim(0, per_line + 2)
        ax.set_ylim(lines, 0)
        ax.axis("off")
        ax.set_title(name, fontsize=9.5)
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")


def _columns(words: Sequence[str], per_line: int) -> list[tuple[int, int]]:
    """Line and column of each token of a text that is broken before words."""
    line, column, places = 0, 0, []
    for word in words:
        if column + len(word) > per_line:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(word)
    return places
