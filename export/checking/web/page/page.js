// The page: runs every graph of cases.json against its test data, shows and saves what came of it.

import { oneLine, open, tensors, weights } from "./graphs.js";
import { check } from "./parity.js";

const element = (id) => document.getElementById(id);
const get = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
};
const bytes = async (url) => new Uint8Array(await (await get(url)).arrayBuffer());

const cases = await (await get("cases.json")).json();
let library; // onnxruntime-web, from the first run on
let running = false;
export let found = []; // of the latest run: { row, outputs, checks, milliseconds }, a problem in place of outputs

/** Run all cases, one after the other. */
export async function runAll() {
  if (running) return;
  running = true;
  begin();
  try {
    await loadLibrary();
    say(`Running ${count(cases.length, "graph")}.`);
    for (const each of cases) {
      found.push(await runCase(each));
      show(found.at(-1));
      element("progress").value = found.length;
      await new Promise((resume) => setTimeout(resume)); // the page is drawn, and can be scrolled
    }
    conclude();
  } catch (error) {
    say(`Could not run: ${oneLine(error)}`);
  }
  end();
  running = false;
}

async function loadLibrary() {
  if (library) return;
  say("Loading onnxruntime-web.");
  const loaded = await import("./onnxruntime-web/ort.wasm.bundle.min.js");
  loaded.env.wasm.numThreads = 1; // more need headers that not every web server sends
  library = loaded;
}

async function runCase({ row, graph, data, inputs, outputs }) {
  try {
    const [file, given, expected] = [await bytes(graph), await tensors(inputs, bytes), await tensors(outputs, bytes)];
    const opened = await open(library, file, await weights(data, bytes), given);
    try {
      const got = await opened.run();
      return { row, outputs: got, checks: check(got, expected), milliseconds: await time(opened.run) };
    } finally {
      await opened.close();
    }
  } catch (error) {
    return { row, problem: oneLine(error), checks: [{ output: "", problem: oneLine(error) }] };
  }
}

/** The median of five times; each is of so many runs that a coarse clock does not matter. */
async function time(run) {
  const times = [];
  for (let runs = 1; times.length < 5; ) {
    const start = performance.now();
    for (let i = 0; i < runs; i++) await run();
    const taken = performance.now() - start;
    if (taken < 10) runs *= 2;
    else times.push(taken / runs);
  }
  return times.sort((a, b) => a - b)[2];
}

// --- what is seen

function begin() {
  found = [];
  for (const lines of [...element("table").tBodies]) lines.remove();
  element("results").hidden = element("progress").hidden = false;
  element("progress").max = cases.length;
  element("progress").value = 0;
  element("verdict").className = "verdict";
  element("run").setAttribute("aria-disabled", "true");
  element("save").disabled = true;
}

function end() {
  element("progress").hidden = true;
  element("run").removeAttribute("aria-disabled");
}

const say = (text) => element("status").replaceChildren(text);
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const short = (number) => (number === undefined ? "-" : number === 0 ? "0" : String(Number(number.toPrecision(3))));

function show({ row, checks, milliseconds }) {
  const lines = element("table").createTBody();
  for (const [i, { output, absolute, ulp, problem }] of checks.entries()) {
    const line = lines.insertRow();
    const cell = (tag, kind, text, scope) => {
      const made = document.createElement(tag);
      Object.assign(made, { className: kind, textContent: text }, scope && { scope });
      return line.appendChild(made);
    };
    if (i === 0) {
      cell("th", "id", row, "rowgroup").rowSpan = checks.length;
      cell("td", "n", short(milliseconds)).rowSpan = checks.length;
    }
    cell("th", "id", output || "-", "row");
    cell("td", "n", short(absolute));
    cell("td", "n", short(ulp));
    const verdict = document.createElement("span");
    Object.assign(verdict, { className: problem ? "outside" : "within", textContent: problem || "ok" });
    cell("td", "", "").append(verdict);
  }
}

function conclude() {
  const checks = found.flatMap((each) => each.checks);
  const off = checks.filter((each) => each.problem).length;
  element("verdict").classList.add(off ? "outside" : "within");
  const all = `${count(checks.length, "output")} of ${count(cases.length, "graph")}`;
  say(off ? `${off} of ${all} ${off === 1 ? "is" : "are"} off.` : `All ${all} agree.`);
  element("about").textContent = `${version()}, one thread.`;
  element("save").disabled = false;
}

const version = () => `onnxruntime-web ${library.env.versions.web} in ${navigator.userAgent}`;

// --- what is saved: as `validate --json` writes it, with times

/** The latest run. */
export function asJson() {
  const rows = {};
  for (const { row, checks, milliseconds } of found) {
    const cell = ((rows[row] ??= {}).browser ??= { absolute: 0, ulp: 0 });
    if (milliseconds !== undefined) cell.milliseconds = milliseconds;
    for (const { output, absolute = 0, ulp = 0, problem } of checks) {
      cell.absolute = Math.max(cell.absolute, absolute);
      cell.ulp = Math.max(cell.ulp, ulp);
      if (problem) cell.problem ??= output ? `${output}: ${problem}` : problem;
    }
  }
  const finite = (_, value) => (value === Infinity ? "inf" : value); // as Python's reader wants it
  return JSON.stringify({ format: 1, runtimes: { browser: version() }, absent: {}, rows }, finite, 1) + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asJson()], { type: "application/json" }));
  link.download = "browser.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

say(`${count(cases.length, "graph")}, not run yet.`);
element("run").addEventListener("click", runAll);
element("save").addEventListener("click", save);
element("run").disabled = cases.length === 0;
