// The pages in the folder PAGES, and the browser client. The browser is told that they come from the stream's origin, so that no CORS is needed. The
// stream's server does not serve them.

import { readFile } from "node:fs/promises";

const FOLDER = "/interop/";

/// The address of a page that follows a stream this many times.
export function addressOf({ page, url, types, times }) {
  const address = new URL(`${FOLDER}${page}.html`, url);
  address.hash = JSON.stringify({ url, types, times });
  return address.href;
}

export const isOurs = (url) => new URL(url).pathname.startsWith(FOLDER);

/// A file of a page, of these drivers, or of a package that they import.
export async function fileAt(url) {
  const name = new URL(url).pathname.slice(FOLDER.length);
  const type = name.endsWith(".html") ? "text/html; charset=utf-8" : "text/javascript";
  const here = import.meta.dirname;
  for (const path of [`${process.env.PAGES}/${name}`, `${process.env.PAGES}/../../js/${name}`, `${here}/${name}`, `${here}/node_modules/${name}`]) {
    for (const file of [path, `${path}.js`]) {
      const body = await readFile(file).catch(() => undefined);
      if (body) return { status: 200, type, body };
    }
  }
  return { status: 404, type: "text/plain", body: Buffer.alloc(0) };
}
