"""Compare the speed of two source trees of this project, in one run.

    python benchmarks/compare_versions.py --old PATH --new PATH              about ten minutes
    python benchmarks/compare_versions.py --old PATH --new PATH --rounds 3
    python benchmarks/compare_versions.py --old PATH --new PATH --quick      the smallest requests only

Both trees run the same commands, gpt2.py and batch.py, with the same random weights in the shape of GPT-2 124M, the
same prompts and the same number of threads. They take turns, and the tree that begins alternates from round to round.
A command runs in two ways: as a new process, and in a running process that has loaded the model (compare_worker.py).
Times to the first token and per token come from the command's JSON records; all other times are measured from outside.

The script prints a Markdown table. A ratio above 1 means that the new tree takes longer. With --output FILE it also
writes all measurements as JSON.
"""

import compileall
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median

import lab
import numpy as np
from figures import number, ratios
from fire import Fire
from report import conditions, markdown
from worker import WorkerError

SIZE = "124M"
DECODED = 20  # tokens that measure decoding, after the first token, which ends the prompt
FULL = {"rounds": 7, "contexts": (100, 1000), "prompts": (100, 400, 900), "batches": (4, 16, 64)}
QUICK = {"rounds": 2, "contexts": (100,), "prompts": (100,), "batches": (4,)}
RUNNING = "running process"
NEW = "new process"
HEAD = ["measured in a", "quantity", "old, ms", "new, ms", "new / old", "min", "max"]
WORDS = """
the of and to in is was for on that with as by at from his her it he she they we you are were have had not but or an
be this which one all their there been if more when who would about into than them can only other time some could
these two may first then do any my now such like our over man me even most made after also did many before must
through back years where much your way well down should because each just people how too little state good very make
world still own see men work long here get both between life being under never day same another know while last
"""  # each is one token of GPT-2


class Tree:
    """A source tree whose commands run in a new process or in a running one.

    options: those that every command gets.
    """

    def __init__(self, place: lab.Lab, name: str, path: Path, options: dict):
        self.place = place
        self.name = name
        self.path = path
        self.options = options
        for module in (*path.glob("*.py"), *path.glob("*/*.py")):
            compileall.compile_file(module, quiet=2)  # so that no start of a process includes it
        place.start_worker(name, lab.HERE / "compare_worker.py", path)

    def run(self, script: str, argument: str, **options) -> tuple[float, str]:
        """Run a command in the running process; return the seconds and its stdout."""
        return self.place.ask(self.name, "run", script=script, argument=argument, options=self.options | options)

    def run_process(self, script: str, argument: str, **options) -> tuple[float, str]:
        """Run a command as a new process; return the seconds and its stdout."""
        flags = [f"--{flag}={value}" for flag, value in (self.options | options).items()]
        command = [sys.executable, self.path / script, argument, *flags]
        _, seconds, stdout = lab.run_command(command, self.place.threads)
        return seconds, stdout.decode("utf-8")


# ---- requests: each returns the seconds by quantity, and the texts ---------------------------------------------


def complete(run, file, n_prompt, n_new):
    """Continue a prompt; measure the time to the first token and the time per further token."""
    _, stdout = run("gpt2.py", f"FILE:{file}", json=True, n_tokens_to_generate=n_new)
    record = json.loads(stdout)
    check_usage(record, n_new, n_prompt)
    first = record["timings"]["first_token_seconds"]
    seconds = {f"first token, prompt of {n_prompt} tokens": first}
    if n_new > 1:
        decoding = record["timings"]["seconds"] - first
        seconds[f"decoding per token, {n_prompt} tokens of context"] = decoding / (n_new - 1)
    return seconds, [record["text"]]


def complete_plainly(run, file, n_prompt):
    """Measure the whole command `gpt2.py PROMPT -n 1`."""
    seconds, stdout = run("gpt2.py", f"FILE:{file}", n_tokens_to_generate=1)
    return {f"gpt2.py -n 1, prompt of {n_prompt} tokens": seconds}, [stdout]


def complete_batch(run, file, n_prompts):
    """Measure the whole command `batch.py PROMPTS`, with a slot for each prompt."""
    n_new = DECODED + 1
    seconds, stdout = run("batch.py", str(file), batch_size=n_prompts, n_tokens_to_generate=n_new)
    records = [json.loads(line) for line in stdout.splitlines()]
    for record in records:
        check_usage(record, n_new)
    texts = [record["text"] for record in sorted(records, key=lambda record: record["row"])]
    return {f"batch.py, {n_prompts} prompts, {n_new} tokens each": seconds}, texts


def check_usage(record, n_new, n_prompt=None):
    """Raise WorkerError if a record is about another number of tokens than requested."""
    usage = record["usage"]
    if usage["completion_tokens"] != n_new or n_prompt not in (None, usage["prompt_tokens"]):
        raise WorkerError(f"{n_prompt or ''} + {n_new} tokens were requested, but the record has the usage {usage}")


def make_prompt(rng, n_tokens):
    """Return a text of `n_tokens` tokens."""
    return " ".join(["The", *rng.choice(WORDS.split(), size=n_tokens - 1)])


def write_prompts(folder, lengths, batches):
    """Write the prompts of all requests; return their files, {number of tokens: file} and {batch size: file}."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    prompts = {n: folder / f"prompt-{n}.txt" for n in lengths}
    for n, file in prompts.items():
        file.write_text(make_prompt(rng, n), encoding="utf-8")
    batch_prompts = {n: folder / f"prompts-{n}.txt" for n in batches}
    for n, file in batch_prompts.items():
        lines = [make_prompt(rng, n_tokens) for n_tokens in rng.integers(10, 101, size=n)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prompts, batch_prompts


def requests(folder, contexts, prompts, batches):
    """Return {title: (RUNNING or NEW, function of `run`)} for everything that is measured."""
    files, batch_files = write_prompts(folder, sorted({*contexts, *prompts}), batches)
    found = {}
    for n, file in files.items():
        n_new = DECODED + 1 if n in contexts else 1
        with_json = partial(complete, file=file, n_prompt=n, n_new=n_new)
        found[f"prompt of {n} tokens, {RUNNING}"] = (RUNNING, with_json)
        if n in contexts:
            found[f"prompt of {n} tokens, {NEW} with --json"] = (NEW, with_json)
        if n in prompts:
            found[f"prompt of {n} tokens, {NEW}"] = (NEW, partial(complete_plainly, file=file, n_prompt=n))
    for n, file in batch_files.items():
        batch = partial(complete_batch, file=file, n_prompts=n)
        found[f"batch of {n} prompts, {RUNNING}"] = (RUNNING, batch)
        found[f"batch of {n} prompts, {NEW}"] = (NEW, batch)
    return found


# ---- the comparison --------------------------------------------------------------------------------------------


def measure(trees, asked, rounds):
    """Return {title: {name of the tree: [(seconds by quantity, texts) of each round]}}."""
    series = {}
    for title, (kind, request) in asked.items():
        runs = {tree.name: tree.run if kind == RUNNING else tree.run_process for tree in trees}
        series[title] = {name: partial(request, run) for name, run in runs.items()}
    lab.say("warm-up: the first commands convert the weights and fill the caches")
    for functions in series.values():
        for function in functions.values():
            function()
    return lab.in_turns(series, rounds)


def seconds_of(records):
    """Return {title: {quantity: {name of the tree: [seconds of each round]}}}."""
    found = {}
    for title, by_tree in records.items():
        found[title] = {}
        for name, results in by_tree.items():
            for quantity in results[0][0]:
                times = [seconds[quantity] for seconds, _ in results]
                found[title].setdefault(quantity, {})[name] = times
    return found


def rows(seconds, asked):
    """Yield the rows of the table: first those of the running process, then those of new processes."""
    for kind in (RUNNING, NEW):
        for title, quantities in seconds.items():
            if asked[title][0] == kind:
                for quantity, times in quantities.items():
                    yield [kind, quantity, *ratio_cells(times["old"], times["new"])]


def ratio_cells(old, new):
    """Return the median milliseconds of both trees, and the median, minimum and maximum of the ratios by round."""
    by_round = ratios(new, old)
    milliseconds = [number(1000 * median(times)) for times in (old, new)]
    return [*milliseconds, *(f"{f(by_round):.3f}" for f in (median, min, max))]


def same_texts(records):
    """Return how many requests have the same texts from both trees in every round, and the titles of the others."""
    different = []
    for title, by_tree in records.items():
        texts = [texts for results in by_tree.values() for _, texts in results]
        if any(text != texts[0] for text in texts):
            different.append(title)
    return len(records) - len(different), different


def main(old, new, rounds=None, quick=False, threads=None, work_dir=None, models_dir=None, output=None):
    """Run the comparison.

    old, new: folders of the source trees. rounds: the number of times that everything is measured. threads: of each
    process. work_dir, models_dir: folders for files (see lab.py). output: a JSON file for all measurements.
    """
    settings = QUICK if quick else FULL
    paths = {"old": Path(old).resolve(), "new": Path(new).resolve()}
    for path in paths.values():
        if not (path / "gpt2.py").is_file():
            sys.exit(f"Error: {path} has no gpt2.py; it must be a source tree of this project")
    place = lab.Lab(work_dir, models_dir, threads)
    try:
        model = place.checkpoint(SIZE)
        options = {"models_dir": str(model.parent), "model_size": model.name, "ignore_eos": True}
        trees = [Tree(place, name, path, options) for name, path in paths.items()]
        lengths = {name: settings[name] for name in ("contexts", "prompts", "batches")}
        asked = requests(place.work_dir / "compare", **lengths)
        records = measure(trees, asked, rounds or settings["rounds"])
    except WorkerError as error:
        sys.exit(f"Error: {error}")
    finally:
        place.close()
    commits = ", ".join(f"{lab.commit(path) or 'unknown'} ({name})" for name, path in paths.items())
    seconds = seconds_of(records)
    results = lab.notes(place, records) | {"commit": commits, "records": seconds}
    if output:
        lab.save(results, output)
    n_same, different = same_texts(records)
    print(conditions(results), markdown(HEAD, rows(seconds, asked)), sep="\n\n", end="\n\n")
    print(f"Texts of both trees are equal in {n_same} of {len(records)} requests; different: {different or 'none'}.")


if __name__ == "__main__":
    Fire(main)
