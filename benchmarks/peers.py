"""The programs that are measured, all with the same few methods: begin a text, feed it ids, get the next one's logits.

    python benchmarks/peers.py NAME FILES MODEL THREADS     is one of them as a worker process (see worker.py)

A step is: choose the likeliest id, feed it, get logits. The first step after a prompt is not counted, for any of them:
it finds its memory and its caches cold. Times are seconds. All read the same ids, which are random.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import worker
from walls import Walls, anonymous_memory, seconds

IDS = np.random.default_rng(0).integers(50256, size=1024).tolist()  # <|endoftext|> is not among them
MEMORY_PROMPT = 10  # tokens, before those whose memory is measured


class Peer:
    """What is the same for all that can be fed piece by piece. `n_fed` ids of IDS and their own have been fed."""

    is_float32 = True
    max_steps = 1000  # at a time; less for those that compute everything anew

    def begin(self):
        """Forget the text so far."""
        self.n_fed = 0

    def feed(self, ids):
        """Go on with `ids`; return the logits of what follows, float32 [n_vocab]."""
        raise NotImplementedError

    def about(self):
        """What to note of it; it also shows that it is ready."""
        return {"version": self.version(), "is_float32": self.is_float32, "memory": anonymous_memory()}

    def logits(self, n_prompt, n_steps):
        """Logits after a prompt, and after `n_steps` more ids one at a time: two lists of n_vocab."""
        self.begin()
        first = self.feed(IDS[:n_prompt]).tolist()
        for i in IDS[n_prompt : n_prompt + n_steps]:
            last = self.feed([i])
        return [first, last.tolist()]

    def prefill(self, n_prompt):
        """Seconds from a prompt to the logits that follow it. The prompt stays: decode may go on with it."""
        self.begin()
        return seconds(lambda: self.feed(IDS[:n_prompt]))

    def decode(self, n_context, n_steps):
        """Mean seconds of a step whose context is n_context tokens and those of the steps before."""
        if self.n_fed >= n_context:
            self.begin()
        logits = self.feed(IDS[self.n_fed : n_context])
        n_steps = min(n_steps, self.max_steps)
        for step in range(n_steps + 1):
            if step == 1:
                start = time.perf_counter()
            logits = self.feed([int(np.argmax(logits))])
        return (time.perf_counter() - start) / n_steps

    def memory(self, n_steps):
        """Bytes of anonymous memory when it has loaded, and the most after one of n_steps steps."""
        self.begin()
        logits, most = self.feed(IDS[:MEMORY_PROMPT]), 0
        for _ in range(min(n_steps, self.max_steps)):
            logits = self.feed([int(np.argmax(logits))])
            most = max(most, anonymous_memory())
        return {"peak": most}


# ---- ours ------------------------------------------------------------------------------------------------------


class Ours(Peer):
    """gpt2.py."""

    def __init__(self, files, model, threads):
        from threads import prefill

        import gpt2
        from utils import load_encoder_hparams_and_params

        self.gpt2, self.logits_of = gpt2, partial(prefill, gpt2.gpt2)  # as gpt2.py's main does it
        _, self.hparams, self.params = load_encoder_hparams_and_params(model, ".")
        self.n_head, self.n_ctx = self.hparams["n_head"], self.hparams["n_ctx"]
        self.begin()

    def version(self):
        return f"numpy {np.__version__}"

    def begin(self):
        super().begin()
        self.cache = self.gpt2.kv_cache(self.params, self.n_head, self.n_ctx)

    def feed(self, ids):
        self.n_fed += len(ids)
        return self.forward(ids, self.cache)[-1]

    def forward(self, ids, cache):
        return self.logits_of(ids, **self.params, n_head=self.n_head, cache=cache, last_only=True)

    def decode_batch(self, n_sequences, n_context, n_steps):
        """Mean seconds of a step of so many sequences at once, which have their prompt in common."""
        cache = self.gpt2.kv_cache(self.params, self.n_head, n_context + n_steps + 1, batch=(1,))
        self.forward([IDS[:n_context]], cache)
        self.gpt2.select_rows(cache, [0] * n_sequences)
        ids = [[i] for i in IDS[-n_sequences:]]
        self.forward(ids, cache)
        return seconds(lambda: [self.forward(ids, cache) for _ in range(n_steps)]) / n_steps

    def overhead(self, n_context, n_steps):
        """Pairs of seconds: a step of `generate`, greedy; and the matrix products of such a step, and nothing else."""
        ids = self.gpt2.generate(IDS[:n_context], self.params, self.n_head, n_steps + 2)
        next(ids), next(ids)
        products = self.bare_step(n_context)
        products()
        return [(seconds(lambda: next(ids)), seconds(products)) for _ in range(n_steps)]

    def bare_step(self, n_context):
        """A function that multiplies what a step does: a vector with each matrix, queries with keys and values."""
        weights = Walls.pairs(self.params, 1)
        shape = (self.hparams["n_layer"], self.n_head, n_context, self.hparams["n_embd"] // self.n_head)
        keys, values = np.ones(shape, np.float32), np.ones(shape, np.float32)
        query = np.ones((self.n_head, 1, shape[-1]), np.float32)
        scores = np.ones((self.n_head, 1, n_context), np.float32)

        def step():
            for x, w in weights:
                x @ w
            for k, v in zip(keys, values, strict=True):
                query @ k.swapaxes(-1, -2)
                scores @ v

        return step

    def samplers(self, calls):
        """Seconds of a call of a sampler, on this model's logits, which are flat, and on peaked ones, as if trained."""
        from sampling import make_sampler

        rng = np.random.default_rng(0)
        peaked = (3 * rng.normal(size=self.hparams["n_vocab"]) ** 2).astype(np.float32)
        self.begin()
        kinds = {"flat": self.feed(IDS[:10]), "peaked": peaked}
        samplers = {"greedy": make_sampler(), "top_p 0.9, temperature 0.8": make_sampler(top_p=0.9, temperature=0.8)}
        return {
            f"{name}, {kind} logits": seconds(lambda: [sampler(logits, rng) for _ in range(calls)]) / calls  # noqa: B023
            for name, sampler in samplers.items()
            for kind, logits in kinds.items()
        }

    def memory(self, n_steps):
        """Bytes: see Peer. Here also those of the cache, and what a token adds to each."""
        self.begin()  # lets go of the large cache that earlier questions have filled
        per_token = 2 * 4 * self.hparams["n_layer"] * self.hparams["n_embd"]  # keys and values, float32
        ids = self.gpt2.generate(IDS[:MEMORY_PROMPT], self.params, self.n_head, n_steps)
        held = [anonymous_memory() for _ in ids]
        later = held[n_steps // 4 :]  # by then all work space has been had once
        slope = np.polyfit(range(len(later)), later, 1)[0]
        cache = (MEMORY_PROMPT + n_steps - 1) * per_token
        return {"peak": max(held), "cache": cache, "cache_per_token": per_token, "growth_per_token": slope}

    def batch_one_by_one(self, prompts, n_new):
        return [list(self.gpt2.generate(prompt, self.params, self.n_head, n_new)) for prompt in prompts]

    def no_engine(self):
        """Why the batch engine cannot be used; None if it can."""
        try:
            import_engine()
        except ImportError as error:
            return str(error)

    def batch_together(self, prompts, n_new, batch_size):
        """The batch engine, greedy. This and import_engine are the places to change when the engine does."""
        from sampling import Sample, greedy

        decode_together, job = import_engine()
        samples = [Sample(greedy) for _ in prompts]
        jobs = [job(prompt, [sample], n_new) for prompt, sample in zip(prompts, samples, strict=True)]
        for _ in decode_together(jobs, self.params, self.n_head, batch_size):
            pass
        return [sample.ids for sample in samples]


def import_engine():
    from batch import Job, decode_together

    return decode_together, Job


class Pico(Ours):
    """gpt2_pico.py: no cache, so a step computes the whole text again."""

    max_steps = 1

    def __init__(self, files, model, threads):
        super().__init__(files, model, threads)
        import gpt2_pico

        self.pico = gpt2_pico

    def begin(self):
        self.n_fed, self.ids = 0, []

    def feed(self, ids):
        self.ids += ids
        self.n_fed = len(self.ids)
        return self.pico.gpt2(self.ids, **self.params, n_head=self.n_head)[-1]

    def logits(self, n_prompt, n_steps):
        """Both from the whole text: it has no other way."""
        ends = (n_prompt, n_prompt + n_steps)
        return [self.pico.gpt2(IDS[:end], **self.params, n_head=self.n_head)[-1].tolist() for end in ends]

    memory = Peer.memory


class PicoFloat64(Pico):
    """gpt2_pico.py as the original picoGPT runs under NumPy 2: its np.sqrt(2 / np.pi) makes every activation float64.

    Each product then converts its float32 weights, too. Positions in float64 bring about the same.
    """

    def __init__(self, files, model, threads):
        super().__init__(files, model, threads)
        self.params = self.params | {"wpe": self.params["wpe"].astype(np.float64)}


# ---- others ----------------------------------------------------------------------------------------------------


class Transformers(Peer):
    """Hugging Face transformers on torch, its model called directly, which is faster than its `generate`."""

    def __init__(self, files, model, threads):
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        torch.set_num_threads(threads)
        self.inference = torch.inference_mode()
        self.inference.__enter__()  # for as long as the process lives
        self.model = transformers.GPT2LMHeadModel.from_pretrained(files["huggingface"], dtype=torch.float32).eval()
        self.begin()

    def version(self):
        return f"transformers {self.transformers.__version__}, torch {self.torch.__version__}"

    def begin(self):
        super().begin()
        self.cache = self.transformers.DynamicCache()

    def feed(self, ids):
        self.n_fed += len(ids)
        done = self.model(self.torch.tensor([ids]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return done.logits[0, -1].numpy()

    def batch_together(self, prompts, n_new, batch_size):
        """Batches in the order of the prompts, padded on the left to the longest of each."""
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
    """llama.cpp through its C interface: no Python of llama-cpp-python is between it and the clock."""

    def __init__(self, kind, files, model, threads):
        import llama_cpp

        self.lib, self.is_float32 = llama_cpp, kind == "F32"
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # it must outlive the calls
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        path = os.fsencode(files[f"gguf-{kind}"])
        self.model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = len(IDS)
        options.n_threads = options.n_threads_batch = threads
        if self.is_float32:  # its default is a cache of float16, which the other kinds keep
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
        tokens = (self.lib.llama_token * len(ids))(*ids)  # has a name, for the batch only points to it
        if code := self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode returned {code}")
        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), shape=(self.n_vocab,))


class CTranslate2(Peer):
    """CTranslate2. It has no call that feeds a piece, so its own loop is timed, by the callback after each step."""

    def __init__(self, kind, files, model, threads):
        import json

        import ctranslate2

        self.lib, self.is_float32 = ctranslate2, kind == "float32"
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
        return [done.sequences_ids[0] for done in self.generator.generate_batch(texts, **lengths, **options)]

    def logits(self, n_prompt, n_steps):
        texts = [[self.tokens[i] for i in IDS[:end]] for end in (n_prompt, n_prompt + n_steps)]
        logits = [self.generator.forward_batch([text], return_log_probs=False) for text in texts]
        return [np.array(each)[0, -1].tolist() for each in logits]

    def prefill(self, n_prompt):
        return seconds(lambda: self.generate([IDS[:n_prompt]], 1))

    def decode(self, n_context, n_steps):
        times = []
        self.generate([IDS[:n_context]], n_steps + 2, callback=lambda step: times.append(time.perf_counter()))
        return (times[-1] - times[1]) / n_steps  # times[0] is the prompt's, times[1] the step that is not counted

    def memory(self, n_steps):
        held = []
        self.generate([IDS[:MEMORY_PROMPT]], n_steps, callback=lambda step: held.append(anonymous_memory()))
        return {"peak": max(held)}

    def batch_together(self, prompts, n_new, batch_size):
        """All at once: it sorts them by length and makes batches of its own, which is what it is best at."""
        return self.generate(prompts, n_new, max_batch_size=batch_size)


class Machine(Walls):
    """The walls, as a worker."""

    def __init__(self, files, model, threads):
        from utils import load_encoder_hparams_and_params

        super().__init__(load_encoder_hparams_and_params(model, ".")[2])

    def about(self):
        return {"version": f"numpy {np.__version__}"}


PEERS = {
    "gpt2.py": Ours,
    "gpt2_pico.py": Pico,
    "gpt2_pico.py in float64": PicoFloat64,
    "transformers": Transformers,
    "llama.cpp F32": partial(LlamaCpp, "F32"),
    "llama.cpp F16": partial(LlamaCpp, "F16"),
    "llama.cpp Q8_0": partial(LlamaCpp, "Q8_0"),
    "CTranslate2 float32": partial(CTranslate2, "float32"),
    "CTranslate2 int8": partial(CTranslate2, "int8"),
    "the machine": Machine,
}
KINDS = {  # what convert.py must make for each
    "transformers": "huggingface",
    "llama.cpp F32": "gguf-F32",
    "llama.cpp F16": "gguf-F16",
    "llama.cpp Q8_0": "gguf-Q8_0",
    "CTranslate2 float32": "ctranslate2-float32",
    "CTranslate2 int8": "ctranslate2-int8",
}


def main(name, files, model, threads):
    files = {kind: str(Path(files, kind)) for kind in KINDS.values()}
    worker.serve(lambda: PEERS[name](files, model, int(threads)))


if __name__ == "__main__":
    main(*sys.argv[1:])
