"""A good call of every public function of the chapters, to be spoilt in `misuse`."""

import importlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import BPETokenizer
from ch03_attention.attention import KVCache, MultiHeadAttention
from ch04_model.huggingface import save_pretrained
from ch04_model.model import GPT, FeedForward, GPTConfig, LayerNorm, RMSNorm, TransformerBlock
from ch05_pretraining.checkpoint import save_checkpoint
from ch05_pretraining.optimizers import make_optimizer
from ch05_pretraining.recipes import Preset
from ch05_pretraining.tokens import write_tokens
from ch06_alignment.alignment import RewardModel, format_chat
from ch06_alignment.instructions import Task, conversations
from ch06_alignment.lora import LoRALinear
from ch06_alignment.replies import Replies
from tests.torture.small import PRESET, STEPS, TEXTS, TOKENIZER, tiny_gpt

__all__ = ["calls"]


def calls(folder: Path) -> Iterator[tuple[str, Callable, dict[str, Any]]]:
    """(name, function, good arguments), such that the call succeeds."""
    g = torch.Generator().manual_seed(0)
    story, talk = stories(1, seed=7)[0], conversations(1, seed=2)[0]
    q, k, v = (torch.randn(2, heads, 3, 4, generator=g) for heads in (4, 2, 2))
    ids, mask = torch.randint(400, (2, 5), generator=g), torch.ones(2, 5, dtype=torch.bool)
    x, stream = torch.randn(2, 5, 16), torch.randint(400, (99,), generator=g)
    model, starts = tiny_gpt(), torch.tensor([0, 9, 30])
    config, one_step = model.config, replace(STEPS, steps=1, context_length=9)
    path, rows = folder / "run.safetensors", [[1, 2, 3], [4, 5]]
    optimizers = make_optimizer(model, STEPS)
    save_checkpoint(path, model, (), STEPS, 0, [])
    save_pretrained(model, TOKENIZER, folder / "model")
    write_tokens(folder / "tokens", range(400), 400)
    (folder / "text.txt").write_text("\n".join(TEXTS[:9]), encoding="utf-8")
    task = Task("kind", "Who?", "Mia.", "Mia.".__eq__)
    chat, marked = format_chat(talk, TOKENIZER), [([1, 2, 3], [False, True, True])]
    sets = [frozenset({1, 2}), frozenset({2, 3})]
    vocab, merges = TOKENIZER.vocab, TOKENIZER.merges
    replies = Replies(ids, mask, ["a", "b"])
    rope = torch.ones(3, 4)
    b, bt = torch.randn(2), torch.randn(2, 5)

    def call(function: Callable, known_as: str = "", **arguments: Any) -> tuple:
        return known_as or function.__name__, function, arguments

    def of(module: str, **functions: dict[str, Any]) -> Iterator[tuple]:
        for name, arguments in functions.items():
            yield call(getattr(importlib.import_module(module), name), **arguments)

    yield from of(
        "ch01_overview.corpus",
        stories={"n": 2, "seed": 0},
        parse={"text": story.text},
        log_prob={"text": story.text},
        load_text={"source": folder / "text.txt"},
        text_path={"source": folder / "text.txt"},
        train_val_split={"text": story.text, "val_fraction": 0.1},
    )
    yield from of(
        "ch01_overview.files",
        write_whole={"path": folder / "w.txt", "data": "text"},
        write_sums={"folder": folder, "names": ["text.txt"]},
        check_sums={"folder": folder},
        make_folder={"folder": folder / "made", "fill": Path.mkdir},
        whole_file={"path": folder / "w.txt"},
    )
    yield from of(
        "ch01_overview.ladder",
        ngram_surprise={"train": "aab", "val": "ab", "order": 2},
        ngram_curve={"train": "aab", "val": "ab", "max_order": 2},
        compressed_bits={"compress": bytes, "train": "aab", "val": "ab"},
        count_rungs={"train": "aab", "val": "ab"},
    )
    yield from of(
        "ch01_overview.machine",
        matmul_speed={"dtype": torch.float32, "size": 4, "seconds": 1e-4},
    )
    yield from of(
        "ch02_tokenization.formats",
        base_ids={"text": b"ab"},
        spell={"token": b"ab"},
        unspell={"token": "ab"},
        to_tokenizer_json={"vocab": vocab, "merges": merges, "special_ids": {"<|x|>": 999}},
        from_tokenizer_json={"text": (folder / "model" / "tokenizer.json").read_bytes()},
    )
    yield from of(
        "ch02_tokenization.merges",
        learn_merges={"word_counts": Counter({"aab": 2}), "n_merges": 2},
        merge_word={"base_ids": b"ab", "merged_id": {(97, 98): 256}},
    )
    yield from of(
        "ch02_tokenization.tokenizer",
        train_bpe={"texts": ["tick tock"], "vocab_size": 260, "special_tokens": ("<|x|>",)},
        BPETokenizer={"vocab": vocab, "merges": merges, "special_tokens": ("<|x|>",)},
    )
    yield call(TOKENIZER.encode, "BPETokenizer.encode", text="tick", allowed_special=("<|end|>",))
    yield call(TOKENIZER.decode, "BPETokenizer.decode", ids=[1, 2], errors="strict")
    yield call(TOKENIZER.decode_bytes, "BPETokenizer.decode_bytes", ids=[1, 2])
    yield call(TOKENIZER.encode_iterable, "BPETokenizer.encode_iterable", texts=["tick"])
    yield call(TOKENIZER.save, "BPETokenizer.save", path=folder / "t.json")
    yield call(BPETokenizer.load, "BPETokenizer.load", path=folder / "model" / "tokenizer.json")
    yield from of(
        "ch03_attention.attention",
        attention_weights={"q": q, "k": k, "mask": torch.ones(3, 3, dtype=torch.bool)},
        scaled_dot_product_attention={"q": q, "k": k, "v": v},
        causal_mask={"n_queries": 2, "n_keys": 3},
        sinusoidal_positions={"context_length": 3, "d_model": 4},
        rope_cache={"head_dim": 4, "context_length": 3, "theta": 100.0},
        apply_rope={"x": q, "cos": rope, "sin": rope},
        KVCache={
            **{"n_layers": 2, "batch_size": 2, "n_kv_heads": 2, "context_length": 5},
            **{"head_dim": 4, "like": x},
        },
        MultiHeadAttention={"d_model": 16, "n_heads": 4, "n_kv_heads": 2, "head_dim": 6},
    )
    cache = KVCache(2, 2, 2, 5, 4)
    yield call(cache.append, "KVCache.append", layer=1, k=k, v=v)
    yield call(cache.truncate, "KVCache.truncate", length=0)
    attention = MultiHeadAttention(16, 4)
    yield call(attention, "MultiHeadAttention.forward", x=x, rope=(torch.ones(5, 4),) * 2)
    yield from of("ch03_attention.memory", saved_for_backward={"compute": lambda: x})
    one = importlib.import_module("ch03_attention.one_layer")
    layer = one.OneLayer(400, 16, 2, 32)
    yield from of(
        "ch03_attention.one_layer",
        Bigram={"rows": rows, "vocab_size": 400},
        OneLayer={"vocab_size": 400, "d_model": 16, "n_heads": 2, "context_length": 32},
        accuracy={"model": layer, "questions": [("A", "b")], "tokenizer": TOKENIZER},
        bits_per_byte={"model": layer, "rows": rows, "n_bytes": 9, "batch_size": 2},
        encode_texts={"texts": ["tick"], "tokenizer": TOKENIZER},
        head_weights={"model": layer, "ids": ids},
        pad_rows={"rows": rows},
        train={"model": layer, "rows": rows, "n_steps": 1, "batch_size": 2, "seed": 0},
    )
    yield from of(
        "ch04_model.generation",
        next_token_probabilities={
            **{"logits": torch.randn(2, 9), "temperature": 1.0, "top_k": 3, "top_p": 0.9},
            "min_p": 0.1,
        },
        generate={
            **{"model": model, "ids": ids, "max_new_tokens": 2, "temperature": 1.0, "top_k": 3},
            **{"top_p": 0.9, "min_p": 0.1, "stop_ids": [0], "generator": g},
        },
        stream={"model": model, "ids": ids, "max_new_tokens": 2, "temperature": 1.0},
    )
    yield from of(
        "ch04_model.huggingface",
        save_pretrained={"model": model, "tokenizer": TOKENIZER, "folder": folder / "new"},
        load_pretrained={"folder": folder / "model"},
        load_model={"folder": folder / "model"},
    )
    sizes = {name: value for name, value in vars(config).items() if value is not None}
    yield call(GPTConfig, **sizes)
    yield call(GPTConfig.gpt2, "GPTConfig.gpt2", size="124M")
    yield call(GPT, config=config)
    yield call(FeedForward, config=config)
    yield call(TransformerBlock, config=config)
    yield call(RMSNorm, width=16, eps=1e-6)
    yield call(LayerNorm, width=16, eps=1e-5)
    yield call(RMSNorm(16), "RMSNorm.forward", x=x)
    yield call(LayerNorm(16), "LayerNorm.forward", x=x)
    yield call(FeedForward(config), "FeedForward.forward", x=x)
    yield call(TransformerBlock(config), "TransformerBlock.forward", x=x)
    yield call(model, "GPT.forward", ids=ids, cache=model.new_cache(2))
    yield call(model.new_cache, "GPT.new_cache", batch_size=2)
    numpy_gpt = importlib.import_module("ch04_model.numpy_gpt")
    weights = numpy_gpt.numpy_weights(model)
    yield call(numpy_gpt.numpy_weights, model=model)
    yield call(numpy_gpt.numpy_gpt, ids=[1, 2], weights=weights, config=config)
    yield from of(
        "ch05_pretraining.checkpoint",
        save_checkpoint={
            **{"path": folder / "c", "model": model, "optimizers": optimizers, "config": STEPS},
            **{"step": 1, "history": []},
        },
        load_checkpoint={"path": path, "model": model, "optimizers": optimizers, "config": STEPS},
    )
    yield from of(
        "ch05_pretraining.config",
        TrainConfig=dict(vars(STEPS)),
        learning_rate={"step": 3, "config": STEPS, "peak": 1.0},
        fast_dtype={"device": "cpu"},
    )
    yield from of(
        "ch05_pretraining.counts",
        counted_probabilities={
            **{"train_ids": np.array([1, 2, 1]), "val_ids": np.array([2, 1])},
            **{"vocab_size": 3, "order": 2},
        },
    )
    yield from of(
        "ch05_pretraining.dedup",
        candidate_pairs={"signatures": np.ones((2, 8), dtype=np.uint64), "n_bands": 2},
        chance_of_candidate={"similarity": 0.5, "n_bands": 2, "n_rows": 3},
        clean={"text": "a  b"},
        contaminated={"train": ["a b c"], "held_out": ["a b c"], "length": 2},
        exact_duplicates={"texts": ["a", "a"]},
        jaccard={"a": sets[0], "b": sets[1]},
        minhash={"sets": sets, "n_hashes": 4, "seed": 0},
        near_duplicates={"texts": ["a b", "a b"], "threshold": 0.7, "length": 1, "n_hashes": 8},
        shingles={"text": "a b c", "length": 2},
    )
    yield from of(
        "ch05_pretraining.evaluation",
        check_stream={"ids": stream, "context_length": 9, "model": model},
        evaluate={
            **{"model": model, "ids": stream, "context_length": 30, "batch_size": 2},
            "starts": starts,
        },
    )
    yield from of(
        "ch05_pretraining.loop",
        cross_entropy={"logits": torch.randn(2, 5, 9), "targets": ids % 9},
        perplexity={"nats_per_token": 1.0},
        bits_per_byte={"total_nats": 1.0, "n_bytes": 3},
        train={
            **{"model": model, "data": stream, "config": one_step, "starts": starts},
            **{"val_ids": stream, "val_starts": starts, "floor": 1.0},
        },
    )
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2)
    yield from of(
        "ch05_pretraining.optimizers",
        clip_grad_norm={"parameters": [p], "max_norm": 1.0},
        AdamW={"params": [p], "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1},
        Muon={"params": [p], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        orthogonalize={"matrix": torch.randn(3, 2), "dtype": torch.float32},
        make_optimizer={"model": model, "config": STEPS},
    )
    yield from of(
        "ch05_pretraining.recipes",
        find_preset={"preset": "book"},
        fingerprint={"module": "ch01_overview.files"},
        folder_in_cache={"name": "runs"},
        load_corpus={"source": folder / "text.txt", "preset": PRESET},
        read_pieces={"path": folder / "text.txt", "begin": 0, "end": 9},
        run_path={"source": folder / "text.txt", "preset": PRESET},
        share_of_stories={"model": model, "tokenizer": TOKENIZER, "n": 1, "temperature": 1.0},
    )
    yield from of(
        "ch05_pretraining.small",
        encode={"texts": ["a"], "tokenizer": TOKENIZER},
        fit={"model": model, "data": stream, "config": one_step},
        small_config={"steps": 3},
        small_model={"vocab_size": 9, "seed": 0},
    )
    yield from of(
        "ch05_pretraining.tokens",
        write_tokens={"path": folder / "new.tokens", "ids": [1, 2], "vocab_size": 3},
        open_tokens={"path": folder / "tokens"},
        document_starts={"ids": torch.tensor([0, 7, 0]), "end_of_text": 0},
        take={"ids": stream, "positions": starts},
        get_batch={
            **{"ids": stream, "batch_size": 2, "context_length": 9, "generator": g},
            "starts": starts,
        },
    )
    watching = importlib.import_module("ch05_pretraining.watching")
    told = watching.marked_stories(1)
    preset = Preset(config, STEPS, 1)
    yield from of(
        "ch05_pretraining.watching",
        attention_patterns={"model": model, "ids": ids[0]},
        excess={"model": tiny_gpt(context_length=400), "tokenizer": TOKENIZER, "told": told},
        marked_stories={"n": 1, "seed": 0},
        snapshot={"preset": preset, "file": path},
    )
    yield from of(
        "ch06_alignment.alignment",
        format_chat={"messages": talk, "tokenizer": TOKENIZER},
        response_mask={"ids": chat, "tokenizer": TOKENIZER},
        pad_batch={"conversations": marked},
        token_logps={"model": model, "ids": ids},
        sequence_logps={"model": model, "ids": ids, "mask": mask},
        sft_loss={"model": model, "ids": ids, "mask": mask},
        RewardModel={"body": model},
        preference_loss={"chosen_rewards": b, "rejected_rewards": b},
        implicit_reward={"policy_logps": b, "ref_logps": b, "beta": 0.1},
        dpo_loss={
            **{"policy_chosen_logps": b, "policy_rejected_logps": b, "ref_chosen_logps": b},
            **{"ref_rejected_logps": b, "beta": 0.1},
        },
        group_advantages={"rewards": torch.randn(2, 3), "normalize_std": True, "eps": 1e-6},
        grpo_loss={
            **{"logps": bt, "old_logps": bt, "ref_logps": bt, "advantages": b, "mask": mask},
            **{"clip": 0.2, "beta": 0.1},
        },
    )
    yield call(RewardModel(model), "RewardModel.forward", ids=ids, mask=mask)
    question = [{"role": "user", "content": "Hi"}]
    yield from of(
        "ch06_alignment.chat",
        answer={
            "model": tiny_gpt(context_length=128),
            "tokenizer": TOKENIZER,
            "messages": question,
        },
        fit={"messages": question, "tokenizer": TOKENIZER, "longest": 99},
        spell={"tokenizer": TOKENIZER, "tokens": iter([1, 2])},
    )
    yield from of(
        "ch06_alignment.finetune",
        batches={"talks": [talk] * 4, "tokenizer": TOKENIZER, "batch_size": 2, "longest": 9999},
        replies={"model": model, "tokenizer": TOKENIZER, "prompts": ["a"], "temperature": 0.2},
    )
    rng = random.Random(0)
    yield from of(
        "ch06_alignment.hands",
        hands_task={"n_changes": 2, "rng": rng, "thinking": True},
        hands_tasks={"n": 2, "changes": [1, 2], "seed": 0, "thinking": True},
    )
    yield from of(
        "ch06_alignment.instructions",
        conversation={"story": story, "rng": rng, "n_questions": 2},
        conversations={"n": 2, "seed": 0},
        messages={"tasks": [task]},
        questions={"story": story, "rng": rng},
        request={"story": story, "rng": rng},
        with_text={"story": story, "question": task},
    )
    linear = nn.Linear(4, 3)
    yield from of(
        "ch06_alignment.lora",
        LoRALinear={"base": linear, "rank": 2, "alpha": 1.0},
        add_lora={"model": tiny_gpt(), "rank": 2, "alpha": 1.0},
        merge_lora={"model": tiny_gpt()},
    )
    yield call(LoRALinear(linear, 2, 1.0), "LoRALinear.forward", x=torch.randn(2, 4))
    yield from of(
        "ch06_alignment.measures",
        as_chat={"tasks": [task], "tokenizer": TOKENIZER},
        as_text={"pairs": [("a", "b")], "tokenizer": TOKENIZER},
        chance_right={"model": model, "rows": marked, "temperature": 1.0},
        greedy_right={"model": model, "rows": marked},
        calibration_error={
            "sure": torch.tensor([0.9, 0.2, 0.55]),
            "right": torch.tensor([1.0, 0.0, 1.0]),
            "n_bins": 10,
        },
        last_sentence_of_holder={"story": next(s for s in stories(50) if s.facts.form == "tale")},
        mean_and_error={"values": [1.0, 2.0]},
        wilson={"n_right": 1, "n": 3, "z": 1.96},
    )
    yield from of(
        "ch06_alignment.replies",
        drift={"policy": model, "reference": model, "replies": replies, "batch_size": 2},
        each_once={"model": model, "ids": ids},
        frozen={"model": model},
        mark={"replies": replies, "tasks": [task]},
        sample={
            **{"model": model, "tokenizer": TOKENIZER, "prompts": ["a"], "n_samples": 2},
            **{"temperature": 1.0, "longest": 2},
        },
        same_length={"tasks": [task, task], "tokenizer": TOKENIZER, "n": 2},
    )
