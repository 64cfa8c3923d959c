"""This project among the compared programs: gpt2.py, gpt2_pico.py, and the limits of the machine for its weights."""

import numpy as np
import project
from limits import Limits, anonymous_memory, operands, seconds
from peers_base import IDS, MEMORY_PROMPT, Peer

import gpt2
import gpt2_pico
from engine.compiled import MANY, with_compiled_products
from engine.products import with_fast_products
from sampling import make_sampler


class Ours(Peer):
    """gpt2.py."""

    def __init__(self, files, model, threads):
        loaded = project.load(model)
        self.hparams = loaded.hparams
        self.n_head = loaded.n_head
        self.arrays = loaded.params
        self.params = with_fast_products(self.arrays)
        self.begin()

    def version(self):
        return f"numpy {np.__version__}"

    def begin(self):
        super().begin()
        self.cache = gpt2.make_kv_cache(self.params, self.n_head, self.hparams["n_ctx"])

    def feed(self, ids):
        self.n_fed += len(ids)
        return self.forward(ids, self.cache)[-1]

    def forward(self, ids, cache):
        return project.forward(ids, self.params, self.n_head, cache)

    def generate(self, prompt, n_new):
        return gpt2.generate(prompt, self.params, self.n_head, n_new)

    def decode_batch(self, n_sequences, n_context, n_steps):
        """Return the mean seconds of a step of several sequences at once, which have the same prompt."""
        n_positions = n_context + n_steps + 1
        prompt_cache = gpt2.make_kv_cache(self.params, self.n_head, n_context, batch=(1,))
        self.forward([IDS[:n_context]], prompt_cache)
        cache = project.repeat_cache(prompt_cache, self.params, self.n_head, n_sequences, n_positions)
        ids = [[i] for i in IDS[-n_sequences:]]
        self.forward(ids, cache)
        return seconds(lambda: [self.forward(ids, cache) for _ in range(n_steps)]) / n_steps

    def overhead(self, n_context, n_steps):
        """Return pairs of seconds: a greedy step of `generate`, and the matrix products of such a step alone."""
        ids = self.generate(IDS[:n_context], n_steps + 2)
        next(ids)
        next(ids)
        products = self.bare_step(n_context)
        products()
        return [(seconds(lambda: next(ids)), seconds(products)) for _ in range(n_steps)]

    def bare_step(self, n_context):
        """Return a function with the products of a step: a vector by every matrix, queries by keys and values."""
        weights = operands(self.arrays, 1)
        d_head = self.hparams["n_embd"] // self.n_head
        shape = (self.hparams["n_layer"], self.n_head, n_context, d_head)
        keys = np.ones(shape, np.float32)
        values = np.ones(shape, np.float32)
        query = np.ones((self.n_head, 1, d_head), np.float32)
        scores = np.ones((self.n_head, 1, n_context), np.float32)

        def step():
            for x, w in weights:
                x @ w
            for k, v in zip(keys, values, strict=True):
                query @ k.swapaxes(-1, -2)
                scores @ v

        return step

    def samplers(self, calls):
        """Return the seconds of a sampler call, on this model's flat logits and on peaked logits as after training."""
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
        """Return what Peer.memory does, the bytes of the cache, and the bytes that a token adds to both."""
        self.begin()  # releases the large cache of earlier questions
        per_token = 2 * 4 * self.hparams["n_layer"] * self.hparams["n_embd"]  # keys and values, float32
        held = [anonymous_memory() for _ in self.generate(IDS[:MEMORY_PROMPT], n_steps)]
        later = held[n_steps // 4 :]  # all temporary arrays have been allocated once by then
        slope = np.polyfit(range(len(later)), later, 1)[0]
        cache = (MEMORY_PROMPT + n_steps - 1) * per_token
        return {"peak": max(held), "cache": cache, "cache_per_token": per_token, "growth_per_token": slope}

    def batch_one_by_one(self, prompts, n_new):
        return [list(self.generate(prompt, n_new)) for prompt in prompts]

    def batch_together(self, prompts, n_new, batch_size):
        return project.continue_together(prompts, self.params, self.n_head, n_new, batch_size)


class Compiled(Ours):
    """gpt2.py with operands that need numba, in the slots of its commands."""

    weights = "float32"
    n_tokens = MANY  # that a text may have, for which its slot has room

    def __init__(self, files, model, threads):
        import numba

        self.numba_version = numba.__version__
        loaded = project.load(model, self.weights)
        self.hparams = loaded.hparams
        self.n_head = loaded.n_head
        self.params = self.operands(loaded.params)
        self.begin()

    def operands(self, arrays):
        return with_compiled_products(arrays)

    def version(self):
        return f"numba {self.numba_version}"

    def begin(self):
        self.n_fed = 0
        self.text = None

    def feed(self, ids):
        if self.text is None:
            self.text = project.Text(ids, self.params, self.n_head, n_tokens=self.n_tokens)
            logits = self.text.logits
        else:
            for i in ids:
                logits = self.text.feed([i])
        self.n_fed += len(ids)
        return logits

    def decode_batch(self, n_sequences, n_context, n_steps):
        """Return the mean seconds of a step of several sequences at once, which have the same prompt."""
        ids = IDS[-n_sequences:]
        text = project.Text(IDS[:n_context], self.params, self.n_head, n_sequences)
        text.feed(ids)
        return seconds(lambda: [text.feed(ids) for _ in range(n_steps)]) / n_steps

    def memory(self, n_steps):
        """Return what Peer.memory does, and the bytes of the cache."""
        self.n_tokens = n_steps + 1
        found = Peer.memory(self, n_steps)
        self.n_tokens = MANY
        return found | {"cache": sum(layer.k.nbytes + layer.v.nbytes for layer in self.text.slots.layers)}


class Int8(Compiled):
    """gpt2.py with int8 weights."""

    is_float32 = False
    weights = "int8"

    def operands(self, arrays):
        return arrays  # `project.load` has wrapped them


class Pico(Ours):
    """gpt2_pico.py. It has no cache, so a step computes the whole text again."""

    max_steps = 1

    def begin(self):
        self.n_fed = 0
        self.ids = []

    def feed(self, ids):
        self.ids += ids
        self.n_fed = len(self.ids)
        return self.last_logits(self.ids)

    def last_logits(self, ids):
        return gpt2_pico.gpt2(ids, **self.arrays, n_head=self.n_head)[-1]

    def logits(self, n_prompt, n_steps):
        """Return what Peer.logits does, both from the whole text."""
        return [self.last_logits(IDS[:end]).tolist() for end in (n_prompt, n_prompt + n_steps)]

    memory = Peer.memory


class PicoFloat64(Pico):
    """gpt2_pico.py with float64 activations, like the original picoGPT under NumPy 2.

    There, np.sqrt(2 / np.pi) is a float64 and promotes every activation; each product then also converts its float32
    weights. float64 positions have the same effect.
    """

    def __init__(self, files, model, threads):
        super().__init__(files, model, threads)
        self.arrays = self.arrays | {"wpe": self.arrays["wpe"].astype(np.float64)}


class Machine(Limits):
    """The limits of the machine, as a worker."""

    def read_rate(self, repeats):
        """Return the bytes per second that all cores read from memory; None without numba."""
        try:
            import walls
        except ImportError:
            return None
        return max(walls.read_rates(rounds=repeats).values())

    def __init__(self, files, model, threads):
        super().__init__(project.load(model).params)

    def about(self):
        return {"version": f"numpy {np.__version__}"}
