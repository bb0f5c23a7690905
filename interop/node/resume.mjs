import { createParser } from "eventsource-parser";

/// Calls `onEvent` with each event of a stream. Reconnects until the server says that the stream has ended.
export async function follow(url, { onEvent, onOpen = () => {}, onError = () => {} }) {
  let lastEventId = "";
  let delay = 1000;
  for (;;) {
    let pause;
    try {
      const headers = { accept: "text/event-stream" };
      // UTF-8 bytes as one character each: `fetch` accepts no other form.
      if (lastEventId) headers["last-event-id"] = String.fromCharCode(...new TextEncoder().encode(lastEventId));
      // Otherwise Firefox delays a second request of the same URL by up to 20 s while the first one is open.
      const response = await fetch(url, { headers, cache: "no-store" });
      if (response.status === 204 || response.status === 410) return;
      if (!response.ok) {
        pause = 1000 * response.headers.get("retry-after");
        throw new Error(`the server says ${response.status}`);
      }
      onOpen();
      const parser = createParser({
        onEvent: (event) => onEvent({ type: event.event ?? "message", data: event.data, lastEventId }),
        onId: (id) => (lastEventId = id),
        onRetry: (ms) => (delay = ms),
      });
      const utf8 = new TextDecoder();
      const reader = response.body.getReader();
      for (let read; !(read = await reader.read()).done; ) parser.feed(utf8.decode(read.value, { stream: true }));
    } catch (error) {
      onError(error);
    }
    await new Promise((resolve) => setTimeout(resolve, pause || delay));
  }
}
