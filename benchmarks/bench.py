"""Compare the speed of gpt2.py with that of other programs and with the limits of the machine, in one run.

    make bench                       everything, in an environment of its own: about half an hour
    make bench ARGS=--quick          fewer rounds and steps: under 3 minutes once everything is installed and converted
    make bench ARGS=--large          also the 774M and 1558M shapes: 15 GB of disk, 8 GB of free memory

All programs have the same random weights in the shape of GPT-2 124M. Each runs in a process of its own, and they take
turns in rounds, so that figures that are compared with each other are measured within moments. The results are the
ratios, the median over the rounds; times depend on the machine and the hour. Before anything is measured, all programs
must compute the same logits. A program that is not installed is skipped, with a remark.

The script prints tables and writes into benchmarks/results: bench.json with all measurements, README.md and two plots.
A quick run writes into results/quick.
"""

import sys
from pathlib import Path

import lab
import numpy as np
import report
from bench_batch import random_prompts
from figures import DECODE, FIRST, INT8, LONG, MACHINE, MANY, MEMORY, OURS, PICO, PREFILL, WHOLE
from fire import Fire
from peers import PEERS
from worker import WorkerError

ROOT = lab.HERE.parent
PICO_FLOAT64 = f"{PICO} in float64"
SLOW = (PICO, PICO_FLOAT64)
CT2_INT8 = "CTranslate2 int8"
PROMPT = "The quick brown fox jumps over the lazy dog."  # ten tokens
BATCH_SIZES = (2, 3, 4, 8, 16, 32, 64)
# The largest difference of float32 logits from ours. llama.cpp looks GELU up in a float16 table, for all its weights.
TOLERANCE = 1e-3
TOLERANCES = {"llama.cpp F32": 5e-3}

FULL = {"rounds": 7, "steps": 20, "contexts": (10, 100, 250, 500, 750, 1000), "prompts": (50, 100, 200, 400, 800)}
FULL |= {"batch_sizes": BATCH_SIZES, "sizes": ("355M",), "memory_steps": 200, "many": 64, "many_new": 20}
QUICK = {"rounds": 2, "steps": 5, "contexts": (10, 1000), "prompts": (50, 400)}
QUICK |= {"batch_sizes": (4, 16), "sizes": (), "memory_steps": 20, "many": 16, "many_new": 5}


def check_agreement(place, peers):
    """Return the largest differences of logits from ours; exit if a float32 program exceeds its tolerance."""
    question = {"n_prompt": 40, "n_steps": 8}  # a prompt, then ids one at a time
    ours = np.array(place.ask(OURS, "logits", **question))
    agreement = {}
    for name in peers:
        difference = float(np.abs(np.array(place.ask(name, "logits", **question)) - ours).max())
        agreement[name] = difference
        limit = TOLERANCES.get(name, TOLERANCE) if place.workers[name].about["is_float32"] else None
        lab.say(f"the logits of {name} differ from those of {OURS} by at most {difference:.1e}")
        if limit is not None and not difference <= limit:
            sys.exit(
                f"Error: the logits of {name} differ by {difference:.1e}, more than {limit:.0e}; nothing was measured"
            )
    return agreement | {"of logits from": float(ours.min()), "to": float(ours.max())}


def gemm_peak(place, steps):
    return lambda: place.ask(MACHINE, "gemm_peak", repeats=max(1, steps // 7))


def single_sequence(place, peers, long_peers, steps):
    """Return the series of decode and prefill for every program, with the limit of each.

    The order matters: the prompt of 900 tokens stays, and decoding at 1000 tokens continues it.
    """

    def asked(call, names, **arguments):
        return {name: lambda name=name: place.ask(name, call, **arguments) for name in names}

    bare = asked("products", [MACHINE], n_rows=1, repeats=steps)
    peak = {MACHINE: gemm_peak(place, steps)}
    return {
        MEMORY: {MACHINE: lambda: place.ask(MACHINE, "read_rate", repeats=5)},
        DECODE: bare | asked("decode", peers, n_context=100, n_steps=steps),
        PREFILL: peak | asked("prefill", long_peers, n_prompt=900),
        LONG: bare | asked("decode", long_peers, n_context=1000, n_steps=steps),
    }


def ours_alone(place, steps, batch_sizes, contexts, prompts):
    """Return the series for gpt2.py only: batches, work other than matrix products, samplers, growth of the cost."""

    def ask(call, **arguments):
        return lambda: place.ask(OURS, call, **arguments)

    def bare_products(n_rows):
        return lambda: place.ask(MACHINE, "products", n_rows=n_rows, repeats=max(2, steps // 4))

    batch = {"GEMM peak": gemm_peak(place, steps)}
    for n in (1, *batch_sizes):
        batch[f"bare products of {n}"] = bare_products(n)
        batch[f"step of {n}"] = ask("decode_batch", n_sequences=n, n_context=100, n_steps=steps)
    return {
        "batches": batch,
        "overhead": {"steps and products": ask("overhead", n_context=100, n_steps=steps)},
        "samplers": {"calls": ask("samplers", calls=10)},
        "context": {str(n): ask("decode", n_context=n, n_steps=steps) for n in contexts},
        "prompt": {str(n): ask("prefill", n_prompt=n) for n in prompts},
    }


def int8_batches(place, steps):
    """Return the series of several sequences at once in int8, beside float32 without numba."""

    def ask(name, n):
        return lambda: place.ask(name, "decode_batch", n_sequences=n, n_context=100, n_steps=steps)

    return {f"{n} sequences at once": {name: ask(name, n) for name in (OURS, INT8)} for n in (4, 16)}


def many_prompts(place, names, n_prompts, n_new):
    """Return the series of prompts that are continued together, by the programs with int8 weights."""
    prompts = random_prompts(n_prompts)

    def ask(name):
        options = {"prompts": prompts, "n_new": n_new, "batch_size": n_prompts}
        return lambda: lab.timed(lambda: place.ask(name, "batch_together", **options))[1]

    return {MANY: {name: ask(name) for name in names}}


def other_sizes(place, sizes, steps):
    """Return the series of decoding with models of other sizes, each with its own limit."""
    series = {}
    for size in sizes:
        place.start(OURS, size)
        place.start(INT8, size)
        place.start(MACHINE, size)
        ours = f"{OURS}, {size}"
        bare = f"{MACHINE}, {size}"
        if ours in place.workers and bare in place.workers:
            series[f"decode of {size}"] = {
                MACHINE: lambda bare=bare: place.ask(bare, "products", n_rows=1, repeats=steps),
                OURS: lambda ours=ours: place.ask(ours, "decode", n_context=100, n_steps=steps),
            }
            int8 = f"{INT8}, {size}"
            if int8 in place.workers:
                series[f"decode of {size}"][INT8] = lambda int8=int8: place.ask(
                    int8, "decode", n_context=100, n_steps=steps
                )
    return series


def whole_processes(place, peers):
    """Return the series of whole commands, timed from their start: one new token, and forty."""
    flags = ["--models_dir", place.models_dir, "--model_size", "random-124M", "--n_tokens_to_generate"]
    files = place.work_dir / "random-124M"
    commands = {name: [ROOT / name, PROMPT, *flags] for name in (OURS, PICO)}
    commands[INT8] = [ROOT / OURS, PROMPT, "--weights", "int8", *flags]
    commands[PICO_FLOAT64] = [lab.HERE / "with_float64.py", PROMPT, *flags]
    commands["transformers"] = [lab.HERE / "with_transformers.py", files / "huggingface", PROMPT]
    commands["llama.cpp F32"] = [lab.HERE / "with_llama_cpp.py", files / "gguf-F32", PROMPT]

    def run(name, n_tokens, which):
        return lambda: lab.run_command([sys.executable, *commands[name], n_tokens], place.threads)[which]

    names = [name for name in commands if name in peers]
    return {
        FIRST: {name: run(name, 1, 0) for name in names},
        WHOLE: {name: run(name, 40, 1) for name in names},
    }


def memory(place, peers, steps):
    """Return the bytes of anonymous memory of each program: after loading, before any question; most in decoding."""
    loaded = {name: place.workers[name].about["memory"] for name in peers}
    return {name: {"loaded": loaded[name]} | place.ask(name, "memory", n_steps=steps) for name in peers}


def measure(place, peers, settings, rounds, quick):
    """Start all programs, check that they agree, and measure; return the results."""
    for name in (MACHINE, OURS, *(name for name in peers if name not in (MACHINE, OURS))):
        place.start(name)
    if not {MACHINE, OURS} <= set(place.workers):
        sys.exit(f"Error: {OURS} itself could not be started; see the remarks above")
    peers = [name for name in place.workers if name != MACHINE]
    agreement = check_agreement(place, peers)
    memories = memory(place, peers, settings["memory_steps"])

    # A program without a cache takes half a minute per round for a long text.
    timed_long = [name for name in peers if not (quick and name in SLOW)]
    steps = settings["steps"]
    series = single_sequence(place, peers, timed_long, steps)
    series |= ours_alone(place, steps, settings["batch_sizes"], settings["contexts"], settings["prompts"])
    if INT8 in peers:
        series |= int8_batches(place, steps)
    int8_names = [name for name in (INT8, CT2_INT8) if name in peers]
    series |= many_prompts(place, int8_names, settings["many"], settings["many_new"])
    series |= other_sizes(place, settings["sizes"], steps)
    commands = whole_processes(place, peers)
    for run in commands[FIRST].values():
        run()  # a command that fails should fail before anything is measured
    series |= commands
    records = lab.in_turns(series, rounds)
    for size in settings["sizes"]:
        for name in (f"{OURS}, {size}", f"{INT8}, {size}"):
            if name in place.workers:
                memories |= memory(place, [name], 40)
    return lab.notes(place, records) | {"agreement": agreement, "memory": memories, "records": records}


def names_of(peers, quick):
    """Return the requested programs: comma-separated names, or by default all that are fast enough."""
    default = [name for name in PEERS if not (quick and name == PICO_FLOAT64)]
    names = peers.split(",") if isinstance(peers, str) else peers or default
    names = [name.strip() for name in names]
    if unknown := set(names) - set(PEERS):
        sys.exit(f"Error: unknown program {', '.join(sorted(unknown))}; the programs are: {', '.join(PEERS)}")
    return names


def main(quick=False, large=False, rounds=None, peers=None, threads=None, work_dir=None, models_dir=None, output=None):
    """Run the benchmark.

    rounds: the number of times that everything is measured. peers: names of programs as in the table, separated by
    commas; gpt2.py is always measured. threads: of each program. work_dir, models_dir: folders for files (see lab.py).
    output: the folder for the results.
    """
    settings = QUICK if quick else FULL
    names = names_of(peers, quick)
    if large:
        settings = settings | {"sizes": ("355M", "774M", "1558M")}
    output = Path(output) if output else lab.HERE / "results" / ("quick" if quick else "")
    place = lab.Lab(work_dir, models_dir, threads)
    try:
        results = measure(place, names, settings, rounds or settings["rounds"], quick)
    except WorkerError as error:
        sys.exit(f"Error: {error}")
    finally:
        place.close()
    lab.save(results, output / "bench.json")
    report.main(output / "bench.json")


if __name__ == "__main__":
    Fire(main)
