"""Write the weights of one of our models into the files of other programs, so that all compute the same.

    python benchmarks/convert.py --model /tmp/models/random-124M --kind gguf-F16 --to /tmp/random-124M.gguf

Kinds: huggingface (a folder for transformers), gguf-F32, gguf-F16, gguf-Q8_0 (a file for llama.cpp),
ctranslate2-float32, ctranslate2-int8 (a folder, converted from the one for transformers). An existing target is kept.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import project
from fire import Fire
from safetensors.numpy import save_file


def hugging_face(model, to):
    """Write a folder as transformers saves it. Its names of the tensors are those of the checkpoint with dots."""
    sizes = json.loads((model / "hparams.json").read_text(encoding="utf-8"))
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
    config |= {"vocab_size": sizes["n_vocab"], "n_positions": sizes["n_ctx"], "layer_norm_epsilon": 1e-5}
    config |= {name: sizes[name] for name in ("n_embd", "n_head", "n_layer")}
    config |= {"bos_token_id": sizes["n_vocab"] - 1, "eos_token_id": sizes["n_vocab"] - 1, "dtype": "float32"}
    tokenizer = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    tokenizer["tokenizer_class"] = "GPT2Tokenizer"
    to.mkdir()
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (to / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    save_file(dict(named_tensors(project.load(model).params)), to / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(model / "encoder.json", to / "vocab.json")
    shutil.copyfile(model / "vocab.bpe", to / "merges.txt")


def named_tensors(params):
    """Yield the name that transformers gives to each tensor, and the tensor."""
    yield "wte.weight", params["wte"]
    yield "wpe.weight", params["wpe"]
    leaves = {"g": "weight", "w": "weight", "b": "bias"}
    for leaf, array in params["ln_f"].items():
        yield f"ln_f.{leaves[leaf]}", array
    for i, block in enumerate(params["blocks"]):
        for norm in ("ln_1", "ln_2"):
            for leaf, array in block[norm].items():
                yield f"h.{i}.{norm}.{leaves[leaf]}", array
        for part, name in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            for leaf, array in block[part][name].items():
                yield f"h.{i}.{part}.{name}.{leaves[leaf]}", array


# ---- llama.cpp -------------------------------------------------------------------------------------------------

GGUF_NAMES = {"wte": "token_embd.weight", "wpe": "position_embd.weight", "ln_f": "output_norm"}
GGUF_NAMES |= {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
GGUF_NAMES |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def gguf_tensors(params):
    """Yield llama.cpp's name of each tensor, and the tensor; its matrices are [n_out, n_in]."""
    yield GGUF_NAMES["wte"], params["wte"]
    yield GGUF_NAMES["wpe"], params["wpe"]
    for suffix, name in (("weight", "g"), ("bias", "b")):
        yield f"{GGUF_NAMES['ln_f']}.{suffix}", params["ln_f"][name]
    for i, block in enumerate(params["blocks"]):
        for norm in ("ln_1", "ln_2"):
            yield f"blk.{i}.{GGUF_NAMES[norm]}.weight", block[norm]["g"]
            yield f"blk.{i}.{GGUF_NAMES[norm]}.bias", block[norm]["b"]
        for part, name in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            yield f"blk.{i}.{GGUF_NAMES[f'{part}.{name}']}.weight", np.ascontiguousarray(block[part][name]["w"].T)
            yield f"blk.{i}.{GGUF_NAMES[f'{part}.{name}']}.bias", block[part][name]["b"]


def gguf_file(model, to, kind):
    """Write a GGUF file with matrices in F32, F16 or Q8_0; vectors and positions stay float32, as is usual."""
    import gguf

    loaded = project.load(model)
    hparams = loaded.hparams
    writer = gguf.GGUFWriter(to, "gpt2")
    writer.add_context_length(hparams["n_ctx"])
    writer.add_embedding_length(hparams["n_embd"])
    writer.add_feed_forward_length(4 * hparams["n_embd"])
    writer.add_block_count(hparams["n_layer"])
    writer.add_head_count(hparams["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}[kind]])
    add_vocabulary(writer, model)
    for name, tensor in gguf_tensors(loaded.params):
        is_matrix = tensor.ndim == 2 and name != GGUF_NAMES["wpe"]
        stored = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(np.asarray(tensor), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer, model):
    ids = json.loads((model / "encoder.json").read_text(encoding="utf-8"))
    tokens = sorted(ids, key=ids.get)
    merges = (model / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])  # 3: control, 1: normal
    writer.add_token_merges([merge for merge in merges if merge])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|endoftext|>"])


# ---- CTranslate2 -----------------------------------------------------------------------------------------------


def ctranslate2_folder(model, to, kind):
    """Write CTranslate2's folder with its own converter, from the folder for transformers."""
    from ctranslate2.converters import TransformersConverter

    source = to.with_name(f"{to.name}.source")
    try:
        hugging_face(model, source)
        TransformersConverter(str(source)).convert(str(to), quantization=kind)
    finally:
        shutil.rmtree(source, ignore_errors=True)


def main(model, kind, to):
    """Convert the folder `model` to the file or folder `to`, which appears under its name only when complete."""
    model = Path(model)
    to = Path(to)
    if to.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f"{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # from an interrupted run
    part.unlink(missing_ok=True)
    family, _, kind = kind.partition("-")
    if family == "huggingface":
        hugging_face(model, part)
    elif family == "gguf":
        gguf_file(model, part, kind)
    else:
        ctranslate2_folder(model, part, kind)
    part.rename(to)


if __name__ == "__main__":
    Fire(main)
