"""The ladder: the bits that models spend on a byte of text they have not seen, down to the floor.

The rungs of this module need no training: they count, or they compress. Each chapter puts its own
models on the same chart:

    train, val = ladder_texts()
    draw_ladder(count_rungs(train, val) | {"one layer of attention": 0.9}, highlight="attention")

A rung is measured in bits per byte of the held-out text `val`, given the training text `train`.
Counts are over bytes, so they need no tokenizer and know every text there is.

Shapes: N bytes of `train` and M of `val`.

Sources: Shannon 1951, "Prediction and Entropy of Printed English" (n-grams, bits per letter);
Witten and Bell 1991, "The Zero-Frequency Problem", method C (how the lengths are mixed).
"""

import gzip
import lzma
import math
from collections.abc import Callable, Iterator, Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ch01_overview.corpus import SEPARATOR, log_prob, stories

__all__ = [
    "ladder_texts",
    "uniform_bits",
    "ngram_surprise",
    "ngram_curve",
    "compressed_bits",
    "floor_bits",
    "count_rungs",
    "draw_ladder",
]

N_TRAIN, N_VAL = 3_000, 1_000  # stories: well over a million bytes, and a third of that


def ladder_texts() -> tuple[str, str]:
    """The stories to count in, and those held out: a thousand of seed 0, as in chapter 5."""
    train, val = stories(N_TRAIN, seed=1), stories(N_VAL, seed=0)
    return tuple("".join(s.text + SEPARATOR for s in part) for part in (train, val))


def uniform_bits() -> float:
    """What a model pays that takes each of the 256 bytes to be equally likely."""
    return math.log2(256)


def ngram_surprise(train: str, val: str, order: int) -> Float[np.ndarray, "M"]:
    """The bits that each byte of `val` costs a model that looks at `order - 1` bytes before it.

    How often a byte followed these bytes in `train` is mixed with what the model one byte shorter
    says, down to the uniform one. In a context seen n times, with t different followers, the
    shorter model has the weight t / (n + t): much where new followers are to be expected.

    Raises:
        ValueError: if `order` is below 1, or one of the texts is empty.
    """
    *_, p = _ngram_probabilities(train, val, order)
    return -np.log2(p)


def ngram_curve(train: str, val: str, max_order: int) -> list[float]:
    """Bits per byte of the n-gram models of order 1 (how frequent is each byte?) to `max_order`.

    Raises:
        ValueError: if `max_order` is below 1, or one of the texts is empty.
    """
    return [-float(np.log2(p).mean()) for p in _ngram_probabilities(train, val, max_order)]


def _ngram_probabilities(train: str, val: str, max_order: int) -> Iterator[Float[np.ndarray, "M"]]:
    """For each order, the probability of each byte of `val` after the bytes before it."""
    if max_order < 1:
        raise ValueError(f"the order of an n-gram is {max_order}; it must be at least 1")
    data, n = _bytes(train, val)
    context = np.zeros(len(data), dtype=np.int64)  # the number of what stands before each byte
    p = np.full(len(data) - n, 1 / 256)
    for _ in range(max_order):
        grams, gram = np.unique(context * 256 + data, return_inverse=True)
        count = np.bincount(gram[:n], minlength=len(grams))
        seen = np.bincount(context[:n], minlength=context.max() + 1)[context[n:]]
        kinds = np.bincount(grams[count > 0] // 256, minlength=context.max() + 1)[context[n:]]
        p = np.where(seen > 0, (count[gram[n:]] + kinds * p) / np.maximum(seen + kinds, 1), p)
        yield p
        context = np.concatenate([[0], gram[:-1] + 1])  # 0: nothing comes before the first byte


def compressed_bits(compress: Callable[[bytes], bytes], train: str, val: str) -> float:
    """Bits per byte of `val` for a compressor that has just read `train`.

    It is charged for what the file of both is longer than the file of `train` alone.

    Raises:
        ValueError: if one of the texts is empty.
    """
    _bytes(train, val)
    alone = len(compress(train.encode()))
    both = len(compress((train + val).encode()))
    return 8 * (both - alone) / len(val.encode())


def floor_bits(val: str) -> float | None:
    """What the stories in `val` cost the process that told them; None if they are not stories.

    A text cut out of the corpus may begin in mid-story; what is before the first blank line then
    does not count.
    """
    texts = val.removesuffix(SEPARATOR).split(SEPARATOR)
    if log_prob(texts[0]) == -math.inf:
        texts = texts[1:]
    nats = -sum(log_prob(text) for text in texts)
    if not 0 < nats < math.inf:
        return None
    return nats / math.log(2) / sum(len((text + SEPARATOR).encode()) for text in texts)


def count_rungs(train: str, val: str) -> dict[str, float]:
    """The rungs that need no training, from the worst: bits per byte by name, in a few seconds.

    The last is "floor", where `val` consists of stories. gzip looks back 32 kB at most, xz 8 MB.

    Raises:
        ValueError: if one of the texts is empty.
    """
    rungs = {
        "uniform": uniform_bits(),
        **dict(zip(("unigram", "bigram", "trigram"), ngram_curve(train, val, 3), strict=True)),
        "gzip": compressed_bits(gzip.compress, train, val),
        "xz": compressed_bits(lzma.compress, train, val),
    }
    floor = floor_bits(val)
    return rungs if floor is None else rungs | {"floor": floor}


def draw_ladder(rungs: Mapping[str, float], highlight: str | tuple[str, ...] = ()) -> Figure:
    """The chart of all rungs, those named in `highlight` in another colour and another shape.

    Raises:
        ValueError: if there is no rung, one is not above 0, or one to highlight is missing.
    """
    highlight = (highlight,) if isinstance(highlight, str) else tuple(highlight)
    if not rungs or min(rungs.values()) <= 0:
        raise ValueError(f"a ladder needs rungs above 0 bits per byte, got {dict(rungs)}")
    if missing := set(highlight) - set(rungs):
        raise ValueError(f"{sorted(missing)} are not among the rungs {list(rungs)}")
    floor = rungs.get("floor")
    order = sorted(rungs, key=rungs.get, reverse=True)
    figure, axes = plt.subplots(figsize=(7, 0.9 + 0.3 * len(order)))
    for y, name in enumerate(reversed(order)):
        _draw_rung(axes, y, rungs[name], floor, name in highlight)
    axes.set_yticks(range(len(order)), list(reversed(order)))
    _finish(axes, max(rungs.values()), min(rungs.values()), floor)
    return figure


def _draw_rung(axes, y: int, bits: float, floor: float | None, highlighted: bool) -> None:
    colour, marker = ("#c8553d", "D") if highlighted else ("#1b3a5c", "o")
    if floor is not None:
        axes.plot([floor, bits], [y, y], color=colour, linewidth=1.2, linestyle="-")
    axes.plot(bits, y, marker, color=colour, markersize=7)
    times = "" if floor in (None, bits) else f"   {bits / floor:.3g} × floor"
    weight = "bold" if highlighted else "normal"
    axes.annotate(
        f"{bits:.3g}{times}",
        (bits, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        weight=weight,
    )


def _finish(axes, most: float, least: float, floor: float | None) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(least * 0.85, most * 3.2)  # room for the numbers at the right
    ticks = [2.0**k for k in range(-6, 5) if least * 0.85 <= 2.0**k <= most * 1.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("bits per byte of held-out text (each step to the left halves it)")
    axes.set_title("The ladder: better models pay less for the same text")
    if floor is not None:
        axes.axvline(floor, color="#555555", linewidth=1.2, linestyle="--", zorder=0)


def _bytes(train: str, val: str) -> tuple[np.ndarray, int]:
    """All bytes of both texts, and how many are the first one's."""
    if not train or not val:
        raise ValueError(f"texts of {len(train)} and {len(val)} characters; neither may be empty")
    n = len(train.encode())
    return np.frombuffer((train + val).encode(), dtype=np.uint8).astype(np.int64), n
