import asyncio
from datetime import timedelta

from aiohttp import ClientError, ClientSession, ClientTimeout
from aiohttp_sse_client.client import EventSource


async def follow(url, **callbacks):
    """Yields the events of a stream. Reconnects until the server says that the stream has ended."""
    headers = {}
    wait = timedelta(seconds=0.5)
    # The time of three heartbeats. By default, the stream ends after five minutes.
    timeout = ClientTimeout(total=None, sock_connect=10, sock_read=45)
    # A line may be twice as long as the buffer. The default is 256 KiB.
    async with ClientSession(timeout=timeout, read_bufsize=1 << 20) as session:
        while True:
            try:
                source = EventSource(url, session=session, reconnection_time=wait, headers=headers, **callbacks)
                async with source:
                    async for event in source:
                        # Use the library's spelling, or the request has the header twice.
                        headers["Last-Event-Id"] = event.last_event_id
                        yield event
            except ConnectionAbortedError:
                return  # a 204, or a response that is no stream
            except (ClientError, ConnectionError):
                pass  # a broken connection, or an error status
            await asyncio.sleep(wait.total_seconds())
