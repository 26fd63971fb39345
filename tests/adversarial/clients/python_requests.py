"""The requests library, with one Session."""

import requests

from tests.adversarial.clients import PATIENCE, PIECE, command_line, tell, tell_error, uploaded

proxy, authority, verb, urls = command_line()
with requests.Session() as session:
    session.proxies = {"http": proxy, "https": proxy}
    session.verify = authority
    for url in urls:
        body = {"method": "POST", "data": uploaded()} if verb == "upload" else {"method": "GET"}
        try:
            with session.request(url=url, stream=True, timeout=PATIENCE, **body) as answer:
                tell(answer.status_code, answer.reason, answer.iter_content(PIECE))
        except requests.RequestException as error:
            tell_error(error)
