"""The names of the compared programs, and how each is started as a worker process (see worker.py).

python benchmarks/peers.py NAME FILES MODEL THREADS
"""

import importlib
import sys
from pathlib import Path

import worker

PEERS = {  # name -> module, class, kind of weights
    "gpt2.py": ("peers_ours", "Ours"),
    "gpt2.py with numba": ("peers_ours", "Compiled"),
    "gpt2.py int8": ("peers_ours", "Int8"),
    "gpt2_pico.py": ("peers_ours", "Pico"),
    "gpt2_pico.py in float64": ("peers_ours", "PicoFloat64"),
    "transformers": ("peers_others", "Transformers"),
    "llama.cpp F32": ("peers_others", "LlamaCpp", "F32"),
    "llama.cpp F16": ("peers_others", "LlamaCpp", "F16"),
    "llama.cpp Q8_0": ("peers_others", "LlamaCpp", "Q8_0"),
    "CTranslate2 float32": ("peers_others", "CTranslate2", "float32"),
    "CTranslate2 int8": ("peers_others", "CTranslate2", "int8"),
    "the machine": ("peers_ours", "Machine"),
}
KINDS = {  # name -> the kind of file that convert.py makes for it
    "transformers": "huggingface",
    "llama.cpp F32": "gguf-F32",
    "llama.cpp F16": "gguf-F16",
    "llama.cpp Q8_0": "gguf-Q8_0",
    "CTranslate2 float32": "ctranslate2-float32",
    "CTranslate2 int8": "ctranslate2-int8",
}


def load(name: str, files: str, model: str, threads: int):
    """Return a program that has loaded its weights. Only its own module is imported, so no other uses its memory."""
    module, class_name, *kind = PEERS[name]
    paths = {file_kind: str(Path(files, file_kind)) for file_kind in KINDS.values()}
    peer = getattr(importlib.import_module(module), class_name)
    return peer(*kind, paths, model, threads)


def main(name, files, model, threads):
    worker.serve(lambda: load(name, files, model, int(threads)))


if __name__ == "__main__":
    main(*sys.argv[1:])
