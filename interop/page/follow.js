import { EventStreamContentType, fetchEventSource } from "@microsoft/fetch-event-source";

class Over extends Error {}

/// Calls `onEvent` with each event of a stream, and comes back to it until the server says that it is over.
export async function follow(url, { onEvent, onOpen = () => {}, onError = () => {} }) {
  let pause;
  const options = {
    // Or it closes the stream whenever its tab is hidden, and opens it again when it is shown.
    openWhenHidden: true,
    // Firefox would let a second request of the same URL wait for the first, for 20 s.
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
      // It would take the end of a response for the end of all.
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
