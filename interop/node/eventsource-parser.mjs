// npm `eventsource-parser` over `fetch`, with a loop that reconnects.

import { closed, event, failed, opened, url } from "./report.mjs";
import { follow } from "./resume.mjs";

await follow(url, {
  onEvent: ({ type, data, lastEventId }) => event(type, data, lastEventId),
  onOpen: opened,
  onError: failed,
});
closed();
