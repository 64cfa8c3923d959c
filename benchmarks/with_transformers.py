"""Continue a text as a typical user of transformers would: python with_transformers.py FOLDER PROMPT N_TOKENS."""

import sys

from transformers import pipeline


def main(folder, prompt, n_tokens):
    generator = pipeline("text-generation", model=folder, dtype="float32")
    options = {"do_sample": False, "min_new_tokens": int(n_tokens), "max_new_tokens": int(n_tokens)}
    print(generator(prompt, return_full_text=False, **options)[0]["generated_text"])


if __name__ == "__main__":
    main(*sys.argv[1:])
