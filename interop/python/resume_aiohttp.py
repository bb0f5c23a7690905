import asyncio
from datetime import timedelta

from aiohttp import ClientError, ClientSession, ClientTimeout
from aiohttp_sse_client.client import EventSource


async def follow(url, **callbacks):
    """The events of a stream. Comes back to it until the server says that it is over."""
    headers = {}
    wait = timedelta(seconds=0.5)
    # By default, it ends after five minutes. Three heartbeats may be missing.
    timeout = ClientTimeout(total=None, sock_connect=10, sock_read=45)
    # A line may be twice as long. The default is 256 KiB.
    async with ClientSession(timeout=timeout, read_bufsize=1 << 20) as session:
        while True:
            try:
                source = EventSource(url, session=session, reconnection_time=wait, headers=headers, **callbacks)
                async with source:
                    async for event in source:
                        # Spelled as it does, or there will be two of them.
                        headers["Last-Event-Id"] = event.last_event_id
                        yield event
            except ConnectionAbortedError:
                return  # a 204, or something that is no stream
            except (ClientError, ConnectionError):
                pass  # a connection that broke, or a status that says no
            await asyncio.sleep(wait.total_seconds())
