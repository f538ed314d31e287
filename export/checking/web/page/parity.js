// How far outputs are from those of the test data: what `validate` says in Python.

import { numbers } from "./tensors.js";

const RTOL = 2e-5; // of the largest magnitude expected
const ATOL = 2e-5;
const FLOATS = { float16: [10, -14], float32: [23, -126], float64: [52, -1022] }; // digits, least exponent
const bits = new DataView(new ArrayBuffer(8));

/** One check for each output that is expected: { output, absolute, ulp, problem }. */
export function check(got, expected) {
  const names = Object.keys(expected);
  if (names.length !== Object.keys(got).length || names.some((name) => !(name in got)))
    throw new Error(`gave ${Object.keys(got).join(", ")}, expected ${names.join(", ") || "none"}`);
  return names.map((name) => ({ output: name, ...compare(got[name], expected[name]) }));
}

/** The largest difference, absolute and in units in the last place of the largest magnitude expected. */
export function compare(got, expected) {
  const shape = (tensor) => `[${tensor.dims.join(", ")}]`;
  const alike = shape(got) === shape(expected);
  const { absolute, scale } = alike ? largest(got, expected) : { absolute: Infinity, scale: 0 };
  const ulp = absolute / spacing(scale, expected.type);
  const close = absolute <= Math.max(ATOL, RTOL * scale) || (expected.type === "float16" && ulp <= 1);
  let problem = "";
  if (got.type !== expected.type) problem = `is ${got.type}, expected ${expected.type}`;
  else if (!alike) problem = `has the shape ${shape(got)}, expected ${shape(expected)}`;
  else if (!close) problem = `off by ${Number(absolute.toPrecision(2))}`;
  return { absolute, ulp, problem };
}

/** Equal infinities and NaNs differ by nothing; one on one side alone differs infinitely. */
function largest(got, expected) {
  const [a, b] = [numbers(got), numbers(expected)];
  let [absolute, scale] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    if (Number.isFinite(b[i])) scale = Math.max(scale, Math.abs(b[i]));
    if (a[i] === b[i] || (Number.isNaN(a[i]) && Number.isNaN(b[i]))) continue;
    const finite = Number.isFinite(a[i]) && Number.isFinite(b[i]);
    absolute = Math.max(absolute, finite ? Math.abs(a[i] - b[i]) : Infinity);
  }
  return { absolute, scale };
}

/** From `x` to the next number of its type; whole numbers count as float64. */
function spacing(x, type) {
  const [digits, least] = FLOATS[type] ?? FLOATS.float64;
  bits.setFloat64(0, x);
  const exponent = ((bits.getUint16(0) >> 4) & 0x7ff) - 1023;
  return 2 ** (Math.max(exponent, least) - digits);
}
