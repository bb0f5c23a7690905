// The output of every driver: one JSON line for each report of its client.
// Usage of a driver: DRIVER URL [EVENT_TYPE...]

import { writeSync } from "node:fs";

export const [url, ...types] = process.argv.slice(2);

function say(observation) {
  // Writes the whole line at once, so that lines stay in order.
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

/// The client will not reconnect.
export function closed() {
  say({ closed: true });
  process.exit();
}

/// Reports what an EventSource of any implementation reports.
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
