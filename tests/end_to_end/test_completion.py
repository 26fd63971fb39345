"""Completion in real shells, installed as the README says: commands, options, choices and files, and nothing else."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import termios
from typing import TYPE_CHECKING, Final

import pytest

from tests.completion import FOLDER, IS_FILE, SHIPPED, commands
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE: Final = 60.0  # seconds until a test gives up; none is decided by time
PROMPT: Final = "READY> "
LOADER: Final = "/usr/share/bash-completion/bash_completion"

Ask = tuple[str, ...]  # the words before, and the one that is begun
NAMES: Final = {each.name for each in commands() if each.name}
CASES: Final[dict[Ask, set[str]]] = {
    ("ch",): {"check"},
    ("re",): {"reload", "report"},
    ("check", "--js"): {"--json"},
    ("check", "pol"): {"policy.toml"},
    ("check", "policy.toml", "bad"): {"bad one.toml"},
    ("log", "--follow", "pol"): {"policy.toml"},
    ("--policy", "pol"): {"policy.toml"},
    ("learn", "--policy", "pol"): {"policy.toml"},
    ("explain", "x:443", "--policy=pol"): {"--policy=policy.toml"},
    ("explain", "--address", "pol"): set(),
    ("explain", "--c"): {"--client", "--cname"},
    ("password", "pol"): set(),
    ("diff", "--fail-on", ""): {"opens", "closes", "any", "never"},
    ("diff", "--fail-on", "cl"): {"closes"},
    ("diff", "--fail-on=cl"): {"--fail-on=closes"},
}


def test_what_is_shipped_is_what_the_parser_says() -> None:
    """If not: `python -m tests.completion`."""
    assert {path.name for path in FOLDER.iterdir()} == SHIPPED.keys()
    for name, text in SHIPPED.items():
        assert (FOLDER / name).read_text() == text(), name


def test_no_placeholder_is_left_over() -> None:
    assert {
        each.value for command in commands() for each in command.arguments if each.value in IS_FILE
    } <= IS_FILE.keys()


class Terminal:
    """A shell with somebody at its keyboard, who lets it insert whatever it would offer."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._keyboard, inner = pty.openpty()
        termios.tcsetwinsize(inner, (50, 4000))
        self._shell = subprocess.Popen(  # noqa: S603 - our own words
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8", **environment},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self._until(PROMPT)

    def __call__(self, *words: str) -> set[str]:
        """What it has for the last of the words."""
        line = " ".join((*words[:-1], words[-1]))
        os.write(self._keyboard, f"proxyd {line}\x07\n".encode())  # ^G, which is bound to that
        said = self._until(f"]\r\n{PROMPT}")
        (arguments,) = re.findall(r"^\[(.*)\]\r$", said, re.MULTILINE)
        return set(arguments.split("][")[len(words) - 1 :]) - {words[-1]}

    def _until(self, end: str) -> str:
        said = b""
        while not said.endswith(end.encode()):
            assert select.select([self._keyboard], [], [], PATIENCE)[0], said
            said += os.read(self._keyboard, 65536)
        return said.decode()

    def close(self) -> None:
        """Leave."""
        self._shell.kill()
        self._shell.wait()
        os.close(self._keyboard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the shell is, and is at home: two policies, and a proxyd that only a shell could start."""
    for name in ("policy.toml", "bad one.toml"):
        (tmp_path / name).touch()
    return tmp_path


BASH: Final = f"""\
PS1='{PROMPT}'
bind 'set enable-bracketed-paste off'
bind '"\\C-g": insert-completions'
proxyd() {{ printf '[%s]' "$@"; echo; }}
"""
ZSH: Final = f"""\
PS1='{PROMPT}'
unsetopt prompt_sp prompt_cr
autoload -Uz compinit
compinit -u -D
every() {{ _main_complete; compstate[insert]=all; unset 'compstate[list]' }}
zle -C every complete-word every
bindkey '^G' every
unset zle_bracketed_paste
proxyd() {{ print -r -- "[${{(j:][:)@}}]" }}
"""


def bash(folder: Path) -> Terminal:
    """With bash-completion, which finds the file when it is first needed."""
    if not os.path.exists(LOADER):  # noqa: PTH110 - where every distribution has it
        give_up("install bash-completion to run this")
    place = folder / ".local" / "share" / "bash-completion" / "completions"
    place.mkdir(parents=True)
    shutil.copy(FOLDER / "proxyd.bash", place / "proxyd")
    (folder / "rc").write_text(f"{BASH}. {LOADER}\n")
    return Terminal([tool("bash"), "--noprofile", "--rcfile", str(folder / "rc"), "-i"], folder, {})


def bare_bash(folder: Path) -> Terminal:
    """Without it: the file alone is enough."""
    (folder / "rc").write_text(f"{BASH}. {FOLDER}/proxyd.bash\n")
    return Terminal([tool("bash"), "--noprofile", "--rcfile", str(folder / "rc"), "-i"], folder, {})


def zsh(folder: Path) -> Terminal:
    """With the file in a folder of `fpath`."""
    (folder / ".zshrc").write_text(f"fpath=({FOLDER} $fpath)\n{ZSH}")
    return Terminal([tool("zsh"), "-d", "-i"], folder, {"ZDOTDIR": str(folder)})


class Fish:
    """It tells by itself what it would offer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        place = folder / ".config" / "fish" / "completions"
        place.mkdir(parents=True)
        shutil.copy(FOLDER / "proxyd.fish", place / "proxyd.fish")
        self._shell = tool("fish")

    def __call__(self, *words: str) -> set[str]:
        """What it has for the last of the words."""
        line = f"proxyd {' '.join(words)}"
        done = subprocess.run(  # noqa: S603 - our own words
            [self._shell, "-c", 'complete -C "$line"'],
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C.UTF-8", "line": line},
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )
        assert done.stderr == b""
        return {each.partition("\t")[0] for each in done.stdout.decode().splitlines()}

    def close(self) -> None:
        """Nothing is left of it."""


@pytest.fixture(params=[bash, bare_bash, zsh, Fish], ids=lambda shell: shell.__name__)
def ask(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[..., set[str]]]:
    """Asks a shell for completions."""
    shell = request.param(folder)
    yield shell
    shell.close()


def test_what_is_begun_is_completed(ask: Callable[..., set[str]]) -> None:
    assert {words: ask(*words) for words in CASES} == CASES


def test_every_command_and_every_option_is_offered(ask: Callable[..., set[str]]) -> None:
    """Of proxyd itself and of each command, whatever it is that it takes."""
    assert ask("") >= NAMES
    for command in commands():
        words = (command.name, "--") if command.name else ("--",)
        assert ask(*words) == {name for each in command.options for name in each.names if name.startswith("--")}
