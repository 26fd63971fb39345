"""The aiohttp library, with one ClientSession; the only Python client here that speaks WebSocket."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator

import aiohttp

from tests.adversarial.clients import PATIENCE, PIECE, command_line, tell, tell_error

proxy, authority, verb, urls = command_line()


async def uploaded() -> AsyncIterator[bytes]:
    """The body of an upload, as it comes."""
    while piece := await asyncio.to_thread(os.read, sys.stdin.fileno(), PIECE):
        yield piece


async def ask(session: aiohttp.ClientSession, url: str, trust: ssl.SSLContext) -> None:
    """One exchange."""
    if verb == "websocket":
        async with session.ws_connect(url, proxy=proxy, ssl=trust) as socket:
            await socket.send_str("hello")
            tell(101, "", [(await socket.receive_str()).encode()])
        return
    method, body = ("POST", uploaded()) if verb == "upload" else ("GET", None)
    async with session.request(method, url, proxy=proxy, ssl=trust, data=body) as answer:
        tell(answer.status, answer.reason or "", [piece async for piece in answer.content.iter_chunked(PIECE)])


async def main() -> None:
    """All exchanges."""
    trust = ssl.create_default_context(cafile=authority)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
        for url in urls:
            try:
                await ask(session, url, trust)
            except aiohttp.ClientError as error:
                tell_error(error)


asyncio.run(main())
