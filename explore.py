#!/usr/bin/env python3
"""Inspect a GPT-2: what it expects next, how options change that, and how likely a text is. The code is in views/."""


def main(view=None, prompt=None, **options):
    """Show a view of a prompt. `python explore.py --help` lists the views and all options."""
    from views.command import check, explore

    options = check(view, options)
    explore(view, prompt, options)


if __name__ == "__main__":
    from cli.command import run

    run(main, "views.command.EXPLORE")
