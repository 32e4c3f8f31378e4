import json
import re

import pytest
import safetensors.torch
import torch
import transformers
from torch.testing import assert_close

from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer, train_bpe
from ch04_model.huggingface import load_model, load_pretrained, save_pretrained
from ch04_model.model import GPT, GPTConfig, generate

TOKENIZER = train_bpe("the quick brown fox jumps over the lazy dog", 283, [END_OF_TEXT, "<|user|>"])
V = 293  # a few ids more than the tokenizer has
SIZES = {"vocab_size": V, "context_length": 23, "n_layers": 3, "d_ff": 53}
GROUPED = {"n_heads": 6, "n_kv_heads": 2, **SIZES}
CONFIGS = {
    "gpt2": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35, norm_eps=0.02),
    "gpt2, untied": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35, tied=False),
    "llama": GPTConfig.llama(**GROUPED, d_model=42, head_dim=14, norm_eps=0.02, rope_theta=50.0),
    "llama, tied": GPTConfig.llama(**GROUPED, d_model=24, tied=True),
    "qwen3": GPTConfig.qwen3(**GROUPED, d_model=41, head_dim=14, norm_eps=0.02, rope_theta=50.0),
    "qwen3, untied": GPTConfig.qwen3(**GROUPED, d_model=24, tied=False),
    "the defaults": GPTConfig(vocab_size=V, n_layers=1),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)

LLAMA_SIZES = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 23,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    "rms_norm_eps": 0.02,
}
THEIRS = {
    "gpt2": transformers.GPT2Config(
        vocab_size=V, n_positions=23, n_embd=35, n_layer=3, n_head=5, layer_norm_epsilon=0.02
    ),
    "llama": transformers.LlamaConfig(**LLAMA_SIZES),
    "llama, tied": transformers.LlamaConfig(**LLAMA_SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**LLAMA_SIZES, head_dim=14),
    "qwen3, tied": transformers.Qwen3Config(**LLAMA_SIZES, head_dim=14, tie_word_embeddings=True),
}


@pytest.fixture(autouse=True, scope="module")
def quiet_on_one_thread():
    """With tensors this small, a second thread only waits."""
    n_threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    yield
    torch.set_num_threads(n_threads)
    transformers.logging.set_verbosity(verbosity)


def shake(model):
    """Make every weight matter, the biases and norms too; turn off dropout, which we have not."""
    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.randn_like(weights) / 8
    return model


def make_ids(B=2, T=11):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))


def greedy(model, ids, n):
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


@pytest.fixture
def folder(tmp_path):
    save_pretrained(shake(GPT(CONFIGS["llama"])), TOKENIZER, tmp_path)
    return tmp_path


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


# There


@every_config
def test_transformers_opens_our_folder_and_computes_the_same(config, tmp_path):
    model = shake(GPT(config))
    save_pretrained(model, TOKENIZER, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    family = "GPT2" if config.norm == "layer" else "Qwen3" if config.qk_norm else "Llama"
    assert type(theirs).__name__.startswith(family)
    ids = make_ids()
    assert_close(model(ids), theirs(ids).logits)
    assert torch.equal(generate(model, ids, 12, temperature=0), greedy(theirs, ids, 12))
    assert sum(p.numel() for p in theirs.parameters()) == model.n_parameters


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_transformers_opens_our_tokenizer_and_it_gives_the_same_ids(family, tmp_path):
    save_pretrained(GPT(CONFIGS[family]), TOKENIZER, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [
        "the quick brown fox",
        " it's  two   spaces\n\n\tand\r\nlines ",
        "naïve 日本 🦊 \u200d \x00 ½",
        f"the fox{END_OF_TEXT}the dog<|user|>",
        " ' .",
        "",
    ]:
        ids = TOKENIZER.encode(text, allowed_special=TOKENIZER.special_ids)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == TOKENIZER.special_ids[END_OF_TEXT]
    assert theirs.model_max_length == 23


def test_transformers_generate_stops_where_ours_does(tmp_path):
    model = shake(GPT(CONFIGS["qwen3"]))
    save_pretrained(model, TOKENIZER, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    end = TOKENIZER.special_ids[END_OF_TEXT]
    assert theirs.generation_config.eos_token_id == end
    assert theirs.generation_config.bos_token_id == end


def test_a_tokenizer_without_end_of_text_has_no_end_of_text_there(tmp_path):
    plain = BPETokenizer(TOKENIZER.vocab, TOKENIZER.merges)
    save_pretrained(GPT(CONFIGS["llama"]), plain, tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).eos_token is None
    assert transformers.AutoConfig.from_pretrained(tmp_path).eos_token_id is None


# And back


@every_config
def test_our_folder_comes_back_as_it_was(config, tmp_path):
    model = shake(GPT(config))
    save_pretrained(model, TOKENIZER, tmp_path / "new" / "folder")
    again, tokenizer = load_pretrained(tmp_path / "new" / "folder")
    assert again.config == config
    assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert tokenizer.special_ids == TOKENIZER.special_ids
    assert tokenizer.encode("the lazy fox") == TOKENIZER.encode("the lazy fox")
    assert (again.head.weight is again.token_embedding.weight) == config.tied


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_we_open_transformers_folder_and_compute_the_same(theirs, shard_size, tmp_path):
    torch.manual_seed(0)
    theirs = shake(transformers.AutoModelForCausalLM.from_config(theirs))
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")
    model, ids = load_model(tmp_path), make_ids()
    assert_close(model(ids), theirs(ids).logits)
    assert torch.equal(generate(model, ids, 12, temperature=0), greedy(theirs, ids, 12))


@pytest.mark.parametrize("family", ["gpt2", "llama, tied"])
def test_the_body_saved_alone_opens_too(family, tmp_path):
    theirs = shake(transformers.AutoModelForCausalLM.from_config(THEIRS[family]))
    theirs.base_model.save_pretrained(tmp_path)
    assert "wte.weight" in (
        names := safetensors.torch.load_file(tmp_path / "model.safetensors")
    ) or ("embed_tokens.weight" in names)
    assert_close(load_model(tmp_path)(make_ids()), theirs(make_ids()).logits)


def test_constants_and_the_second_name_of_a_tied_matrix_are_ignored(tmp_path):
    model = shake(GPT(CONFIGS["gpt2"]))
    save_pretrained(model, TOKENIZER, tmp_path)

    def add(tensors):
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 23, 23)
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    change_weights(tmp_path, add)
    assert_close(load_model(tmp_path)(make_ids()), model(make_ids()))


def test_bfloat16_weights_are_read_as_float32(folder):
    before = load_model(folder)

    def halve(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.bfloat16()

    change_weights(folder, halve)
    for old, new in zip(before.parameters(), load_model(folder).parameters(), strict=True):
        assert_close(new, old.bfloat16().float(), rtol=0, atol=0)


def test_the_config_of_version_4_is_understood(folder):
    logits = load_model(folder)(make_ids())
    change_config(folder, rope_parameters=None, rope_scaling=None, rope_theta=50.0)
    assert_close(load_model(folder)(make_ids()), logits)


def test_a_config_is_read_as_transformers_reads_it_where_it_says_nothing(folder):
    optional = ("rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim")
    path = folder / "config.json"
    data = json.loads(path.read_text()) | {"hidden_size": 84}
    path.write_text(json.dumps({name: data[name] for name in data if name not in optional}))
    theirs = shake(transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(folder)))
    safetensors.torch.save_file(theirs.state_dict(), folder / "model.safetensors")
    assert_close(load_model(folder)(make_ids()), theirs(make_ids()).logits)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "layer"}, "norm is 'layer', not 'rms'"),
        ({"bias": True}, "bias is True, not False"),
        ({"activation": "gelu", "n_heads": 2}, "activation is 'gelu', not 'swiglu'"),
        ({"positions": "learned"}, "positions is 'learned', not 'rotary'"),
        ({"qk_norm": False, "d_model": 35, "n_heads": 4, "head_dim": 6}, "% n_heads is 3, not 0"),
    ],
)
def test_a_model_that_transformers_has_not_is_refused_with_the_difference(
    fields, message, tmp_path
):
    with pytest.raises(ValueError, match=f"ForCausalLM would come closest, but .*{message}"):
        save_pretrained(GPT(GPTConfig(**{"n_layers": 1, **fields})), TOKENIZER, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_gpt2_has_neither_grouped_queries_nor_wide_heads(tmp_path):
    config = GPTConfig.gpt2(**SIZES, n_heads=6, n_kv_heads=2, d_model=36, head_dim=7)
    message = r"GPT2LMHeadModel .* n_kv_heads is 2, not 6, n_heads \* head_dim is 42, not 36"
    with pytest.raises(ValueError, match=message):
        save_pretrained(GPT(config), TOKENIZER, tmp_path)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="tokenizer has 283 ids, but the model only 281"):
        save_pretrained(GPT(GPTConfig(vocab_size=281)), TOKENIZER, tmp_path)
    special_tokens = [str(i) * 3 for i in range(20)]
    BPETokenizer(TOKENIZER.vocab, TOKENIZER.merges, special_tokens).save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer has 30\d ids, but the model only 293"):
        load_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "of another kind"])
def test_a_damaged_file_is_named(file, damage, folder):
    path = folder / file
    if damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        data = {"empty": b"", "cut short": data[: len(data) // 2], "of another kind": b"[1, 2]"}[
            damage
        ]
        path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_pretrained(folder)


def test_a_missing_shard_is_named(tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_config(THEIRS["llama"])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=re.escape(str(shard))):
        load_model(tmp_path)


def test_an_index_without_a_map_is_named(folder):
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match=re.escape(str(index))):
        load_model(folder)


def test_a_pickle_is_refused_with_the_reason(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickle, which may run any code"):
        load_model(folder)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu', .* 'gelu_new'"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True",
        ),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "scaled by .*llama3",
        ),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"type": "linear"}},
            "scaled by .*linear",
        ),
        ("llama", {"rope_parameters": [1, 2]}, r"config\.json: "),
        ("llama", {"model_type": ["llama"]}, "model_type is .'llama'., but we know"),
        ("llama", {"rope_parameters": {"rope_theta": "many"}}, r"config\.json: "),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("llama", {"model_type": "mamba"}, "model_type is 'mamba', but we know gpt2, llama, qwen3"),
        ("llama", {"num_attention_heads": 5}, "n_heads 5 is not divisible by n_kv_heads 2"),
        ("llama", {"num_hidden_layers": "3"}, r"config\.json: "),
        ("llama", {"hidden_size": None}, r"config\.json: "),
    ],
)
def test_a_config_that_asks_for_what_we_have_not_is_refused(family, changes, message, tmp_path):
    save_pretrained(GPT(CONFIGS[family]), TOKENIZER, tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_model(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_a_missing_size_is_named(folder):
    data = json.loads((folder / "config.json").read_text())
    del data["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"config\.json: num_hidden_layers is missing"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"),
            r"1 tensors are missing, the first is model\.layers\.1\.self_attn\.k_proj\.weight",
        ),
        (
            lambda t: t.update({"model.layers.3.mlp.up_proj.weight": torch.zeros(53, 42)}),
            r"1 tensors too many, the first is model\.layers\.3\.mlp\.up_proj\.weight",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(43)}),
            r"model\.norm\.weight is \(43,\), but by config\.json it must be \(42,\)",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.weight": torch.zeros(42, 84)}),
            r"q_proj\.weight is \(42, 84\), but by config\.json it must be \(84, 42\)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(change, message, folder):
    change_weights(folder, change)
    with pytest.raises(ValueError, match=message) as error:
        load_model(folder)
    assert str(folder) in str(error.value)
