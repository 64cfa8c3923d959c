"""Many prompts on one model: a command that loses no row and does none twice.

    rows of a file (rows.py) -> jobs -> decode_together (slots.py) -> records of a row, once its last sample has ended

What a text becomes does not depend on its neighbours: sample i of row j draws from default_rng([seed, j, i]).
"""

import contextlib
import itertools
import json
import logging
import os
import sys

import numpy as np

import sampling
import utils
from checkpoints import files
from cli import complete, flags, output
from cli.command import hushed
from engine.batching import Job, decode_together
from runner.prompts import FORMATS, count_rows, find_format, open_rows, read_rows
from runner.records import Records

log = logging.getLogger("picogpt")

# ---- what is asked for -----------------------------------------------------------------------------------------

TABLE = {name: flag for name, flag in flags.FLAGS.items() if name not in ("json", "stream")} | {
    "num_samples": flags.Flag(1, flags.whole(1, 10_000), is_value=True),
    "output": flags.Flag(None, flags.text),
    "overwrite": flags.Flag(False, flags.switch),
    "batch_size": flags.Flag(None, flags.whole(1), is_value=True),
    "format": flags.Flag(None, flags.one_of(*FORMATS)),
}
RUN_FLAGS = ("output", "overwrite", "batch_size", "format")  # they say how a run goes, not what a text becomes
ROW_FLAGS = (*flags.STRATEGY_FLAGS, *flags.PENALTY_FLAGS)
ROW_FLAGS += ("n_tokens_to_generate", "max_new_tokens", "seed", "num_samples", "stop", "ignore_eos")
OURS = ("row", "line", "index", "prompt", "text", "finish_reason", "seed", "model", "settings", "usage", "timings")
OURS += ("logprobs", "error")  # the fields of a record; of a row's, one with such a name becomes input_<name>


def check_options(asked):
    options = flags.check_each(asked, TABLE)
    options.json, options.given = True, [name for name in options.given if name not in RUN_FLAGS]
    flags.check_together(options)
    return options


def options_of(row, asked, run):
    """The options of one row: its own, and else those of the run. ValueError: it asks for what cannot be."""
    if row.error:
        raise ValueError(row.error)
    own = sampling.given({name: row.fields[name] for name in ROW_FLAGS if name in row.fields})
    if "max_new_tokens" in own:
        own["n_tokens_to_generate"] = own.pop("max_new_tokens")
    options = check_options(asked | own)
    options.model, options.index = run.model, 0 if "seed" in own else row.number
    options.seed = own.get("seed", run.seed)
    return options


def settings(sampler, options, row):
    """As in the records of gpt2.py, and the seed if it is the row's own."""
    own = {"seed": options.seed} if row.fields.get("seed") is not None else {}
    return output.settings(sampler, options) | own


def passed_through(row):
    """The fields of a row that are not for us."""
    others = {name: value for name, value in row.fields.items() if name != "prompt" and name not in ROW_FLAGS}
    return {f"input_{name}" if name in OURS else name: value for name, value in others.items()}


# ---- rows to jobs, jobs to records -----------------------------------------------------------------------------


class RowJob(Job):
    """The job of a row, and its texts. ValueError: the model cannot take it."""

    def __init__(self, row, options, model):
        encoder, hparams = model.encoder, model.hparams
        prompt = encoder.encode(row.fields["prompt"]) or [encoder.start]
        complete.check_fit(len(prompt), options, hparams)
        samples = [
            complete.make_sample(options, encoder, len(prompt), options.index, i) for i in range(options.num_samples)
        ]
        keep = options.keep if options.context == "slide" else None
        super().__init__(prompt, samples, options.n_tokens_to_generate, keep)
        self.row, self.options, self.encoder, self.clock = row, options, encoder, output.Clock()
        self.texts = [output.Text(sample, encoder, options.stop, self.clock) for sample in samples]

    def read(self):
        """Turn new ids into text; return whether all samples have ended."""
        self.clock.tick()
        for text in self.texts:
            text.read()
        return all(sample.ended for sample in self.samples)

    def records(self):
        beginning = {"row": self.row.number} | passed_through(self.row)
        prompt = self.row.fields["prompt"]
        for index, text in enumerate(self.texts):
            whole = (prompt if self.options.echo else "") + text.take()
            said = output.record(index, prompt, whole, text, self.options, self.encoder, len(self.prompt))
            yield beginning | said | {"settings": settings(text.sample.sampler, self.options, self.row)}


class Run:
    """A run in progress: what it has done, where it writes, and what it shows to a person."""

    def __init__(self, records, n_rows):
        from tqdm import tqdm

        self.records, self.n_done, self.n_samples, self.n_tokens, self.n_failed = records, 0, 0, 0, 0
        self.clock = output.Clock()
        self.bar = tqdm(desc="rows", total=n_rows, unit=" rows", disable=None, initial=records.n_finished)

    def fail(self, row, error):
        where = {"row": row.number, "line": row.line}
        prompt = {"prompt": row.fields["prompt"]} if "prompt" in row.fields else {}
        self.records.write([where | passed_through(row) | prompt | {"error": str(error)}])
        self.n_failed += 1
        self.bar.update()

    def follow(self, job):
        """Take in what a step has added to a job, and write its records if that was all."""
        if not job.read():
            return
        if job.error:
            self.fail(job.row, job.error)
            return
        self.records.write(list(job.records()))
        self.n_done, self.n_samples = self.n_done + 1, self.n_samples + len(job.samples)
        self.n_tokens += sum(len(sample.ids) for sample in job.samples)
        self.clock.tick()
        self.bar.set_postfix_str(f"{self.n_tokens / self.clock.seconds:.1f} tokens/s", refresh=False)
        self.bar.update()


def unfinished(rows, asked, options, run):
    """Yield (row, its options) of what is still to be done; a row that cannot be done gets its record at once."""
    for row in rows:
        try:
            own = options_of(row, asked, options)
        except ValueError as error:
            run.fail(row, error)
            continue
        done = run.records.find(row.number)
        if done is None:
            yield row, own
        else:
            check_same(row, own, done, run.records.path)


def check_same(row, options, done, path):
    """ValueError, with the first difference, if a finished row is not what would be made of it now."""
    sampler = sampling.make_sampler(**{name: getattr(options, name) for name in flags.STRATEGY_FLAGS})
    now = {"prompt": row.fields["prompt"], "model": options.model, "seed": options.seed}
    now = json.loads(json.dumps(now | settings(sampler, options, row)))  # tuples become lists, as they are in the file
    then = {name: done[name] for name in ("prompt", "model", "seed")} | done["settings"]
    for name in then | now:
        if then.get(name) != now.get(name):
            raise ValueError(
                f"row {row.number} of {str(path)!r} was made with {name} {shown(then.get(name))}, now it is "
                f"{shown(now.get(name))}: go on as before, name another --output, or begin anew with --overwrite"
            )


def shown(value):
    text = json.dumps(value, ensure_ascii=False) if value is not None else "not given"
    return text if len(text) <= 60 else text[:60] + "..."


def jobs_of(pending, model, run):
    for row, options in pending:
        try:
            job = RowJob(row, options, model)
        except ValueError as error:
            run.fail(row, error)
            continue
        if job.n_tokens:
            yield job
        else:
            for sample in job.samples:
                sample.ended = "length"
            run.follow(job)


def default_batch_size(hparams):
    """Slots, and the bytes each may take: up to 64, as more is hardly faster, in half of the memory that is free."""
    bytes_a_slot = 8 * hparams["n_layer"] * hparams["n_embd"] * hparams["n_ctx"]  # keys and values, 4 bytes each
    return max(1, min(64, free_memory() // 2 // bytes_a_slot)), bytes_a_slot


def free_memory():
    """Bytes that can be had without swapping; 4 GB where the system does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def complete_all(prompts, options, asked):
    """Check everything that can be, then run. ValueError: asked for wrongly. RuntimeError: some rows failed."""
    kind = find_format(prompts, options.format)
    options.model = utils.find_model(options.model_size, options.models_dir).name
    check_not_the_same(prompts, options.output)
    with open_rows(prompts) as file, contextlib.closing(Records(options.output, options.overwrite)) as records:
        drawn = int(np.random.SeedSequence().generate_state(1)[0])
        options.seed = next(seed for seed in (options.seed, records.seed, drawn) if seed is not None)
        n_rows = count_rows(prompts, kind) if sys.stderr.isatty() else None
        run = Run(records, n_rows)
        with run.bar:
            pending = unfinished(read_rows(file, kind), asked, options, run)
            first = next(pending, None)  # all that are finished before it have been compared by then
            if first:
                decode_all(itertools.chain([first], pending), options, run)
        tell(run, records)


def decode_all(pending, options, run):
    model = utils.load(options.model_size, options.models_dir)
    hparams, params = model.hparams, model.params
    n_slots, bytes_a_slot = default_batch_size(hparams)
    n_slots = options.batch_size or n_slots
    run.bar.clear()
    log.info(
        f"seed {options.seed}; {n_slots} samples at a time (--batch_size), "
        f"each with up to {bytes_a_slot / 1e6:.1f} MB of keys and values"
    )
    run.clock = output.Clock()
    for jobs in decode_together(jobs_of(pending, model, run), params, hparams["n_head"], n_slots):
        for job in jobs:
            run.follow(job)


def check_not_the_same(prompts, output):
    with contextlib.suppress(OSError):
        if prompts != "-" and output and os.path.samefile(files.expand(prompts), files.expand(output)):
            raise ValueError(f"{output!r} holds the prompts; name another --output")


def tell(run, records):
    seconds = run.clock.seconds
    before = f", {records.n_finished} before" if records.n_finished else ""
    log.info(
        f"{run.n_done} rows{before}: {run.n_samples} samples, {run.n_tokens} tokens in {seconds:.1f} s "
        f"({run.n_tokens / seconds:.1f} tokens/s)"
    )
    if run.n_failed:
        raise RuntimeError(
            f"{run.n_failed} of {run.n_failed + run.n_done + records.n_finished} rows could not be done; "
            "their records say why. Mend them and run the same command again: it does those alone"
        )


def main(prompts=None, *words, **asked):
    """Continue many prompts with GPT-2.

    python batch.py PROMPTS [--output FILE] [--flag value ...]

    PROMPTS is a file, or - for stdin
      .txt                       a prompt a line
      .jsonl                     a JSON object a line: {"prompt": "Once upon a time"}
      .csv                       a table with a column prompt
    A row of the last two may have an id, and settings of its own: n_tokens_to_generate,
    seed, num_samples, stop, ignore_eos and all that says how a token is chosen. Other
    fields come out as they went in.

    The records, one JSON object a sample, are those of gpt2.py --json with the number
    of the row, from 0. They come in the order in which rows are finished. A row that
    cannot be done gets a record with error and line, and the run goes on.

      --output FILE              where records go; - or nothing is stdout
      --overwrite                begin anew. Otherwise a run whose output is there goes
                                 on where it was stopped, however that happened
      --batch_size N             decode N samples at a time (as many as half of the free
                                 memory has room for, 64 at most)
      --format txt|jsonl|csv     what PROMPTS is, where its name does not say

    All flags of gpt2.py --help apply to every row that does not say otherwise:
      --model_size, --models_dir, --n_tokens_to_generate, --num_samples, --seed,
      --strategy, --preset, --temperature, --top_k, --top_p, --min_p, --typical_p,
      --entmax_alpha, --mirostat_tau, --mirostat_eta, --repetition_penalty,
      --presence_penalty, --frequency_penalty, --no_repeat_ngram_size, --logit_bias,
      --banned_ids, --stop, --min_new_tokens, --ignore_eos, --context, --keep, --echo,
      --logprobs, --quiet
    Sample i of row j draws from default_rng([seed, j, i]); a row with a seed of its own
    is what gpt2.py makes of that seed. It does not depend on --batch_size.

    Exit code 0: all done; 1: some rows were not, or it had to stop; 2: asked for
    wrongly; 130: interrupted, and the same command goes on.

    Examples
      python batch.py prompts.txt --output out.jsonl --top_p 0.9 --model_size tiny
      python batch.py prompts.jsonl --num_samples 3 --temperature 0.8 --output out.jsonl
    """
    options = check_options(asked)
    if prompts is None:
        raise ValueError("there are no prompts; name a file, as in prompts.txt, or - for stdin")
    if words:
        raise ValueError(f"there can be only one file of prompts: {' '.join((prompts, *words))!r} are several words")
    try:
        with hushed() if options.quiet else contextlib.nullcontext():
            complete_all(prompts, options, asked)
    except KeyboardInterrupt:
        if options.output not in (None, "-"):
            print("\nInterrupted. What is finished is kept; the same command goes on from there.", file=sys.stderr)
        raise
