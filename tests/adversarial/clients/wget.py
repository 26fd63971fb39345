"""wget, one command for all URLs; each is saved under the last segment of its path, which must differ."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from tests.adversarial.clients import PATIENCE, command_line, tell, tell_error

proxy, authority, _, urls = command_line()
with tempfile.TemporaryDirectory() as directory:
    command = [
        "wget",
        "-S",
        "-t",
        "1",
        "-T",
        str(PATIENCE),
        "--content-on-error",
        f"--ca-certificate={authority}",
        *urls,
    ]
    env = os.environ | {"http_proxy": proxy, "https_proxy": proxy}
    run = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed program
    answers = re.findall(r"^  HTTP/1\.1 (\d+) (.*)$", run.stderr, re.MULTILINE)
    for url, (status, reason) in zip(urls, answers, strict=False):
        tell(int(status), reason, [Path(directory, url.rpartition("/")[2] or "index.html").read_bytes()])
    if not answers:
        tell_error(run.stderr)
