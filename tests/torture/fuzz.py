"""Text that nobody would write, a million times; logits that no model should give."""

import math
import random
import string
import time
import unicodedata
from collections.abc import Iterator

import regex
import torch

from ch01_overview import corpus
from ch01_overview.corpus import stories
from ch02_tokenization.formats import base_ids
from ch02_tokenization.tokenizer import CONTROL_TOKENS, train_bpe
from ch04_model.generation import next_token_probabilities
from tests.test_ch06_alignment import assert_nothing_forged
from tests.torture import Attempts, row
from tests.torture.small import TOKENIZER

LETTERS = ["ascii", "awkward", "any plane", "control", "runs", "words", "surrogates"]
AWKWARD = " \n\t\r'0½Ⅷ٣éßǅ日ℵ\u0301\u200b\u200d\ufeff\u00a0\u3000\u2028\x85\x1c\x00\x7f"
AWKWARD += "🦁👩🏽\U0010ffff<|>"
NEW_LETTER = regex.compile(r"[\p{L}\p{N}\s]")


def _character(rng: random.Random) -> str:
    """From any plane but the surrogates; letters younger than this Python are cut elsewhere.

    Where the two engines know other editions of Unicode, they cannot agree on what a letter is.
    """
    while True:
        c = chr(rng.randrange(0x110000))
        category = unicodedata.category(c)
        if category != "Cs" and not (category == "Cn" and NEW_LETTER.match(c)):
            return c


def _text(rng: random.Random) -> str:
    """A string of one of several kinds, most of them short."""
    kind, n = rng.choice(LETTERS), rng.choice((0, 1, 2, 3, 5, 8, 13, 21))
    if kind == "ascii":
        return "".join(rng.choices(string.printable, k=n))
    if kind == "awkward":
        return "".join(rng.choices(AWKWARD, k=n))
    if kind == "any plane":
        return "".join(_character(rng) for _ in range(n))
    if kind == "control":
        return "".join(rng.choices([*CONTROL_TOKENS, "<|", "|>", "\x00", "\x1b[0m", "\u202e"], k=n))
    if kind == "runs":
        long = rng.randrange(1, 400) if rng.random() < 0.05 else n
        return rng.choice(string.printable) * long + rng.choice(AWKWARD) * n
    if kind == "words":
        return " ".join(rng.choices(("the", "Owl", "it's", "1984", "--", "", "été", "\n"), k=n))
    return "".join(rng.choices([chr(rng.randrange(0xD800, 0xE000)), "a", " ", "🦁"], k=n))


@row("fuzz", "a million strings, as tiktoken cuts them", attempts=1_000_000, quick=1_000)
def strings(rng: random.Random, n: int) -> Attempts:
    """The same ids as the compiled engine's, and the text comes back."""
    engine = TOKENIZER.to_tiktoken()
    longest = 0
    for _ in range(n):
        text = _text(rng)
        ids = TOKENIZER.encode(text)
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        longest = max(longest, len(text))
        yield (
            f"{text!r} has other ids than in tiktoken"
            if ids != engine.encode_ordinary(text)
            else f"{text!r} came back as {TOKENIZER.decode(ids)!r}"
            if TOKENIZER.decode(ids) != whole
            else None
        )
    return f"every plane, half surrogates, control tokens; up to {longest} characters"


@row("fuzz", "bytes that are no UTF-8", attempts=100_000, quick=500)
def invalid(rng: random.Random, n: int) -> Attempts:
    """Any ids in any order: the bytes are tiktoken's, and the text is Python's reading of them."""
    engine = TOKENIZER.to_tiktoken()
    for i in range(n):
        if i % 2:
            data = rng.randbytes(rng.randrange(40))
            ids = list(base_ids(data))
        else:
            ids = [rng.randrange(TOKENIZER.vocab_size) for _ in range(rng.randrange(20))]
            data = engine.decode_bytes(ids)
        same = TOKENIZER.decode_bytes(ids) == data
        same = same and TOKENIZER.decode(ids) == data.decode("utf-8", "replace")
        yield None if same else f"{ids} are other bytes than {data!r}"
    return "half of them ids at random"


HOSTILE = {
    "one letter": "a",
    "spaces": " ",
    "digits": "1234567890",
    "line ends": "\n",
    "blanks of two kinds": " \n",
    "apostrophes": "'",
    "two letters in turn": "ab",
    "lions": "🦁",
    "one accent after another": "\u0301",
    "half surrogates": "\ud83e",
    "a control token": "<|end|>",
    "zero bytes": "\x00",
}
MICROSECONDS = 20  # a byte, at the most
GROWTH = 2.5  # times as long for a byte of a megabyte as for one of a 16th; n² would give 16


def _seconds_a_byte(text: str, n_bytes: int) -> float:
    """Of the processor's time, the best of five."""
    text = text * (n_bytes // len(text.encode("utf-8", "replace")))
    times = []
    for _ in range(5):
        began = time.process_time()
        TOKENIZER.encode(text)
        times.append(time.process_time() - began)
    return min(times) / n_bytes


@row("fuzz", "a megabyte of one thing, in linear time", attempts=len(HOSTILE), quick=1)
def linear(rng: random.Random, n: int) -> Attempts:
    """Time per byte stays below a bound and does not grow with the length."""
    size, slowest, steepest = 1 << 20 if n > 3 else 1 << 17, 0.0, 0.0
    for name, text in list(HOSTILE.items())[:n]:
        short, long = _seconds_a_byte(text, size // 16), _seconds_a_byte(text, size)
        slowest, steepest = max(slowest, long * 1e6), max(steepest, long / short)
        fine = long * 1e6 < MICROSECONDS and long / short < GROWTH
        told = f"{name}: {long * 1e6:.2f} µs a byte, {long / short:.2f} times those of a 16th"
        yield None if fine else told
    return (
        f"{slowest:.1f} µs a byte at most (bound {MICROSECONDS}), "
        f"{steepest:.2f} times a 16th's at most (bound {GROWTH})"
    )


@row("fuzz", "training on a megabyte of one thing", attempts=len(HOSTILE), quick=0)
def training(rng: random.Random, n: int) -> Attempts:
    """A tokenizer is learnt from it in seconds, and spells it."""
    slowest = 0.0
    for name, text in list(HOSTILE.items())[:n]:
        long = text * ((1 << 20 if n > 1 else 1 << 14) // len(text))
        began = time.process_time()
        tokenizer = train_bpe(long, 300)
        seconds = time.process_time() - began
        slowest = max(slowest, seconds)
        same = tokenizer.decode(tokenizer.encode(text)) == text.replace("\ud83e", "\ufffd")
        yield None if same and seconds < 20 else f"{name}: {seconds:.1f} s"
    return f"{slowest:.1f} s at most (bound 20)"


def _damaged_stories(rng: random.Random) -> Iterator[str]:
    told = [story.text for story in stories(300, seed=rng.getrandbits(30))]
    while True:
        a, b = rng.choice(told), rng.choice(told)
        i, j = sorted(rng.randrange(len(a) + 1) for _ in range(2))
        yield rng.choice(
            (
                a[:i] + a[j:],
                a[:i] + _text(rng) + a[j:],
                a[:i] + b[rng.randrange(len(b)) :],
                a[:i] + rng.choice(a) + a[i + 1 :],
                a[:j] + a[i:],
                a + b,
                _text(rng),
                a,
            )
        )


@row("fuzz", "parse of any text", attempts=100_000, quick=300)
def parsing(rng: random.Random, n: int) -> Attempts:
    """No error; facts only for a text that the world can tell, which has a probability."""
    texts, n_stories = _damaged_stories(rng), 0
    for _ in range(n):
        text = next(texts)
        facts, nats = corpus.parse(text), corpus.log_prob(text)
        n_stories += facts is not None
        agree = (facts is not None) == math.isfinite(nats)
        yield None if agree else f"{text[:60]!r}: facts {facts}, log-probability {nats}"
    return f"{n_stories:,} of them were stories after all"


@row("fuzz", "chat format of any text", attempts=100_000, quick=300)
def chat(rng: random.Random, n: int) -> Attempts:
    """Every message is one turn and reads back; no text becomes a control token."""
    pieces = [*CONTROL_TOKENS, "<|", "|>", "|", "<", ">", "end", "assistant", " ", "\n"]
    for _ in range(n):
        contents = []
        for _ in range(rng.randrange(1, 5)):
            text = "".join(rng.choices(pieces, k=rng.randrange(6))) + _text(rng)
            contents.append(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        try:
            assert_nothing_forged(contents)
            yield None
        except AssertionError:
            yield f"forged: {contents}"
    return "1 to 4 messages each"


EXTREME = [math.inf, -math.inf, math.nan, 0.0, 3.4e38, -3.4e38, 1e-45, 88.8, -1e4, 1.0]


@row("fuzz", "sampling from extreme logits", attempts=30_000, quick=300)
def sampling(rng: random.Random, n: int) -> Attempts:
    """A distribution over what had a chance, or an error that says which logit was not finite."""
    refused = 0
    for _ in range(n):
        size, few = rng.randrange(1, 12), rng.choices(EXTREME, k=rng.randrange(1, 4))
        logits = torch.tensor([[rng.choice(few) for _ in range(size)] for _ in range(2)])
        filters = {
            "temperature": rng.choice((0, 1e-45, 1e-30, 0.7, 1, 100.0, 3e38)),
            "top_k": rng.choice((None, 1, 3, 1000)),
            "top_p": rng.choice((None, 1e-9, 0.5, 1)),
            "min_p": rng.choice((None, 0, 0.1, 1)),
        }
        best = logits.max(dim=-1).values
        try:
            probs = next_token_probabilities(logits, **filters)
        except ValueError as error:
            refused += 1
            fair = not best.isfinite().all() and "finite" in str(error)
            yield None if fair else f"{logits.tolist()}, {filters}: {error}"
            continue
        fine = (
            bool(best.isfinite().all())
            and bool((probs >= 0).all())
            and torch.allclose(probs.sum(-1), torch.ones(2))
            and not probs[logits == -math.inf].any()
            and (
                filters["temperature"] > 1
                or bool((probs * (logits >= best[:, None] - 1e-6)).any(-1).all())
            )
            and bool((torch.multinomial(probs, 1) >= 0).all())
        )
        yield None if fine else f"{logits.tolist()}, {filters} gave {probs.tolist()}"
    return f"{refused:,} refused: inf, NaN, or nothing but minus infinity"
