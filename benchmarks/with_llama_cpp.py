"""Continue a text as a typical user of llama-cpp-python would: python with_llama_cpp.py FILE.gguf PROMPT N_TOKENS."""

import os
import sys

from llama_cpp import Llama


def main(file, prompt, n_tokens):
    model = Llama(file, n_ctx=1024, n_threads=os.cpu_count(), verbose=False)  # the default is half of the cores
    for piece in model(prompt, max_tokens=int(n_tokens), temperature=0, repeat_penalty=1, stream=True):
        print(piece["choices"][0]["text"], end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
