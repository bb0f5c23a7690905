import time

import httpx
from httpx_sse import connect_sse


def follow(url, on_open=lambda: None, on_error=lambda error: None):
    """Yields the events of a stream. Reconnects until the server says that the stream has ended."""
    last_event_id, delay = "", 1.0
    # The time of three heartbeats. The default is 5 s.
    timeout = httpx.Timeout(10, read=45)
    with httpx.Client(timeout=timeout) as client:
        while True:
            headers = {"Last-Event-ID": last_event_id.encode()} if last_event_id else {}
            pause = 0.0
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    if source.response.status_code in (204, 410):
                        return
                    pause = float(source.response.headers.get("Retry-After", 0))
                    source.response.raise_for_status()
                    on_open()
                    for event in source.iter_sse():
                        last_event_id = event.id
                        if event.retry is not None:
                            delay = event.retry / 1000
                        yield event
            except httpx.HTTPError as error:
                on_error(error)
            time.sleep(pause or delay)
