"""The commands of the prompt loop of gpt2.py: continue, retry, change options, save."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints import files
from checkpoints.messages import named, reason
from cli import checks
from cli.arguments import read_pairs
from cli.checks import evaluate, shown
from cli.flags import FLAGS, ROW_FLAGS
from cli.loop import Command
from cli.options import Options, check_options
from cli.request import draw_seed, find_model, seed_of
from sampling import make_sampler

log = logging.getLogger("picogpt")
SETTABLE = (*ROW_FLAGS, "context", "keep", "echo", "stream", "json", "logprobs")


class Conversation:
    """What the loop remembers: the last prompt, its text and its seed. generator: see complete.Generator."""

    def __init__(self, generator: Any):
        self.generator = generator
        self.prompt = None
        self.text = ""
        self.seed = None

    def commands(self) -> dict[str, Command]:
        return {
            "retry": Command(self.retry, "answer the last prompt again, with a new seed"),
            "set": Command(self.set, "show the options, or change one: /set temperature 0.5"),
            "seed": Command(self.set_seed, "use a seed: /seed 7; without a number, a new one each time"),
            "model": Command(self.load_model, "use another model: /model tiny"),
            "save": Command(self.save, "write the last prompt and its text to a new file: /save FILE"),
        }

    # ---- answers

    def answer(self, prompt: str) -> None:
        """Complete a prompt with the seed of the options, or a new one."""
        self.complete(prompt, seed_of(self.generator.options))

    def complete(self, prompt, seed):
        self.prompt = prompt
        self.seed = seed
        self.text = ""
        self.text = self.generator.complete(prompt, seed)

    def go_on(self) -> None:
        """Continue the last text: its prompt and its text are the new prompt."""
        if self.prompt is not None:
            self.answer(self.prompt + self.text)

    def retry(self, words: str) -> None:
        """Complete the last prompt again, with the seed of the options if that is another one, or with a new one."""
        if self.prompt is None:
            raise ValueError("there is no prompt yet; type the beginning of a text")
        given = self.generator.options.seed
        self.complete(self.prompt, draw_seed() if given in (None, self.seed) else given)

    # ---- options

    def set(self, words: str) -> None:
        """Show the options that were given, show one, or change one."""
        name, _, value = words.partition(" ")
        if not name:
            log.warning(" ".join(f"--{key}={self.shown(key)}" for key in self.generator.options.given) or "no options")
            return
        ((name, text),) = read_pairs([f"--{name}={value.strip()}"])
        if name not in SETTABLE:
            raise ValueError(f"{name} cannot be changed here; /help lists the commands")
        if value:
            self.change(name, evaluate(name, text) if FLAGS[name].is_value else text)
        log.warning(f"{name} is {self.shown(name)}")

    def shown(self, name):
        value = self.generator.options.values[name]
        return value if isinstance(value, int | float) else shown(value)

    def change(self, name, value):
        """Give an option another value; None stands for its default."""
        options = self.generator.options
        asked = {key: options.values[key] for key in options.given} | {name: value}
        self.generator.options = changed = check_options(asked)
        self.generator.new_sampler = partial(make_sampler, **changed.sampling)

    def set_seed(self, words: str) -> None:
        self.change("seed", evaluate("seed", words) if words else None)

    def load_model(self, words: str) -> None:
        """Replace the model by that of a name or a path."""
        if not words:
            raise ValueError("/model needs the name of a model; python gpt2.py --list shows them")
        options: Options = self.generator.options
        values = {**options.values, "model_size": checks.path("model_size", words)}
        path = find_model(Options(values, (*options.given, "model_size")))
        self.generator.load(path)
        self.change("model_size", words)

    # ---- files

    def save(self, words: str) -> None:
        """Write the last prompt and its text to a file that does not exist."""
        if not words:
            raise ValueError("/save needs the name of a new file")
        if self.prompt is None:
            raise ValueError("there is no text yet; type the beginning of one")
        file = Path(files.expand(checks.path("the name after /save", words)))
        if file.exists():
            raise ValueError(f"{named(file)} exists; /save writes a new file")
        try:
            with files.new_file(file) as opened:
                opened.write(f"{self.prompt}{self.text}\n".encode("utf-8", "replace"))
        except OSError as error:
            raise OSError(f"cannot write {named(file)}: {reason(error)}") from error
        log.warning(f"wrote {named(file)}")
