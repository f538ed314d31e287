// Run graphs under Node: node node.js LIBRARY.js CASES.json
// Prints for each case a line of JSON: the outputs by name, or a string that says why there are none.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { oneLine, open, tensors, weights } from "./page/graphs.js";
import { encoded } from "./page/tensors.js";

const [library, cases] = process.argv.slice(2);
const ort = await import(pathToFileURL(library));
ort.env.wasm.numThreads = 1;
for (const { graph, data, inputs } of JSON.parse(await readFile(cases))) {
  let outputs;
  try {
    const given = await tensors(inputs, readFile);
    const opened = await open(ort, await readFile(graph), await weights(data, readFile), given);
    outputs = Object.fromEntries(Object.entries(await opened.run()).map(([name, out]) => [name, encoded(out)]));
    await opened.close();
  } catch (error) {
    outputs = oneLine(error);
  }
  console.log(JSON.stringify(outputs));
}
process.exit(); // the threads of onnxruntime-web would keep Node alive
