"""Make golden_models.zip: tiny random models of many formats and variants, with logits and greedy ids of transformers.

Run once, from the project's folder, with torch 2.13.0, transformers 5.23.0, safetensors 0.8.0 and gguf 0.19.0:

    python tests/make_golden_models.py

The archive holds a folder for each model, and golden.npz with `ids`, the prompt, and for each model NAME/logits
[n_seq, n_vocab] and NAME/greedy, the 100 ids that follow the prompt. transformers computes all of them; the formats of
other programs have the same arithmetic under other names. The weights are drawn again until the two likeliest tokens
of each greedy step differ by MARGIN.
"""

import json
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import safetensors.torch
import torch
from make_golden_formats import TOKENS, randomize, save_vocabulary
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoConfig, GPTNeoForCausalLM

HERE = Path(__file__).parent
IDS = np.random.default_rng(4).integers(27, size=12)
N_GREEDY = 100
MARGIN = 2e-3
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 128, "vocab_size": len(TOKENS)}
SIZES |= {"bos_token_id": 30, "eos_token_id": 30}
SAVED = {}  # NAME/logits and NAME/greedy of each model


# ---- models ----------------------------------------------------------------------------------------------------


def gpt2(name, **changes):
    """Return a random GPT-2 whose greedy text is certain, and record its logits and that text."""
    return certain(name, lambda: GPT2LMHeadModel(GPT2Config(**SIZES | changes)))


@torch.no_grad()
def check_effect(model, **neutral):
    """Raise if the same weights with neutral settings have the same logits: a test would not notice a lost setting."""
    config = model.config.to_dict() | neutral
    other = type(model)(type(model.config)(**config)).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    ids = torch.from_numpy(IDS)[None]
    if (model(ids).logits - other(ids).logits).abs().max() < 1e-3:
        raise RuntimeError(f"no effect: {neutral}")


def gpt_neo(name, **changes):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_size": 8, "max_position_embeddings": 128}
    sizes |= {"vocab_size": len(TOKENS), "bos_token_id": 30, "eos_token_id": 30, "window_size": 5}
    sizes |= {"attention_types": [[["global", "local"], 1]]}
    return certain(name, lambda: GPTNeoForCausalLM(GPTNeoConfig(**sizes | changes)))


def certain(name, make, dtype=torch.float32):
    for seed in range(1000):
        torch.manual_seed(seed)
        model = make().eval()
        randomize(model)
        model.to(dtype).float()
        if record(name, model):
            return model
    raise RuntimeError(f"no certain text for {name}")


@torch.no_grad()
def record(name, model):
    """Record the logits and the greedy text of a model; return whether the text is certain and not monotonous."""
    SAVED[f"{name}/logits"] = model(torch.from_numpy(IDS)[None]).logits[0].numpy()
    ids = list(IDS)
    for _ in range(N_GREEDY):
        logits = model(torch.tensor(ids)[None]).logits[0, -1]
        best, second = logits.topk(2).values
        if best - second < MARGIN:
            return False
        ids.append(int(logits.argmax()))
    SAVED[f"{name}/greedy"] = np.array(ids[len(IDS) :])
    return len(set(ids[len(IDS) :])) >= 5


# ---- Hugging Face ----------------------------------------------------------------------------------------------


def save(root, name, model, **settings):
    """Save a model by save_pretrained with the vocabulary."""
    model.save_pretrained(root / name, **settings)
    save_vocabulary(root / name)
    (root / name / "generation_config.json").unlink()
    return root / name


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes, indent=1), encoding="utf-8")


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hugging_face(root):
    save(root, "plain", gpt2("plain"))
    changes = {
        "untied": {"tie_word_embeddings": False},
        "unscaled": {"scale_attn_weights": False},
        "scaled_by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        "unscaled_by_layer": {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "n_layer": 3},
        "reordered": {"reorder_and_upcast_attn": True},
        "inner_eps": {"n_inner": 20, "layer_norm_epsilon": 0.1},
    }
    activations = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate")
    for activation in (*activations, "relu", "silu", "swish", "quick_gelu"):
        changes[activation] = {"activation_function": activation}
    neutral = {"tie_word_embeddings": True, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    neutral |= {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
    for name, change in changes.items():
        model = gpt2(name, **change)
        save(root, name, model)
        if name not in (*activations[1:], "reordered"):  # other names of the same arithmetic
            check_effect(model, **{setting: neutral[setting] for setting in change if setting in neutral})

    model = gpt2("torch_zip")
    for name, is_zip in (("torch_zip", True), ("torch_stream", False)):
        folder = save(root, name, model)
        (folder / "model.safetensors").unlink()
        torch.save(state_of(model), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        record(name, model)
    folder = save(root, "torch_sharded", model)
    record("torch_sharded", model)
    (folder / "model.safetensors").unlink()
    save_torch_shards(folder, state_of(model))

    model = gpt2("half", n_layer=1)
    model = model.half().float()
    save(root, "half", model.half())
    model.float()
    assert record("half", model)

    model = gpt2("saved_head", n_layer=1)
    folder = save(root, "saved_head", model)
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))

    model = gpt2("prefixes", n_layer=1)
    folder = save(root, "prefixes", model)
    extra = {"v_head.summary.weight": torch.ones(1, 8), "score.weight": torch.ones(2, 8)}
    extra |= {"transformer.h.0.attn.bias": torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()}
    extra |= {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    extra |= {"multiple_choice_head.summary.weight": torch.ones(1, 8)}
    tensors = {f"module._orig_mod.base_model.model.{name}": each for name, each in (state_of(model) | extra).items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")

    folder = save(root, "spellings", gpt2("spellings", n_layer=1))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    names |= {"n_positions": "max_position_embeddings"}
    config = {names.get(name, name): value for name, value in config.items() if name != "n_ctx"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def save_torch_shards(folder, state):
    names = list(state)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def neo(root):
    model = gpt_neo("neo")
    save(root, "neo", model)
    check_effect(model, window_size=256)
    save(root, "neo_inner", gpt_neo("neo_inner", intermediate_size=20, activation_function="gelu"))
    model = gpt_neo("neo_torch", attention_types=[[["local"], 2]], window_size=3)
    folder = save(root, "neo_torch", model)
    (folder / "model.safetensors").unlink()
    torch.save(state_of(model), folder / "pytorch_model.bin")
    change_config(folder, attention_types=None, attention_layers=["local", "local"])


# ---- other programs --------------------------------------------------------------------------------------------


def linear_form(state):
    """Return a state dict with the matrices as [out, in], as torch's Linear has them."""
    is_matrix = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: each.T.contiguous() if name.endswith(is_matrix) else each for name, each in state.items()}


def llm_c(root):
    for name, version, n_padded, dtype in (("llm_c", 3, 64, torch.float32), ("llm_c_bfloat16", 5, 64, torch.bfloat16)):
        model = certain(name, lambda: GPT2LMHeadModel(GPT2Config(**SIZES)), dtype)
        (root / name).mkdir()
        save_llm_c(root / name / "model.bin", model, version, n_padded, dtype)
        save_llm_c_tokenizer(root / name / "gpt2_tokenizer.bin", version=2)
    model = gpt2("llm_c_first")
    (root / "llm_c_first").mkdir()
    save_llm_c(root / "llm_c_first" / "model.bin", model, 1, None, torch.float32)
    save_llm_c_tokenizer(root / "llm_c_first" / "gpt2_tokenizer.bin", version=1)


def save_llm_c(path, model, version, n_padded, dtype):
    state = linear_form(state_of(model))
    header = np.zeros(256, "<i4")
    sizes = (SIZES["n_positions"], SIZES["vocab_size"], SIZES["n_layer"], SIZES["n_head"], SIZES["n_embd"])
    header[:7] = (20240326, version, *sizes)
    wte = state["transformer.wte.weight"]
    if n_padded:
        header[7] = n_padded
        wte = torch.cat([wte, torch.full((n_padded - len(wte), wte.shape[1]), 100.0)])
    tensors = [wte, state["transformer.wpe.weight"]]
    parts = [f"{part}.{leaf}" for part in ("ln_1", "attn.c_attn", "attn.c_proj") for leaf in ("weight", "bias")]
    parts += [f"{part}.{leaf}" for part in ("ln_2", "mlp.c_fc", "mlp.c_proj") for leaf in ("weight", "bias")]
    for part in parts:
        tensors += [state[f"transformer.h.{i}.{part}"] for i in range(SIZES["n_layer"])]
    tensors += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    with open(path, "wb") as file:
        file.write(header.tobytes())
        for tensor in tensors:
            tensor = tensor.to(dtype)
            file.write((tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor).numpy().tobytes())


def save_llm_c_tokenizer(path, version):
    header = np.zeros(256, "<i4")
    header[:3] = (20240328, version, len(TOKENS))
    if version == 2:
        header[3] = len(TOKENS) - 1
    with open(path, "wb") as file:
        file.write(header.tobytes())
        for token in TOKENS:
            content = token.replace("Ġ", " ").encode()
            file.write(bytes([len(content)]) + content)


def from_scratch(root):
    changes = {"n_layer": 1, "n_embd": 64, "n_head": 1, "tie_word_embeddings": False}
    model = gpt2("from_scratch", **changes)
    save_from_scratch(root / "from_scratch", model, wrapped=True)
    model = certain("from_scratch_heads", lambda: without_qkv_biases(GPT2LMHeadModel(GPT2Config(**SIZES))))
    save_from_scratch(root / "from_scratch_heads", model, biases=False)
    config = {"n_heads": 2}
    (root / "from_scratch_heads" / "config.json").write_text(json.dumps(config), encoding="utf-8")


def without_qkv_biases(model):
    """Return a model whose c_attn has a bias that stays zero when the parameters are set at random."""
    for block in model.transformer.h:
        bias = block.attn.c_attn.bias.data.zero_()
        del block.attn.c_attn.bias
        block.attn.c_attn.register_buffer("bias", bias)
    return model


def save_from_scratch(folder, model, biases=True, wrapped=False):
    state = linear_form(state_of(model))
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "att.out_proj", "mlp.c_fc": "ff.layers.0"}
    names |= {"mlp.c_proj": "ff.layers.2"}
    saved = {"tok_emb.weight": state["transformer.wte.weight"], "pos_emb.weight": state["transformer.wpe.weight"]}
    for i in range(model.config.n_layer):
        block = f"transformer.h.{i}"
        n_ctx = model.config.n_positions
        saved[f"trf_blocks.{i}.att.mask"] = torch.triu(torch.ones(n_ctx, n_ctx), diagonal=1)
        for leaf in ("weight", "bias") if biases else ("weight",):
            parts = state[f"{block}.attn.c_attn.{leaf}"].chunk(3)
            for kind, part in zip(("query", "key", "value"), parts, strict=True):
                saved[f"trf_blocks.{i}.att.W_{kind}.{leaf}"] = part.clone()
        for theirs, ours in names.items():
            leaves = ("scale", "shift") if "norm" in ours else ("weight", "bias")
            for leaf, name in zip(("weight", "bias"), leaves, strict=True):
                saved[f"trf_blocks.{i}.{ours}.{name}"] = state[f"{block}.{theirs}.{leaf}"]
    saved |= {"final_norm.scale": state["transformer.ln_f.weight"], "final_norm.shift": state["transformer.ln_f.bias"]}
    saved["out_head.weight"] = state["lm_head.weight"]
    folder.mkdir()
    torch.save({"model_state_dict": saved, "optimizer_state_dict": {}} if wrapped else saved, folder / "model.pth")
    save_vocabulary(folder)


def min_gpt(root):
    model = gpt2("min_gpt", tie_word_embeddings=False)
    state = linear_form(state_of(model))
    for i in range(SIZES["n_layer"]):
        state[f"transformer.h.{i}.attn.bias"] = torch.ones(128, 128).tril()[None, None]
    folder = root / "min_gpt"
    folder.mkdir()
    torch.save(state, folder / "model.pt")
    config = {"system": {"seed": 1}, "model": {"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 8}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_vocabulary(folder)


# ---- GGUF ------------------------------------------------------------------------------------------------------


def all_gguf(root):
    kinds = {"gguf": gguf.GGMLQuantizationType.F32, "gguf_f16": gguf.GGMLQuantizationType.F16}
    kinds |= {"gguf_q8_0": gguf.GGMLQuantizationType.Q8_0}
    for name, kind in kinds.items():
        model = certain(name, lambda kind=kind: Quantized(kind, n_layer=1, n_embd=32))
        (root / name).mkdir()
        save_gguf(root / name / f"{name}.gguf", model, kind)


class Quantized(GPT2LMHeadModel):
    """A GPT-2 whose matrices are quantized and dequantized before they are used."""

    def __init__(self, kind, **changes):
        super().__init__(GPT2Config(**SIZES | changes))
        self.kind = kind

    def float(self):
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_linear = name.split(".")[-2].startswith("c_")
                data = parameter.data.T if is_linear else parameter.data
                data = torch.from_numpy(round_trip(data.contiguous().numpy(), self.kind))
                parameter.data = data.T.contiguous() if is_linear else data
        return self


def round_trip(array, kind):
    return gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind).reshape(array.shape)


def save_gguf(path, model, kind):
    writer = gguf.GGUFWriter(path, "gpt2")
    config = model.config
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(["Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(30)
    writer.add_eos_token_id(30)
    names = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm"}
    names |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    state = {name.removeprefix("transformer."): each for name, each in linear_form(state_of(model)).items()}
    add_tensor(writer, "token_embd.weight", state["wte.weight"], kind)
    add_tensor(writer, "position_embd.weight", state["wpe.weight"], kind)
    for i in range(config.n_layer):
        for theirs, ours in names.items():
            for leaf in ("weight", "bias"):
                add_tensor(writer, f"blk.{i}.{ours}.{leaf}", state[f"h.{i}.{theirs}.{leaf}"], kind)
    for leaf in ("weight", "bias"):
        add_tensor(writer, f"output_norm.{leaf}", state[f"ln_f.{leaf}"], kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer, name, tensor, kind):
    array = tensor.numpy()
    if array.ndim == 1:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


# ---- the archive -----------------------------------------------------------------------------------------------


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for make in (hugging_face, neo, llm_c, from_scratch, min_gpt, all_gguf):
            make(root)
        np.savez_compressed(root / "golden.npz", ids=IDS, **SAVED)
        with zipfile.ZipFile(HERE / "golden_models.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(root))


if __name__ == "__main__":
    main()
