"""The other compared programs. Each class imports its packages when it is created, so none has to be installed."""

import json
import os
import time
from pathlib import Path

import numpy as np
from limits import anonymous_memory, seconds
from peers_base import IDS, MEMORY_PROMPT, Peer


class Transformers(Peer):
    """Hugging Face transformers on torch. Its model is called directly, which is faster than its `generate`."""

    def __init__(self, files, model, threads):
        import torch
        import transformers

        self.torch = torch
        self.transformers = transformers
        torch.set_num_threads(threads)
        self.inference = torch.inference_mode()
        self.inference.__enter__()  # stays on until the process ends
        self.model = transformers.GPT2LMHeadModel.from_pretrained(files["huggingface"], dtype=torch.float32).eval()
        self.begin()

    def version(self):
        return f"transformers {self.transformers.__version__}, torch {self.torch.__version__}"

    def begin(self):
        super().begin()
        self.cache = self.transformers.DynamicCache()

    def feed(self, ids):
        self.n_fed += len(ids)
        output = self.model(self.torch.tensor([ids]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].numpy()

    def batch_together(self, prompts, n_new, batch_size):
        """Continue batches in the order of the prompts, each padded on the left to its longest prompt."""
        options = {"do_sample": False, "min_new_tokens": n_new, "max_new_tokens": n_new}
        options |= {"pad_token_id": 0, "eos_token_id": None}
        texts = []
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            longest = max(map(len, batch))
            ids = self.torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
            mask = self.torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
            texts += self.model.generate(ids, attention_mask=mask, **options)[:, longest:].tolist()
        return texts


class LlamaCpp(Peer):
    """llama.cpp through its C interface, so that no Python code of llama-cpp-python is timed."""

    def __init__(self, kind, files, model, threads):
        import llama_cpp

        self.lib = llama_cpp
        self.is_float32 = kind == "F32"
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # must outlive the calls
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        path = os.fsencode(files[f"gguf-{kind}"])
        self.model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = len(IDS)
        options.n_threads = options.n_threads_batch = threads
        if self.is_float32:  # the other kinds keep the default, a float16 cache
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.begin()

    def version(self):
        return f"llama-cpp-python {self.lib.__version__}"

    def begin(self):
        super().begin()
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def feed(self, ids):
        self.n_fed += len(ids)
        tokens = (self.lib.llama_token * len(ids))(*ids)  # the batch only points to it, so it must stay referenced
        if code := self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode returned {code}")
        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), shape=(self.n_vocab,))


class CTranslate2(Peer):
    """CTranslate2. It cannot be fed chunk by chunk, so its own loop is timed, by the callback after each step."""

    def __init__(self, kind, files, model, threads):
        import ctranslate2

        self.lib = ctranslate2
        self.is_float32 = kind == "float32"
        path = files[f"ctranslate2-{kind}"]
        options = {"device": "cpu", "compute_type": kind, "inter_threads": 1, "intra_threads": threads}
        self.generator = ctranslate2.Generator(path, **options)
        with open(Path(path, "vocabulary.json"), encoding="utf-8") as file:
            self.tokens = json.load(file)

    def version(self):
        return f"ctranslate2 {self.lib.__version__}"

    def generate(self, prompts, n_new, **options):
        texts = [[self.tokens[i] for i in prompt] for prompt in prompts]
        lengths = {"max_length": n_new, "min_length": n_new, "sampling_topk": 1, "include_prompt_in_result": False}
        return [result.sequences_ids[0] for result in self.generator.generate_batch(texts, **lengths, **options)]

    def logits(self, n_prompt, n_steps):
        texts = [[self.tokens[i] for i in IDS[:end]] for end in (n_prompt, n_prompt + n_steps)]
        logits = [self.generator.forward_batch([text], return_log_probs=False) for text in texts]
        return [np.array(each)[0, -1].tolist() for each in logits]

    def prefill(self, n_prompt):
        return seconds(lambda: self.generate([IDS[:n_prompt]], 1))

    def decode(self, n_context, n_steps):
        times = []
        self.generate([IDS[:n_context]], n_steps + 2, callback=lambda step: times.append(time.perf_counter()))
        return (times[-1] - times[1]) / n_steps  # times[0] ends the prompt, times[1] the step that is not counted

    def memory(self, n_steps):
        held = []
        self.generate([IDS[:MEMORY_PROMPT]], n_steps, callback=lambda step: held.append(anonymous_memory()))
        return {"peak": max(held)}

    def batch_together(self, prompts, n_new, batch_size):
        """Continue all prompts in one call: it sorts them by length and forms its batches, which is its fastest way."""
        return self.generate(prompts, n_new, max_batch_size=batch_size)
