"""Much more than anybody reads, types or keeps."""

import io
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ch05_pretraining.recipes import load_corpus
from ch05_pretraining.tokens import get_batch
from ch06_alignment import chat
from ch06_alignment.alignment import format_chat
from ch06_alignment.instructions import conversations
from tests.torture import Attempts, row
from tests.torture.child import Child, rss
from tests.torture.small import PRESET, TEXTS, TOKENIZER, cache_in, tiny_gpt

CONTEXT = 256
SECONDS = 5.0  # until a conversation has been cut to what fits


def _conversation(rng: random.Random, n_tokens: int) -> list[dict[str, str]]:
    """Turns of all lengths, and then a question."""
    turns: list[dict[str, str]] = []
    length = 0
    while length < n_tokens:
        for talk in conversations(100, seed=rng.getrandbits(30)):
            turns += talk
            length += len(format_chat(talk, TOKENIZER))
    return [*turns, {"role": "user", "content": "Who has it?"}]


@row("load", "a conversation of 50,000 tokens", attempts=10, quick=1)
def conversation(rng: random.Random, n: int) -> Attempts:
    """The newest turns that fit are kept, and the answer begins at once."""
    model, slowest = tiny_gpt(context_length=CONTEXT), 0.0
    for _ in range(n):
        talk = _conversation(rng, 50_000)
        began = time.process_time()
        kept = chat.fit(talk, TOKENIZER, CONTEXT - chat.ROOM)
        said = "".join(chat.answer(model, TOKENIZER, talk, torch.Generator().manual_seed(0)))
        slowest = max(slowest, time.process_time() - began)
        more = talk[-len(kept) - 2 :]
        fine = kept == talk[-len(kept) :] and kept[0]["role"] == "user" and said is not None
        fine = fine and len(format_chat(more, TOKENIZER)) > CONTEXT - chat.ROOM
        yield None if fine and slowest < SECONDS else f"{len(kept)} messages in {slowest:.1f} s"
    return f"cut to fit and answered in {slowest:.2f} s at most (bound {SECONDS:g})"


LINES = {
    "a million letters": "a" * 1_000_000,
    "an empty line": "",
    "blanks": " \t " * 99,
    "a million blanks between two dots": "." + " " * 1_000_000 + ".",
    "a million digits": "7" * 1_000_000,
    "two hundred thousand words": "word " * 200_000,
    "control tokens": "<|end|><|assistant|>" * 50_000,
    "a million lions": "🦁" * 250_000,
    "zero bytes": "\x00" * 1_000_000,
}


def _talk(lines: list[str], continues: bool) -> str:
    """What the prompt prints when these lines are piped in."""
    sys.stdin, sys.stdout = io.StringIO("\n".join(lines) + "\n"), io.StringIO()
    model = tiny_gpt(context_length=CONTEXT)
    if continues:
        for line in chat.ask("> "):
            chat.show(chat.complete(model, TOKENIZER, line))
    else:
        chat.chat(model, TOKENIZER)
    return sys.stdout.getvalue()


@row("load", "lines of nothing and of a million characters", attempts=2 * len(LINES), quick=1)
def lines(rng: random.Random, n: int) -> Attempts:
    """Refused with both numbers, or answered; the question after it is answered as ever."""
    slowest = 0.0
    for i in range(n):
        name, line = list(LINES.items())[i // 2]
        began = time.perf_counter()
        said = Child(partial(_talk, [line, "Who?"], bool(i % 2))).wait()
        slowest = max(slowest, time.perf_counter() - began)
        text = said.get("returned", "")
        blank, refused = not line.strip(), "this model reads" in text
        answers = text.count("\n\n")
        fine = answers == 1 if blank else answers == 2 and refused == (i % 2 == 0)
        yield None if fine and not said.get("error") else f"{name}: {said}"[:300]
    return f"{slowest:.1f} s at most; the assistant, and a model that only continues"


def _cut(path: Path, folder: Path) -> list[int]:
    """The corpus of a file, and its bytes as its tokens spell them."""
    cache_in(folder)
    tokenizer, data = load_corpus(path, PRESET)
    widths = np.array([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)])
    n_bytes = 0
    for ids in (data.train_ids, data.val_ids):
        for first in range(0, len(ids), 1 << 20):
            n_bytes += int(widths[ids[first : first + (1 << 20)]].sum())
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        inputs, targets = get_batch(data.train_ids, 16, 256, generator)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    return [len(data.train_ids) + len(data.val_ids), n_bytes]


@row("load", "a text of a gigabyte, read in pieces", attempts=1024, quick=2)
def gigabyte(rng: random.Random, n: int) -> Attempts:
    """As many MiB of text: every byte is in a token, and memory does not grow with the length."""
    block = ("\n".join(TEXTS) * 10)[: 1 << 20].encode()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        for size in (max(1, n // 8), n):
            path, tokens = Path(name) / f"{size}.txt", 0
            with path.open("wb") as file:
                for i in range(size):
                    file.write(block[:-9] + f"{i:8}\n".encode())
            child, peak = Child(partial(_cut, path, Path(name) / str(size))), 0.0
            while child.alive():
                peak = max(peak, rss(child.pid))
                time.sleep(0.05)
            said = child.wait()
            tokens, n_bytes = said.get("returned", (0, 0))
            peaks.append(peak)
            whole = n_bytes == path.stat().st_size
            yield None if whole else f"{size} MiB: {n_bytes} bytes in tokens, {said.get('error')}"
    yield None if peaks[1] - peaks[0] < 64 else f"memory grew: {peaks} MiB"
    memory = f"{peaks[0]:.0f} MiB of memory for an eighth, {peaks[1]:.0f} for all"
    return f"{n} MiB, {tokens:,} tokens; {memory}"
