// `eventsource` without the lines that the guide shows for it.

import { follow, url } from "./report.mjs";
import { EventSource } from "eventsource";

follow(new EventSource(url));
