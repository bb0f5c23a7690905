// What every driver says: one JSON line for each thing that its client tells.
// Usage of a driver: DRIVER URL [EVENT_TYPE...]

import { writeSync } from "node:fs";

export const [url, ...types] = process.argv.slice(2);

function say(observation) {
  // In one piece, and in order: the harness reads while the client goes on.
  let rest = Buffer.from(JSON.stringify(observation) + "\n");
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

export const opened = () => say({ open: true });
export const event = (type, data, id) => say({ event: { type, data, id } });
export const failed = (error) => say({ error: String(error?.message ?? error) });

/// The client will not come back.
export function closed() {
  say({ closed: true });
  process.exit();
}

/// Tells what an EventSource tells, whoever made it.
export function follow(source) {
  for (const type of ["message", ...types]) {
    source.addEventListener(type, ({ data, lastEventId }) => event(type, data, lastEventId));
  }
  source.addEventListener("open", opened);
  source.addEventListener("error", (error) => {
    failed(error.message ?? "error");
    if (source.readyState === source.CLOSED) closed();
  });
}
