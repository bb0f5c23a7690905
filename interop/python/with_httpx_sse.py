"""PyPI `httpx-sse`, with the loop that it takes to come back."""

import report
from resume_httpx import follow

for event in follow(report.url, report.opened, report.failed):
    report.event(event.event, event.data, event.id)
report.closed()
