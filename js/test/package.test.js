/** What is published: its size, its types, its files. */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = (command, ...args) => execFileSync(command, args, { cwd: root, encoding: "utf8" });

/** The bytes of a page's bundle with this import: as they are, and compressed. */
async function size(contents) {
  const stdin = { contents, resolveDir: root };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: "esm", target: "es2022", write: false });
  const { length } = outputFiles[0].contents;
  return { length, gzip: gzipSync(outputFiles[0].contents, { level: 9 }).length };
}

test("the module keeps its budgets", async (t) => {
  const whole = await size('export * from "./tower-sse.js"');
  const withoutTabs = await size('export { open } from "./tower-sse.js"');
  const parser = await size('export { parser } from "./tower-sse.js"');
  const written = readFileSync(`${root}/tower-sse.js`).length;
  t.diagnostic(JSON.stringify({ whole, withoutTabs, parser, written }));
  assert.ok(whole.length <= BUDGET.whole.length && whole.gzip <= BUDGET.whole.gzip, JSON.stringify(whole));
  assert.ok(withoutTabs.gzip <= BUDGET.withoutTabs.gzip, JSON.stringify(withoutTabs));
  assert.ok(parser.gzip <= 600, JSON.stringify(parser));
  assert.ok(written <= BUDGET.written, `${written}`);
});

const BUDGET = { whole: { length: 18_650, gzip: 8_480 }, withoutTabs: { gzip: 7_260 }, written: 53_350 };

test("the module has the types that it says it has", () => {
  run("npx", "tsc", "--project", "test/tsconfig.module.json");
});

test("the types let through what is right, and refuse what is not", () => {
  run("npx", "tsc", "--project", "test/tsconfig.types.json");
});

test("the types are right for a program of ES2022", () => {
  const folder = mkdtempSync(join(tmpdir(), "tower-sse-"));
  try {
    const types = fileURLToPath(new URL("../tower-sse.d.ts", import.meta.url));
    const file = join(folder, "page.ts");
    writeFileSync(file, `import { open } from ${JSON.stringify(types.replace(/\.d\.ts$/, ".js"))};\nopen("/events").close();\n`);
    const tsc = fileURLToPath(new URL("../node_modules/.bin/tsc", import.meta.url));
    const options = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"];
    const { stdout } = spawnSync(tsc, [...options, file], { encoding: "utf8" });
    assert.equal(stdout, "");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("importing the module touches nothing of a page", () => {
  const code = 'import("./tower-sse.js").then(({ open }) => open("/events", { lazy: true }).subscribe(() => {}))';
  run(process.execPath, "--input-type=module", "--eval", code);
});

test("the package has its files and no others, and the version of the crate", () => {
  const [{ files, name, version }] = JSON.parse(run("npm", "pack", "--dry-run", "--json"));
  assert.deepEqual(files.map(({ path }) => path).sort(), ["LICENSE", "README.md", "package.json", "tower-sse.d.ts", "tower-sse.js"]);
  const [, crate, crateVersion] = readFileSync(`${root}/../Cargo.toml`, "utf8").match(/^name = "(.+)"\nversion = "(.+)"$/m);
  assert.deepEqual([name, version], [crate, crateVersion]);
  assert.equal(readFileSync(`${root}/LICENSE`, "utf8"), readFileSync(`${root}/../LICENSE`, "utf8"));
});
