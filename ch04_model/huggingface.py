"""Our models in the files of Hugging Face's `transformers`: written here, opened there, and back.

    config.json             the sizes, in the words of the model's family: GPT-2, Llama or Qwen3
    model.safetensors       the weights by name; unlike a pickle, it cannot run code when it is read
    tokenizer.json          chapter 2's file
    tokenizer_config.json   what `AutoTokenizer` wants to know besides
    SHA256SUMS              a checksum of each, for only a part of all damage shows by itself

A `Family` is the dictionary between the two languages, and the functions only look things up in it.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ch01_overview.files import check_sums, write_sums, write_whole
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer
from ch04_model.model import GPT, GPTConfig

__all__ = ["save_pretrained", "load_pretrained", "load_model"]

RECIPE = ("norm", "activation", "positions", "qk_norm", "bias")


@dataclass(frozen=True)
class Family:
    """One architecture of `transformers`, in our words (first) and in its own (second)."""

    model_type: str
    architecture: str
    example: GPTConfig  # from which the family's models differ in their sizes only
    fields: dict[str, str]  # of config.json
    absent: dict[str, Any]  # what a field is when config.json does not mention it
    fixed: dict[str, Any]  # what config.json may only say, because we have nothing else
    layers: str  # the list of blocks
    modules: dict[str, str]
    transposed: bool = False  # whether the matrices in the blocks have their inputs first


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    example=GPTConfig.gpt2(),
    fields={
        "vocab_size": "vocab_size",
        "context_length": "n_positions",
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "d_model": "n_embd",
        "d_ff": "n_inner",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    absent={"d_ff": None, "norm_eps": 1e-5, "tied": True},
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    layers="transformer.h",
    modules={
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    transposed=True,
)

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    example=GPTConfig.llama(),
    fields={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "head_dim": "head_dim",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
    },
    absent={"n_kv_heads": None, "head_dim": None, "norm_eps": 1e-6, "tied": False},
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    layers="model.layers",
    modules={
        "token_embedding": "model.embed_tokens",
        "attention_norm": "input_layernorm",
        "attention.qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
        "norm": "model.norm",
        "head": "lm_head",
    },
)

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    example=GPTConfig.qwen3(),
    absent=LLAMA.absent | {"n_kv_heads": 32, "head_dim": 128},
    fixed={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
)

FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, QWEN3)}

# Constants that older versions stored among the weights.
CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def save_pretrained(model: GPT, tokenizer: BPETokenizer, folder: str | Path) -> None:
    """Write a folder for `load_pretrained`, AutoModelForCausalLM and AutoTokenizer.

    Raises: ValueError if `transformers` has no such model, or the tokenizer too many ids for it.
    """
    _check_vocabulary(model.config, tokenizer)
    family = _family_of(model.config)
    end_of_text = END_OF_TEXT if END_OF_TEXT in tokenizer.special_ids else None
    config = _config_json(model.config, family) | {
        "bos_token_id": tokenizer.special_ids.get(END_OF_TEXT),  # or it would be the original's
        "eos_token_id": tokenizer.special_ids.get(END_OF_TEXT),
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the one that takes tokenizer.json as it is
        "model_max_length": model.config.context_length,
        "clean_up_tokenization_spaces": False,
        "eos_token": end_of_text,
    }
    tensors = {
        name: weights.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, weights in _weights(model, family).items()
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    write_whole(folder / "config.json", json.dumps(config, indent=2))
    tokenizer.save(folder / "tokenizer.json")
    write_whole(folder / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2))
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    write_sums(folder, files)


def load_pretrained(folder: str | Path) -> tuple[GPT, BPETokenizer]:
    """The model and the tokenizer in a folder that we or `transformers` wrote.

    Raises: ValueError naming the file if one is missing, damaged, or asks for what we do not have.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; load_model reads a folder without one")
    tokenizer = BPETokenizer.load(path)
    model = load_model(folder)
    _check_vocabulary(model.config, tokenizer)
    check_sums(Path(folder))  # last: whatever says more about the damage has had its say
    return model, tokenizer


def load_model(folder: str | Path) -> GPT:
    """The model alone, with its weights in float32.

    Raises: ValueError naming the file if one is missing, damaged, or asks for what we do not have.
    """
    folder = Path(folder)
    config, family = _read_config(folder / "config.json")
    stored = _read_weights(folder, family)
    model = _new_model(folder, config, len(stored))
    weights = _weights(model, family)
    _check_weights(folder, weights, stored)
    with torch.no_grad():
        for name, part in weights.items():
            part.copy_(stored[name])
    return model


def _new_model(folder: Path, config: GPTConfig, n_tensors: int) -> GPT:
    path = folder / "config.json"
    if config.n_layers > n_tensors:
        raise ValueError(f"{path}: {config.n_layers} layers, but {n_tensors} tensors are stored")
    try:
        return GPT(config)
    except (TypeError, RuntimeError, OverflowError, MemoryError) as error:
        cause = str(error).partition("\n")[0]
        raise ValueError(f"{path}: there is no model of such sizes: {cause}") from error


def _weights(model: GPT, family: Family) -> dict[str, Tensor]:
    """The model's weights by their names in `transformers`: views, so to fill them is to load."""
    views = {}
    attention = model.blocks[0].attention
    heads = (attention.n_heads, attention.n_kv_heads, attention.n_kv_heads)
    for name, weights in model.named_parameters():  # without the head, if it is tied
        layer, module, kind = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(\w+)", name).groups()
        prefix = "" if layer is None else f"{family.layers}.{layer}."
        if family.transposed and layer is not None and weights.ndim == 2:
            weights = weights.T
        theirs = family.modules[module].split()  # one, or one each for queries, keys and values
        rows = [len(weights)] if len(theirs) == 1 else [n * attention.head_dim for n in heads]
        for part, view in zip(theirs, weights.split(rows), strict=True):
            views[f"{prefix}{part}.{kind}"] = view
    return views


def _family_of(config: GPTConfig) -> Family:
    def differences(family: Family) -> list[str]:
        pairs = [(name, getattr(config, name), getattr(family.example, name)) for name in RECIPE]
        if family is GPT2:
            pairs.append(("n_kv_heads", config.n_kv_heads, config.n_heads))
            pairs.append(("n_heads * head_dim", config.n_heads * config.head_dim, config.d_model))
        if family is LLAMA:
            pairs.append(("d_model % n_heads", config.d_model % config.n_heads, 0))
        return [
            f"{name} is {ours!r}, not {theirs!r}" for name, ours, theirs in pairs if ours != theirs
        ]

    family = min(FAMILIES.values(), key=lambda family: len(differences(family)))
    if differences(family):
        raise ValueError(
            f"transformers has no such model. {family.architecture} would come closest, but "
            + ", ".join(differences(family))
        )
    return family


def _config_json(config: GPTConfig, family: Family) -> dict[str, Any]:
    data = {"model_type": family.model_type, "architectures": [family.architecture], **family.fixed}
    data |= {theirs: getattr(config, ours) for ours, theirs in family.fields.items()}
    if config.positions == "rotary":
        data["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    return data


def _read_config(path: Path) -> tuple[GPTConfig, Family]:
    data = _read_json(path)
    family = FAMILIES.get(str(kind := data.get("model_type")))
    if family is None:
        raise ValueError(f"{path}: model_type is {kind!r}, but we know {', '.join(FAMILIES)}")
    for name, value in family.fixed.items():
        if data.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {data[name]!r}, but we only have {value!r}")
    fields = {name: getattr(family.example, name) for name in RECIPE}
    for ours, theirs in family.fields.items():
        if theirs not in data and ours not in family.absent:
            raise ValueError(f"{path}: {theirs} is missing")
        fields[ours] = data[theirs] if theirs in data else family.absent[ours]
    try:
        if family is not GPT2:
            fields["rope_theta"] = _rope_theta(data)
        return GPTConfig(**fields), family
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _rope_theta(data: dict[str, Any]) -> Any:
    # Version 4 had rope_theta beside rope_scaling, version 5 has both in rope_parameters.
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"rotary positions are scaled by {rope}, but ours are not")
    return rope.get("rope_theta", data.get("rope_theta", 10_000.0))


def _read_weights(folder: Path, family: Family) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or of the files in its index when there are several."""
    files, index = ["model.safetensors"], folder / "model.safetensors.index.json"
    if not (folder / files[0]).exists():
        if index.exists():
            weight_map = _read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ValueError(f"{index} has no weight_map, from tensors to files")
            files = sorted({str(file) for file in weight_map.values()})
        elif (folder / "pytorch_model.bin").exists():
            raise ValueError(f"{folder} has a pickle, which may run any code: convert it elsewhere")
    stored = {}
    for file in files:
        try:
            stored |= safetensors.torch.load_file(folder / file)
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"{folder / file} is no safetensors file: {error}") from error
    # The body of a model, saved without the head, has names that start one level further down.
    base = family.layers.split(".")[0] + "."
    starts = (base, "lm_head.")
    return {name if name.startswith(starts) else base + name: stored[name] for name in stored}


def _check_weights(folder: Path, weights: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    file = folder / "model.safetensors"
    if missing := sorted(weights.keys() - stored.keys()):
        raise ValueError(f"{file}: {len(missing)} tensors are missing, the first is {missing[0]}")
    unused = {name for name in stored.keys() - weights.keys() if not name.endswith(CONSTANTS)}
    if unused := sorted(unused - {"lm_head.weight"}):  # the second name of a tied matrix
        raise ValueError(f"{file}: {len(unused)} tensors too many, the first is {unused[0]}")
    for name, part in weights.items():
        ours, theirs = tuple(part.shape), tuple(stored[name].shape)
        if ours != theirs:
            raise ValueError(f"{file}: {name} is {theirs}, but by config.json it must be {ours}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object, not a {type(data).__name__}")
    return data


def _check_vocabulary(config: GPTConfig, tokenizer: BPETokenizer) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model only {config.vocab_size}"
        )
