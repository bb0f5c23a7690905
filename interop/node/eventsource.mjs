// npm `eventsource`.

import { follow, url } from "./report.mjs";
import { EventSource } from "eventsource";

const source = new EventSource(url);
// Without other work, Node exits while the client waits to reconnect. A timer keeps it running.
setInterval(() => {}, 2 ** 30);

follow(source);
