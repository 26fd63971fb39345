"""The httpx library, with one Client."""

import ssl

import httpx

from tests.adversarial.clients import PATIENCE, command_line, tell, tell_error, uploaded

proxy, authority, verb, urls = command_line()
trust = ssl.create_default_context(cafile=authority)
with httpx.Client(proxy=proxy, verify=trust, timeout=PATIENCE) as client:
    for url in urls:
        method, body = ("POST", uploaded()) if verb == "upload" else ("GET", None)
        try:
            with client.stream(method, url, content=body) as answer:
                tell(answer.status_code, answer.reason_phrase, answer.iter_bytes())
        except httpx.HTTPError as error:
            tell_error(error)
