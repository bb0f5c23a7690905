// npm `eventsource`.

import { follow, url } from "./report.mjs";
import { EventSource } from "eventsource";

const source = new EventSource(url);
// Without anything else to do, Node would end while it waits to come back.
setInterval(() => {}, 2 ** 30);

follow(source);
