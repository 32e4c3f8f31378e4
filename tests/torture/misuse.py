"""Every public function, called with what it does not expect."""

import importlib
import inspect
import itertools
import json
import math
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.torture import Attempts, row
from tests.torture.calls import calls
from tests.torture.child import Child
from tests.torture.small import (
    assistant_in,
    contents,
    unreadable,
)

ROOT = Path(__file__).parents[2]
CHAPTERS = ("ch01_overview", "ch02_tokenization", "ch03_attention", "ch04_model")
CHAPTERS += ("ch05_pretraining", "ch06_alignment")
# Drawings, exercises, studies and speed tests are parts of the book that call, not that are called.
NOT_CALLED = {"figures", "checks", "solutions", "benchmark", "studies", "study", "notebook"}
NOT_CALLED |= {"benchmarking", "checking", "rl", "training"}
# Without arguments, or nothing but a record of what it is given.
WITHOUT = {
    *("Story", "Facts", "Character", "Narrator", "Corpus", "Preset", "SmallData", "MarkedStory"),
    *("Task", "Replies", "Optimizer", "cache_folder", "cached_gpt2", "describe_machine"),
    *("memory_gib", "usable_cores", "ladder_texts", "uniform_bits", "processes", "LargestTensor"),
    *("assistant", "assistant_folder", "Rows"),
}
# These train for minutes or print a page; what they call is in the list.
LONG = {"main", "finetune", "report_card", "watch", "pretrained", "train_from_scratch"}
LONG |= {"held_out_stories", "small_data", "score", "exam", "tell", "draw_ladder", "floor_bits"}


def wrong(good: Any) -> Iterator[tuple[str, Any]]:
    """What may be passed by mistake in place of a good argument."""
    if isinstance(good, Tensor):
        return _wrong_tensors(good)
    bad: dict[str, Any] = {"None": None}
    if isinstance(good, bool):
        bad |= {"a string": "yes"}
    elif isinstance(good, int):
        bad |= {"a string": "7", "2.5": 2.5, "-1": -1, "0": 0, "a list": [1]}
    elif isinstance(good, float):
        bad |= {"a string": "0.5", "nan": math.nan, "-1.0": -1.0, "inf": math.inf}
    elif isinstance(good, Path):
        bad |= {"no such place": Path("/nowhere/at/all"), "5": 5}
    elif isinstance(good, str | bytes):
        other = good.encode() if isinstance(good, str) else good.decode("latin-1")
        bad |= {"5": 5, type(other).__name__: other}
    elif isinstance(good, np.ndarray):
        bad |= {"a string": "text", "floats": good + 0.5, "empty": good[:0]}
    elif isinstance(good, list | tuple | dict | frozenset):
        nonsense = {object(): object()} if isinstance(good, dict) else type(good)([object()])
        bad |= {"5": 5, "nonsense in it": nonsense} | ({"empty": type(good)()} if good else {})
    else:  # a model, a tokenizer, a configuration, a generator, a function
        bad |= {"a string": "text", "5": 5, "an object": object()}
    return iter(bad.items())


def _wrong_tensors(good: Tensor) -> Iterator[tuple[str, Any]]:
    yield from {"a string": "text", "None": None, "2.5": 2.5, "a list": good.tolist()}.items()
    yield "on meta", good.to("meta")
    yield "empty", good[:0]
    yield "one axis more", good[None]
    if good.ndim:
        yield "one axis less", good[0]
        yield "one row less", good[:-1]
        yield "one column less", good[..., :-1]
    if good.dtype == torch.int64:
        yield from {"floats": good.float(), "negative": -good - 1, "large": good + 10**6}.items()
    elif good.dtype == torch.bool:
        yield from {"whole numbers": good.long(), "floats": good.float()}.items()
    else:
        yield from {"whole numbers": good.long(), "complex": good.to(torch.complex64)}.items()


# What looks wrong and is not, by the reason why: patterns of `function(parameter=what)`.
FINE = {
    "less of the same is an input, too": (
        "*(x=one row less) *(x=one axis *) head_weights(ids=one *) generate(ids=one *) "
        "stream(ids=one *) GPT.forward(ids=one column less) RMSNorm.forward(*) "
        "LayerNorm.forward(*) LoRALinear.forward(*) FeedForward.forward(*) "
        "next_token_probabilities(logits=one *) "
        "orthogonalize(matrix=one *) *(data=one *) *(ids=one row less) *(ids=one column less) "
        "*(*starts=one *) *(val_ids=one *) token_logps(ids=one *) each_once(ids=one *) "
        "group_advantages(rewards=one *) take(positions=one *) KVCache(like=*)"
    ),
    "one text, head or mask for all of a batch, as in torch": (
        "attention_weights(*=one *) scaled_dot_product_attention(*=one *) apply_rope(*=one *)"
    ),
    "none of something is possible": (
        "stories(n=0) *(*=empty) learn_merges(n_merges=*) causal_mask(n_queries=0) "
        "sinusoidal_positions(*=0) rope_cache(*=0) KVCache.truncate(length=0) "
        "*(max_new_tokens=0) save_checkpoint(step=*) learning_rate(step=0) marked_stories(n=0) "
        "batches(longest=*) hands_tasks(n=0) conversations(n=0) read_pieces(*=0) "
        "document_starts(end_of_text=0) wilson(n_right=0)"
    ),
    "any whole number is a seed": "*(seed=-1) *(seed=0)",
    "a formula of any number": (
        "learning_rate(peak=*) learning_rate(step=-1) perplexity(*) bits_per_byte(total_nats=*) "
        "train(floor=*) LoRALinear(alpha=-1.0)"
    ),
    "without end means without a limit": "TrainConfig(clip_norm=inf) clip_grad_norm(max_norm=inf)",
    "on the meta device there are shapes and no numbers": (
        "*(x=on meta) *(v=on meta) orthogonalize(matrix=on meta) take(ids=on meta) "
        "get_batch(ids=on meta) group_advantages(rewards=on meta)"
    ),
    "what an id means is the model's to say": "take(ids=*) get_batch(ids=*)",
    "text or bytes": "write_whole(data=bytes)",
    "without is the default": "*.forward(rope=None) *.forward(cache=None)",
    "a path that is made": "*(folder=no such place) whole_file(path=*)",
}
# These kinds a signature rules out; without it most end in an error of Python's or torch's.
BY_SIGNATURE = {"a string", "None", "5", "2.5", "a list", "an object", "nonsense in it", "bytes"}
BY_SIGNATURE |= {"str", "floats", "whole numbers", "complex"}
PATTERNS = [
    pattern for patterns in FINE.values() for pattern in re.findall(r"\S+?\([^)]*\)", patterns)
]


def _is_fine(call: str) -> bool:
    return any(fnmatchcase(call, pattern) for pattern in PATTERNS)


def _optional(function: Callable, parameter: str) -> bool:
    """Whether None may be passed, by the signature."""
    hint = inspect.signature(function).parameters.get(parameter)
    return hint is not None and (hint.default is None or "None" in str(hint.annotation))


def attempts(by_signature: bool, share: float = 1.0) -> Iterator[tuple[str, str | None]]:
    """Bad calls of a share of the functions: the error that refused each, or what was lost."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        for called, function, good in calls(Path(name)):
            if rng.random() > share:
                continue
            if isinstance(error := _outcome(function, {**good}), BaseException):
                yield "", f"{called} fails with good arguments: {error!r}"
                continue
            for parameter, what, bad in (
                (p, what, bad) for p, value in good.items() for what, bad in wrong(value)
            ):
                if (what in BY_SIGNATURE) != by_signature:
                    continue
                told = f"{called}({parameter}={what})"
                result = _outcome(function, {**good, parameter: bad})
                if isinstance(result, SystemExit) or (
                    isinstance(result, Exception) and not str(result)
                ):
                    yield "", f"{told}: {result!r}"
                elif isinstance(result, Exception):
                    yield type(result).__name__, None
                elif _is_fine(told) or (what == "None" and _optional(function, parameter)):
                    yield "accepted", None
                else:
                    yield "", f"{told} gave {str(result)[:80]!r}"


def _outcome(function: Callable, arguments: dict[str, Any]) -> Any:
    """The error, or what came out, if it is worked out step by step the first of it."""

    def endless(*_: object) -> None:
        raise SystemExit("it does not end")

    signal.signal(signal.SIGALRM, endless)
    signal.alarm(30)
    try:
        result = function(**arguments)
        return list(itertools.islice(result, 5)) if isinstance(result, Iterator) else result
    except (Exception, SystemExit) as error:
        return error
    finally:
        signal.alarm(0)


@row("misuse", "every public function is in the list", attempts=1, quick=1)
def all_of_them(rng: random.Random, n: int) -> Attempts:
    """A function that is new in the book has to be called here, too."""
    with tempfile.TemporaryDirectory() as name:
        known = {called.split(".")[0] for called, *_ in calls(Path(name))} | WITHOUT | LONG
    for chapter in CHAPTERS:
        for path in sorted((ROOT / chapter).glob("*.py")):
            if path.stem in NOT_CALLED:
                continue
            module = importlib.import_module(f"{chapter}.{path.stem}")
            for public in getattr(module, "__all__", ()):
                if callable(getattr(module, public)):
                    yield None if public in known else f"{module.__name__}.{public}"
    return f"{len(LONG)} that train for minutes or print a page are not called"


def _counted(told: Iterable[tuple[str, str | None]]) -> Attempts:
    """Make attempts of what was told of each, and sum up the errors."""
    errors: Counter[str] = Counter()
    for error, lost in told:
        errors[error] += 1
        yield lost
    accepted = errors.pop("accepted", 0)
    most = ", ".join(f"{n:,} {name}" for name, n in errors.most_common(3) if name)
    return f"{most}; {accepted} were fine after all"


@row("misuse", "values, shapes and devices that do not fit", attempts=1000, quick=50)
def values(rng: random.Random, n: int) -> Attempts:
    """As a reader calls: below zero, zero, nan, endless, off by a row, on another device."""
    return (yield from _counted(attempts(by_signature=False, share=min(1.0, n / 1000))))


HOOKED = """
import json
from jaxtyping import install_import_hook
install_import_hook({chapters}, "beartype.beartype")
import torch
torch.set_num_threads(1)
from tests.torture import misuse
print(json.dumps(list(misuse.attempts(by_signature=True))))
"""


@row("misuse", "wrong types, dtypes and axes", attempts=1, quick=0)
def types(rng: random.Random, n: int) -> Attempts:
    """With the signatures checked, shapes included, as in the tests."""
    script = HOOKED.format(chapters=list(CHAPTERS))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return (yield from _counted(json.loads(done.stdout.splitlines()[-1])))


@row("misuse", "two processes, one cache", attempts=10, quick=0)
def one_cache(rng: random.Random, n: int) -> Attempts:
    """Both make the assistant from nothing, at once: both have it, and it is the same."""
    with tempfile.TemporaryDirectory() as name:
        wanted = None
        for i in range(n):
            folder = Path(name) / str(i)
            pair = []
            for _ in range(2):
                pair.append(Child(lambda folder=folder: str(assistant_in(folder))))
                time.sleep(rng.uniform(0, 0.5) if i else 0)
            errors = [s for s in [child.wait() for child in pair] if "returned" not in s]
            made = contents(folder)
            wanted = wanted or made
            lost = f"not both: {errors}" if errors else unreadable(folder)
            yield lost or (None if made == wanted else "not the same files as the pair before")
    return "the second began up to half a second after the first"
