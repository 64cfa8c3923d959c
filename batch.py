#!/usr/bin/env python3
"""Continue many prompts with GPT-2: python batch.py PROMPTS --output FILE. runner/command.py does the work."""


def main(prompts=None, **options):
    """Continue the prompts of a file. `python batch.py --help` lists all options."""
    from cli.command_flags import BATCH_FLAGS
    from cli.options import check_options
    from runner.command import complete_all

    complete_all(prompts, check_options(options, BATCH_FLAGS))


if __name__ == "__main__":
    from cli.command import run

    run(main, "runner.command.BATCH")
