// The EventSource of npm `undici`, which is also the one that Node has behind `--experimental-eventsource`.

import { follow, url } from "./report.mjs";
import { EventSource } from "undici";

const source = new EventSource(url);
// Without other work, Node exits while the client waits to reconnect. A timer keeps it running.
setInterval(() => {}, 2 ** 30);

follow(source);
