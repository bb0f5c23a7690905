import time

import requests
from sseclient import SSEClient


def follow(url, on_open=lambda: None, on_error=lambda error: None):
    """The events of a stream. Comes back to it until the server says that it is over."""
    last_event_id, delay = "", 1.0
    while True:
        headers = {"Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id.encode()
        pause = 0.0
        try:
            # Three heartbeats may be missing. By default, it waits for ever.
            with requests.get(url, headers=headers, stream=True, timeout=(10, 45)) as response:
                if response.status_code in (204, 410):
                    return
                pause = float(response.headers.get("Retry-After", 0))
                response.raise_for_status()
                on_open()
                for event in SSEClient(response).events():
                    if event.id is not None:
                        last_event_id = event.id
                    if event.retry is not None and event.retry.isdecimal():
                        delay = int(event.retry) / 1000
                    yield event
        except requests.RequestException as error:
            on_error(error)
        time.sleep(pause or delay)
