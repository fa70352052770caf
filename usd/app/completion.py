"""``usd completion SHELL``: a script that completes sub-commands, their options, recipes and files."""

import argparse
from collections.abc import Mapping

from usd.core import places
from usd.core.registry import KINDS

BASH = """# usd completion bash > ~/.local/share/bash-completion/completions/usd
_usd() {
    local word=${COMP_WORDS[COMP_CWORD]} completions
    if [ "$COMP_CWORD" -eq 1 ]; then
        completions="@commands@"
    else
        case ${COMP_WORDS[1]} in
@cases@
        esac
    fi
    COMPREPLY=($(compgen -W "$completions" -- "$word"))
}
complete -o default -F _usd usd
"""
ZSH = """# usd completion zsh > a file that your .zshrc sources
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of a shell: bash, zsh or fish."""
    commands = subcommands(parser)
    return _fish(commands) if shell == "fish" else (ZSH if shell == "zsh" else "") + _bash(commands)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, list[str]]]:
    """Return every sub-command with its meaning and the completions that may follow it."""
    (action,) = [item for item in parser._actions if isinstance(item, argparse._SubParsersAction)]
    meanings = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {name: (meanings[name], _completions(inner)) for name, inner in action.choices.items()}


def _completions(parser: argparse.ArgumentParser) -> list[str]:
    """Options, choices of positional arguments, and recipes where a configuration is expected."""
    completions: list[str] = []
    for action in parser._actions:
        completions += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings:
            completions += map(
                str, action.choices or {"config": places.recipes(), "kind": KINDS}.get(action.dest, ())
            )
    return completions


def _bash(commands: Mapping[str, tuple[str, list[str]]]) -> str:
    cases = [
        f'            {name}) completions="{" ".join(completions)}" ;;'
        for name, (_, completions) in commands.items()
    ]
    return BASH.replace("@commands@", " ".join(commands)).replace("@cases@", "\n".join(cases))


def _fish(commands: Mapping[str, tuple[str, list[str]]]) -> str:
    lines = ["# usd completion fish > ~/.config/fish/completions/usd.fish"]
    for name, (meaning, completions) in commands.items():
        text = meaning.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c usd -n __fish_use_subcommand -a {name} -d '{text}'")
        lines.append(f"complete -c usd -n '__fish_seen_subcommand_from {name}' -a '{' '.join(completions)}'")
    return "\n".join(lines) + "\n"
