// Graphs in onnxruntime, of the browser or of Node.

import { readTensor } from "./tensors.js";

/** Tensors by name out of files of test data. `read` gives the bytes of a file. */
export async function tensors(files, read) {
  const all = await Promise.all(files.map(async (file) => readTensor(await read(file))));
  return Object.fromEntries(all.map((tensor) => [tensor.name, tensor]));
}

/** The files beside a graph that have its weights, as onnxruntime takes them. */
export const weights = (data, read) =>
  Promise.all(data.map(async ({ path, file }) => ({ path, data: new Uint8Array(await read(file)) })));

/** A graph that is loaded: `run` gives its outputs by name, `close` ends it. */
export async function open(ort, graph, externalData, inputs) {
  const options = { intraOpNumThreads: 1, interOpNumThreads: 1 };
  if (externalData.length > 0) options.externalData = externalData;
  const session = await ort.InferenceSession.create(graph, options);
  const feeds = Object.fromEntries(
    Object.values(inputs).map(({ name, type, dims, data }) => [name, new ort.Tensor(type, data, dims)]),
  );
  return { run: () => session.run(feeds), close: () => session.release() };
}

/** The first line of what an error says. */
export const oneLine = (error) => String(error?.message ?? error).trim().split("\n")[0];
