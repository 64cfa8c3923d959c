"""The recipe of the bundled model: a GPT-2 of 3.2 million parameters that tells stories for small children.

    pip install torch==2.13.0 tokenizers==0.23.3 tensorflow-cpu==2.21.0 numpy==2.4.6    # Python 3.11
    python models/tiny/train.py --train train.txt --valid valid.txt --out models/tiny

Both texts are plain files in which every story ends with a line `<|endoftext|>`. Four steps, top to bottom:
a byte-level BPE vocabulary is learned, the model is trained, its loss on the held-out stories is measured,
and everything is written the way OpenAI published GPT-2: encoder.json, vocab.bpe, hparams.json and a
TensorFlow checkpoint. Nothing but this file needs torch or tokenizers.

The learning rate warms up, stays constant and falls to zero over the last part of `--tokens`. A run can be
stopped and continued with `--resume`, and while the rate is constant even with another `--tokens`.
"""

import argparse
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

END = "<|endoftext|>"
IGNORE = -100  # a target that F.cross_entropy leaves out of the loss


@dataclass(frozen=True)
class HParams:
    """The shape of the model, under the names hparams.json uses."""

    n_vocab: int = 2048
    n_ctx: int = 512
    n_embd: int = 192
    n_head: int = 3
    n_layer: int = 6


# ---- the text ----------------------------------------------------------------------------------------------


def read_stories(path):
    """The stories of a file, without the end marks and the newline before each."""
    text = Path(path).read_text(encoding="utf-8")
    return [story.strip("\n") for story in text.split(END) if story.strip()]


def endless_stories(stories, rng):
    """Every story once in a random order, then again in another, without end."""
    while True:
        for i in rng.permutation(len(stories)):
            yield stories[i]


def endless_rows(stories, end_id, n_tokens, rng):
    """Rows of exactly n_tokens ids, each from the beginning of a story.

    A row is filled up with further stories, END between two of them, and the last one is cut. Every other
    row has END in front, so that the model can begin after END and also, as a user's prompt does, with the
    bare text.
    """
    stream = endless_stories(stories, rng)
    starts_with_end = False
    while True:
        row = [end_id] if starts_with_end else []
        while len(row) < n_tokens:
            row += [*next(stream), end_id]
        yield row[:n_tokens]
        starts_with_end = not starts_with_end


def endless_batches(stories, end_id, n_rows, n_ctx, seed, n_skip=0):
    """Inputs and targets, [n_rows, n_ctx] each, without end; the first n_skip pairs are left out."""
    rows = endless_rows(stories, end_id, n_ctx + 1, np.random.default_rng(seed))
    for _ in range(n_skip * n_rows):
        next(rows)
    while True:
        batch = torch.tensor([next(rows) for _ in range(n_rows)])
        yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


# ---- the vocabulary ----------------------------------------------------------------------------------------


def byte_symbols():
    """The 256 one-character symbols of GPT-2's vocabularies, in the order of their ids.

    A printable Latin-1 byte stands for itself. The others (controls, spaces, soft hyphen) come after all of
    those, and get the characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]


def learn_merges(stories, n_merges):
    """The merges of a byte-level BPE in the order they were learned, as pairs of symbols."""
    tokenizer = Tokenizer(models.BPE())
    # the library's own pattern is GPT-2's: contractions, letters, digits, the rest, runs of white space
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merges, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(stories, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def write_vocabulary(out, merges):
    """encoder.json and vocab.bpe: the bytes get ids 0..255, every merge the next one, END the last."""
    tokens = [*byte_symbols(), *(left + right for left, right in merges), END]
    encoder = {token: i for i, token in enumerate(tokens)}
    if len(encoder) != len(tokens):
        raise ValueError("two merges make the same token: choose another vocabulary size")
    (out / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (out / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def load_tokenizer(out):
    """The tokenizer of the two files just written."""
    bpe = models.BPE.from_file(str(out / "encoder.json"), str(out / "vocab.bpe"))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return tokenizer


def encode(tokenizer, stories):
    """Lists of ids, one for each story."""
    return [encoding.ids for encoding in tokenizer.encode_batch(stories)]


# ---- the model ---------------------------------------------------------------------------------------------


class RowDropout(nn.Module):
    """Dropout with the same mask at every position of a row: 512 times fewer random numbers, so no cost."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        n_rows, _, n_embd = x.shape
        return x * F.dropout(x.new_ones(n_rows, 1, n_embd), self.p, self.training)


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, hparams):
        super().__init__()
        self.n_head = hparams.n_head
        self.c_attn = nn.Linear(hparams.n_embd, 3 * hparams.n_embd)
        self.c_proj = nn.Linear(hparams.n_embd, hparams.n_embd)

    def forward(self, x):
        n_rows, n_seq, n_embd = x.shape
        qkv = self.c_attn(x).view(n_rows, n_seq, 3, self.n_head, n_embd // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x [n_rows, n_head, n_seq, head_size]
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(n_rows, n_seq, n_embd))


class MLP(nn.Module):
    """The position-wise network: up to four times the width, GELU in its tanh form, and back."""

    def __init__(self, hparams):
        super().__init__()
        self.c_fc = nn.Linear(hparams.n_embd, 4 * hparams.n_embd)
        self.c_proj = nn.Linear(4 * hparams.n_embd, hparams.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """A transformer block: each half normalizes first and adds its result to the residual stream."""

    def __init__(self, hparams, dropout):
        super().__init__()
        self.ln_1 = nn.LayerNorm(hparams.n_embd, eps=1e-5)
        self.attn = Attention(hparams)
        self.ln_2 = nn.LayerNorm(hparams.n_embd, eps=1e-5)
        self.mlp = MLP(hparams)
        self.dropout = RowDropout(dropout)

    def forward(self, x):
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class GPT2(nn.Module):
    """GPT-2, with its parameter names; nn.Linear keeps weights as [out, in], GPT-2 as [in, out]."""

    def __init__(self, hparams, dropout):
        super().__init__()
        self.wte = nn.Embedding(hparams.n_vocab, hparams.n_embd)
        self.wpe = nn.Embedding(hparams.n_ctx, hparams.n_embd)
        self.dropout = RowDropout(dropout)
        self.h = nn.ModuleList(Block(hparams, dropout) for _ in range(hparams.n_layer))
        self.ln_f = nn.LayerNorm(hparams.n_embd, eps=1e-5)
        self.initialize(hparams.n_layer)

    def initialize(self, n_layer):
        """GPT-2's: normal with deviation 0.02, less for the projections that add to the residual stream."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" not in name:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer) if "c_proj" in name else 0.02)

    def forward(self, ids):
        """Logits [n_rows, n_seq, n_vocab] for ids [n_rows, n_seq]."""
        x = self.dropout(self.wte(ids) + self.wpe.weight[: ids.shape[1]])
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def loss(self, ids, targets, reduction="mean"):
        """Cross entropy in nats, over the targets that are not IGNORE."""
        logits = self(ids).flatten(0, 1).float()
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction=reduction)


# ---- training ----------------------------------------------------------------------------------------------


def make_optimizers(model, args):
    """Muon for the matrices of the blocks, AdamW for everything else; norms and biases do not decay."""
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    embeddings = [model.wte.weight, model.wpe.weight]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(
        matrices,
        lr=args.muon_lr,
        momentum=0.95,
        weight_decay=args.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # steps as long as AdamW's, so both rates are of one kind
    )
    groups = [
        {"params": embeddings, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=args.adam_lr, betas=(0.9, 0.95), fused=True)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return muon, adamw


def lr_scale(progress, warmup, decay):
    """The learning rate as a fraction of its peak; all three are fractions of the whole run."""
    return min(1.0, progress / warmup, (1.0 - progress) / decay)


def train_step(model, loss_function, batch, optimizers, scale):
    """One step of both optimizers at `scale` times their peak rates; the loss before it."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_function(*batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()


def save(path, model, optimizers, n_steps):
    """Everything a run needs to go on, under its name only when it is complete."""
    part = path.with_suffix(".part")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "n_steps": n_steps}, part)
    part.replace(path)


def resume(path, model, optimizers):
    """Load what `save` wrote; the number of steps done."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    return state["n_steps"]


class Log:
    """Prints the time, the tokens seen, the speed, the learning rate and the training loss now and then."""

    def __init__(self, tokens_per_step, seconds=20):
        self.tokens_per_step, self.seconds = tokens_per_step, seconds
        self.restart()

    def restart(self):
        self.losses, self.since = [], time.monotonic()

    def add(self, step, scale, loss):
        """Note a step; print when it is time, with means over the steps since the last line."""
        self.losses.append(loss)
        elapsed = time.monotonic() - self.since
        if elapsed > self.seconds:
            speed = len(self.losses) * self.tokens_per_step / elapsed
            mean = torch.stack(self.losses).mean()
            self.print(
                f"{(step + 1) * self.tokens_per_step:,} tokens, {speed:,.0f}/s, "
                f"{scale:.3f} of the peak rate, loss {mean:.4f}"
            )
            self.restart()

    @staticmethod
    def print(text):
        print(time.strftime("%H:%M:%S"), text, flush=True)


def train(model, optimizers, batches, held_out, n_done, args):
    """Train from step n_done until args.tokens tokens have been seen, reporting and saving on the way."""
    tokens_per_step = args.rows * held_out.n_ctx
    n_steps = math.ceil(args.tokens / tokens_per_step)
    loss_function = torch.compile(model.loss)
    log, saved = Log(tokens_per_step), time.monotonic()
    for step in range(n_done, n_steps):
        scale = lr_scale(step / n_steps, args.warmup / args.tokens, args.decay)
        loss = train_step(model, loss_function, next(batches), optimizers, scale)
        log.add(step, scale, loss)
        if time.monotonic() - saved > args.save_every or step + 1 == n_steps:
            save(args.state, model, optimizers, step + 1)
            log.print(f"held out: {report(model, held_out)}")
            log.restart()
            saved = time.monotonic()


# ---- the held-out loss -------------------------------------------------------------------------------------


def windows(ids, n_ctx):
    """Inputs and targets that score every id after the first exactly once, at most n_ctx at a time.

    What does not fit into one window is scored in further ones, each half a window on, with the half before
    as context.
    """
    inputs, targets = ids[:-1], ids[1:]
    n_scored = 0
    for start in range(0, max(len(targets) - n_ctx // 2, 1), n_ctx // 2):
        window = targets[start : start + n_ctx]
        n_known = n_scored - start if start else 0
        yield inputs[start : start + n_ctx], [IGNORE] * n_known + window[n_known:]
        n_scored = start + len(window)


def pad(rows, value):
    """A tensor of rows of different lengths, filled up on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


@torch.no_grad()
def held_out_loss(model, stories, end_id, n_ctx, n_rows=16):
    """Sum of nats and number of tokens: every story on its own, from after an END to its own END."""
    pairs = [pair for story in stories for pair in windows([end_id, *story, end_id], n_ctx)]
    pairs.sort(key=lambda pair: len(pair[0]))
    was_training = model.training
    model.eval()
    nats = n_tokens = 0
    for i in range(0, len(pairs), n_rows):
        inputs, targets = zip(*pairs[i : i + n_rows], strict=True)
        targets = pad(targets, IGNORE)
        nats += model.loss(pad(inputs, end_id), targets, reduction="sum").item()
        n_tokens += (targets != IGNORE).sum().item()
    model.train(was_training)
    return nats, n_tokens


@dataclass(frozen=True)
class HeldOut:
    """What `report` needs: the held-out stories as ids, and the number of bytes of their text."""

    stories: list
    n_bytes: int
    end_id: int
    n_ctx: int


def report(model, held_out):
    """The held-out loss in words."""
    nats, n_tokens = held_out_loss(model, held_out.stories, held_out.end_id, held_out.n_ctx)
    bits_per_byte = nats / math.log(2) / held_out.n_bytes
    return (
        f"{nats / n_tokens:.4f} nats a token ({n_tokens:,} tokens), "
        f"{bits_per_byte:.4f} bits a byte ({held_out.n_bytes:,} bytes)"
    )


# ---- OpenAI's files ----------------------------------------------------------------------------------------


def official_name(name):
    """OpenAI's name of a parameter: `h.0.attn.c_attn.weight` is `model/h0/attn/c_attn/w`."""
    if name in ("wte.weight", "wpe.weight"):
        return f"model/{name[:3]}"
    *path, kind = re.sub(r"^h\.", "h", name).split(".")
    of_norm = path[-1].startswith("ln_")
    return "/".join(["model", *path, "b" if kind == "bias" else "g" if of_norm else "w"])


def official_tensors(model):
    """Name to array as in OpenAI's checkpoints; the matrices of the blocks are [1, in, out] there."""
    tensors = {}
    for parameter_name, parameter in model.named_parameters():
        name, array = official_name(parameter_name), parameter.detach().numpy()
        tensors[name] = np.ascontiguousarray(array.T[None]) if name.endswith("/w") else array
    return dict(sorted(tensors.items()))


def write_checkpoint(out, hparams, model):
    """hparams.json, and model.ckpt through TensorFlow's own writer; `checkpoint` names the latter."""
    import tensorflow as tf  # slow to import and needed only here

    (out / "hparams.json").write_text(json.dumps(asdict(hparams), indent=2) + "\n", encoding="utf-8")
    tensors = official_tensors(model)
    tf.raw_ops.SaveV2(
        prefix=str(out / "model.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(array, tf.float32) for array in tensors.values()],
    )
    lines = ['model_checkpoint_path: "model.ckpt"', 'all_model_checkpoint_paths: "model.ckpt"']
    (out / "checkpoint").write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- everything together -----------------------------------------------------------------------------------


def parse_args():
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("--train", required=True, type=Path, help="training text, END after each story")
    parser.add_argument("--valid", required=True, type=Path, help="held-out text, only ever measured")
    parser.add_argument("--out", required=True, type=Path, help="folder for the model's files")
    parser.add_argument("--tokens", type=int, default=47_000_000, help="tokens to train on in all")
    parser.add_argument("--state", type=Path, default=Path("tiny.pt"), help="where a run saves itself")
    parser.add_argument("--resume", type=Path, help="go on from this state")
    parser.add_argument("--export-only", action="store_true", help="no training: just measure and write")
    parser.add_argument("--save-every", type=float, default=300, help="seconds between two saves")
    parser.add_argument("--rows", type=int, default=16, help="rows of n_ctx tokens in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--muon-lr", type=float, default=6e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=800_000, help="tokens to the full learning rate")
    parser.add_argument("--decay", type=float, default=0.68, help="part of the run in which the rate falls")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.export_only and not args.resume:
        parser.error("--export-only writes a saved model: name it with --resume")
    return args


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    hparams = HParams()
    end_id = hparams.n_vocab - 1
    args.out.mkdir(parents=True, exist_ok=True)

    train_texts, valid_texts = read_stories(args.train), read_stories(args.valid)
    write_vocabulary(args.out, learn_merges(train_texts, n_merges=hparams.n_vocab - 256 - 1))
    tokenizer = load_tokenizer(args.out)
    stories = encode(tokenizer, train_texts)
    n_bytes = sum(len(text.encode()) for text in valid_texts)
    held_out = HeldOut(encode(tokenizer, valid_texts), n_bytes, end_id, hparams.n_ctx)
    print(f"{len(stories):,} stories of {sum(map(len, stories)):,} tokens; {len(valid_texts):,} held out")

    model = GPT2(hparams, args.dropout)
    optimizers = make_optimizers(model, args)
    n_done = resume(args.resume, model, optimizers) if args.resume else 0
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {n_done:,} steps done", flush=True)
    if not args.export_only:
        batches = endless_batches(stories, end_id, args.rows, hparams.n_ctx, args.seed, n_skip=n_done)
        train(model, optimizers, batches, held_out, n_done, args)
    print(f"in the end, held out: {report(model, held_out)}")
    write_checkpoint(args.out, hparams, model)


if __name__ == "__main__":
    main()
