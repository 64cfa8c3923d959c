"""Helpers of the batch tests: run batch.py with the bundled model, write prompts, read records."""

import json
import re
from pathlib import Path

import batch
from runner.command import BATCH

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["Once upon a time", "One day, a cat named Tim", "The sun", "A", "Lily and her mom went to the park. They"]
SUMMARY = re.compile(r"^(nothing to do: |[\d,]+ rows? finished).*; records in .*\n", re.MULTILINE)
KNOBS = ("--temperature", "0.9", "--top_p", "0.9", "--seed", "11")


def run_batch(here, *args, **options):
    """Run batch.py in this process, by the fixture `here`: (exit code, stdout, stderr without the summary)."""
    code, out, err = here(*args, "--model_size", "tiny", main=batch.main, command=BATCH, **options)
    return code, out, without_summary(err)


def without_summary(err):
    """Return the text of stderr without the line that every run prints at its end."""
    return SUMMARY.sub("", err)


def run_without_errors(here, *args, **options):
    """Return the records on stdout of a run that must succeed and print nothing to stderr."""
    code, out, err = run_batch(here, *args, **options)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def write_prompts(path, prompts):
    """Write a file of rows in the format that its name tells: texts, or dicts for .jsonl."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(row if isinstance(row, dict) else {"prompt": row}) for row in prompts]
    else:
        lines = prompts
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(records):
    return {(record["row"], record["index"]): record["text"] for record in records}
