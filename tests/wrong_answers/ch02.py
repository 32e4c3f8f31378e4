"""What is often handed in for the exercises of chapter 2, and is wrong."""

import re
from itertools import pairwise

import regex
import torch

from ch02_tokenization import solutions
from ch02_tokenization.tokenizer import SPLIT_PATTERN, BPETokenizer


def code_points__bytes(data):
    return list(data)


def code_points__marks_left_in(data):
    points = []
    for byte in data:
        if 0x80 <= byte < 0xC0:
            points[-1] = points[-1] << 6 | byte & 0x3F
        else:
            points.append(byte)
    return points


def code_points__three_bytes_at_most(data):
    points = []
    for byte in data:
        if byte < 0x80:
            points.append(byte)
        elif byte < 0xC0:
            points[-1] = points[-1] << 6 | byte & 0x3F
        else:
            points.append(byte & (0x1F if byte < 0xE0 else 0x0F) if byte < 0xF0 else byte)
    return points


def code_points__decoded(data):
    return [ord(character) for character in data.decode()]


def bytes_per_token__texts_joined(tokenizer, texts):
    whole = "".join(texts)
    return len(whole.encode()) / len(tokenizer.encode(whole))


def bytes_per_token__characters(tokenizer, texts):
    return sum(map(len, texts)) / sum(len(tokenizer.encode(text)) for text in texts)


def bytes_per_token__mean_of_ratios(tokenizer, texts):
    return sum(len(t.encode()) / len(tokenizer.encode(t)) for t in texts) / len(texts)


def bytes_per_token__upside_down(tokenizer, texts):
    return 1 / solutions.bytes_per_token(tokenizer, texts)


def shrink__special_tokens_not_counted(tokenizer, vocab_size):
    vocab = {id: token for id, token in tokenizer.vocab.items() if id < vocab_size}
    return BPETokenizer(vocab, tokenizer.merges[: vocab_size - 256], list(tokenizer.special_ids))


def shrink__special_tokens_lost(tokenizer, vocab_size):
    n = vocab_size - len(tokenizer.special_ids)
    vocab = {id: token for id, token in tokenizer.vocab.items() if id < n}
    return BPETokenizer(vocab, tokenizer.merges[: n - 256])


def shrink__only_the_vocabulary(tokenizer, vocab_size):
    return dict(list(tokenizer.vocab.items())[:vocab_size])


def shrink__special_tokens_sorted(tokenizer, vocab_size):
    n = vocab_size - len(tokenizer.special_ids)
    vocab = {id: token for id, token in tokenizer.vocab.items() if id < n}
    return BPETokenizer(vocab, tokenizer.merges[: n - 256], sorted(tokenizer.special_ids))


def shrink__vocabulary_of_the_caller_cut(tokenizer, vocab_size):
    n = vocab_size - len(tokenizer.special_ids)
    for id in [id for id in tokenizer.vocab if id >= n]:
        del tokenizer.vocab[id]
    return BPETokenizer(tokenizer.vocab, tokenizer.merges[: n - 256], list(tokenizer.special_ids))


def count_spellings__all_tried(word, vocab):
    if not word:
        return 1
    first = [token for token in vocab if word.startswith(token)]
    return sum(count_spellings__all_tried(word[len(token) :], vocab) for token in first)


def count_spellings__empty_has_none(word, vocab):
    ways = [0]
    for end in range(1, len(word) + 1):
        ways.append(sum(ways[s] or s == 0 for s in range(end) if word[s:end] in vocab))
    return ways[-1]


def count_spellings__tokens_found(word, vocab):
    return sum(token in word for token in vocab)


def count_spellings__longest_first(word, vocab):
    while word:
        fitting = [n for n in range(1, len(word) + 1) if word[:n] in vocab]
        if not fitting:
            return 0
        word = word[max(fitting) :]
    return 1


def split_numbers__from_the_left(text):
    cut = []
    for word in regex.findall(SPLIT_PATTERN, text):
        number = regex.fullmatch(r" ?\p{N}+", word)
        cut += regex.findall(r" ?\p{N}{1,3}", word) if number else [word]
    return cut


def split_numbers__space_lost(text):
    return [
        word.strip(" ") if regex.fullmatch(r" ?\p{N}+", word) else word
        for word in solutions.split_numbers(text)
    ]


def split_numbers__latin_digits_only(text):
    cut = []
    for word in regex.findall(SPLIT_PATTERN, text):
        number = re.fullmatch(r" ?[0-9]+", word)
        cut += re.findall(r" ?[0-9]{1,3}(?=(?:[0-9]{3})*$)", word) if number else [word]
    return cut


def _split_numbers_if(is_number, text):
    cut = []
    for word in regex.findall(SPLIT_PATTERN, text):
        if is_number(word.strip()):
            start = len(word) - len(word.strip())
            ends = range(len(word), start, -3)
            groups = [word[max(start, end - 3) : end] for end in reversed(ends)]
            cut += [word[:start] + groups[0], *groups[1:]]
        else:
            cut.append(word)
    return cut


def split_numbers__isdigit(text):
    return _split_numbers_if(str.isdigit, text)


def split_numbers__isdecimal(text):
    return _split_numbers_if(str.isdecimal, text)


def split_numbers__isnumeric(text):
    return _split_numbers_if(str.isnumeric, text)


def never_used__occurs_in_the_text(tokenizer, texts):
    whole = "\n".join(texts).encode()
    return {id for id, token in tokenizer.vocab.items() if id >= 256 and token not in whole}


def never_used__all_ids(tokenizer, texts):
    return set(range(tokenizer.vocab_size)) - set(tokenizer.encode_iterable(texts))


def never_used__texts_joined(tokenizer, texts):
    return set(range(256, len(tokenizer.vocab))) - set(tokenizer.encode("".join(texts)))


def never_used__joined_by_line_breaks(tokenizer, texts):
    return set(range(256, len(tokenizer.vocab))) - set(tokenizer.encode("\n".join(texts)))


def never_used__joined_by_spaces(tokenizer, texts):
    return set(range(256, len(tokenizer.vocab))) - set(tokenizer.encode(" ".join(texts)))


def never_used__joined_by_empty_lines(tokenizer, texts):
    return set(range(256, len(tokenizer.vocab))) - set(tokenizer.encode("\n\n".join(texts)))


def training_pairs__not_moved_on(documents, context_length, end_id):
    inputs, _ = solutions.training_pairs(documents, context_length, end_id)
    return inputs, inputs.clone()


def training_pairs__no_end_at_the_start(documents, context_length, end_id):
    stream = [id for document in documents for id in [*document, end_id]]
    n = (len(stream) - 1) // context_length
    ids = torch.tensor(stream[: n * context_length + 1])
    return ids[:-1].view(n, -1), ids[1:].view(n, -1)


def training_pairs__windows_one_apart(documents, context_length, end_id):
    stream = [end_id, *(id for document in documents for id in [*document, end_id])]
    windows = torch.tensor(stream).unfold(0, context_length + 1, 1)
    return windows[:, :-1], windows[:, 1:]


def training_pairs__window_shared_with_targets(documents, context_length, end_id):
    stream = [end_id, *(id for document in documents for id in [*document, end_id])]
    n = len(stream) // context_length
    windows = torch.tensor(stream[: n * context_length]).view(n, context_length)
    return windows[:, :-1], windows[:, 1:]


def stream_decode__token_by_token(tokenizer, ids):
    for id in ids:
        yield tokenizer.decode([id])


def stream_decode__all_at_the_end(tokenizer, ids):
    yield from tokenizer.decode(list(ids))


def stream_decode__rest_forgotten(tokenizer, ids):
    held = b""
    for id in ids:
        held += tokenizer.decode_bytes([id])
        try:
            text = held.decode()
        except UnicodeDecodeError:
            continue
        held = b""
        yield text


def stream_decode__held_until_valid(tokenizer, ids):
    held = b""
    for id in ids:
        held += tokenizer.decode_bytes([id])
        try:
            text = held.decode()
        except UnicodeDecodeError:
            continue
        held = b""
        yield text
    if held:
        yield held.decode(errors="replace")


def stream_decode__errors_ignored(tokenizer, ids):
    seen, shown = [], 0
    for id in ids:
        seen.append(id)
        text = tokenizer.decode(seen, errors="ignore")
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
    if rest := tokenizer.decode(seen)[shown:]:
        yield rest


def stream_decode__true_replacement_character_held_back(tokenizer, ids):
    held = []
    for id in ids:
        held.append(id)
        text = tokenizer.decode(held)
        if not text.endswith("\ufffd"):
            yield text
            held = []
    if held:
        yield tokenizer.decode(held)


def best_spelling__all_tried(word, log_probs):
    def spellings(word):
        if not word:
            yield []
        for token in log_probs:
            if word.startswith(token):
                yield from ([token, *rest] for rest in spellings(word[len(token) :]))

    return max(spellings(word), key=lambda tokens: sum(map(log_probs.get, tokens)))


def best_spelling__longest_first(word, log_probs):
    spelled = []
    while word:
        n = max(n for n in range(1, len(word) + 1) if word[:n] in log_probs)
        spelled.append(word[:n])
        word = word[n:]
    return spelled


def best_spelling__least_probable(word, log_probs):
    return solutions.best_spelling(word, {token: -value for token, value in log_probs.items()})


def best_spelling__fewest_tokens(word, log_probs):
    return solutions.best_spelling(word, dict.fromkeys(log_probs, -1.0))


def update_counts__only_the_pair(words, counts, pair):
    new_words, _ = solutions.update_counts(words, counts, pair)
    return new_words, {p: count for p, count in counts.items() if p != pair}


def update_counts__words_not_weighted(words, counts, pair):
    new_words, _ = solutions.update_counts(words, counts, pair)
    new_counts = {}
    for word in new_words:
        for p in pairwise(word):
            new_counts[p] = new_counts.get(p, 0) + 1
    return new_words, new_counts


def update_counts__zeros_stay(words, counts, pair):
    new_words, new_counts = solutions.update_counts(words, counts, pair)
    return new_words, dict.fromkeys(counts, 0) | new_counts


def update_counts__from_the_right(words, counts, pair):
    def merge(word):
        merged = []
        for symbol in reversed(word):
            if merged and (symbol, merged[-1]) == pair:
                merged[-1] = symbol + merged[-1]
            else:
                merged.append(symbol)
        return tuple(reversed(merged))

    new_words = {merge(word): count for word, count in words.items()}
    new_counts = {}
    for word, count in new_words.items():
        for p in pairwise(word):
            new_counts[p] = new_counts.get(p, 0) + count
    return new_words, new_counts


def update_counts__symbols_glued(words, counts, pair):
    new_words = {}
    for word, count in words.items():
        merged = " ".join(word).replace(" ".join(pair), "".join(pair))
        new_words[tuple(merged.split(" "))] = count
    return new_words, _count_pairs(new_words)


def update_counts__all_counted_again(words, counts, pair):
    new_words, _ = solutions.update_counts(words, counts, pair)
    return new_words, _count_pairs(new_words)


def _count_pairs(words):
    counts = {}
    for word, count in words.items():
        for p in pairwise(word):
            counts[p] = counts.get(p, 0) + count
    return counts
