"""Join the rounds of several runs of bench.py, for machines whose speed changes during the day.

    python benchmarks/pool.py FIRST/bench.json SECOND/bench.json --output benchmarks/results/bench.json

All runs must have measured the same things on the same machine. Memory and agreement are those of the last run.
"""

import json
import sys
from pathlib import Path

import lab
import report
from fire import Fire


def pooled(runs: list[dict]) -> dict:
    """Return one dict of results with the rounds of all runs; raise ValueError if they do not fit together."""
    last = runs[-1]
    records = {}
    for title, series in last["records"].items():
        records[title] = {name: [value for run in runs for value in run["records"][title][name]] for name in series}
    for key in ("machine", "threads", "versions"):
        if any(run[key] != last[key] for run in runs):
            raise ValueError(f"the runs differ in {key}; only runs under the same conditions can be pooled")
    commits = " and ".join(dict.fromkeys(run["commit"] for run in runs))
    return last | {"records": records, "rounds": sum(run["rounds"] for run in runs), "commit": commits}


def main(*paths, output):
    """Write the pooled results, and the report about them next to them."""
    try:
        results = pooled([json.loads(Path(path).read_text(encoding="utf-8")) for path in paths])
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    except KeyError as error:
        sys.exit(f"Error: not all runs have measured {error}")
    report.main(lab.save(results, output))


if __name__ == "__main__":
    Fire(main)
