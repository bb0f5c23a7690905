import { experimental_streamedQuery as streamedQuery } from "@tanstack/query-core";
import { Observable } from "rxjs";
import { open } from "/tower-sse.js";

// RxJS
export const observable = (stream, topic) => new Observable((to) => stream.topic(topic, ({ json }) => to.next(json)));

// TanStack Query
export const query = (topic) => ({
  queryKey: [topic],
  queryFn: streamedQuery({ streamFn: ({ signal }) => open("/events", { topics: [topic], signal }) }),
});
