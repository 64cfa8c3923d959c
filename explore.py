"""Inspect a GPT-2: python explore.py next|plot|sweep|score. The code is in views/."""

if __name__ == "__main__":
    from cli.command import run
    from views.command import TABLE, main

    run(main, TABLE)
