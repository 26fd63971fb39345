"""Python's urllib.request, with a handler each for the proxy and for TLS."""

import ssl
import urllib.error
import urllib.request

from tests.adversarial.clients import PATIENCE, PIECE, command_line, tell, tell_error, uploaded

proxy, authority, verb, urls = command_line()
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({"http": proxy, "https": proxy}),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority)),
)
for url in urls:
    request = urllib.request.Request(url, data=uploaded() if verb == "upload" else None)  # noqa: S310 - a test's own URL
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            tell(answer.status, answer.reason, iter(lambda: answer.read(PIECE), b""))
    except urllib.error.HTTPError as answer:
        tell(answer.code, answer.reason, [answer.read()])
    except OSError as error:
        tell_error(error)
