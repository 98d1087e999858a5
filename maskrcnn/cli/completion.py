"""Print a script that completes commands and config groups in a shell.

Usage: maskrcnn completion bash|zsh

Examples:
  maskrcnn completion bash >> ~/.bashrc
  maskrcnn completion zsh >> ~/.zshrc
"""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.cli.entry import commands
from maskrcnn.config.files import options
from maskrcnn.errors import UserError

GROUPS = ("model", "roi_op", "data", "schedule", "experiment")
# bash splits a word at "=", so only the value is completed.
_BASH = """_maskrcnn() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" key=""
    [ "$word" = "=" ] && {{ key="$before"; word=""; }}
    [ "$before" = "=" ] && key="${{COMP_WORDS[COMP_CWORD-2]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "$key" in
{cases}
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o default -F _maskrcnn maskrcnn
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def main(arguments: Sequence[str]) -> None:
    """Print the script for a shell."""
    if list(arguments) not in (["bash"], ["zsh"]):
        raise UserError(f"completion is for bash or zsh, got {' '.join(arguments) or 'nothing'}")
    cases = "\n".join(
        f'    {group}) COMPREPLY=($(compgen -W "{" ".join(options(group))}" -- "$word")) ;;'
        for group in GROUPS
    )
    script = _BASH.format(commands=" ".join(commands()), cases=cases)
    print((_ZSH if arguments[0] == "zsh" else "") + script, end="")
