"""The flags of gpt2_pico.py, batch.py and explore.py: those of gpt2.py, and their own."""

from dataclasses import replace

import sampling
from cli.checks import cluster, one_of, path, several, shard, switch, unchecked, whole
from cli.flags import FLAGS, PENALTY_FLAGS, PROMPT_FLAGS, STRATEGY_FLAGS, Flag, without

MAX_BATCH_SIZE = 64  # without --batch_size; larger batches are hardly faster
N_ROWS = {"attention": 20, "next": 12, "next --steps": 5, "plot": 10, "score": 5}  # of each view, without --rows

PICO_FLAGS = without(
    FLAGS,
    *("list", "num_samples", "separator", "context", "keep", "logprobs", "ignore_eos", "banned_words", "completion"),
    *("weights", "draft"),
    *PENALTY_FLAGS,
)
BATCH_FLAGS = {
    "output": Flag(None, path, "run", "file of the records; without it, or with -, they go to stdout", "FILE"),
    "overwrite": Flag(
        False, switch, "run", "start again; otherwise a run whose output exists continues where it stopped"
    ),
    "sort": Flag(False, switch, "run", "put the records of --output in the order of the rows when all are finished"),
    "sort_only": Flag(None, path, "run", "only sort the records of an earlier run; without PROMPTS", "FILE"),
    "prompt_field": Flag(None, unchecked, "run", "take the prompt from this field or column instead of prompt", "NAME"),
    "template": Flag(
        None,
        unchecked,
        "run",
        r"make the prompt from fields of the row, such as 'Q: {question}\nA:'",
        "TEXT",
    ),
    "limit": Flag(None, whole(1), "run", "read only the first N rows", "N", is_value=True),
    "shard": Flag(
        None,
        shard,
        "run",
        "of N equal parts, continue the rows of part I, 1 to N; together the parts have the records of one run",
        "I/N",
    ),
    "batch_size": Flag(
        None,
        whole(1),
        "run",
        f"decode N samples at a time; by default as many as fit in half of the free memory, at most {MAX_BATCH_SIZE}",
        "N",
        is_value=True,
    ),
    "cluster": Flag(
        None,
        cluster,
        "run",
        'complete the rows on a Ray cluster (pip install "ray>=2.50"): local, a new one on this machine; auto, the one '
        "this machine belongs to; or HOST:PORT",
        "ADDRESS",
    ),
    "workers": Flag(
        None, whole(1), "run", "--cluster: use N workers; by default as many as there are CPUs for", "N", is_value=True
    ),
    "worker_cpus": Flag(None, whole(1), "run", "--cluster: CPUs of a worker (default 1)", "N", is_value=True),
    "format": Flag(
        None,
        one_of("txt", "jsonl", "json", "csv", "tsv"),
        "run",
        "format of PROMPTS, if its name does not show it: txt, jsonl, json, csv or tsv",
        "FORMAT",
    ),
    **without(
        FLAGS, "row", "json", "stream", "list", "separator", "completion", "output", "overwrite", "draft", *PROMPT_FLAGS
    ),
}
VIEW_SETTINGS = (*STRATEGY_FLAGS, *sampling.PENALTIES)  # the settings that plot and sweep compare
EXPLORE_FLAGS = {
    "model_size": FLAGS["model_size"],
    "weights": FLAGS["weights"],
    "models_dir": FLAGS["models_dir"],
    "offline": FLAGS["offline"],
    "toy": Flag(False, switch, "text", "nine words with nine fixed logits instead of a model"),
    "special": FLAGS["special"],
    **{name: FLAGS[name] for name in PROMPT_FLAGS},
    "seed": FLAGS["seed"],
    "steps": Flag(
        1,
        whole(1),
        "view",
        "next, plot --heatmap: show N tokens, one after another; page: append N tokens, or record N steps of a large "
        "model (default 40)",
        "N",
        is_value=True,
    ),
    "rows": Flag(
        None,
        whole(1),
        "view",
        f"next, plot: show the N likeliest tokens (default {N_ROWS['next']} and {N_ROWS['plot']}; "
        f"{N_ROWS['next --steps']} with --steps); score: list the N most surprising tokens (default {N_ROWS['score']}, "
        f"all without colour); attention: the N largest weights (default {N_ROWS['attention']})",
        "N",
        is_value=True,
    ),
    "heatmap": Flag(False, switch, "view", "plot: draw the likeliest tokens at each of --steps positions"),
    "lesson": Flag(False, switch, "view", "page: begin with a lesson of one sentence per step"),
    "num_samples": replace(FLAGS["num_samples"], group="view", help="sweep: texts per setting"),
    "n_tokens_to_generate": replace(
        FLAGS["n_tokens_to_generate"], group="view", help="sweep: at most N new tokens per text"
    ),
    "lines": Flag(
        None,
        path,
        "view",
        "score, sweep: take the texts of a file, one per line, or of a .jsonl file with the field text; - is stdin",
        "FILE",
    ),
    "given": Flag(
        None, unchecked, "view", "score: score the text as the continuation of this one, which is not scored", "TEXT"
    ),
    "merges": Flag(False, switch, "view", "tokens: show the merges one by one"),
    "layer": Flag(None, whole(1), "view", "attention: only layer N, from 1; by default the mean", "N", is_value=True),
    "head": Flag(None, whole(1), "view", "attention: only head N, from 1; by default the mean", "N", is_value=True),
    "stride": Flag(
        None,
        whole(1),
        "view",
        "score: move overlapping windows by N tokens, for more context; by default windows do not overlap, as in "
        "lm-evaluation-harness",
        "N",
        is_value=True,
    ),
    "output": Flag(
        None,
        path,
        "view",
        "plot: a .png, .svg or .pdf file (pip install matplotlib); sweep: a .md, .csv or .json file; page: "
        "an .html file",
        "FILE",
    ),
    "json": replace(FLAGS["json"], group="view", help="next, sweep, score, tokens, attention: print JSON"),
    **{name: replace(FLAGS[name], check=several(FLAGS[name].check)) for name in VIEW_SETTINGS},
    "min_new_tokens": replace(FLAGS["min_new_tokens"], check=several(FLAGS["min_new_tokens"].check), group="penalties"),
    "logit_bias": FLAGS["logit_bias"],
    "banned_ids": FLAGS["banned_ids"],
    "banned_words": FLAGS["banned_words"],
    "threads": FLAGS["threads"],
    "config": FLAGS["config"],
}
ALL_FLAGS = {**EXPLORE_FLAGS, **BATCH_FLAGS, **FLAGS}  # of all commands; those of gpt2_pico.py are among them
