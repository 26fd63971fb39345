"""Completion for bash, zsh and fish, written from the parser: `python -m tests.completion` renews deploy/completion.

The files that are shipped are text that runs no Python; a test holds them to the parser.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxyd.cli import new_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FOLDER: Final = Path(__file__).parents[1] / "deploy" / "completion"
IS_FILE: Final = {
    **dict.fromkeys(("FILE", "LOG", "OLD", "NEW", "OUT", "POLICY"), True),
    **dict.fromkeys(("COMMAND", "HOST", "IP", "NAME", "SUFFIX", "TIME", "URL"), False),
}
"""What each placeholder of the parser stands for; one that is not here has to be thought of."""

_WRITTEN: Final = "written from the parser by `python -m tests.completion`; no change made here will last"
_OR: Final = " | \\\n            "


@dataclass(frozen=True)
class Argument:
    """Something that a command takes. names: of an option. value: what it takes, as it is called in the help."""

    names: tuple[str, ...]
    says: str
    value: str
    choices: tuple[str, ...]
    often: bool

    @property
    def is_file(self) -> bool:
        """Whether a file is named."""
        return bool(self.value) and not self.choices and IS_FILE[self.value]


@dataclass(frozen=True)
class Command:
    """A command, and proxyd itself, whose name is empty."""

    name: str
    says: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> Iterator[Argument]:
        """What begins with a hyphen."""
        return (each for each in self.arguments if each.names)

    @property
    def positionals(self) -> Iterator[Argument]:
        """What does not."""
        return (each for each in self.arguments if not each.names)


def commands() -> list[Command]:
    """Proxyd itself, then each of its commands."""
    parser = new_parser()
    (table,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001 - argparse tells it nowhere else
    says = {each.dest: each.help or "" for each in table._choices_actions}  # noqa: SLF001 - the same
    return [_command("", "", parser), *(_command(name, says[name], each) for name, each in table.choices.items())]


def _command(name: str, says: str, parser: argparse.ArgumentParser) -> Command:
    actions = (each for each in parser._actions if not isinstance(each, argparse._SubParsersAction))  # noqa: SLF001 - the same
    return Command(name, says, tuple(_argument(each, parser.prog) for each in actions))


def _argument(action: argparse.Action, prog: str) -> Argument:
    takes = action.nargs != 0
    return Argument(
        names=tuple(action.option_strings),
        says=(action.help or "") % {**vars(action), "prog": prog},
        value=str(action.metavar or action.dest.upper()) if takes else "",
        choices=tuple(action.choices or ()),
        often=action.nargs == "+" or isinstance(action, argparse._AppendAction),  # noqa: SLF001 - the same
    )


def bash() -> str:
    """For bash. Files are left to readline, which knows about quotes and tildes."""
    every = commands()
    values = [(f'"{each.name} {name}"', option) for each in every for option in each.options for name in option.names]
    files = _OR.join(key for key, option in values if option.is_file)
    words = _OR.join(key for key, option in values if option.value and not option.is_file and not option.choices)
    choices = (f'        {key}) words="{" ".join(option.choices)}" ;;\n' for key, option in values if option.choices)
    return f"""\
# bash completion for proxyd: {_WRITTEN}
_proxyd() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} words=
    if [[ $word == "=" ]]; then
        word=
    elif [[ $before == "=" ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    if ((COMP_CWORD == 1)) || [[ $command == -* ]]; then
        command=
    fi
    COMPREPLY=()
    case "$command $before" in
        {files})
            return ;; # a file: readline completes it
        {words})
            compopt +o default
            return ;;
{"".join(choices)}\
        *)
            case "$command" in
{"".join(_bash_words(each, every[1:]) for each in every)}\
            esac ;;
    esac
    compopt +o default
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o default -F _proxyd proxyd
"""


def _bash_words(command: Command, below: Iterable[Command]) -> str:
    options = " ".join(name for option in command.options for name in option.names)
    more = "" if command.name else f" {' '.join(each.name for each in below)}"
    files = " [[ $word == -* ]] || return;" if any(each.is_file for each in command.positionals) else ""
    return f'                "{command.name}")' + files + f' words="{options}{more}" ;;\n'


def zsh() -> str:
    """For zsh."""
    own, *below = commands()
    names = "".join(f"                {_quoted(each.name + ':' + _escaped(each.says, ':'))}\n" for each in below)
    return f"""\
#compdef proxyd
# zsh completion for proxyd: {_WRITTEN}
_proxyd() {{
    local context state state_descr line curcontext="$curcontext"
    typeset -A opt_args
    _arguments -C \\
{"".join(f"        {each} {chr(92)}{chr(10)}" for each in _zsh_arguments(own))}\
        '1: :->command' '*:: :->argument'
    case $state in
        command)
            local -a commands=(
{names}\
            )
            _describe -t commands command commands ;;
        argument)
            case $words[1] in
{"".join(map(_zsh_command, below))}\
            esac ;;
    esac
}}
_proxyd "$@"
"""


def _zsh_command(command: Command) -> str:
    arguments = " \\\n".join(f"                    {each}" for each in _zsh_arguments(command))
    return f"                {command.name}) _arguments \\\n{arguments} ;;\n"


def _zsh_arguments(command: Command) -> Iterator[str]:
    for each in command.arguments:
        how = "_files" if each.is_file else f"({' '.join(each.choices)})" if each.choices else " "
        value = f":{each.value}:{how}" if each.value else ""
        if not each.names:
            yield _quoted(f"{'*' if each.often else ''}{value}")
        for name in each.names:
            others = "*" if each.often else f"({' '.join(each.names)})"
            yield _quoted(f"{others}{name}{'=' if value else ''}[{_escaped(each.says)}]{value}")


def _escaped(text: str, special: str = "[]:") -> str:
    """As a description in zsh's own little language."""
    return "".join(f"\\{each}" if each in special else each for each in text.replace("\\", "\\\\"))


def _quoted(text: str) -> str:
    """One word for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def fish() -> str:
    """For fish."""
    own, *below = commands()
    lines = [f"# fish completion for proxyd: {_WRITTEN}", "complete -c proxyd -f"]
    lines += _fish_arguments(own, "__fish_use_subcommand")
    for each in below:
        lines.append(f"complete -c proxyd -n __fish_use_subcommand -a {each.name} -d {_fish_quoted(each.says)}")
        lines += _fish_arguments(each, f"__fish_seen_subcommand_from {each.name}")
    return "\n".join((*lines, ""))


def _fish_arguments(command: Command, condition: str) -> Iterator[str]:
    if any(each.is_file for each in command.positionals):
        yield f"complete -c proxyd -n '{condition}' -F"
    for each in command.options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in each.names)
        takes = " -rF" if each.is_file else f" -xa '{' '.join(each.choices)}'" if each.choices else " -x"
        yield f"complete -c proxyd -n '{condition}' {names}{takes if each.value else ''} -d {_fish_quoted(each.says)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHIPPED: Final[dict[str, Callable[[], str]]] = {"proxyd.bash": bash, "_proxyd": zsh, "proxyd.fish": fish}
"""The files, and what is in them."""


if __name__ == "__main__":
    for name, text in SHIPPED.items():
        (FOLDER / name).write_text(text())
