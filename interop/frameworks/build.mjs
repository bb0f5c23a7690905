// Bundles the pages into the folder `bundles`.

import { readFile } from "node:fs/promises";
import { build } from "esbuild";
import { compile } from "svelte/compiler";

const svelte = {
  name: "svelte",
  setup({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, async ({ path: filename }) => ({ contents: compile(await readFile(filename, "utf8"), { filename }).js.code }));
  },
};

await build({
  entryPoints: ["plain.js", "react.page.jsx", "vue.page.js", "svelte.page.js", "solid.page.js", "rxjs.page.js", "tanstack.page.js"],
  outdir: "bundles",
  bundle: true,
  format: "esm",
  jsx: "automatic",
  // The server of the page serves it.
  external: ["/tower-sse.js"],
  // React runs effects twice only here.
  define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
  // With the compiler of templates.
  alias: { vue: "vue/dist/vue.esm-bundler.js" },
  plugins: [svelte],
  logLevel: "warning",
});
