"""PyPI `aiohttp-sse-client`."""

import asyncio

import report
from resume_aiohttp import follow


async def main():
    async for event in follow(report.url, on_open=report.opened, on_error=lambda: report.failed(Exception())):
        report.event(event.type or "message", event.data, event.last_event_id)


try:
    asyncio.run(main())
except Exception as error:
    report.failed(error)
report.closed()
