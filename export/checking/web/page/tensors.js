// ONNX's TensorProto, as standard test data has it, for onnxruntime and for numbers.

// by the numbers of TensorProto.DataType; onnxruntime's names and what it keeps such a tensor in
const TYPES = {
  1: ["float32", Float32Array],
  2: ["uint8", Uint8Array],
  3: ["int8", Int8Array],
  4: ["uint16", Uint16Array],
  5: ["int16", Int16Array],
  6: ["int32", Int32Array],
  7: ["int64", BigInt64Array],
  9: ["bool", Uint8Array],
  10: ["float16", globalThis.Float16Array ?? Uint16Array],
  11: ["float64", Float64Array],
  12: ["uint32", Uint32Array],
  13: ["uint64", BigUint64Array],
};

/** The fields of a protobuf message: numbers, or bytes. */
function* fields(bytes) {
  let at = 0;
  const take = (size) => {
    at += size;
    if (at > bytes.length) throw new Error("the tensor ends early");
    return bytes.subarray(at - size, at);
  };
  const varint = () => {
    for (let value = 0, unit = 1; ; unit *= 128) {
      const [byte] = take(1);
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (wire === 0) yield [number, varint()];
    else if (wire === 2) yield [number, take(varint())];
    else if (wire === 1 || wire === 5) take(wire === 1 ? 8 : 4);
    else throw new Error("this is no tensor");
  }
}

/**
 * A tensor out of the bytes of a TensorProto with raw data: { name, type, dims, data }.
 * Raw data are little-endian, and so is whatever runs JavaScript today.
 */
export function readTensor(bytes) {
  const tensor = { name: "", type: undefined, dims: [] };
  let kind = 0;
  let raw;
  for (const [number, value] of fields(bytes)) {
    if (number === 1) tensor.dims.push(...(typeof value === "number" ? [value] : packed(value)));
    else if (number === 2) kind = value;
    else if (number === 8) tensor.name = new TextDecoder().decode(value);
    else if (number === 9) raw = value;
  }
  if (!(kind in TYPES)) throw new Error(`${tensor.name}: got a tensor of type ${kind}, expected numbers`);
  const [type, Numbers] = TYPES[kind];
  const count = tensor.dims.reduce((product, size) => product * size, 1);
  if ((raw?.length ?? 0) !== count * Numbers.BYTES_PER_ELEMENT)
    throw new Error(`${tensor.name}: got ${raw?.length ?? 0} bytes of raw data, expected ${count} of ${type}`);
  return { ...tensor, type, data: new Numbers(Uint8Array.from(raw ?? []).buffer) };
}

/** Sizes that a writer has put into one field. */
function packed(bytes) {
  const sizes = [];
  for (let at = 0, value = 0, unit = 1; at < bytes.length; at++) {
    value += (bytes[at] & 127) * unit;
    unit *= 128;
    if (bytes[at] < 128) {
      sizes.push(value);
      [value, unit] = [0, 1];
    }
  }
  return sizes;
}

/** The numbers of a tensor in double precision. */
export function numbers({ type, data }) {
  return Float64Array.from(data, type === "float16" && data instanceof Uint16Array ? half : Number);
}

/** A half out of its bits, where the engine has no Float16Array. */
function half(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

/** A tensor as JSON has it: its bytes in base 64. */
export function encoded({ type, dims, data }) {
  let text = "";
  for (const byte of new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) text += String.fromCharCode(byte);
  return { type, dims, data: btoa(text) };
}
