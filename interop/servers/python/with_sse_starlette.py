"""Numbered events with sse-starlette: one each 50 ms. With `?ids`, they have ids, and a client resumes. Without, it gets what comes.

Prints its port. Ends when the standard input ends.
"""

import asyncio
import os
import socket
import sys
import threading

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.routing import Route

begun = 0.0


def newest() -> int:
    return int((asyncio.get_running_loop().time() - begun) / 0.05)


async def numbers(after: int, has_ids: bool):
    while True:
        while after < newest():
            after += 1
            yield ServerSentEvent(data=str(after), id=str(after) if has_ids else None, retry=100)
        await asyncio.sleep(0.01)


async def events(request):
    has_ids = "ids" in request.query_params
    after = request.headers.get("last-event-id")
    return EventSourceResponse(numbers(int(after) if after else newest(), has_ids), ping=1)


async def main():
    global begun
    begun = asyncio.get_running_loop().time()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = Starlette(routes=[Route("/{path:path}", events)])
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([listener])


# No server outlives the test.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
asyncio.run(main())
