"""The drawings of chapter 5. Each function takes what it draws; the notebook computes it."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from ch05_pretraining.dedup import chance_of_candidate
from ch05_pretraining.studies import losses_by

__all__ = [
    "draw_ablation",
    "draw_bands",
    "draw_batches",
    "draw_bowl",
    "draw_costs",
    "draw_failures",
    "draw_heads",
    "draw_learning",
    "draw_minhash",
    "draw_newton_schulz",
    "draw_novelty",
    "draw_overfitting",
    "draw_rise",
    "draw_run",
    "draw_scaling",
    "draw_schedule_study",
    "draw_schedules",
    "draw_seeds",
    "draw_strip",
    "draw_sweep",
]

INK, RED, GREEN, GOLD, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#e0a83c", "#777777"
MARKS = ("o", "s", "^", "D", "v", "x")


def draw_minhash(true_j: np.ndarray, estimate: np.ndarray, n_hashes: int) -> None:
    """Estimates against the truth, with two standard errors around it."""
    _, axes = plt.subplots(figsize=(7, 3.8))
    j = np.linspace(0, 1, 200)
    error = 2 * np.sqrt(j * (1 - j) / n_hashes)
    axes.fill_between(j, j - error, j + error, color="#dbe5ef", label="two standard errors")
    axes.plot(j, j, color=GREY, linewidth=1)
    axes.plot(true_j, estimate, ".", color=RED, markersize=4, linestyle="", label="a pair")
    axes.set(xlabel="true Jaccard similarity", ylabel=f"estimate from {n_hashes} hashes")
    axes.set_title("The error of MinHash is the predicted one")
    axes.legend(loc="upper left")


def draw_bands(settings: Mapping[tuple[int, int], str]) -> None:
    """The chance of becoming a candidate pair, for (bands, rows)."""
    _, axes = plt.subplots(figsize=(7, 3))
    j = np.linspace(0, 1, 200)
    for (n_bands, n_rows), name in settings.items():
        axes.plot(j, [chance_of_candidate(x, n_bands, n_rows) for x in j], label=name)
    axes.set(xlabel="Jaccard similarity of a pair", ylabel="chance to be a candidate")
    axes.set_title("More rows in a band: only closer pairs are looked at")
    axes.legend()


def draw_costs(costs: Mapping[str, tuple[float, float]]) -> None:
    """The loss on new stories and on the copied ones, by what was read."""
    _, axes = plt.subplots(figsize=(7, 3.9))
    y = np.arange(len(costs))[::-1]
    for shift, which, colour, name in (
        (0.18, 0, INK, "on new stories"),
        (-0.18, 1, GOLD, "on the ten that were copied"),
    ):
        values = [pair[which] for pair in costs.values()]
        bars = axes.barh(y + shift, values, height=0.34, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(y, list(costs))
    axes.set_xlabel("loss, nats per token")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set_title("What a defect costs, and what removing copies gives back")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2)


def draw_bowl(paths: Mapping[str, Tensor]) -> None:
    """The ways of optimizers down a bowl, on its contour lines."""
    figure, axes = plt.subplots(1, len(paths), figsize=(7, 2.9), sharey=True)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 100), np.linspace(-0.8, 1.2, 100))
    for one, (name, path) in zip(axes, paths.items(), strict=True):
        one.contour(x, y, 50 * x**2 + y**2 / 2, levels=np.geomspace(0.01, 80, 9), colors="#bbbbbb")
        one.plot(path[:, 0], path[:, 1], "-", color=INK, linewidth=0.8)
        one.plot(path[::5, 0], path[::5, 1], "o", color=RED, markersize=3)
        one.plot(0, 0, "+", color="black", markersize=10)
        one.set_title(name)
        one.set_xlabel("x (steep)")
    axes[0].set_ylabel("y (flat)")
    figure.suptitle("A hundred steps from (1, 1), a dot every fifth", fontsize=10)


def draw_newton_schulz(coefficients: tuple[float, float, float]) -> None:
    """Where a singular value goes in one to five rounds."""
    a, b, c = coefficients
    _, axes = plt.subplots(figsize=(7, 3))
    start = np.geomspace(1e-3, 1, 300)
    s = start
    for n in range(1, 6):
        s = a * s + b * s**3 + c * s**5
        if n in (1, 3, 5):
            axes.semilogx(start, s, label=f"{n} round{'s' * (n > 1)}")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="singular value before, as a share of the norm", ylabel="after")
    axes.set_title("Five rounds lift small singular values to about 1")
    axes.legend()


def draw_sweep(rows: Sequence[Mapping]) -> None:
    """The final loss of each optimizer against its rate: the mean of the seeds, and their reach."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    found = losses_by(rows, "optimizer", "lr")
    for name, mark in zip(dict.fromkeys(name for name, _ in found), MARKS, strict=False):
        mine = {lr: losses for (other, lr), losses in found.items() if other == name}
        _draw_reach(axes, mine, marker=mark, label=name)
    axes.set_xscale("log")
    axes.set(xlabel="peak learning rate", ylabel="held-out loss, nats per token")
    axes.set_title(f"Every optimizer has a rate of its own ({rows[0]['steps']} steps)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _draw_reach(axes: plt.Axes, losses: Mapping[float, Sequence[float]], **style: object) -> None:
    """A line through the means, with bars from the least to the largest."""
    means = np.array([np.mean(some) for some in losses.values()])
    reach = np.array([(min(some), max(some)) for some in losses.values()]).T
    axes.errorbar(list(losses), means, abs(reach - means), capsize=2, **style)


def draw_schedules(schedules: Mapping[str, Sequence[float]]) -> None:
    """Learning rates over a run, as shares of the peak."""
    _, axes = plt.subplots(figsize=(7, 2.8))
    for name, rates in schedules.items():
        axes.plot(rates, label=name)
    axes.set(xlabel="step", ylabel="share of the peak rate")
    axes.set_title("All schedules rise first and fall in the end")
    axes.legend(loc="lower left", bbox_to_anchor=(0.12, 0.02))


def draw_schedule_study(rows: Sequence[Mapping]) -> None:
    """The final loss under each schedule, against the peak rate."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    found = losses_by(rows, "schedule", "peak")
    for i, (name, mark) in enumerate(
        zip(dict.fromkeys(name for name, _ in found), MARKS, strict=False)
    ):
        mine = {  # a little apart, so that the bars do not cover each other
            peak * 1.03 ** (i - 2): losses for (n, peak), losses in found.items() if n == name
        }
        _draw_reach(axes, mine, marker=mark, label=name)
    peaks = list(dict.fromkeys(row["peak"] for row in rows))
    axes.set_xscale("log", base=2)
    axes.set_xticks(peaks, [f"{peak:g}" for peak in peaks])
    axes.set(xlabel="peak rates, times the usual ones", ylabel="held-out loss, nats per token")
    axes.set_title(f"What the schedule is worth after {rows[0]['steps']} steps")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def draw_batches(rows: Sequence[Mapping]) -> None:
    """The final loss against the batch, for a fixed number of tokens, at each of the rates."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    found = losses_by(rows, "times", "batch_size")
    for times, mark in zip(dict.fromkeys(times for times, _ in found), MARKS, strict=False):
        mine = {size: losses for (other, size), losses in found.items() if other == times}
        _draw_reach(axes, mine, marker=mark, label=f"{times:g} times")
    steps = {row["batch_size"]: row["steps"] for row in rows}
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(steps), [f"{size}\n{n} steps" for size, n in steps.items()])
    axes.set(xlabel="windows of 64 tokens in a batch", ylabel="held-out loss, nats per token")
    axes.set_title(f"The same {rows[0]['tokens']:,} tokens in small and large steps")
    axes.legend(title="rate", loc="upper left", bbox_to_anchor=(1, 1))


def draw_run(history: Sequence[Mapping], floor: float, V: int) -> None:
    """The loss of a run, with the floor; on the right how far above it, in logarithms."""
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3.3))
    steps = np.array([row["step"] for row in history])
    losses = np.array([row["loss"] for row in history])
    val = [(row["step"], row["val_loss"]) for row in history if row["val_loss"]]
    smooth = np.array([losses[max(0, i - 20) : i + 1].mean() for i in range(len(losses))])
    left.plot(steps, losses, color="#b9c6d4", linewidth=0.7, label="batch")
    left.plot(steps, smooth, "-", color=INK, label="mean of 21")
    left.plot(*zip(*val, strict=True), "D", color=RED, linestyle="", markersize=5, label="held out")
    left.axhline(floor, color="black", linewidth=1, linestyle="--")
    beside = left.get_yaxis_transform()
    left.text(1.01, floor, "floor", transform=beside, va="center", fontsize=8)
    left.set_ylim(0, math.log(V) + 0.3)
    left.set(xlabel="step", ylabel="nats per token")
    left.set_title("From log V to the floor")
    left.legend()
    above = np.maximum(smooth - floor, 1e-4)
    right.semilogy(steps, above, color=INK)
    right.plot([s for s, _ in val], [v - floor for _, v in val], "D", color=RED, markersize=5)
    right.axhline(0.03 * floor, color=GREY, linewidth=1, linestyle=":")
    right.text(0, 0.03 * floor * 1.08, "3 % of the floor", fontsize=8.5, va="bottom")
    right.set(xlabel="step", ylabel="nats above the floor")
    right.set_title("The same, measured from the floor")


def draw_learning(learnt: Mapping[int, Mapping[str, float]]) -> None:
    """The excess of each kind of word over the steps, as a share of the excess at the start."""
    _, axes = plt.subplots(figsize=(7, 3.9))
    steps = list(learnt)
    for kind, mark in zip(learnt[0], MARKS, strict=True):
        share = [max(100 * learnt[s][kind] / learnt[0][kind], 0.1) for s in steps]
        axes.semilogy(steps, share, marker=mark, markersize=4.5, label=kind)
    ticks = [100, 30, 10, 3, 1, 0.3]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="step", ylabel="excess, % of the start (0.1 or less: at 0.1)")
    axes.set_title("What the model still pays, by kind of word")
    axes.legend(ncols=2)


def draw_heads(on_holder: Mapping[int, Tensor]) -> None:
    """Each head's attention to the holder's name, over the steps."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    layers, heads = next(iter(on_holder.values())).shape
    for layer in range(layers):
        for head in range(heads):
            values = [float(scores[layer, head]) for scores in on_holder.values()]
            style = {
                "color": (INK, RED, GREEN, GOLD)[head % 4],
                "linestyle": ("-", "--")[layer % 2],
            }
            label = f"layer {layer + 1}, head {head + 1}"
            axes.plot(
                list(on_holder), values, marker=MARKS[head % 6], markersize=4, label=label, **style
            )
    axes.set(xlabel="step", ylabel="share of the attention")
    axes.set_title("Attention from before the last name to the holder's name")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.5)


def draw_strip(
    rows: Mapping[int, Tensor], pieces: Sequence[str], named: Sequence[int], holder: str
) -> None:
    """What one head reads from one place, a row for each step; ticks mark the names."""
    _, axes = plt.subplots(figsize=(7, 0.32 * len(rows) + 1.5))
    table = torch.stack(list(rows.values()))
    axes.imshow(table, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axes.set_xticks(named, [pieces[i].strip() for i in named], rotation=90, fontsize=8)
    for tick, i in zip(axes.get_xticklabels(), named, strict=True):
        tick.set_color(RED if pieces[i].strip() == holder else "black")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.grid(False)
    axes.set(ylabel="step", xlabel=f"tokens of the story, the names marked ({holder} in red)")
    axes.set_title("What the head reads where the last holder is due")


def draw_rise(rise: Mapping[str, Mapping[str, float]]) -> None:
    """What taking heads away costs: a row for each removal, a column for each kind of word."""
    _, axes = plt.subplots(figsize=(7, 0.34 * len(rise) + 1.4))
    kinds = list(next(iter(rise.values())))
    table = np.array([[paid[kind] for kind in kinds] for paid in rise.values()])
    axes.imshow(np.log1p(np.maximum(table, 0)), aspect="auto", cmap="Oranges", vmin=0, vmax=6)
    for (i, j), value in np.ndenumerate(table):
        axes.text(j, i, f"{round(value, 1) + 0.0:.1f}", ha="center", va="center", fontsize=8.5)
    axes.set_xticks(range(len(kinds)), kinds, rotation=20, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(rise)), list(rise), fontsize=8.5)
    axes.grid(False)
    axes.set_title("Nats per story paid more without these heads")


def draw_novelty(nearest: Mapping[str, Sequence[float]]) -> None:
    """How similar each text is to its nearest neighbour in the training text."""
    _, axes = plt.subplots(figsize=(7, 2.6))
    for (name, values), colour, mark in zip(nearest.items(), (RED, INK), "Do", strict=False):
        x = np.sort(values)
        y = (np.arange(len(x)) + 1) / len(x)
        axes.plot(x, y, marker=mark, markersize=4, color=colour, label=name)
    axes.set_xlim(0, 1)
    axes.set(xlabel="similarity to the nearest training story", ylabel="share up to here")
    axes.set_title("Samples are as new as fresh stories (a copy would be at 1)")
    axes.legend(loc="center right")


def draw_overfitting(losses: Sequence[float], curve: Mapping[int, float], floor: float) -> None:
    """Training loss down, held-out loss down and up again."""
    _, axes = plt.subplots(figsize=(7, 3))
    axes.plot(losses, color=INK, label="training text (ten stories)")
    axes.plot(list(curve), list(curve.values()), "o--", color=RED, label="held-out stories")
    axes.axhline(floor, color="black", linewidth=1, linestyle=":", label="floor of the ten stories")
    axes.set_ylim(0, 6.5)
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.set_title("Learning by heart: the two curves part")
    axes.legend()


def draw_seeds(rows: Sequence[Mapping], mine: Sequence[float]) -> None:
    """The band between the seeds, and another run in it."""
    _, axes = plt.subplots(figsize=(7, 3))

    def smooth(losses: Sequence[float]) -> np.ndarray:
        return np.array([np.mean(losses[max(0, i - 4) : i + 1]) for i in range(len(losses))])

    curves = np.stack([smooth(row["losses"]) for row in rows])
    steps = np.arange(curves.shape[1]) + 1
    axes.fill_between(
        steps, curves.min(0), curves.max(0), color="#c9d6e4", label=f"{len(rows)} seeds"
    )
    axes.plot(steps, smooth(mine), color=RED, label="this run")
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.set_title("Is my loss normal? The band from least to largest seed")
    axes.legend()


def draw_scaling(rows: Sequence[Mapping]) -> None:
    """Measured excess loss against parameters, and the law."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    for tokens, colour, mark in zip(
        sorted({row["tokens"] for row in rows}), (GOLD, GREEN, INK), MARKS, strict=False
    ):
        mine = [row for row in rows if row["tokens"] == tokens]
        n = [row["parameters"] for row in mine]
        axes.plot(n, [row["predicted"] for row in mine], "-", color=colour, linewidth=1)
        for row in mine:
            known = row["d_model"] <= 64
            fill = colour if known else "white"
            point = (row["parameters"], row["loss"] - row["floor"])
            axes.plot(*point, mark, color=colour, markerfacecolor=fill, linestyle="")
        axes.annotate(
            f"{tokens:,} tokens",
            (n[-1], mine[-1]["loss"] - mine[-1]["floor"]),
            xytext=(9, -3),
            textcoords="offset points",
            fontsize=9,
            color=colour,
        )
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="parameters of the blocks", ylabel="nats per token above the floor")
    axes.set_title("Lines: a law fitted to the filled points. Hollow: predicted")
    axes.set_yticks([1, 2, 3, 4], ["1", "2", "3", "4"])
    axes.minorticks_off()
    axes.set_xlim(right=3.2 * max(row["parameters"] for row in rows))


def draw_failures(
    failures: Mapping[str, Sequence[float]], log_v: float, entropy: float, floor: float
) -> None:
    """A panel for each failure, with the healthy run in grey."""
    panels = [name for name in failures if name != "healthy"]
    figure, axes = plt.subplots(2, 3, figsize=(7, 4.4), sharex=True, sharey=True)
    for one in axes.flat[len(panels) :]:
        one.axis("off")
    for one, name in zip(axes.flat, panels, strict=False):
        one.plot(failures["healthy"], color="#bbbbbb", linestyle="-", linewidth=1.2)
        one.plot(np.clip(failures[name], None, 9.5), color=RED, linewidth=1.4)
        one.axhline(log_v, color="black", linewidth=0.7, linestyle=":")
        one.axhline(entropy, color=GREEN, linewidth=0.9, linestyle="--")
        one.axhline(floor, color="black", linewidth=0.7, linestyle="--")
        one.set_ylim(0, 9)
        one.set_title(name, fontsize=9)
    legend = axes.flat[-1]
    legend.plot([], [], color="#bbbbbb", linestyle="-", label="healthy run")
    legend.plot([], [], color=RED, label="the failure")
    legend.plot([], [], color="black", linestyle=":", linewidth=0.7, label="log V")
    legend.plot([], [], color=GREEN, linestyle="--", label="entropy of single tokens")
    legend.plot([], [], color="black", linestyle="--", linewidth=0.7, label="floor")
    legend.legend(loc="center", fontsize=8.5)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("loss, nats per token", fontsize=9)


def draw_ablation(rows: Sequence[Mapping]) -> None:
    """The loss of the laptop recipe, and of the recipe with one part changed."""
    _, axes = plt.subplots(figsize=(7, 3.4))
    losses, y = [row["loss"] for row in rows], np.arange(len(rows))[::-1]
    axes.axvline(losses[0], color=GREY, linewidth=0.8, linestyle=":")
    axes.scatter(losses, y, color=[GOLD, *[INK] * (len(rows) - 1)], s=45, zorder=3)
    for loss, place in zip(losses, y, strict=True):
        axes.annotate(
            f"{loss:.2f}",
            (loss, place),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(y, [row["what"] for row in rows])
    axes.margins(x=0.15, y=0.08)
    axes.set_xlabel("held-out loss, nats per character")
    axes.set_title("One part changed, the same processor time")
