"""A byte-level BPE tokenizer: text becomes whole numbers, and they become the same text again.

A model reads ids, not letters. The 256 bytes would do as ids, since they spell every text there is,
but a page of them is thousands of steps long. So byte-pair encoding gives what is frequent an id of
its own. It cuts text into words, spells them in bytes, and again and again makes one token of the
two neighbours that are seen most often. In "tick tock tick tock" that is

    c  + k  -> "ck"    seen 4 times
    " "+ t  -> " t"    seen 3 times
    i  + ck -> "ick"   seen twice, as are o + ck and " t" + o; among equals the lowest ids win

and so on, until the vocabulary is full. To encode a text is to do the same merges in the same
order: " tick" is " t", "ick". Nothing is unknown: at worst, the bytes of a rare word stay apart.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
section 3.2 (merges); Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.2 (bytes, and the cut into words).
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from operator import index
from pathlib import Path
from typing import Literal, SupportsIndex

import regex
import tiktoken

from ch01_overview.files import write_whole
from ch02_tokenization.formats import (
    BASE_TOKENS,
    N_BASE,
    base_ids,
    from_tokenizer_json,
    spell,
    to_tokenizer_json,
)
from ch02_tokenization.merges import learn_merges, merge_word

__all__ = ["CONTROL_TOKENS", "END_OF_TEXT", "SPLIT_PATTERN", "BPETokenizer", "train_bpe"]

END_OF_TEXT = "<|endoftext|>"
# What the book's models are told apart from text: where a text begins and ends and, from chapter 6
# on, who speaks. They are in the vocabulary from the start, since a vocabulary cannot grow later.
CONTROL_TOKENS = (END_OF_TEXT, "<|user|>", "<|assistant|>", "<|end|>")

# How GPT-2 cuts text into words, as tiktoken spells it; no merge crosses a cut. The second plus of
# `++` finds the same words faster: it forbids the search to give back what it has taken.
SPLIT_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)"  # what English hangs on a word: it's, I'd, I'm, don't, we'll, I've
    r"| ?\p{L}++"  # letters of any script, with one space before them: " word" becomes one token
    r"| ?\p{N}++"  # digits and other numbers: "top10" is "top" and "10"
    r"| ?[^\s\p{L}\p{N}]++"  # a run of anything else that is not blank: "?!", " ..."
    r"|\s++$"  # blanks at the very end of the text
    r"|\s+(?!\S)"  # blanks before a word, without the last one, which belongs to the word ...
    r"|\s"  # ... or, where it is not a space, stands alone
)
# `regex` follows newer editions of Unicode than tiktoken and tokenizers, which know edition 16: the
# letters of a script added since are letters here, and symbols there.
_WORD = regex.compile(SPLIT_PATTERN)

# In ASCII, where letters are A to Z, the standard library finds the same words in half the time.
_ASCII_WORD = re.compile(
    SPLIT_PATTERN.replace(r"?\p{L}", "?[A-Za-z]")
    .replace(r"?\p{N}", "?[0-9]")
    .replace(r"\p{L}\p{N}", "A-Za-z0-9"),
    re.ASCII,
)

# Blanks stand only at the front of a word. So where one follows something visible, there is a cut.
_SURE_CUT = regex.compile(r"\S(?=\s)")
_SPAN = 2**16  # how many characters, at least, to split at once: a list of all words would be long

# Frequent words turn up early, so a full cache holds most of them and need not forget any.
_CACHED_WORDS, _CACHED_LENGTH = 2**16, 64


def _words(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _SURE_CUT.search(text, start + _SPAN)
        span = text[start : cut.end() if cut else len(text)]
        yield from (_ASCII_WORD if span.isascii() else _WORD).findall(span)
        start += len(span)


def _well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: half a surrogate pair becomes U+FFFD, as it does in tiktoken."""
    if text.isascii():  # which Python knows without looking, and most lines of English are
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _each(texts: str | Iterable[str]) -> Iterator[str]:
    return map(_well_formed, [texts] if isinstance(texts, str) else texts)


def train_bpe(
    texts: str | Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()
) -> "BPETokenizer":
    """Learn a tokenizer with a vocabulary of 256 bytes, then merges, then the special tokens.

    Texts are read one by one, and memory grows with the number of distinct words, not with length.
    No word reaches from one text into the next; the name of a special token in a text is text. When
    every word is one token, nothing is left to merge and the vocabulary stays below `vocab_size`.

        >>> train_bpe("tick tock tick tock", vocab_size=259).encode(" tick")
        [257, 258]

    Raises: ValueError if there is no text, if `vocab_size` cannot hold the bytes and the special
    tokens, or if a special token is empty, given twice, or an ordinary token.
    """
    n_needed = N_BASE + len(special_tokens)
    if vocab_size < n_needed:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: {N_BASE} bytes and {len(special_tokens)} "
            f"special tokens need at least {n_needed}"
        )
    _check_special_tokens(special_tokens, BASE_TOKENS)  # before the work, not after
    word_counts = Counter(chain.from_iterable(map(_words, _each(texts))))
    if not word_counts:
        raise ValueError(
            "there is no text to learn from: pass at least one string that is not empty"
        )

    tokens, merges = list(BASE_TOKENS), []
    for left, right in learn_merges(word_counts, vocab_size - n_needed):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return BPETokenizer(dict(enumerate(tokens)), merges, special_tokens)


class BPETokenizer:
    """A vocabulary, the merges that made it, and the special tokens behind it.

    `vocab` holds the 256 bytes in GPT-2's order, then what each merge makes, in order: the earlier
    the merge, the lower the id. Special tokens take the ids after that. They stand for what is not
    text, such as the end of a document, so no text becomes one unless it is allowed to.

    Raises: ValueError if vocabulary and merges do not belong together, or if a special token is
    empty, given twice, or an ordinary token.
    """

    def __init__(
        self,
        vocab: dict[int, bytes],
        merges: list[tuple[bytes, bytes]],
        special_tokens: Sequence[str] = (),
    ):
        _check_vocab(vocab, merges)
        _check_special_tokens(special_tokens, vocab.values())
        self.vocab, self.merges = dict(vocab), list(merges)
        self.special_ids = {token: id for id, token in enumerate(special_tokens, start=len(vocab))}
        self.vocab_size = len(vocab) + len(special_tokens)
        self._bytes_of = vocab | {id: token.encode() for token, id in self.special_ids.items()}
        ids = {token: id for id, token in vocab.items()}
        self._merged_id = {(ids[a], ids[b]): ids[a + b] for a, b in merges}
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids of `text`; the name of a special token in it is text, unless it is allowed.

        Text from outside must not be able to end a document or speak for somebody else.

        Raises: ValueError if `allowed_special` names something that is no special token.
        """
        if unknown := set(allowed_special) - self.special_ids.keys():
            raise ValueError(
                f"allowed_special has {sorted(unknown)}, but this tokenizer's special tokens are "
                f"{list(self.special_ids)}"
            )
        ids = []
        for part in _split_at(allowed_special, _well_formed(text)):
            if part in allowed_special:
                ids.append(self.special_ids[part])
            else:
                for word in _words(part):
                    ids += self._cache.get(word) or self._encode_word(word)
        return ids

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """The ids of each text in turn, holding one text at a time; no word spans two texts."""
        for text in _each(texts):
            yield from self.encode(text)

    def _encode_word(self, word: str) -> list[int]:
        ids = merge_word(base_ids(word.encode()), self._merged_id)
        if len(word) <= _CACHED_LENGTH and len(self._cache) < _CACHED_WORDS:
            self._cache[word] = ids
        return ids

    def decode_bytes(self, ids: Iterable[SupportsIndex]) -> bytes:
        """The bytes behind the ids, one after the other; a tensor of ids will do as well.

        Raises: ValueError if an id is outside the vocabulary.
        """
        ids = [index(id) for id in ids]
        if outside := [id for id in ids if id not in self._bytes_of]:
            raise ValueError(
                f"id {outside[0]} is outside the vocabulary of {self.vocab_size} tokens"
            )
        return b"".join([self._bytes_of[id] for id in ids])

    def decode(
        self,
        ids: Iterable[SupportsIndex],
        errors: Literal["replace", "strict", "ignore"] = "replace",
    ) -> str:
        """The text behind the ids.

        Not all ids make text: "é" is two bytes, and a model may stop after the first. What is no
        UTF-8 becomes U+FFFD, is left out (`"ignore"`), or raises (`"strict"`).

        Raises: ValueError if an id is outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, which Hugging Face's `Tokenizer.from_file` opens as it is."""
        write_whole(path, to_tokenizer_json(self.vocab, self.merges, self.special_ids))

    @classmethod
    def load(cls, path: str | Path) -> "BPETokenizer":
        """Read a tokenizer.json that `save` wrote, or another of GPT-2's kind.

        Raises: ValueError if the file is cut short or altered, or describes another tokenizer.
        """
        try:
            return cls._with_special_ids(*from_tokenizer_json(Path(path).read_bytes()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no byte-level BPE tokenizer.json: {error}") from error

    @classmethod
    def from_tiktoken(cls, encoding: tiktoken.Encoding) -> "BPETokenizer":
        """GPT-2's own tokenizer, from `tiktoken.get_encoding("gpt2")`.

        tiktoken keeps tokens and no merges. But the merges before a token's own leave it in two
        parts, and these are what its own merge joined.

        Raises: ValueError if the encoding is not of GPT-2's kind.
        """
        if encoding._pat_str != SPLIT_PATTERN:
            raise ValueError(f"{encoding.name} cuts by {encoding._pat_str}, not by {SPLIT_PATTERN}")
        ranks = encoding._mergeable_ranks
        tokens, merges, merged_id = list(BASE_TOKENS), [], {}
        for token in sorted(ranks, key=ranks.__getitem__)[N_BASE:]:
            parts = merge_word(base_ids(token), merged_id)
            if len(parts) != 2:
                raise ValueError(f"{encoding.name} has a token that no merge makes: {token}")
            merges.append((tokens[parts[0]], tokens[parts[1]]))
            merged_id[tuple(parts)] = len(tokens)
            tokens.append(token)
        vocab = {id: token for token, id in ranks.items()}
        return cls._with_special_ids(vocab, merges, encoding._special_tokens)

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer in tiktoken's compiled engine, for encoding whole corpora.

        tiktoken joins two neighbours whenever the result is a token, whichever merge made it. For
        merges learned from text that is the same; merges made up by hand can tell the two apart.
        """
        ranks = {token: id for id, token in self.vocab.items()}
        return tiktoken.Encoding(
            "book", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_ids
        )

    @classmethod
    def _with_special_ids(cls, vocab, merges, special_ids: dict[str, int]) -> "BPETokenizer":
        tokenizer = cls(vocab, merges, sorted(special_ids, key=special_ids.__getitem__))
        if tokenizer.special_ids != special_ids:
            raise ValueError(
                f"special tokens have ids {special_ids}, expected {tokenizer.special_ids}"
            )
        return tokenizer


def _split_at(special_tokens: Collection[str], text: str) -> list[str]:
    if not special_tokens:
        return [text]
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text)


def _check_vocab(vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]]) -> None:
    expected = list(BASE_TOKENS)
    known = set(expected)
    for left, right in merges:
        if not {left, right} <= known or left + right in known:
            raise ValueError(f"merge {left} + {right} must make a new token from two earlier ones")
        known.add(left + right)
        expected.append(left + right)
    for id, token in enumerate(expected):
        if vocab.get(id) != token:
            origin = "a base byte" if id < N_BASE else "made by a merge"
            raise ValueError(f"id {id} must be {token}, {origin}, but is {vocab.get(id)}")
    if len(vocab) != len(expected):
        raise ValueError(
            f"vocab has {len(vocab)} tokens, but {N_BASE} bytes and {len(merges)} merges are "
            f"{len(expected)}"
        )


def _check_special_tokens(special_tokens: Sequence[str], ordinary: Iterable[bytes]) -> None:
    spelled = {spell(token) for token in ordinary}  # in tokenizer.json both are names of ids
    for i, token in enumerate(special_tokens):
        if not token or token != _well_formed(token):
            raise ValueError(f"special token {token!r} is empty or holds half a surrogate pair")
        if token in special_tokens[:i]:
            raise ValueError(f"special token {token!r} is given twice")
        if token in spelled:
            raise ValueError(f"special token {token!r} is an ordinary token: choose another name")
