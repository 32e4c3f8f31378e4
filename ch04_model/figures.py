"""The drawings of chapter 4."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch
from torch import Tensor
from torch.nn import functional as F

from ch04_model.model import GPTConfig, LayerNorm, RMSNorm

INK, RED, GREEN, GOLD, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#e0a83c", "#888888"
STYLES = [(INK, "-", "o"), (RED, "--", "s"), (GREEN, "-.", "^"), (GOLD, ":", "D")]


def norms_in_space(rows: Tensor) -> None:
    """Rows of three numbers before and after both norms."""
    clouds = {
        "Rows of three numbers": rows,
        "RMS norm: a sphere": RMSNorm(3)(rows).detach(),
        "Layer norm: a circle": LayerNorm(3)(rows).detach(),
    }
    _, axes = plt.subplots(1, 3, figsize=(7, 2.7), subplot_kw={"projection": "3d"})
    for ax, (title, cloud) in zip(axes, clouds.items(), strict=True):
        ax.scatter(*cloud.T.numpy(), s=4, c=cloud[:, 0].numpy(), cmap="cividis", depthshade=False)
        ax.set_title(title, fontsize=10)
        ax.set_xticklabels([]), ax.set_yticklabels([]), ax.set_zticklabels([])
        limit = 5 if cloud is rows else 1.8
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), zlim=(-limit, limit))
        ax.set_box_aspect((1, 1, 1), zoom=1.15)
    plt.show()


def activations() -> None:
    """ReLU, GELU and SiLU, and what a gate does to a value."""
    x = torch.linspace(-4, 3, 400)
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
    for name, y in {"ReLU": F.relu(x), "GELU": F.gelu(x), "SiLU": F.silu(x)}.items():
        left.plot(x, y, label=name)
    left.set(title="Three curves that bend", xlabel="input", ylabel="output", ylim=(-0.5, 3))
    left.legend()
    for value in (1.0, 2.0, -1.0):
        right.plot(x, F.silu(x) * value, label=f"value {value:g}")
    right.set(title="SwiGLU: a gate lets a value pass", xlabel="gate", ylabel="SiLU(gate) · value")
    right.legend()
    plt.show()


def gradients_by_layer(gradients: dict[tuple[str, int], list[float]]) -> None:
    """Gradient length of a matrix in every layer; a panel for each kind of block."""
    kinds = list(dict.fromkeys(kind for kind, _ in gradients))
    fig, axes = plt.subplots(1, len(kinds), figsize=(7, 3))
    for ax, kind in zip(axes, kinds, strict=True):
        runs = [(n, values) for (k, n), values in gradients.items() if k == kind]
        for (n, values), (colour, line, marker) in zip(runs, STYLES, strict=False):
            places = [i / (n - 1) for i in range(n)]
            ax.plot(places, values, line, color=colour, label=f"{n} layers", linewidth=1.4)
            ax.plot(places[0], values[0], marker, color=colour, markersize=5)
        ax.set(title=kind, yscale="log", xticks=[0, 1])
        ax.set_xticklabels(["first\nlayer", "last\nlayer"])
        if kind != kinds[-1]:
            ax.set(ylim=(0.005, 0.8), yticks=[0.01, 0.1])
    axes[0].set_ylabel("length of the gradient")
    axes[0].legend(fontsize=8)
    fig.suptitle(
        "With pre-norm the first layer hears the loss at any depth",
        **{"fontsize": 11, "fontweight": "bold", "x": 0.01, "ha": "left"},
    )
    plt.show()


def architectures() -> None:
    """GPT-2 and today's recipe side by side, ids at the bottom, logits at the top."""
    then = {
        "embedding": "token embedding\n+ learned positions",
        "norm": "layer norm",
        "attention": "attention\nwith biases",
        "feed-forward": "GELU feed-forward\nwith biases",
    }
    now = {
        "embedding": "token embedding",
        "norm": "RMS norm",
        "attention": "attention, rotary,\nq and k normed",
        "feed-forward": "SwiGLU\nfeed-forward",
    }
    _, axes = plt.subplots(1, 2, figsize=(7, 6.2))
    titles = ("GPT-2: the recipe of 2019 to 2021", "Qwen3: today's recipe")
    for ax, title, names in zip(axes, titles, (then, now), strict=True):
        _tower(ax, names)
        ax.set_title(title, fontsize=10)
    plt.show()


def _tower(ax, names: dict[str, str]) -> None:
    ax.set(xlim=(-2.9, 2.6), ylim=(-0.5, 10.6))
    ax.axis("off")
    corner, width, height = (-2.4, 1.95), 4.9, 5.75
    block = FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0.05", fc="#f4f4f4", ec=GREY, lw=0.8
    )
    ax.add_patch(block)
    ax.text(2.4, 7.4, "block, n_layers times", fontsize=8, ha="right", color="#444444")
    river, side = -1.6, 0.9
    ax.annotate(
        "", (river, 10.05), (river, 0.15), arrowprops={"arrowstyle": "->", "color": RED, "lw": 2}
    )
    ax.text(river, -0.1, "token ids", ha="center", va="center", fontsize=9)
    ax.text(river, 10.3, "logits", ha="center", va="center", fontsize=9)
    ax.text(river - 0.5, 3.3, "residual stream", rotation=90, va="center", fontsize=8, color=RED)
    for start, part in ((2.2, "attention"), (4.85, "feed-forward")):
        _arrow(ax, [(river, start), (side, start), (side, start + 0.35)])
        _box(ax, side, start + 0.6, names["norm"])
        _arrow(ax, [(side, start + 0.85), (side, start + 1.15)])
        _box(ax, side, start + 1.6, names[part])
        _arrow(ax, [(side, start + 2.05), (side, start + 2.35), (river + 0.17, start + 2.35)])
        ax.plot(
            river, start + 2.35, "o", markersize=13, color="white", markeredgecolor=RED, zorder=4
        )
        ax.text(
            river, start + 2.33, "+", ha="center", va="center", color=RED, fontsize=12, zorder=5
        )
    for y, name in ((1.0, names["embedding"]), (8.3, names["norm"]), (9.3, "head")):
        _box(ax, river, y, name)


def _box(ax, x: float, y: float, name: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "fc": "#dbe8f4", "ec": INK, "lw": 1}
    ax.text(x, y, name, ha="center", va="center", fontsize=8.5, zorder=3, bbox=style)


def _arrow(ax, corners: list[tuple[float, float]]) -> None:
    ax.plot(*zip(*corners[:-1], strict=True), "-", color=INK, lw=1.2)
    ax.annotate(
        "", corners[-1], corners[-2], arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.2}
    )


def recipe_study(study: dict) -> None:
    """Validation losses of the recipes: a dot a seed, a bar their mean."""
    names = list(dict.fromkeys(run["recipe"] for run in study["runs"]))
    _, ax = plt.subplots(figsize=(7, 3.2))
    for y, name in enumerate(reversed(names)):
        losses = [run["validation"] for run in study["runs"] if run["recipe"] == name]
        mean = sum(losses) / len(losses)
        ax.plot([mean, mean], [y - 0.3, y + 0.3], "-", color=INK, lw=2.5)
        ax.plot(losses, [y] * len(losses), "o", color=RED, markersize=5, alpha=0.8)
    ax.axvline(study["floor"], color=GREY, ls="--")
    ax.text(study["floor"] + 0.02, len(names) - 0.9, "floor", color="#555555", fontsize=9)
    ax.set_yticks(range(len(names)), [
        name if i in (0, len(names) - 1) else f"GPT-2 with {name}" for i, name in
        reversed(list(enumerate(names)))])  # fmt: skip
    ax.set(xlabel="validation loss, nats per token (dots: seeds, bars: means)", xlim=(0, None))
    ax.set_title("Positions matter most; the rest is hard to tell apart", x=-0.35)
    plt.show()


def training_curves(curves: dict[str, list[float]], title: str) -> None:
    """Training losses, each the mean of the last five steps."""
    _, ax = plt.subplots(figsize=(7, 3))
    for (name, losses), (colour, line, _) in zip(curves.items(), STYLES, strict=False):
        smooth = [sum(part) / len(part) for i in range(len(losses))
                  if (part := losses[max(0, i - 4) : i + 1])]  # fmt: skip
        ax.plot(range(1, len(losses) + 1), smooth, line, color=colour, label=name)
    ax.set(title=title, xlabel="step", ylabel="loss, nats per token")
    ax.legend()
    plt.show()


def scales_by_depth(scales: dict[tuple[str, int], tuple[Tensor, Tensor]]) -> None:
    """Sizes of stream and gradient after every block of the deepest models, for each scheme."""
    deepest = max(n for _, n in scales)
    _, axes = plt.subplots(1, 2, figsize=(7, 3.1))
    for (scheme, n), (stream, gradient) in scales.items():
        if n != deepest:
            continue
        colour, line, _ = STYLES[list(dict.fromkeys(s for s, _ in scales)).index(scheme)]
        for ax, values in zip(axes, (stream, gradient), strict=True):
            ax.plot(range(1, n + 1), values, line, color=colour, label=scheme)
    for ax, what in zip(axes, ("the stream", "the gradient"), strict=True):
        ax.set(yscale="log", xlabel="after block", title=f"Size of {what}")
        ax.set_ylabel("root mean square")
    axes[1].legend(fontsize=8)
    plt.show()


def parameter_shares(configs: dict[str, GPTConfig]) -> None:
    """Which parts the parameters are in, as shares of all matrices."""
    _, ax = plt.subplots(figsize=(7, 2.4))
    looks = {
        "embeddings": ("#c9d6e5", ""),
        "attention": ("#9db7d3", "///"),
        "feed-forward": (INK, ""),
    }
    for y, c in enumerate(reversed(configs.values())):
        attention = c.d_model * c.head_dim * 2 * (c.n_heads + c.n_kv_heads)
        wide = c.d_model * c.d_ff * (3 if c.activation == "swiglu" else 2)
        embeddings = c.vocab_size * c.d_model * (1 if c.tied else 2)
        parts, left = [embeddings, c.n_layers * attention, c.n_layers * wide], 0.0
        for n, (part, (colour, hatch)) in zip(parts, looks.items(), strict=True):
            share, label = 100 * n / sum(parts), part if y == 0 else None
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": label}
            ax.barh(y, share, left=left, **look)
            ink = {"color": "white"} if part == "feed-forward" else {"color": "black"}
            paper = {"fc": colour, "ec": "none", "pad": 1}
            size = {"fontsize": 9 if share > 8 else 7, "ha": "center", "va": "center"}
            ax.text(left + share / 2, y, f"{share:.0f} %", bbox=paper, **ink, **size)
            left += share
    ax.set_yticks(range(len(configs)), reversed(list(configs)))
    ax.set(xlabel="share of all parameters, %", xlim=(0, 100))
    ax.set_title("Two thirds of a large model are feed-forward layers")
    ax.grid(False)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.32), fontsize=8)
    plt.show()


def sampling(results: list[tuple[dict, float, int, int]], floor: float) -> None:
    """Flawless poems against the entropy of what they were drawn from; without the greedy ones."""
    _, ax = plt.subplots(figsize=(7, 3.8))
    places = {"temperature": (-6, -15), "top_k": (-17, -6), "top_p": (8, -9), "min_p": (-4, 8)}
    for (kind, place), (colour, line, marker) in zip(places.items(), STYLES, strict=True):
        points = sorted(
            (entropy, n, options[kind])
            for options, entropy, n, _ in results
            if options.get(kind, 0) > 0
        )
        xs, ys, values = zip(*points, strict=True)
        look = {"color": colour, "marker": marker, "markersize": 6, "lw": 1.2}
        ax.plot(xs, ys, line, label=kind.replace("_", "-"), **look)
        for x, y, value in zip(xs, ys, values, strict=True):
            paper = {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8}
            look = {"textcoords": "offset points", "fontsize": 8, "bbox": paper}
            ax.annotate(f"{value:g}", (x, y), place, **look)
    ax.axvline(floor, color=GREY, ls="--", lw=1)
    ax.text(floor + 0.004, 2, "entropy of the\nworld's own poems", fontsize=8, color="#555555")
    ax.set(ylim=(-4, 108), xlabel="entropy of the distribution drawn from, nats per token")
    ax.set(ylabel="flawless poems of 100", title="Less freedom, fewer errors")
    ax.legend()
    plt.show()
