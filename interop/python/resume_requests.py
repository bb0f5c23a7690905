import time

import requests
from sseclient import SSEClient


def follow(url, on_open=lambda: None, on_error=lambda error: None):
    """Yields the events of a stream. Reconnects until the server says that the stream has ended."""
    last_event_id, delay = "", 1.0
    while True:
        headers = {"Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id.encode()
        pause = 0.0
        try:
            # The time of three heartbeats. By default, there is no timeout.
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
