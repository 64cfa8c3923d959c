"""Continue many prompts with GPT-2: python batch.py PROMPTS --output FILE. The code is in runner/."""

if __name__ == "__main__":
    from cli.command import run
    from runner.local import TABLE, main

    run(main, TABLE)
