"""The numbers in real_adapters.rs that come from PEFT itself.

The base is the default model, dequantised from its GGUF file, with the rows of queries and keys in
the order that transformers expects. The adapter is made of whole numbers, here as in the test.

    python peft_reference.py MODEL.gguf     # needs torch, transformers, peft, gguf
"""

import sys

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = (
    "The Ġcapital Ġof ĠFrance Ġis ĠParis . ĠThe Ġriver Ġthat Ġruns Ġthrough Ġthe Ġcity Ġis Ġcalled "
    "Ġthe ĠSe ine , Ġand Ġit Ġflows Ġinto Ġthe Ġsea ."
).split()
RANK, ALPHA = 4, 16
MASK = (1 << 64) - 1
PLACES = {
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


def mixed(number):
    """splitmix64, as in tests/store/peft.rs."""
    z = (number * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def numbers(seed, count, unit):
    """Multiples of unit from -32 to 32: exact in f16."""
    return np.array([(mixed(seed * 1_000_003 + i) % 65 - 32) * unit for i in range(count)], dtype=np.float32)


def base(path):
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    tokens = field("tokenizer.ggml.tokens")
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=field("llama.rope.freq_base"),
        max_position_embeddings=field("llama.context_length"),
        tie_word_embeddings=True,
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": field("llama.rope.freq_base")}
    state = {}
    for tensor in reader.tensors:
        weights = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if tensor.name == "token_embd.weight":
            state["model.embed_tokens.weight"] = weights
            state["lm_head.weight"] = weights
        elif tensor.name == "output_norm.weight":
            state["model.norm.weight"] = weights
        elif tensor.name.startswith("blk."):
            _, layer, short, _ = tensor.name.split(".")
            if short in ("attn_q", "attn_k"):
                count = heads if short == "attn_q" else kv_heads
                width = weights.shape[0] // count
                pairs = weights.reshape(count, width // 2, 2, weights.shape[1])
                weights = pairs.swapaxes(1, 2).reshape(weights.shape).contiguous()
            state[f"model.layers.{layer}.{PLACES[short]}.weight"] = weights
    model = LlamaForCausalLM(config).eval()
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
    ids = [tokens.index(word) for word in WORDS]
    return model, ids


def scores(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    ln_p = torch.log_softmax(logits, -1)
    return [round(float(ln_p[i, ids[i + 1]]), 4) for i in range(len(ids) - 1)]


def fill(model, unit_b, wrong=False):
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" not in name:
            continue
        module = name.split(".layers.")[1]
        layer, place = int(module.split(".")[0]), module.split(".")[2]
        nth = [v.split(".")[1] for v in list(PLACES.values())[:7]].index(place)
        is_b = "lora_B" in name
        seed = 1 + (layer * 7 + nth) * 2 + is_b
        values = numbers(seed, parameter.numel(), unit_b if is_b else 1 / 1024).reshape(parameter.shape)
        if wrong and is_b and place in ("q_proj", "k_proj"):
            # As if the rows were not put into pairs: the file's order, read in transformers'.
            width = 64
            heads = values.reshape(-1, width // 2, 2, values.shape[1])
            values = heads.swapaxes(1, 2).reshape(values.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def with_adapter(path, modules, unit_b, rslora=False, wrong=False):
    model, ids = base(path)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, use_rslora=rslora)
    model = get_peft_model(model, config).eval()
    fill(model, unit_b, wrong)
    return scores(model, ids)


if __name__ == "__main__":
    path = sys.argv[1]
    model, ids = base(path)
    print("ids", ids)
    print("base", scores(model, ids))
    queries = ["q_proj", "k_proj"]
    print("queries", with_adapter(path, queries, 1 / 64))
    print("queries in the wrong order", with_adapter(path, queries, 1 / 64, wrong=True))
    everything = [name.split(".")[1] for name in list(PLACES.values())[:7]]
    print("everything, rslora", with_adapter(path, everything, 1 / 1024, rslora=True))
