import { open } from "/tower-sse.js";

const stream = open("/events", { topics: ["news"] });
stream.on("news", ({ json }) => list.append(row(json)));
stream.subscribe(({ caughtUp }) => light.classList.toggle("live", caughtUp));
