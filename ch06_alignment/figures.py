"""The chapter's drawings. Each takes data; the notebook shows what was drawn."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ch06_alignment.measures import mean_and_error, wilson

__all__ = [
    "draw_bars",
    "draw_baseline",
    "draw_best_of",
    "draw_calibration",
    "draw_card",
    "draw_clip",
    "draw_dpo",
    "draw_forgetting",
    "draw_groups",
    "draw_grpo",
    "draw_hacking",
    "draw_margins",
    "draw_policies",
    "draw_thinking",
    "print_card",
]

INK, WARM, SEA, GOLD, GREY = "#1b3a5c", "#c8553d", "#4f9d8f", "#e0a83c", "#888888"
COLOURS = (GREY, INK, WARM, SEA)
HATCHES = ("", "", "//", "..")


def draw_bars(values: Mapping[str, float], unit: str, title: str) -> None:
    """One bar a value."""
    _, axes = plt.subplots(figsize=(7, 2.4))
    axes.barh(list(values), list(values.values()), color=INK, height=0.55)
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:.2f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=unit, title=title)


def draw_groups(values: Mapping[str, Mapping[str, float]], unit: str, title: str) -> None:
    """Groups of bars: the outer names below the axis, the inner ones in the legend."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    inner = list(next(iter(values.values())))
    width = 0.8 / len(inner)
    for i, name in enumerate(inner):
        heights = [row[name] for row in values.values()]
        places = np.arange(len(values)) + (i - (len(inner) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, label=name, color=COLOURS[i], hatch=HATCHES[i])
        for x, y in zip(places, heights, strict=True):
            axes.text(x, y + 0.01, f"{y:.2f}", ha="center", fontsize=7.5)
    axes.set_xticks(range(len(values)), list(values))
    axes.grid(axis="x", visible=False)
    highest = max(value for row in values.values() for value in row.values())
    axes.set(ylabel=unit, title=title, ylim=(0, 1.08 * max(1.0, highest)))
    axes.legend()


def draw_calibration(sure: Float[Tensor, "N"], right: Float[Tensor, "N"], title: str) -> None:
    """The share of right answers in five classes of stated probability, with Wilson's intervals."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfectly calibrated")
    for low in np.arange(0, 1, 0.2):
        inside = (sure > low) & (sure <= low + 0.2)
        if n := int(inside.sum()):
            x, share = sure[inside].mean().item(), right[inside].mean().item()
            bottom, top = wilson(int(right[inside].sum()), n)
            axes.plot([x, x], [bottom, top], color=INK, linewidth=1.4, linestyle="-")
            axes.plot(x, share, "o", color=INK)
            axes.annotate(f"n = {n}", (x, bottom), (4, -2), textcoords="offset points", fontsize=8)
    axes.set(xlabel="probability that the model gives its reply", ylabel="share that is right")
    axes.set(title=title, xlim=(0, 1.08), ylim=(0, 1.03))
    axes.legend(loc="upper left")


def draw_forgetting(table: Mapping[str, tuple[float, float]], floor: float) -> None:
    """Two panels: the loss on answers, and that on stories above its floor."""
    _, panels = plt.subplots(1, 2, figsize=(7, 2.5), sharey=True)
    titles = "Learnt: answers", "Forgotten: stories (dotted: the floor)"
    for i, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        axes.barh(list(table), [row[i] for row in table.values()], color=(INK, WARM)[i], height=0.5)
        for place, row in enumerate(table.values()):
            axes.text(row[i], place, f" {row[i]:.2f}", va="center", fontsize=9)
        axes.set(xlabel="nats per token", title=title)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.2)
    panels[1].axvline(floor, color="#333333", linewidth=1.2, linestyle=":")
    panels[0].invert_yaxis()


def draw_margins(margin: Float[Tensor, "N"], title: str) -> None:
    """The share of right verdicts by the size of the margin, and what Bradley and Terry expect."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    parts = margin[margin.abs().argsort()].tensor_split(4)
    for part in parts:
        right = int((part > 0).sum())
        bottom, top = wilson(right, len(part))
        x = part.abs().mean().item()
        axes.plot([x, x], [bottom, top], color=INK, linewidth=1.4, linestyle="-")
        axes.plot(x, right / len(part), "o", color=INK)
    m = np.linspace(0, float(margin.abs().max()), 100)
    axes.plot(m, 1 / (1 + np.exp(-m)), color=WARM, linestyle="--", label="σ(margin)")
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="margin |r(chosen) - r(rejected)|, a quarter of the pairs each")
    axes.set(ylabel="share of right verdicts", title=title, ylim=(0, 1.03))
    axes.legend(loc="lower right")


def draw_best_of(
    sizes: Sequence[int], by_judge: Sequence[float], by_truth: Sequence[float]
) -> None:
    """How often the best of n replies is right, chosen by a reward model and by the truth."""
    _, axes = plt.subplots(figsize=(7, 3))
    axes.plot(sizes, by_truth, marker="o", color=INK, label="chosen by the truth")
    axes.plot(sizes, by_judge, marker="s", color=WARM, label="chosen by the reward model")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set(xlabel="n, replies sampled for each question", ylabel="share that is right")
    axes.set(title="A learnt judge gains less from choice than one who knows", ylim=(0, 1.05))
    axes.legend(loc="lower right")


def draw_dpo(history: Sequence[Mapping[str, float]]) -> None:
    """Loss, and gains in log-probability of chosen and rejected replies, step by step."""
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 2.9))
    steps = range(1, len(history) + 1)
    left.plot(steps, [row["loss"] for row in history], color=INK)
    left.axhline(np.log(2), color=GREY, linewidth=1, linestyle=":")
    left.text(len(history), np.log(2), "log 2", ha="right", va="bottom", fontsize=8)
    left.set(xlabel="step", ylabel="nats a pair", title="The loss falls from log 2")
    for name, colour, style in (("chosen", SEA, "-"), ("rejected", WARM, "--")):
        right.plot(steps, [row[name] for row in history], style, color=colour, label=name)
    right.axhline(0, color=GREY, linewidth=1, linestyle=":")
    right.set(xlabel="step", ylabel="nats a reply", title="Log-probability, gained or lost")
    right.legend(loc="lower left")


def draw_policies(table: Mapping[str, Sequence[float]]) -> None:
    """Of each policy: chance of the right answer, KL, entropy and length, a panel each."""
    size = (7, 2 * (0.9 + 0.3 * len(table)))
    _, panels = plt.subplots(2, 2, figsize=size, sharey=True, layout="constrained")
    titles = "Right answer", "KL", "Entropy", "Length"
    units = "probability", "nats a reply", "nats a reply", "tokens a reply"
    for i, axes in enumerate(panels.flat):
        values = [row[i] for row in table.values()]
        axes.barh(list(table), values, color=INK, height=0.55)
        for place, value in enumerate(values):
            axes.text(value, place, f" {value:.2f}", va="center", fontsize=8)
        axes.set(title=titles[i], xlabel=units[i])
        axes.margins(x=0.25)
        axes.grid(axis="y", visible=False)
    panels[0, 0].invert_yaxis()


def draw_baseline(variance: Callable[[float], float], marked: Mapping[str, float]) -> None:
    """The variance of one sample's gradient, against the baseline that is subtracted."""
    _, axes = plt.subplots(figsize=(7, 2.6))
    b = np.linspace(-1, 2, 121)
    axes.plot(b, [variance(float(x)) for x in b], color=INK)
    for (name, x), mark, side in zip(marked.items(), ("o", "s"), ("right", "left"), strict=True):
        axes.plot(x, variance(x), mark, color=WARM)
        shift = (-4 if side == "right" else 4, 14)
        axes.annotate(name, (x, variance(x)), shift, textcoords="offset points", ha=side)
    axes.set(xlabel="baseline b", ylabel="variance of a sample")
    axes.set(title="Any baseline gives the same mean, not the same noise", ylim=(0, None))


def draw_clip(ratios: Float[Tensor, "N"], slopes: Mapping[float, Float[Tensor, "N"]]) -> None:
    """What a token's ratio gains, by its slope, for a good and a bad reply."""
    _, axes = plt.subplots(figsize=(7, 2.8))
    for (advantage, slope), colour, style in zip(
        slopes.items(), (SEA, WARM), ("-", "--"), strict=True
    ):
        axes.plot(ratios, slope, style, color=colour, label=f"A = {advantage:+.0f}")
    for edge in (0.8, 1.2):
        axes.axvline(edge, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="ratio π / π_old", ylabel="slope of what is earned")
    axes.set(title="Clipped: no slope where the step has gone far enough", ylim=(-1.2, 1.2))
    axes.legend(loc="upper right")


def draw_grpo(history: Sequence[Mapping[str, float]]) -> None:
    """Mark, divergence, entropy and length, round by round."""
    _, panels = plt.subplots(2, 2, figsize=(7, 4.2), layout="constrained")
    shown = (
        ("right", "share right", "Mark"),
        ("kl", "nats a reply", "KL"),
        ("entropy", "nats a reply", "Entropy"),
        ("length", "tokens a reply", "Length"),
    )
    for axes, (name, unit, title) in zip(panels.flat, shown, strict=True):
        axes.plot(range(1, len(history) + 1), [row[name] for row in history], color=INK)
        axes.set(xlabel="round", ylabel=unit, title=title)
    panels[1, 1].set_ylim(0, 2 * max(row["length"] for row in history))


def draw_hacking(rows: Sequence[Mapping]) -> None:
    """Learnt reward and truth, round by round, without a KL term and with one."""
    _, panels = plt.subplots(1, 3, figsize=(7.4, 2.7))
    titles = {"reward": "Learnt reward", "right": "Truth: share right", "kl": "KL, nats a reply"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for row, colour, style in zip(rows, (WARM, INK), ("--", "-"), strict=True):
            values = [point[name] for point in row["history"]]
            axes.plot(
                range(1, len(values) + 1), values, style, color=colour, label=f"β = {row['beta']:g}"
            )
        axes.set(xlabel="round", title=title)
        axes.tick_params(labelsize=8)
    panels[0].legend()


def draw_thinking(rows: Sequence[Mapping], trained_up_to: int) -> None:
    """The share of right answers by the number of changes of hands."""
    _, axes = plt.subplots(figsize=(7, 3.4))
    looks = {
        ("at once", "SFT"): (GREY, "--", "s"),
        ("at once", "GRPO"): (GOLD, ":", "D"),
        ("written out", "SFT"): (INK, "-", "o"),
        ("written out", "GRPO"): (WARM, "-.", "^"),
    }
    for row in rows:
        colour, style, marker = looks[row["answer"], row["stage"]]
        changes = [int(k) for k in row["right"]]
        label = f"{row['answer']}, {row['stage']}"
        axes.plot(
            *(changes, list(row["right"].values()), style),
            **{"color": colour, "marker": marker, "label": label},
        )
    axes.axvspan(0.8, trained_up_to + 0.5, color="#eeeeee", zorder=0)
    axes.text(0.9, 1.03, "lengths that SFT saw", fontsize=8, color="#555555")
    axes.set(xlabel="changes of hands", ylabel="share right", ylim=(0, 1.1))
    axes.set(title="Right answers, by the number of changes to be followed")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


ORDER = ("base", "SFT", "DPO", "GRPO")


def _cells(rows: Sequence[Mapping]) -> dict[str, dict[str, list[float]]]:
    """measure -> model -> its values, one a seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        flat = {f'"{kind}"': value for kind, value in row["right"].items()}
        flat |= {f'"{kind}", T = 0.2': value for kind, value in row["right at 0.2"].items()}
        flat |= {name: value for name, value in row.items() if isinstance(value, float)}
        if (
            row["model"] == "base"
        ):  # its replies are cut off, and so improbable that it is never sure
            flat.pop("calibration error", None)
        for name, value in flat.items():
            found.setdefault(name, {}).setdefault(row["model"], []).append(value)
    return found


def print_card(rows: Sequence[Mapping]) -> None:
    """Every measure of every model: mean and, over seeds, the standard error."""
    print(f"{'':20}" + "".join(f"{name:>14}" for name in ORDER))
    for measure, by_model in _cells(rows).items():
        cells = []
        for model in ORDER:
            values = by_model.get(model, [])
            if len(values) < 2:
                cells.append("".join(f"{value:.2f}       " for value in values))
            else:
                mean, error = mean_and_error(values)
                cells.append(f"{mean:.2f} ± {error:.2f}")
        print(f"{measure:20}" + "".join(f"{cell:>14}" for cell in cells))


def draw_card(rows: Sequence[Mapping]) -> None:
    """The chances to be right at temperature 1, with standard errors over the seeds."""
    _, axes = plt.subplots(figsize=(7, 3.2))
    cells = {name: cell for name, cell in _cells(rows).items() if "T =" not in name}
    kinds = [name for name in cells if name.startswith('"')]
    for i, model in enumerate(ORDER):
        for k, kind in enumerate(kinds):
            values = cells[kind][model]
            error = mean_and_error(values)[1] if len(values) > 1 else 0.0
            axes.bar(
                *(k + (i - 1.5) * 0.2, float(torch.tensor(values).mean()), 0.18),
                **{"yerr": error, "color": COLOURS[i], "hatch": HATCHES[i]},
                **{"label": model if k == 0 else None, "error_kw": {"linewidth": 1}},
            )
    axes.set_xticks(range(len(kinds)), [kind.strip('"') for kind in kinds])
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="chance to be right at T = 1", ylim=(0, 1.25))
    axes.set(title="Only holder, first and who were practised")
    axes.legend(ncols=4, loc="upper right")
