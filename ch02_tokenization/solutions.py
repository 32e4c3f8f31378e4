"""The exercises of chapter 2, solved; the reasoning stands in the docstrings."""

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import regex
import torch
from torch import Tensor

from ch02_tokenization.tokenizer import SPLIT_PATTERN, BPETokenizer

Word = tuple[str, ...]
Pair = tuple[str, str]


def code_points(data: bytes) -> list[int]:
    """The first byte says how many follow: it begins with 0, 110, 1110 or 11110.

    What is behind these bits is the top of the number. Each further byte has six more bits, behind
    10: move the number up by six places and put them in.
    """
    points = []
    for byte in data:
        if byte < 0b1000_0000:
            points.append(byte)
        elif byte < 0b1100_0000:
            points[-1] = points[-1] << 6 | byte & 0b11_1111
        else:
            n_marks = 2 + (byte >= 0b1110_0000) + (byte >= 0b1111_0000)
            points.append(byte & 0b1111_1111 >> n_marks)
    return points


def bytes_per_token(tokenizer: BPETokenizer, texts: Sequence[str]) -> float:
    """All bytes over all tokens.

    The mean of each text's own ratio would give a text of one word the weight of a book, and
    characters would make a text in Greek look half as long as it is on disk.
    """
    n_bytes = sum(len(text.encode()) for text in texts)
    return n_bytes / sum(len(tokenizer.encode(text)) for text in texts)


def shrink(tokenizer: BPETokenizer, vocab_size: int) -> BPETokenizer:
    """Keep the first merges, as many as there is room for.

    The trainer chooses a merge by the merges before it and never looks ahead. So a trainer that had
    stopped earlier would have learned the same beginning of the list.
    """
    n_ordinary = vocab_size - len(tokenizer.special_ids)
    vocab = {id: token for id, token in tokenizer.vocab.items() if id < n_ordinary}
    return BPETokenizer(vocab, tokenizer.merges[: n_ordinary - 256], list(tokenizer.special_ids))


def count_spellings(word: bytes, vocab: set[bytes]) -> int:
    """From left to right: every spelling of the first i bytes has a last token.

    It starts at some j, and before it stands any spelling of the first j bytes. So the numbers for
    all those j are added up. The empty word has one spelling, the empty one.
    """
    ways = [1]
    for end in range(1, len(word) + 1):
        ways.append(sum(ways[start] for start in range(end) if word[start:end] in vocab))
    return ways[-1]


def split_numbers(text: str) -> list[str]:
    """Cut as GPT-2 does, then cut each number again.

    A group may begin wherever the number of digits still to come is a multiple of three. The
    lookahead says so; the space, if there is one, goes with the first group.
    """
    words = []
    for word in regex.findall(SPLIT_PATTERN, text):
        if regex.fullmatch(r" ?\p{N}+", word):
            words += regex.findall(r" ?\p{N}{1,3}(?=(?:\p{N}{3})*$)", word)
        else:
            words.append(word)
    return words


def never_used(tokenizer: BPETokenizer, texts: Iterable[str]) -> set[int]:
    """Encode and see. That a token's bytes occur in the text is not enough.

    "nowy" stands in every " snowy", but where " snowy" is a token, "nowy" is never used.
    """
    made = {id for id in tokenizer.vocab if id >= 256}
    return made - set(tokenizer.encode_iterable(texts))


def training_pairs(
    documents: Sequence[Sequence[int]], context_length: int, end_id: int
) -> tuple[Tensor, Tensor]:
    """The stream has one id more than is needed for inputs: the last target.

    So n windows need n * T + 1 ids. Targets are the same row, read from the second id on.
    """
    stream = [end_id]
    for document in documents:
        stream += [*document, end_id]
    n = (len(stream) - 1) // context_length
    ids = torch.tensor(stream[: n * context_length + 1])
    return ids[:-1].view(n, context_length), ids[1:].view(n, context_length)


def stream_decode(tokenizer: BPETokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Python's incremental decoder holds back the bytes of a character that is not complete.

    At the end it has to be told that nothing more will come, so that it gives up the rest.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for id in ids:
        if text := decoder.decode(tokenizer.decode_bytes([id])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def best_spelling(word: str, log_probs: dict[str, float]) -> list[str]:
    """As for `count_spellings`, with "the best of" in the place of "the sum of".

    The best spelling of the first i characters is the best of the first j, for some j, and a last
    token. That no other beginning can do better is what makes dynamic programming work: the score
    of the rest does not depend on how the beginning was spelled (Viterbi 1967).
    """
    best = [(0.0, [])]
    for end in range(1, len(word) + 1):
        options = [
            (best[start][0] + log_probs[word[start:end]], [*best[start][1], word[start:end]])
            for start in range(end)
            if word[start:end] in log_probs
        ]
        best.append(max(options))
    return best[-1][1]


def update_counts(
    words: dict[Word, int], counts: dict[Pair, int], pair: Pair
) -> tuple[dict[Word, int], dict[Pair, int]]:
    """A word that changes is taken out of the counts and put in again; the others stay.

    To reason about the neighbours of each merged pair is faster still and easy to get wrong: in
    "aaa" and "abab" the pairs overlap or touch. The book's trainer does it; this is its check.
    """
    new_words, new_counts = {}, Counter(counts)
    for word, count in words.items():
        merged = _merge(word, pair)
        new_words[merged] = count
        if merged != word:
            for old in pairwise(word):
                new_counts[old] -= count
            for new in pairwise(merged):
                new_counts[new] += count
    return new_words, {pair: count for pair, count in new_counts.items() if count}


def _merge(word: Word, pair: Pair) -> Word:
    merged = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
