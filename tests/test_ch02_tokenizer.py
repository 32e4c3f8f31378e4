import json
import os
import random
import tracemalloc
import unicodedata
from functools import cache
from pathlib import Path
from string import ascii_lowercase

import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ch02_tokenization.formats import BASE_TOKENS, from_tokenizer_json, spell, unspell
from ch02_tokenization.tokenizer import END_OF_TEXT, SPLIT_PATTERN, BPETokenizer, _words, train_bpe

# Letters that Unicode gained after the edition of tiktoken's and tokenizers' engines are cut
# differently by design; Cn leaves out what this Python does not know either. Surrogates have a test
# of their own.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
TEXTS = st.text(CHARACTERS) | st.text(st.sampled_from("ab '\n\té1.\x1c\u2009"))

AWKWARD = [
    "",
    " ",
    "\n",
    "a",
    "aaaaaa aaaaa aaa",
    "  two  spaces   three \t\n\n tabs\r\n",
    "it's I'd DON'T we'll '' 'tis can''t",
    "1234567890 top10 ½ ٣٤ Ⅷ",
    "naïve Ünïcödé été Zürich",
    "日本語のテキスト 中文 한국어",
    "عربى עברית हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🇩🇪 🤷🏽 \U0001f600",
    "\U00010348 \U0001d54f \U00020bb7 \U000e0041 \U0010ffff",
    "e\u0301 \u200b\u200d\ufeff \u00a0x\u3000y\u2028z\x85",
    "\x00\x01\x1c\x1d\x7f !\x1c",
    "abcabcabc ababab banana",
    END_OF_TEXT,
    f"one{END_OF_TEXT}two <|endof text|>",
]


def rival(texts, vocab_size, special_tokens=()):
    """A tokenizer of Hugging Face's trainer, whose limit does not count our special tokens."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.train_from_iterator(
        [texts] if isinstance(texts, str) else texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(special_tokens),
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def assert_same_merges(texts, vocab_size):
    ours = train_bpe(texts, vocab_size)
    vocab, merges, _ = from_tokenizer_json(rival(texts, vocab_size).to_str())
    assert ours.merges == merges
    assert ours.vocab == vocab


def made_up_text(n_words, seed):
    generator = random.Random(seed)
    syllables = [a + b for a in "bdklmnst" for b in ("a", "o", "ei", "ü")]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 5))) for _ in range(997)]
    blanks = [" "] * 17 + ["\n", ", ", "  ", "'s "]
    return "".join(generator.choice(words) + generator.choice(blanks) for _ in range(n_words))


@cache
def trained():
    return train_bpe(made_up_text(5003, seed=1), 701, [END_OF_TEXT, "<|user|>"])


@cache
def shakespeare():
    path = Path(os.environ.get("LLM_DATA_DIR", "")) / "shakespeare.txt"
    if not path.is_file():
        pytest.skip("Tiny Shakespeare is not there: set LLM_DATA_DIR to the folder that holds it")
    return path.read_text(encoding="utf-8")


@cache
def gpt2():
    folder = Path(os.environ.get("LLM_DATA_DIR", "")) / "tiktoken"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
    if not any(Path(os.environ["TIKTOKEN_CACHE_DIR"]).glob("6c7ea1a7e38e3a7f*")):
        pytest.skip("GPT-2's merges are not in tiktoken's cache: set TIKTOKEN_CACHE_DIR")
    encoding = tiktoken.get_encoding("gpt2")
    return BPETokenizer.from_tiktoken(encoding), encoding


# By hand


def test_the_worked_example_of_the_module():
    tokenizer = train_bpe("tick tock tick tock", 259)
    assert tokenizer.merges == [(b"c", b"k"), (b" ", b"t"), (b"i", b"ck")]
    assert tokenizer.encode(" tick") == [257, 258]
    assert [tokenizer.decode_bytes([id]) for id in tokenizer.encode("tick tock")] == [
        b"t",
        b"ick",
        b" t",
        b"o",
        b"ck",
    ]


def test_base_tokens_stand_in_gpt2_order():
    tokenizer = train_bpe("x", 256)
    assert tokenizer.encode("! ~\n") == [0, 220, 93, 198]
    assert tokenizer.decode_bytes([188]) == b"\x00"


def test_ids_are_bytes_then_merges_then_special_tokens():
    tokenizer = train_bpe("abab abab", 260, ["<a>", "<b>"])
    assert tokenizer.special_ids == {"<a>": 258, "<b>": 259}
    assert tokenizer.vocab_size == 260
    assert len(tokenizer.merges) == 2


def test_special_tokens_follow_the_merges_when_pairs_run_out():
    tokenizer = train_bpe("ab", 1009, [END_OF_TEXT])
    assert tokenizer.merges == [(b"a", b"b")]
    assert tokenizer.special_ids == {END_OF_TEXT: 257}
    assert tokenizer.vocab_size == 258


def test_words_are_cut_as_the_pattern_says():
    text = "  It's top10,\n\n ok?!  "
    cut = [" ", " It", "'s", " top", "10", ",", "\n\n", " ok", "?!", "  "]
    assert list(_words(text)) == cut


# Against the library: training


@pytest.mark.parametrize("text", [text for text in AWKWARD if text])
def test_awkward_text_gives_the_merges_of_tokenizers(text):
    assert_same_merges(text, 307)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5).filter(any), st.integers(256, 307))
def test_any_text_gives_the_merges_of_tokenizers(texts, vocab_size):
    assert_same_merges(texts, vocab_size)


@pytest.mark.parametrize("seed", range(7))
def test_runs_overlaps_and_ties_give_the_merges_of_tokenizers(seed):
    generator = random.Random(seed)
    words = ["".join(generator.choices("aab", k=generator.randint(1, 23))) for _ in range(101)]
    assert_same_merges(" ".join(words), 509)


def test_made_up_text_gives_the_merges_of_tokenizers():
    assert_same_merges(made_up_text(20011, seed=2), 1511)


def test_shakespeare_gives_the_merges_of_tokenizers():
    assert_same_merges(shakespeare().splitlines(keepends=True), 4096)


def test_lines_are_texts_of_their_own():
    assert_same_merges(["ab", "ab", "  ", "b", "a\n", "\nb"], 263)
    assert train_bpe(["a", "b"], 300).merges == []
    assert train_bpe("ab", 300).merges == [(b"a", b"b")]


def test_special_token_in_training_text_is_text():
    with_special = train_bpe(f"one{END_OF_TEXT}two" * 3, 281, [END_OF_TEXT])
    assert with_special.merges == train_bpe(f"one{END_OF_TEXT}two" * 3, 280).merges
    assert (b"<", b"|") in with_special.merges


# Against the library: encoding


def assert_encoded_alike(tokenizer, encoding, text):
    ids = tokenizer.encode(text)
    assert ids == encoding.encode_ordinary(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_is_encoded_as_gpt2_does(text):
    assert_encoded_alike(*gpt2(), text)


def test_shakespeare_is_encoded_as_gpt2_does():
    assert_encoded_alike(*gpt2(), shakespeare())


def test_gpt2_keeps_its_ids():
    tokenizer, _ = gpt2()
    assert tokenizer.vocab_size == 50257
    assert tokenizer.special_ids == {END_OF_TEXT: 50256}
    assert tokenizer.encode("Hello world", [END_OF_TEXT]) == [15496, 995]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_comes_back_and_is_encoded_as_tiktoken_does(text):
    assert_encoded_alike(trained(), trained().to_tiktoken(), text)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_any_text_is_encoded_as_gpt2_does(text):
    assert_encoded_alike(*gpt2(), text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    trained().save(path)
    return path


def test_saved_file_encodes_any_text_alike_in_tokenizers(saved):
    theirs = Tokenizer.from_file(str(saved))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(TEXTS | st.sampled_from([END_OF_TEXT, "<|user|>"])).map("".join))
    def check(text):
        ids = trained().encode(text, allowed_special=[END_OF_TEXT, "<|user|>"])
        assert ids == theirs.encode(text).ids
        assert theirs.decode(ids, skip_special_tokens=False) == text

    check()


def test_saved_file_comes_back_and_is_what_tokenizers_would_write(saved):
    again = BPETokenizer.load(saved)
    assert again.vocab == trained().vocab
    assert again.merges == trained().merges
    assert again.special_ids == trained().special_ids
    theirs = json.loads(Tokenizer.from_file(str(saved)).to_str())
    ours = json.loads(saved.read_text(encoding="utf-8"))
    assert ours["added_tokens"] == theirs["added_tokens"]
    assert ours["model"].items() <= theirs["model"].items()


def test_file_of_tokenizers_can_be_loaded(tmp_path):
    path = tmp_path / "tokenizer.json"
    theirs = rival(AWKWARD, 331, [END_OF_TEXT])
    theirs.save(str(path))
    text = "".join(AWKWARD)
    assert BPETokenizer.load(path).encode(text, [END_OF_TEXT]) == theirs.encode(text).ids


def test_gpt2_can_be_saved_and_loaded(tmp_path):
    tokenizer, encoding = gpt2()
    tokenizer.save(tmp_path / "tokenizer.json")
    text = "".join(AWKWARD)
    assert BPETokenizer.load(tmp_path / "tokenizer.json").encode(text) == tokenizer.encode(text)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(text).ids == encoding.encode(text, allowed_special="all")


# Invariants


@given(st.text(st.characters(exclude_categories=["Cs"], max_codepoint=127)))
def test_standard_library_finds_the_same_words_in_ascii(text):
    assert list(_words(text)) == regex.findall(SPLIT_PATTERN, text)


def test_text_longer_than_a_span_is_cut_into_the_same_words():
    text = made_up_text(30011, seed=3) + "\x1c \x1c" * 20011 + " \n" * 40009 + "end"
    assert list(_words(text)) == regex.findall(SPLIT_PATTERN, text)


@given(st.binary())
def test_every_byte_string_can_be_spelled(token):
    assert unspell(spell(token)) == token
    assert spell(token).isprintable()
    assert " " not in spell(token)


def test_special_tokens_in_text_are_text_unless_allowed():
    tokenizer = trained()
    user, end = tokenizer.special_ids["<|user|>"], tokenizer.special_ids[END_OF_TEXT]
    text = f"<|user|>ta{END_OF_TEXT}"
    assert not {user, end} & set(tokenizer.encode(text))
    assert tokenizer.encode(text) == tokenizer.to_tiktoken().encode_ordinary(text)
    allowed = tokenizer.encode(text, allowed_special=[END_OF_TEXT])
    assert allowed == [*tokenizer.encode("<|user|>ta"), end]
    both = [user, *tokenizer.encode("ta"), end]
    assert tokenizer.encode(text, {END_OF_TEXT, "<|user|>"}) == both
    assert tokenizer.decode(both) == text


def test_special_token_that_is_not_allowed_is_not_even_a_cut():
    tokenizer = train_bpe("!<a>! " * 3, 261, ["<a>", "<b>"])
    text = "!<a>!"
    assert tokenizer.encode(text, ["<b>"]) == tokenizer.to_tiktoken().encode_ordinary(text)
    assert tokenizer.decode_bytes(tokenizer.encode(text, ["<b>"])[:1]) == b"!<"


def test_longest_of_two_special_tokens_is_taken():
    tokenizer = train_bpe("text", 258, ["<|a|>", "<|a|>b"])
    assert tokenizer.encode("<|a|>b<|a|>", ["<|a|>", "<|a|>b"]) == [257, 256]


def test_iterable_gives_the_ids_of_each_text():
    ids = [id for text in AWKWARD for id in trained().encode(text)]
    assert list(trained().encode_iterable(AWKWARD)) == ids
    assert list(trained().encode_iterable("ta ta")) == trained().encode("ta ta")


def test_decoding_takes_tensors():
    ids = trained().encode("ta ko")
    assert trained().decode(torch.tensor(ids)) == "ta ko"
    with pytest.raises(TypeError):
        trained().decode([0.5])


# Streaming


def test_encoding_reads_one_text_ahead():
    taken = []
    ids = trained().encode_iterable(taken.append(text) or text for text in ["ta", "ko", "mei"])
    assert taken == []
    next(ids)
    assert taken == ["ta"]


def peak_bytes(function):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "consume",
    [
        lambda texts: train_bpe(texts, 311),
        lambda texts: sum(1 for _ in BPETokenizer.encode_iterable(trained(), texts)),
    ],
    ids=["training", "encoding"],
)
def test_memory_does_not_grow_with_the_length_of_the_text(consume):
    text = made_up_text(1009, seed=4)
    consume([text])  # fills the caches
    short = peak_bytes(lambda: consume(text for _ in range(3)))
    long = peak_bytes(lambda: consume(text for _ in range(31)))
    assert long < short + 2**16  # the text itself grew by 28 * 8 KB


def test_one_long_text_needs_no_list_of_all_its_words():
    text = "ta ko mei\n" * 200_003
    assert peak_bytes(lambda: train_bpe(text, 263)) < 4 * len(text)


def test_cache_of_words_is_bounded_in_number_and_in_length(monkeypatch):
    monkeypatch.setattr("ch02_tokenization.tokenizer._CACHED_WORDS", 101)
    tokenizer = train_bpe("0", 256)
    tokenizer.encode("a" * 1009)
    assert not tokenizer._cache
    text = " ".join(a + b for a in ascii_lowercase for b in ascii_lowercase)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer._cache) == 101


# Awkward inputs


def test_word_as_long_as_its_text_takes_no_quadratic_time():
    # Searching the word before each merge would take hours.
    tokenizer = train_bpe("a" * 4096, 268)
    text = "a" * 200_003
    assert tokenizer.encode(text) == tokenizer.to_tiktoken().encode(text)
    assert len(tokenizer.encode(text)) < 100


@pytest.mark.parametrize(
    "text", ["\ud83d", "a\ude00 b", "\ud83d\ude00", "\ude00\ud83dta", "é\ud800"]
)
def test_surrogates_are_treated_as_in_tiktoken(text):
    ids = trained().encode(text)
    assert ids == trained().to_tiktoken().encode(text)
    assert train_bpe(text, 257).vocab_size > 256


def test_assigned_characters_are_cut_as_in_tokenizers():
    characters = [chr(i) for i in range(0x110000)]
    kinds = [unicodedata.category(character) for character in characters]
    letters = [c for c, kind in zip(characters, kinds, strict=True) if kind == "Lo"][
        ::11
    ]  # ideographs
    others = [
        c for c, kind in zip(characters, kinds, strict=True) if kind not in ("Lo", "Cn", "Cs", "Co")
    ]
    text = "".join(f"a{c}1{c}!{c} {c}\n" for c in letters + others)
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert list(_words(text)) == [text[start:end] for _, (start, end) in theirs]


@pytest.mark.parametrize("texts", ["", [], ["", ""], iter(())])
def test_no_text_is_refused(texts):
    with pytest.raises(ValueError, match="no text"):
        train_bpe(texts, 300)


def test_vocabulary_too_small_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"vocab_size 257 .* 258"):
        train_bpe("text", 257, ["<a>", "<b>"])
    assert train_bpe("text", 258, ["<a>", "<b>"]).vocab_size == 258


@pytest.mark.parametrize(
    ("special_tokens", "cause"),
    [
        ([""], "empty"),
        (["<a>", "<b>", "<a>"], "twice"),
        (["a"], "ordinary"),
        (["Ġ"], "ordinary"),
        (["<\ud800>"], "surrogate"),
        (["text"], "ordinary"),
    ],
)
def test_bad_special_tokens_are_refused(special_tokens, cause):
    with pytest.raises(ValueError, match=cause):
        train_bpe("text text", 300, special_tokens)


def test_bad_special_tokens_are_refused_before_the_text_is_read():
    def texts():
        raise AssertionError("the text was read")
        yield

    with pytest.raises(ValueError, match="twice"):
        train_bpe(texts(), 300, ["<a>", "<a>"])


@pytest.mark.parametrize("allowed", [["<|system|>"], [END_OF_TEXT, "<|system|>"], END_OF_TEXT])
def test_unknown_allowed_special_is_refused(allowed):
    with pytest.raises(ValueError, match="allowed_special"):
        trained().encode("text", allowed)


@pytest.mark.parametrize("id", [-1, 701, 10**9])
def test_ids_outside_the_vocabulary_are_refused(id):
    with pytest.raises(ValueError, match=rf"id {id} .*701"):
        trained().decode([0, id])


def test_half_a_character_is_replaced_ignored_or_refused():
    ids = train_bpe("x", 256).encode("aé")[:2]
    tokenizer = train_bpe("x", 256)
    assert tokenizer.decode_bytes(ids) == b"a\xc3"
    assert tokenizer.decode(ids) == "a\ufffd"
    assert tokenizer.decode(ids, errors="ignore") == "a"
    with pytest.raises(ValueError, match="unexpected end"):
        tokenizer.decode(ids, errors="strict")


BASE = dict(enumerate(BASE_TOKENS))


@pytest.mark.parametrize(
    ("vocab", "merges", "cause"),
    [
        ({}, [], "id 0 must be b'!'"),
        ({id: token for id, token in BASE.items() if id != 97}, [], "id 97"),
        (BASE | {0: b'"', 1: b"!"}, [], "id 0 must be b'!'"),
        (BASE | {256: b"ab"}, [], "257 tokens"),
        (BASE, [(b"a", b"b")], "id 256 must be b'ab'"),
        (BASE | {256: b"ba"}, [(b"a", b"b")], "id 256 must be b'ab'"),
        (BASE | {256: b"abc"}, [(b"ab", b"c")], "two earlier ones"),
        (BASE | {256: b"ab", 257: b"ab"}, [(b"a", b"b")] * 2, "new token"),
    ],
)
def test_vocabulary_that_does_not_fit_the_merges_is_refused(vocab, merges, cause):
    with pytest.raises(ValueError, match=cause):
        BPETokenizer(vocab, merges)


def test_tokenizer_keeps_its_own_vocabulary():
    vocab, merges = dict(BASE), []
    tokenizer = BPETokenizer(vocab, merges)
    vocab[256] = b"ab"
    merges.append((b"a", b"b"))
    assert (len(tokenizer.vocab), len(tokenizer.merges)) == (256, 0)


def change(fields, path, value):
    *parents, last = path.split(".")
    for name in parents:
        fields = fields[int(name) if isinstance(fields, list) else name]
    fields[last] = value


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("model.type", "WordPiece", "WordPiece"),
        ("pre_tokenizer", None, "expected BPE, ByteLevel"),
        ("pre_tokenizer.type", "Whitespace", "Whitespace"),
        ("pre_tokenizer.add_prefix_space", True, "add_prefix_space"),
        ("pre_tokenizer.use_regex", False, "use_regex"),
        ("post_processor", {"type": "TemplateProcessing"}, "TemplateProcessing"),
        ("normalizer", {"type": "NFC"}, "normalizer"),
        ("model.dropout", 0.1, "dropout"),
        ("model.byte_fallback", True, "byte_fallback"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
        ("added_tokens.0.lstrip", True, "lstrip"),
        ("added_tokens.0.id", 5, "special tokens have ids"),
        ("model", [], "missing"),
        ("model.merges", 3, "another kind"),
        ("model.merges", [["t"]], "unpack"),
        ("model.merges", [], "id 256|699 tokens"),
        ("model.vocab", {"a": 0}, "id 0 must be"),
        ("model.vocab", {"a b": 0}, "no byte"),
    ],
)
def test_altered_file_is_refused_with_name_and_cause(saved, tmp_path, path, value, cause):
    fields = json.loads(saved.read_text(encoding="utf-8"))
    change(fields, path, value)
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"altered\.json .*({cause})"):
        BPETokenizer.load(altered)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(saved, tmp_path, share):
    whole = saved.read_bytes()
    cut = tmp_path / "cut.json"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut\.json"):
        BPETokenizer.load(cut)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"null", b"{}", b"text"])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        BPETokenizer.load(path)


def test_encodings_of_another_kind_are_refused():
    ranks = {token: id for id, token in enumerate(BASE_TOKENS)}

    def encoding(pattern=SPLIT_PATTERN, ranks=ranks, special=None):
        return tiktoken.Encoding(
            "other", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special or {}
        )

    with pytest.raises(ValueError, match="other cuts by"):
        BPETokenizer.from_tiktoken(encoding(pattern=r"\w+"))
    with pytest.raises(ValueError, match="no merge makes: b'abc'"):
        BPETokenizer.from_tiktoken(encoding(ranks=ranks | {b"abc": 256}))
    with pytest.raises(ValueError, match="id 0 must be"):
        BPETokenizer.from_tiktoken(encoding(ranks={bytes([i]): i for i in range(256)}))
    with pytest.raises(ValueError, match="special tokens have ids"):
        BPETokenizer.from_tiktoken(encoding(special={END_OF_TEXT: 300}))


def test_tiktoken_round_trip_keeps_everything():
    again = BPETokenizer.from_tiktoken(trained().to_tiktoken())
    assert (again.vocab, again.merges) == (trained().vocab, trained().merges)
    assert again.special_ids == trained().special_ids
