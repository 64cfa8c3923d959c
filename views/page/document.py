"""The page as one HTML file: the template, its style and scripts, and the data of a model.

The scripts are in js/, in the order in which they build on each other. A page needs nothing else: no server, no other
file and no network, which its Content-Security-Policy also forbids.
"""

import base64
import gzip
import html
import json
import re
from pathlib import Path

import numpy as np

from encoder import CharacterEncoder, Encoder
from utils import Model
from views.toy import ToyEncoder

FOLDER = Path(__file__).parent
PART = re.compile(r"@(title|style|description|data|scripts)\b")  # of page.html
SCRIPTS = (
    "dom",
    "tensors",
    "gpt2",
    "sampling",
    "encoder",
    "story",
    "settings",
    "choice",
    "text",
    "inside",
    "lesson",
    "main",
)


def page(title: str, description: dict, tensors: dict[str, np.ndarray]) -> str:
    """Return the HTML of a page. description: what the scripts read as JSON. tensors: what they read as arrays."""
    parts = {
        "title": html.escape(title),
        "style": read("page.css"),
        "description": script_json(description),
        "data": packed(tensors),
        "scripts": "\n".join(f"<script>\n{read(f'js/{name}.js')}</script>" for name in SCRIPTS),
    }
    return PART.sub(lambda match: parts[match[1]], read("page.html"))


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def script_json(value) -> str:
    """Return JSON that may stand in a <script>: without a "<", so that "</script>" cannot end it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def packed(tensors: dict[str, np.ndarray]) -> str:
    """Return tensors as a compressed safetensors file in base64. Equal tensors give equal text."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def vocabulary(model: Model) -> dict:
    """Return the vocabulary of a model for js/encoder.js, which describes the fields."""
    encoder = model.encoder
    common = {"start": model.special.start, "prefix": list(model.special.prefix)}
    if isinstance(encoder, ToyEncoder):
        return {"kind": "words", "tokens": [encoder.decode([i]) for i in range(model.n_vocab)], **common}
    tokens = [encoder.decoder.get(i) for i in range(model.n_vocab)]
    if isinstance(encoder, CharacterEncoder):
        return {"kind": "characters", "tokens": tokens, **common}
    if not can_encode(encoder):
        names = [None if token is None else encoder.decode([i]) for i, token in enumerate(tokens)]
        return {"kind": "other", "tokens": names, **common}
    return {
        "kind": "bytes",
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in encoder.ranks],
        "added": sorted(encoder.added),
        "add_prefix_space": encoder.add_prefix_space,
        **common,
    }


def can_encode(encoder) -> bool:
    """Return whether the page can encode texts: not if the tokenizers library or added tokens are needed."""
    if isinstance(encoder, ToyEncoder):
        return True
    return isinstance(encoder, Encoder) and len(encoder.special) == len(encoder.added)


def as_bytes(value: dict) -> np.ndarray:
    """Return JSON as an array of bytes, so that it is compressed with the tensors."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), np.uint8)
