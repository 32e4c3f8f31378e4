"""The checks of chapter 2's exercises: what is tried, and what should come out."""

import random
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, models

from ch01_overview.checking import checked, expect, require
from ch02_tokenization import solutions
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer, train_bpe

TEXTS = (
    "A snowy owl saw a snowy hill, and the hill was very snowy.",
    "The owl said: it is 1234567 times as snowy as the mill.\n",
    "Ein Käuzchen flog über den Hügel.",
    "still",
)


MOST_STEPS = 500_000  # for a word of 61 letters; trying every spelling takes 10^12 and more


def trained(vocab_size: int = 293) -> BPETokenizer:
    """A small tokenizer of the texts above, with two special tokens; a new copy for each call."""
    learned = _learned(vocab_size)
    return BPETokenizer(dict(learned.vocab), list(learned.merges), list(learned.special_ids))


@cache
def _learned(vocab_size: int) -> BPETokenizer:
    return train_bpe(TEXTS, vocab_size, ("<|user|>", END_OF_TEXT))


def _in_few_steps(answer: Callable, *args: Any) -> Any:
    """What `answer` returns; it is stopped after too many calls of functions, not of seconds."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        what = f"a word of {len(args[0])} letters takes fewer than {MOST_STEPS:,} calls"
        hint = "Do not try all spellings; keep what is known about each beginning of the word."
        require(steps < MOST_STEPS, what, hint)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return answer(*args)
    finally:
        sys.setprofile(before)


class _Undecodable(bytes):
    """Bytes that have to be read by hand."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _Undecodable(part) if isinstance(part, bytes) else part

    def decode(self, *_: Any, **__: Any) -> str:
        require(False, "code_points reads the bytes itself", "`decode` is not allowed here.")
        return ""


@checked
def check_code_points(code_points):
    """The numbers behind UTF-8, for one to four bytes."""
    for text, hint in [
        ("owl", "A byte below 128 is the character's number itself."),
        ("ë߿", "110xxxxx 10yyyyyy is the number xxxxxyyyyyy: shift by six, then add."),
        ("aë語", "Three bytes: 4 + 6 + 6 bits."),
        ("🦉", "Four bytes: 3 + 6 + 6 + 6 bits."),
        ("\x00\x7f\x80\u0800\uffff\U00010000\U0010ffff", "Try the edges of the four rows."),
        ("", "No bytes, no numbers."),
    ]:
        data = _Undecodable(text.encode())
        expect(code_points(data), [ord(c) for c in text], f"code_points({data!r})", hint)


@checked
def check_bytes_per_token(bytes_per_token):
    """One text, texts of different length, and text of more than one byte a character."""
    for texts, hint in [
        (TEXTS[:1], "Divide bytes by tokens, not the other way round."),
        ((TEXTS[0], TEXTS[3]), "Add up first, then divide; a short text has a small say."),
        (TEXTS, "Count bytes, len(text.encode()), not characters."),
        ((" sn", "owy"), "Encode each text by itself: joined, these two are one token."),
    ]:
        expected = solutions.bytes_per_token(trained(), texts)
        expect(bytes_per_token(trained(), texts), expected, f"the texts {texts}", hint)


@checked
def check_shrink(shrink):
    """A shrunk tokenizer is the one that a shorter training gives."""
    for vocab_size in (293, 283, 271, 258):
        tokenizer, expected = trained(), trained(vocab_size)
        got = shrink(tokenizer, vocab_size)
        asked = f"shrink(tokenizer, {vocab_size})"
        require(
            isinstance(got, BPETokenizer), f"{asked} gives a BPETokenizer", "Build a new tokenizer."
        )
        hint = "256 bytes and two special tokens are in the vocabulary, too; the rest are merges."
        expect(got.merges, expected.merges, f"{asked}.merges", hint)
        expect(got.vocab, expected.vocab, f"{asked}.vocab", hint)
        hint = "Special tokens stay, in their order, with the ids after the last merge."
        expect(got.special_ids, expected.special_ids, f"{asked}.special_ids", hint)
        for name in ("vocab", "merges", "special_ids"):
            same = getattr(tokenizer, name) == getattr(trained(), name)
            require(same, f"{asked} leaves the {name} of what it is given", "Copy first.")


@checked
def check_count_spellings(count_spellings):
    """Words with one spelling, with many, and with none."""
    for word, vocab, hint in [
        (b"ab", {b"a", b"b", b"ab"}, "a + b and ab are two spellings."),
        (b"owl", {b"o", b"w", b"l"}, "Letter by letter is one."),
        (b"owl", {b"o", b"l", b"owls"}, "Nothing in this vocabulary covers the w."),
        (
            b"tensor",
            {b"t", b"e", b"n", b"s", b"o", b"r", b"ten", b"en", b"sor", b"or", b"tens"},
            "",
        ),
        (b"a" * 23, {b"a", b"aa", b"aaaaa"}, "Tokens may occur more than once in a spelling."),
        (b"", {b"a"}, "The empty word has one spelling, with no token in it."),
    ]:
        hint = hint or "Add up, over all possible last tokens, the spellings of what is before it."
        expected = solutions.count_spellings(word, vocab)
        expect(count_spellings(word, vocab), expected, f"count_spellings({word}, {vocab})", hint)
    long, vocab = b"a" * 61, {b"a", b"aa", b"aaaaa"}
    expected = solutions.count_spellings(long, vocab)
    got = _in_few_steps(count_spellings, long, vocab)
    expect(got, expected, f"count_spellings(b'a' * 61, {vocab})", "As for short words.")


@checked
def check_split_numbers(split_numbers):
    """Numbers in groups from the right, and nothing else changed."""
    for text, hint in [
        ("1234567", "Count groups of three from the right: 1, 234, 567."),
        ("in 2026 or 365 days", "The space goes with the first group: ' 2', '026'."),
        ("top10 x1000y 3.14159", "Digits are cut wherever they stand; the rest as GPT-2 does."),
        ("it's  10,000\n\n", "Everything that is no number is cut as before."),
        ("٣٤٥٦ ½", "Digits of other scripts are digits, too: \\p{N}."),
        ("ⅧⅧⅧⅧ", "Roman numerals are no digits to str.isdigit, and numbers to \\p{N}."),
        ("一二三四五", "These are letters to \\p{N}, whatever str.isnumeric says of them."),
        ("", "No text, no words."),
    ]:
        expected = solutions.split_numbers(text)
        expect(split_numbers(text), expected, f"split_numbers({text!r})", hint)


@checked
def check_never_used(never_used):
    """Tokens that other tokens have swallowed, and tokens of another text."""
    for texts, hint in [
        (TEXTS, "Look at the ids that encoding gives, not at which bytes occur in the text."),
        (TEXTS[2:], "Only tokens made by merges: no single bytes, no special tokens."),
        ([" sn", "owy"], "Encode each text by itself."),
        ([], "Where nothing is encoded, nothing is used."),
    ]:
        expected = solutions.never_used(trained(), texts)
        got = never_used(trained(), texts)
        expect(got, expected, f"the tokens of ids 256 to 290 in {texts}", hint)
    lines = train_bpe(["Owls.\n\n", " snowy snowy owls"], 271)
    hint = "Encode each text by itself, with nothing put between them."
    for texts in (["owls\n", " owls"], ["snowy", "snowy"], ["owls\n", ""]):
        expected = solutions.never_used(lines, texts)
        asked = f"{texts}, where line breaks and ' snowy' are tokens"
        expect(never_used(lines, texts), expected, asked, hint)


@checked
def check_training_pairs(training_pairs):
    """Windows over three documents."""
    documents = [[3, 5, 7], [11, 13], [17, 19, 23, 29, 31]]
    for context_length, hint in [
        (2, "The stream begins with end_id, and each document ends with it."),
        (5, "Targets are inputs moved on by one; the last target must exist, too."),
        (13, "13 inputs and 13 targets are in a stream of 14 ids."),
        (7, "What does not fill a window is left out."),
    ]:
        expected = solutions.training_pairs(documents, context_length, 2)
        got = training_pairs(documents, context_length, 2)
        expect(got, expected, f"training_pairs({documents}, {context_length}, end_id=2)", hint)


@checked
def check_stream_decode(stream_decode):
    """Text as soon as it is sure, and never half a character."""
    tokenizer = train_bpe("x", 256)
    for text in ("owl", "aë語🦉!", ""):
        got = list(stream_decode(tokenizer, tokenizer.encode(text)))
        hint = "Yield a character as soon as its last byte is there, and not before."
        expect(got, list(text), f"the pieces of {text!r}, a byte a token", hint)
    cut = tokenizer.encode("a🦉")[:3]
    hint = "When no more ids come, half a character is U+FFFD, as in tokenizer.decode."
    got = "".join(stream_decode(tokenizer, cut))
    expect(got, "a\ufffd", "'a🦉' without its last two bytes", hint)
    id_of = {token: id for id, token in tokenizer.vocab.items()}
    for data, pieces, hint in [
        (
            b"a\xef\xbf\xbdb",
            ["a", "\ufffd", "b"],
            "A U+FFFD in the text is a character like others.",
        ),
        (
            b"\xc3hello world",
            ["\ufffdh", *"ello world"],
            "A first byte without its second is U+FFFD as soon as another byte comes.",
        ),
    ]:
        got = list(stream_decode(tokenizer, [id_of[bytes([byte])] for byte in data]))
        expect(got, pieces, f"the pieces of {data}, a byte a token", hint)
    seen = []
    pieces = stream_decode(tokenizer, (seen.append(id) or id for id in tokenizer.encode("ab")))
    next(iter(pieces), None)
    require(len(seen) == 1, "the first text comes after the first id", "Use yield in the loop.")
    ids = trained().encode(TEXTS[2])
    got = list(stream_decode(trained(), ids))
    hint = "A token may be several characters: what it completes is yielded in one piece."
    expect(got, list(solutions.stream_decode(trained(), ids)), f"the pieces of {TEXTS[2]!r}", hint)


@checked
def check_best_spelling(best_spelling):
    """Two spellings by hand, then the library's on made-up vocabularies."""
    log_probs = {"a": -2.0, "b": -2.0, "ab": -3.0, "aba": -9.0}
    hint = "Add log-probabilities; the largest sum, nearest to zero, is the best."
    got = best_spelling("ab", log_probs)
    expect(got, ["ab"], f"best_spelling('ab', {log_probs}), -3 against -2 - 2", hint)
    hint = "The longest token is not always in the best spelling: -9 against -3 - 2."
    got = best_spelling("aba", log_probs | {"ba": -3.5})
    expect(got, ["ab", "a"], "'aba', where 'aba' has -9 and 'ba' -3.5", hint)
    rng = random.Random(11)
    for _ in range(31):
        strings = {"".join(rng.choices("owl", k=rng.randint(1, 5))) for _ in range(41)} | set("owl")
        log_probs = {token: -rng.uniform(1, 4) * len(token) ** 0.7 for token in sorted(strings)}
        library = Tokenizer(models.Unigram([("?", -99.0), *log_probs.items()], 0, False))
        word = "".join(rng.choices("owl", k=61))
        got = _in_few_steps(best_spelling, word, log_probs)
        expected = library.encode(word).tokens
        spelled = isinstance(got, list) and "".join(got) == word and set(got) <= log_probs.keys()
        hint = "Return a list of tokens of the vocabulary that, joined, are the word."
        require(spelled, f"{got} spells {word!r}", hint)
        hint = "Keep, for every beginning of the word, its best spelling and that one's sum."
        asked = (
            f"the sum of {got}; tokenizers' Unigram spells {expected}"  # any of equal ones will do
        )
        got_sum, expected_sum = (sum(map(log_probs.get, tokens)) for tokens in (got, expected))
        expect(got_sum, expected_sum, asked, hint)


@checked
def check_update_counts(update_counts):
    """Neighbours, overlaps, touching pairs, and words without the pair."""
    for words, pair, hint in [
        ({"tick": 3, "tock": 2}, ("c", "k"), "A pair counts as often as its word."),
        ({"tick": 3, "owl": 2}, ("c", "k"), "i + c is now i + ck; words without the pair stay."),
        ({"abab": 5}, ("a", "b"), "Between two merged pairs, b + a becomes ab + ab."),
        (
            {"aaa": 7, "aaaa": 11},
            ("a", "a"),
            "From left to right: aaa is aa, a and aaaa is aa, aa.",
        ),
        ({"ab": 2}, ("a", "b"), "Pairs that are no longer there are not listed, not even with 0."),
        ({"banana": 3, "bandana": 2, "nab": 5}, ("a", "n"), "Counts go from old pairs to new."),
        (
            {("ti", "c", "k"): 3, ("t", "i", "c"): 2},
            ("i", "c"),
            "A symbol of two letters is one symbol: ti + c is not the pair i + c.",
        ),
    ]:
        symbols = {tuple(word): count for word, count in words.items()}
        counts = _count_pairs(symbols)
        before = dict(symbols), dict(counts)
        expected_words, _ = solutions.update_counts(symbols, counts, pair)
        expected = expected_words, _count_pairs(expected_words)
        asked = f"update_counts(words, counts, {pair}) of {words}"
        expect(update_counts(symbols, counts, pair), expected, asked, hint)
        require((symbols, counts) == before, f"{asked} leaves what it is given", "Copy first.")
    symbols = {tuple("tick"): 3, tuple("owl"): 2}
    counts = _count_pairs(symbols) | {("o", "w"): 1009}
    _, got = update_counts(symbols, counts, ("c", "k"))
    hint = "Do not count words without the pair again: move counts from old pairs to new ones."
    require(got.get(("o", "w")) == 1009, "a count of o + w, false on purpose, is left alone", hint)


def _count_pairs(words: dict) -> dict:
    """All pairs, counted anew: the slow way that the exercise replaces."""
    counts = {}
    for word, count in words.items():
        for i in range(len(word) - 1):
            counts[word[i : i + 2]] = counts.get(word[i : i + 2], 0) + count
    return counts
