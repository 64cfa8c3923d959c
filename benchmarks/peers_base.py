"""The methods that every compared program has, and the ids that all of them read.

A step feeds the likeliest id to the program and returns the logits that follow it. The first step after a prompt is
not counted for any program, because its memory and its caches are cold. Times are in seconds.
"""

import time

import numpy as np
from limits import anonymous_memory, seconds

IDS = np.random.default_rng(0).integers(50256, size=1024).tolist()  # without <|endoftext|>
MEMORY_PROMPT = 10  # tokens before those whose memory is measured


class Peer:
    """A program that is fed ids chunk by chunk. `n_fed` is the number of ids that it has been fed."""

    is_float32 = True
    max_steps = 1000  # steps per question; fewer for a program without a cache

    def begin(self) -> None:
        """Forget the text so far."""
        self.n_fed = 0

    def feed(self, ids: list[int]) -> np.ndarray:
        """Continue the text with `ids`; return the logits that follow the last one, float32 [n_vocab]."""
        raise NotImplementedError

    def about(self) -> dict:
        """Describe the program; the answer also shows that it has loaded."""
        return {"version": self.version(), "is_float32": self.is_float32, "memory": anonymous_memory()}

    def logits(self, n_prompt: int, n_steps: int) -> list[list[float]]:
        """Return the logits after a prompt, and after `n_steps` more ids fed one at a time."""
        self.begin()
        first = self.feed(IDS[:n_prompt]).tolist()
        for i in IDS[n_prompt : n_prompt + n_steps]:
            last = self.feed([i])
        return [first, last.tolist()]

    def prefill(self, n_prompt: int) -> float:
        """Return the seconds from a prompt to the logits that follow it. A later call of `decode` may continue it."""
        self.begin()
        return seconds(lambda: self.feed(IDS[:n_prompt]))

    def decode(self, n_context: int, n_steps: int) -> float:
        """Return the mean seconds of a step after `n_context` tokens."""
        if self.n_fed >= n_context:
            self.begin()
        logits = self.feed(IDS[self.n_fed : n_context])
        n_steps = min(n_steps, self.max_steps)
        for step in range(n_steps + 1):
            if step == 1:
                start = time.perf_counter()
            logits = self.feed([int(np.argmax(logits))])
        return (time.perf_counter() - start) / n_steps

    def memory(self, n_steps: int) -> dict:
        """Return the most bytes of anonymous memory after any of `n_steps` steps."""
        self.begin()
        logits = self.feed(IDS[:MEMORY_PROMPT])
        most = 0
        for _ in range(min(n_steps, self.max_steps)):
            logits = self.feed([int(np.argmax(logits))])
            most = max(most, anonymous_memory())
        return {"peak": most}
