"""The appendix's drawings. Each takes data; the notebook shows what was drawn."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

__all__ = [
    "draw_curves",
    "draw_formats",
    "draw_kept",
    "draw_pipeline",
    "draw_plans",
    "draw_roofline",
    "draw_row_errors",
    "draw_speedups",
]

INK, WARM, SEA, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#888888"


def draw_roofline(peak: float, bandwidth: float, points: Mapping[str, tuple[float, float]]) -> None:
    """The limit of the machine, and where some work was measured: (intensity, operations/s)."""
    _, axes = plt.subplots()
    intensity = np.logspace(-1.5, 3, 200)
    axes.loglog(intensity, np.minimum(peak, intensity * bandwidth) / 1e9, color=INK, label="limit")
    axes.axvline(peak / bandwidth, color=GREY, lw=0.8, ls=":")
    for (name, (x, y)), marker in zip(points.items(), "osD^v", strict=False):
        axes.plot(x, y / 1e9, marker, color=WARM, ms=7)
        left = x > 100  # there is no room on the right
        options = {"xytext": (-8 if left else 8, -12), "ha": "right" if left else "left"}
        axes.annotate(name, (x, y / 1e9), textcoords="offset points", fontsize=9, **options)
    axes.set(
        xlabel="operations per byte of weights",
        ylabel="GFLOP/s",
        title="Decoding lies under the slope, training under the flat roof",
        xlim=(0.03, 1000),
    )


def draw_formats(numbers: Mapping[str, Sequence[float]]) -> None:
    """The numbers between 0 and 2 that each format has, as marks on a line."""
    _, axes = plt.subplots(figsize=(7.0, 0.7 * len(numbers) + 1))
    for row, values in enumerate(reversed(numbers.values())):
        inside = [v for v in values if 0 <= v <= 2]
        axes.vlines(inside, row - 0.32, row + 0.32, color=INK, lw=1)
        axes.text(2.04, row, f"{len(inside)}", va="center", fontsize=9)
    axes.set_yticks(range(len(numbers)), list(reversed(numbers)))
    axes.set(xlabel="number", title="Numbers lie denser towards zero", xlim=(-0.03, 2.2))
    axes.grid(False)


def draw_curves(curves: Mapping[str, Sequence[float]]) -> None:
    """Losses by step: the first as a line, the second as a dashed one, all others as marks."""
    _, axes = plt.subplots()
    styles = ({"color": INK, "lw": 2.5}, {"color": GREY, "ls": "--"})
    marks = {"ls": "none", "mfc": "none"}
    styles += ({"color": WARM, "marker": "o", **marks}, {"color": INK, "marker": "+", **marks})
    for (name, losses), style in zip(curves.items(), styles, strict=True):
        axes.plot(range(1, len(losses) + 1), losses, label=name, **style)
    axes.set(xlabel="step", ylabel="nats per token")
    axes.set_title("Short numbers move the loss less than another seed does")
    axes.legend()


def draw_kept(parts: Mapping[str, Sequence[float]], labels: Sequence[str]) -> None:
    """Stacked bars of memory, in megabytes, a bar for each label."""
    _, axes = plt.subplots()
    bottom = np.zeros(len(labels))
    colours = (INK, WARM, SEA, "#e0a83c")
    for (name, sizes), colour, hatch in zip(parts.items(), colours, ("", "//", "..", "xx")):  # noqa: B905
        axes.bar(labels, sizes, bottom=bottom, label=name, color=colour, hatch=hatch, width=0.55)
        bottom += np.asarray(sizes)
    axes.set(ylabel="MB", title="Activations outgrow everything else")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_row_errors(names: Sequence[str], by_row: Sequence[float], whole: Sequence[float]) -> None:
    """Relative errors of matrices in eight bits: a scale for each row, or one for all."""
    _, axes = plt.subplots()
    place = np.arange(len(names))
    axes.plot(place, 100 * np.asarray(by_row), "o", color=INK, label="a scale for each row")
    axes.plot(place, 100 * np.asarray(whole), "s", color=WARM, mfc="none", label="one for all")
    narrowing = [i for i, name in enumerate(names) if name.endswith("down.weight")]
    look = {"color": GREY, "lw": 0.8, "ls": ":", "zorder": 0}
    for i in narrowing:
        axes.axvline(i, label="those that narrow" if i == narrowing[0] else None, **look)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="matrix, from the first layer to the last", ylabel="error in % of the weights")
    axes.set_title("A scale for each row makes every error smaller")
    axes.legend()


def draw_speedups(
    n_drafts: Sequence[int], predicted: Sequence[float], measured: Sequence[float]
) -> None:
    """Times as fast as without a draft, against the number of drafted tokens."""
    _, axes = plt.subplots()
    axes.plot(n_drafts, predicted, "-", color=INK, label="predicted")
    axes.plot(n_drafts, measured, "o", color=WARM, ls="none", label="measured")
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="tokens drafted a round", ylabel="times as fast as without a draft")
    axes.set(title="More drafts bring less and less", ylim=(0, None))
    axes.legend()


def draw_pipeline(n_stages: int, n_micro: int) -> None:
    """Who works when: forward passes 1 long, backward passes 2, all of one and then the other."""
    _, axes = plt.subplots(figsize=(7.0, 0.5 * n_stages + 1.1))
    for stage in range(n_stages):
        for i in range(n_micro):
            _box(axes, stage + i, stage, 1, i, INK)
            start = n_stages + n_micro - 1 + 2 * (n_stages - 1 - stage + i)
            _box(axes, start, stage, 2, i, SEA)
    axes.set_yticks([s + 0.5 for s in range(n_stages)], [f"stage {s + 1}" for s in range(n_stages)])
    end = 3 * (n_stages + n_micro - 1)
    axes.set(xlim=(0, end), ylim=(n_stages, 0), xlabel="time, in forward passes of a stage")
    share = (n_stages - 1) / (n_stages + n_micro - 1)
    axes.set_title(f"{n_stages} stages, {n_micro} micro-batches: idle for {share:.0%} of the time")
    axes.grid(False)


def _box(axes, x, y, width, i, colour) -> None:
    axes.add_patch(Rectangle((x, y + 0.08), width, 0.84, facecolor=colour, edgecolor="white"))
    axes.text(x + width / 2, y + 0.5, str(i + 1), color="white", ha="center", va="center")


def draw_plans(n_gpus: Sequence[int], days: Mapping[str, Sequence[float]]) -> None:
    """Days of training against GPUs, for several models."""
    _, axes = plt.subplots()
    for name, values in days.items():
        axes.loglog(n_gpus, values, marker="o", label=name)
    axes.set_xticks(n_gpus, [str(n) for n in n_gpus])
    axes.minorticks_off()
    axes.set(xlabel="A100 GPUs", ylabel="days")
    axes.set_title("Twenty tokens for each weight: days of training")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
