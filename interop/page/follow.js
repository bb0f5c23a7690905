import { EventStreamContentType, fetchEventSource } from "@microsoft/fetch-event-source";

class Over extends Error {}

/// Calls `onEvent` with each event of a stream. Reconnects until the server says that the stream has ended.
export async function follow(url, { onEvent, onOpen = () => {}, onError = () => {} }) {
  let pause;
  const options = {
    // Otherwise the stream is closed while its tab is hidden, and opened again when the tab is shown.
    openWhenHidden: true,
    // Otherwise Firefox delays a second request of the same URL by up to 20 s while the first one is open.
    cache: "no-store",
    async onopen(response) {
      pause = undefined;
      if (response.status === 204 || response.status === 410) throw new Over();
      if (!response.headers.get("content-type")?.startsWith(EventStreamContentType)) {
        pause = 1000 * response.headers.get("retry-after") || undefined;
        throw new Error(`the server says ${response.status}`);
      }
      onOpen();
    },
    onmessage: onEvent,
    onclose() {
      // Otherwise the end of a response ends the stream for good.
      throw new Error("the stream ended");
    },
    onerror(error) {
      if (error instanceof Over) throw error;
      onError(error);
      return pause;
    },
  };
  await fetchEventSource(url, options).catch((error) => {
    if (!(error instanceof Over)) throw error;
  });
}
