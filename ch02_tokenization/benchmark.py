"""Is our trainer as fast as Hugging Face's? `python -m ch02_tokenization.benchmark [text file]`

Both learn the same merges from the same lines, ours in plain Python on one core, theirs in Rust on
as many as it likes. The long text is 26 copies of the short one, each with its letters moved on in
the alphabet by one more place ("cat", "dbu", "ecv", ...), so that every copy has words of its own.
"""

import string
import sys
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ch01_overview.benchmarking import Claim, interleave, report
from ch01_overview.corpus import load_text
from ch02_tokenization.tokenizer import train_bpe

VOCAB_SIZE = 4096


def train_theirs(lines: Iterable[str]) -> None:
    """Train a byte-level BPE of Hugging Face's `tokenizers`."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.train_from_iterator(lines, trainer)


def shifted_copies(text: str) -> Iterator[str]:
    """The lines of `text` 26 times, each time with its letters one more place on."""
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    for n in range(26):
        moved = lower[n:] + lower[:n] + upper[n:] + upper[:n]
        yield from text.translate(str.maketrans(lower + upper, moved)).splitlines(keepends=True)


def main(source: str = "shakespeare") -> int:
    """Settle both claims on a text, by default Tiny Shakespeare; returns the exit code."""
    text = load_text(source)
    lines = text.splitlines(keepends=True)
    short = interleave([lambda: train_bpe(lines, VOCAB_SIZE), lambda: train_theirs(lines)], 9)
    long = interleave(
        [
            lambda: train_bpe(shifted_copies(text), VOCAB_SIZE),
            lambda: train_theirs(shifted_copies(text)),
        ],
        3,
    )
    size = len(text.encode()) / 1e6
    what = f"seconds to train {VOCAB_SIZE} tokens on"
    return report(
        [Claim(f"{what} {size:.1f} MB", *short), Claim(f"{what} {26 * size:.1f} MB", *long)]
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
