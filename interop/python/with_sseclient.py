"""PyPI `sseclient-py` over `requests`, with the loop that it takes to come back."""

import report
from resume_requests import follow

for event in follow(report.url, report.opened, report.failed):
    report.event(event.event, event.data, event.id)
report.closed()
