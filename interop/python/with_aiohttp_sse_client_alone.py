"""PyPI `aiohttp-sse-client` without the lines that the guide shows for it."""

import asyncio

import report
from aiohttp_sse_client.client import EventSource


async def main():
    async with EventSource(report.url, on_open=report.opened) as source:
        async for event in source:
            report.event(event.type or "message", event.data, event.last_event_id)


try:
    asyncio.run(main())
except Exception as error:
    report.failed(error)
report.closed()
