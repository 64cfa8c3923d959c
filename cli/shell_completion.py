"""`--completion`: a script that completes flags, their values and the names of models in bash, zsh or fish.

Each script is generated from the tables of flags. It completes for `python gpt2.py` and for `./gpt2.py`.
"""

from collections.abc import Iterator, Mapping

import sampling
from cli.checks import path, switch
from cli.command_flags import ALL_FLAGS, BATCH_FLAGS, EXPLORE_FLAGS, PICO_FLAGS
from cli.flags import FLAGS, Flag

SCRIPTS = {"gpt2.py": FLAGS, "gpt2_pico.py": PICO_FLAGS, "batch.py": BATCH_FLAGS, "explore.py": EXPLORE_FLAGS}
VIEWS = ("next", "plot", "sweep", "score", "tokens", "attention", "page")
WORDS = {  # the values of flags that their help does not list with |
    "strategy": tuple(sampling.STRATEGIES),
    "preset": (*sampling.PRESETS, "model"),
}
MODELS = """%s --list --json 2>/dev/null | sed -n 's/^{"name": "\\([^"]*\\)".*/\\1/p'"""


def script(shell: str) -> str:
    """Return the script for a shell: bash, zsh or fish."""
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell]()


def values_of(name: str, flag: Flag) -> tuple[str, ...]:
    """Return the words that may follow a flag, () if it takes others."""
    if flag.check is switch and flag.metavar == "":
        return ()
    return WORDS.get(name) or (tuple(flag.metavar.split("|")) if "|" in flag.metavar else ())


def words_of(table: Mapping[str, Flag]) -> str:
    return " ".join(f"--{name}" for name in (*table, "help", "version"))


# ---- bash ------------------------------------------------------------------------------------------------------


def bash() -> str:
    flags = "\n".join(f'        *{name}) flags="{words_of(table)}" ;;' for name, table in SCRIPTS.items())
    cases = "\n".join(
        f'        --{name}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$cur")); return ;;'
        for name, words in all_values()
    )
    files = "|".join(f"--{name}" for name in names_of_files())
    return f"""# Completion of gpt2.py, batch.py and explore.py for bash:  source <(python gpt2.py --completion bash)
_picogpt() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} script=${{COMP_WORDS[0]}} flags run
    run=("$script")
    case $script in
        *python*) script=${{COMP_WORDS[1]}}; run=("${{COMP_WORDS[0]}}" "$script") ;;
    esac
    COMPREPLY=()
    case $script in
{flags}
        *) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case $prev in
        --model_size|-m) COMPREPLY=($(compgen -W "$(_picogpt_models "${{run[@]}}")" -- "$cur")); return ;;
        {files}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
{cases}
    esac
    case $cur in
        -*) COMPREPLY=($(compgen -W "$flags" -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$([[ $script == *explore.py ]] && echo {" ".join(VIEWS)})" -f -- "$cur")) ;;
    esac
}}
_picogpt_models() {{
    set -- "${{@/%batch.py/gpt2.py}}"
    set -- "${{@/%explore.py/gpt2.py}}"
    set -- "${{@/%gpt2_pico.py/gpt2.py}}"
    {MODELS % '"$@"'}
}}
complete -o filenames -F _picogpt python python3 {" ".join(f"{name} ./{name}" for name in SCRIPTS)}
"""


def all_values() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the flags of all commands that take certain words, and the words."""
    for name, flag in ALL_FLAGS.items():
        if words := values_of(name, flag):
            yield name, words


def names_of_files() -> list[str]:
    """Return the flags of all commands that take a file or a folder."""
    return [name for name, flag in ALL_FLAGS.items() if flag.check is path and name != "model_size"]


# ---- zsh -------------------------------------------------------------------------------------------------------


def zsh() -> str:
    """Return the script for zsh, which runs functions for bash."""
    return f"""# Completion of gpt2.py, batch.py and explore.py for zsh:  source <(python gpt2.py --completion zsh)
autoload -Uz compinit bashcompinit
whence compdef > /dev/null || compinit
bashcompinit
{bash().partition(chr(10))[2]}"""


# ---- fish ------------------------------------------------------------------------------------------------------


def fish() -> str:
    return "\n".join(
        [
            "# Completion of gpt2.py, batch.py and explore.py for fish:  python gpt2.py --completion fish | source",
            "function __picogpt_is",
            "    set -l words (commandline -opc)",
            '    string match -q -- "*$argv[1]" $words[1]; or string match -q -- "*$argv[1]" $words[2]',
            "end",
            "function __picogpt_models",
            "    set -l words (commandline -opc)",
            "    set -l words (string match -r -- '^\\S*(?:python[0-9.]*|\\.py)$' $words)",
            "    set -l words (string replace -r -- '(batch|explore|gpt2_pico)\\.py$' gpt2.py $words)",
            f"    {MODELS % '$words'}",
            "end",
            *(line for name, table in SCRIPTS.items() for line in fish_lines(name, table)),
            "",
        ]
    )


def fish_lines(script: str, table: Mapping[str, Flag]) -> Iterator[str]:
    """Yield a line for each flag of a script, for the script itself and for python."""
    for name, flag in table.items():
        words = values_of(name, flag)
        if name == "model_size":
            argument = " -x -a '(__picogpt_models)'"
        elif words:
            argument = f" -x -a '{' '.join(words)}'"
        elif flag.check is path:
            argument = " -r -F"
        else:
            argument = "" if flag.check is switch else " -x"
        text = flag.help.replace("\\", "\\\\").replace("'", "\\'")
        for command in (script, "python", "python3"):
            yield f"complete -c {command} -n '__picogpt_is {script}' -l {name}{argument} -d '{text}'"
