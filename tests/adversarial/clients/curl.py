"""curl, one command for all URLs; what it saw is what its --write-out says."""

import json
import subprocess
import tempfile
from pathlib import Path

from tests.adversarial.clients import PATIENCE, command_line, tell, tell_error

proxy, authority, verb, urls = command_line()
with tempfile.TemporaryDirectory() as directory:
    bodies = [Path(directory, str(number)) for number in range(len(urls))]
    command = ["curl", "-s", "-m", str(PATIENCE), "-x", proxy, "--cacert", authority, "-w", "%{json}\n"]
    command += ["-T", "."] if verb == "upload" else []
    for url, body in zip(urls, bodies, strict=True):
        command += ["-g", "-o", str(body), url]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 - a fixed program
    for line, body in zip(run.stdout.splitlines(), bodies, strict=True):
        said = json.loads(line)
        if said["exitcode"]:
            tell_error(said["errormsg"])
        else:
            tell(said["response_code"], "", [body.read_bytes()])
