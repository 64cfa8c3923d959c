"""Make golden_formats.zip: tiny random models as transformers and nanoGPT's train.py save them, and their logits.

Run once, from the project's folder, with torch 2.13.0 and transformers 5.23.0:

    python tests/make_golden_formats.py

The archive holds a folder for each model, and golden.npz with `ids` and the logits [n_seq, n_vocab] of each model.
"""

import json
import pickle
import string
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
IDS = np.random.default_rng(1).integers(27, size=12)
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8}

# ---- Hugging Face ----------------------------------------------------------------------------------------------

TOKENS = ["Ġ", *string.ascii_lowercase, "Ġt", "he", "Ġthe", "<|endoftext|>"]
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]


def save_vocabulary(folder):
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def hugging_face(folder, dtype=torch.float32, max_shard_size="1GB", **changes):
    """Save a random GPT2LMHeadModel; return the logits of the saved weights, computed in float32."""
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=len(TOKENS), n_positions=16, bos_token_id=30, eos_token_id=30, **SIZES, **changes)
    model = GPT2LMHeadModel(config).eval()
    randomize(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    save_vocabulary(folder)
    return model.float()(torch.from_numpy(IDS)[None]).logits[0].detach().numpy()


def randomize(model):
    """Set random weights, so large that every part of the model affects the logits."""
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.ndim == 1 else 0.3 if "wte" in name else 2 * parameter.shape[-1] ** -0.5
        mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean, scale)


# ---- nanoGPT: the architecture of its model.py, reimplemented --------------------------------------------------


class LayerNorm(nn.Module):
    def __init__(self, n_embd, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.bias = nn.Parameter(torch.zeros(n_embd)) if bias else None

    def forward(self, x):
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, block_size, bias, mask):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.n_head = n_head
        if mask:  # without flash attention, nanoGPT stores the causal mask as a buffer, which is saved
            self.register_buffer("bias", torch.tril(torch.ones(block_size, block_size))[None, None])

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, n_embd, bias):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=bias)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=bias)

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, block_size, bias, mask):
        super().__init__()
        self.ln_1 = LayerNorm(n_embd, bias)
        self.attn = CausalSelfAttention(n_embd, n_head, block_size, bias, mask)
        self.ln_2 = LayerNorm(n_embd, bias)
        self.mlp = MLP(n_embd, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, mask=False):
        super().__init__()
        parts = {"wte": nn.Embedding(vocab_size, n_embd), "wpe": nn.Embedding(block_size, n_embd)}
        parts["h"] = nn.ModuleList(Block(n_embd, n_head, block_size, bias, mask) for _ in range(n_layer))
        parts["ln_f"] = LayerNorm(n_embd, bias)
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[-1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


def nanogpt(folder, bias, vocab_size, dataset, mask=False, compiled=False, steps=0):
    """Save a random GPT as train.py does; return its logits."""
    torch.manual_seed(3)
    arguments = {**SIZES, "block_size": 16, "bias": bias, "vocab_size": vocab_size}
    model = GPT(**arguments, mask=mask)
    randomize(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    loss = torch.tensor(0.0)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(IDS[:-1])), torch.from_numpy(IDS[1:]))
        loss.backward()
        optimizer.step()
    state = model.state_dict()
    if compiled:
        state = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    checkpoint = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "model_args": {**arguments, "dropout": 0.0},
        "iter_num": steps,
        "best_val_loss": loss.detach(),
        "config": {"dataset": dataset, "learning_rate": 1e-3, "compile": compiled, "device": "cpu"},
    }
    folder.mkdir()
    torch.save(checkpoint, folder / "ckpt.pt")
    return model(torch.from_numpy(IDS)[None])[0].detach().numpy()


def save_characters(file):
    characters = sorted("\n !" + string.ascii_lowercase)
    stoi = {character: i for i, character in enumerate(characters)}
    meta = {"vocab_size": len(stoi), "itos": {i: character for character, i in stoi.items()}, "stoi": stoi}
    file.write_bytes(pickle.dumps(meta))


# ---- the archive -----------------------------------------------------------------------------------------------


def main():
    golden = {"ids": IDS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        golden["hf"] = hugging_face(root / "hf")
        golden["hf_float16"] = hugging_face(root / "hf_float16", torch.float16)
        golden["hf_bfloat16"] = hugging_face(root / "hf_bfloat16", torch.bfloat16)
        golden["hf_sharded"] = hugging_face(root / "hf_sharded", max_shard_size="4KB")
        golden["hf_gelu"] = hugging_face(root / "hf_gelu", activation_function="gelu")
        golden["hf_relu_eps_inner"] = hugging_face(
            root / "hf_relu_eps_inner", activation_function="relu", layer_norm_epsilon=0.05, n_inner=24
        )
        golden["nano_characters"] = nanogpt(root / "nano_characters", False, 29, "letters", compiled=True, steps=2)
        save_characters(root / "nano_characters" / "meta.pkl")
        golden["nano_padded"] = nanogpt(root / "nano_padded", True, 64, "openwebtext", mask=True)
        save_vocabulary(root / "nano_padded")
        np.savez_compressed(root / "golden.npz", **golden)
        with zipfile.ZipFile(HERE / "golden_formats.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(root))


if __name__ == "__main__":
    main()
