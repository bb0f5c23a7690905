import { open } from "/tower-sse.js";

export const stream = open("/events", { lazy: true });
