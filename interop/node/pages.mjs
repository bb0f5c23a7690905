// The pages in the folder PAGES. They come from the origin of the stream, without its server's knowing, so that no CORS is in
// the way.

import { readFile } from "node:fs/promises";

const FOLDER = "/interop/";

/// Where a page is that follows a stream so many times.
export function addressOf({ page, url, types, times }) {
  const address = new URL(`${FOLDER}${page}.html`, url);
  address.hash = JSON.stringify({ url, types, times });
  return address.href;
}

export const isOurs = (url) => new URL(url).pathname.startsWith(FOLDER);

/// A file of the pages, one of these drivers, or one of a package that they import.
export async function fileAt(url) {
  const name = new URL(url).pathname.slice(FOLDER.length);
  const type = name.endsWith(".html") ? "text/html; charset=utf-8" : "text/javascript";
  const here = import.meta.dirname;
  for (const path of [`${process.env.PAGES}/${name}`, `${here}/${name}`, `${here}/node_modules/${name}`]) {
    for (const file of [path, `${path}.js`]) {
      const body = await readFile(file).catch(() => undefined);
      if (body) return { status: 200, type, body };
    }
  }
  return { status: 404, type: "text/plain", body: Buffer.alloc(0) };
}
