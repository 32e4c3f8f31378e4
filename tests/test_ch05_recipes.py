"""Corpora made ready, presets, the cache of trained models, and the command line."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import END_OF_TEXT
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining import pretrain, recipes
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.recipes import (
    PRESETS,
    Preset,
    find_preset,
    load_corpus,
    pretrained,
    read_pieces,
    share_of_stories,
)

TINY = Preset(
    GPTConfig.qwen3(
        vocab_size=331, context_length=67, n_layers=1, n_heads=2, d_model=12, tied=False
    ),
    TrainConfig(steps=2, batch_size=3, context_length=67),
    n_stories=41,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(recipes, "N_VAL_STORIES", 23)
    return tmp_path / "cache"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Ein Löwe hört 世界 🦁 zu.\n" * 97, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_pieces_of_a_file_join_to_the_file_and_end_with_lines(book, monkeypatch, piece):
    monkeypatch.setattr(recipes, "PIECE", piece)
    size = book.stat().st_size
    pieces = list(read_pieces(book, 0, size))
    assert "".join(pieces) == book.read_text(encoding="utf-8")
    if piece > size:
        assert len(pieces) == 1


def test_the_cut_between_training_and_held_out_text_is_never_inside_a_character(tmp_path):
    for n in range(2, 60):
        path = tmp_path / "text"
        path.write_text("🦁" * n, encoding="utf-8")
        size = path.stat().st_size
        cut = recipes._whole_character(path, int(0.9 * size))
        parts = "".join(read_pieces(path, 0, cut)), "".join(read_pieces(path, cut, size))
        assert "".join(parts) == "🦁" * n
        assert 0.9 * size - 1 < cut < 0.9 * size + 4


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Löwe".encode("latin-1") * 99)
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        load_corpus(path, TINY)


def test_the_ids_of_a_file_spell_its_two_parts(book):
    tokenizer, corpus = load_corpus(book, TINY)
    text = tokenizer.decode(corpus.train_ids.tolist()) + tokenizer.decode(corpus.val_ids.tolist())
    assert text == book.read_text(encoding="utf-8")
    assert corpus.val_bytes == len(tokenizer.decode_bytes(corpus.val_ids.tolist()))
    assert corpus.floor is None
    assert corpus.starts is None


def test_the_floor_is_the_entropy_of_the_held_out_stories_in_nats_per_predicted_token():
    tokenizer, corpus = load_corpus("stories", TINY)
    told = stories(23, seed=0)
    end = tokenizer.special_ids[END_OF_TEXT]
    lengths = [len(tokenizer.encode(s.text)) + 1 for s in told]  # and the end of the text
    assert len(corpus.val_ids) == sum(lengths) + 1
    assert corpus.floor == pytest.approx(-sum(s.log_prob for s in told) / sum(lengths))
    assert corpus.val_starts.tolist() == [sum(lengths[:i]) for i in range(23)]
    assert (corpus.val_ids[corpus.val_starts] == end).all()
    text = "".join(s.text + "\n\n" for s in told)
    bits = -sum(s.log_prob for s in told) / math.log(2) / len(text.encode())
    assert corpus.bits_per_byte(corpus.floor) == pytest.approx(bits)


def test_no_held_out_story_is_trained_on():
    tokenizer, corpus = load_corpus("stories", TINY)
    trained = tokenizer.decode(corpus.train_ids.tolist()).split(END_OF_TEXT)
    assert len(trained) == 41 + 2
    assert not {s.text for s in stories(23, seed=0)} & set(trained)


def test_an_untrained_model_is_as_surprised_as_its_vocabulary_is_large():
    tokenizer, corpus = load_corpus("stories", TINY)
    model = GPT(replace(TINY.model, context_length=257))
    loss = evaluate(model, corpus.val_ids, starts=corpus.val_starts)
    assert loss == pytest.approx(math.log(331), rel=1e-5)
    share, texts = share_of_stories(model, tokenizer, n=3)
    assert share == 0
    assert len(texts) == 3


def test_a_model_is_trained_once_and_read_from_the_cache_after_that(monkeypatch):
    model, tokenizer = pretrained("stories", TINY)

    def again(*_, **__):
        raise AssertionError("trained twice")

    monkeypatch.setattr(recipes, "train", again)
    cached, same_tokenizer = pretrained("stories", TINY)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, cached.state_dict()[name]), name
    assert tokenizer.encode("Once upon") == same_tokenizer.encode("Once upon")
    with pytest.raises(AssertionError, match="trained twice"):
        pretrained("stories", TINY.with_steps(3))


def test_the_cache_knows_a_file_by_its_content(book):
    key = recipes._key(book, 331)
    assert recipes._key(book, 332) != key
    book.write_text(book.read_text(encoding="utf-8") + "!", encoding="utf-8")
    assert recipes._key(book, 331) != key


def test_a_file_is_cut_into_tokens_once_whatever_is_trained_on_them(book, monkeypatch):
    tokenizer, corpus = load_corpus(book, TINY)

    def again(*_):
        raise AssertionError("a second tokenizer")

    monkeypatch.setattr(recipes, "train_bpe", again)
    same_tokenizer, same = load_corpus(book, TINY.with_steps(3))
    assert same.train_ids.tolist() == corpus.train_ids.tolist()
    assert same_tokenizer.encode("Löwe 🦁") == tokenizer.encode("Löwe 🦁")


def test_of_a_long_file_only_a_little_is_held_out_and_a_part_makes_the_vocabulary(
    book, monkeypatch
):
    monkeypatch.setattr(recipes, "VAL_BYTES", 53)
    monkeypatch.setattr(recipes, "TOKENIZER_BYTES", 211)
    seen = []
    train = recipes.train_bpe
    monkeypatch.setattr(
        recipes, "train_bpe", lambda texts, *rest: train(seen.extend(texts) or seen, *rest)
    )
    tokenizer, corpus = load_corpus(book, TINY)
    assert 49 <= corpus.val_bytes <= 53
    text = book.read_text(encoding="utf-8")
    assert text.startswith("".join(seen))
    assert 211 <= len("".join(seen).encode()) <= 214
    ids = corpus.train_ids.tolist() + corpus.val_ids.tolist()
    assert tokenizer.decode_bytes(ids).decode() == text


def test_an_interrupted_training_is_taken_up_and_ends_with_the_same_weights(monkeypatch, cache):
    whole, _ = pretrained("stories", TINY)
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    save = recipes.save_pretrained

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained("stories", TINY)
    monkeypatch.setattr(recipes, "save_pretrained", save)
    resumed, _ = pretrained("stories", TINY)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown preset '7B': there are minute, book"):
        find_preset("7B")


@pytest.mark.parametrize(
    ("name", "low", "high"), [("minute", 0.4e6, 1e6), ("10M", 9e6, 11e6), ("124M", 123e6, 125e6)]
)
def test_a_preset_has_about_as_many_parameters_as_its_name_says(name, low, high):
    with torch.device("meta"):
        assert low < GPT(PRESETS[name].model).n_parameters < high


def test_the_command_line_trains_on_a_file_and_reports(book, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    out = tmp_path / "out"
    pretrain.main(["--corpus", str(book), "--preset", "tiny", "--steps", "3", "--out", str(out)])
    said = capsys.readouterr().out
    assert "validation loss over the whole split" in said
    assert "bits per byte" in said
    assert "a sample:" in said
    assert (out / "model.safetensors").exists()


def test_the_command_line_tells_the_distance_to_the_floor_of_stories(capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    pretrain.main(["--preset", "tiny"])
    said = capsys.readouterr().out
    assert "times the floor" in said
    assert "0% of 100 samples are stories" in said


def test_the_cache_knows_a_model_by_all_the_code_behind_it_and_no_other():
    script = "import sys, ch05_pretraining.recipes; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    chapters = {m for m in loaded.stdout.decode().split() if re.match(r"ch\d\d_\w+\.", m)}
    assert set(recipes._code_behind("ch05_pretraining.recipes", {})) == chapters
    assert recipes.fingerprint() == recipes.fingerprint()
    assert recipes.fingerprint() != recipes.fingerprint(module="ch05_pretraining.pretrain")
