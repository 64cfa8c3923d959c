"use strict";
/* The data of the page: a gzip of a safetensors file, in base64. -> { name: typed array, ... }

   A safetensors file is the length of its header (8 bytes), the header in JSON with the place of each tensor, and the
   tensors (https://github.com/huggingface/safetensors). */

const ARRAYS = { I8: Int8Array, U8: Uint8Array, F16: Uint16Array, I32: Int32Array, F32: Float32Array };

async function read_data(base64) {
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return read_safetensors(await new Response(stream).arrayBuffer());
}

function read_safetensors(buffer) {
  const n_header = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, n_header)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, end] = data_offsets;
    const data = new ARRAYS[dtype](buffer.slice(8 + n_header + start, 8 + n_header + end));
    tensors[name] = Object.assign(dtype === "F16" ? from_float16(data) : data, { shape });
  }
  return tensors;
}

/* Return the numbers of IEEE 754 half precision: 1 bit of sign, 5 of the exponent, 10 of the fraction. */
function from_float16(halves) {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
}

/* Return the tree of weights of gpt2.js, { wte, wpe, blocks, ln_f }, from { "blocks.0.attn.c_attn.w": ..., ... }. A
   matrix has a second tensor, ".scale". constants: numbers and names of the tree that are no tensors. */
function weights_tree(tensors, constants) {
  const tree = { blocks: [] };
  for (const [name, values] of Object.entries(tensors)) {
    if (name.endsWith(".scale")) continue;
    const scale = tensors[`${name}.scale`];
    put(tree, name, scale ? matrix(values, scale) : values);
  }
  for (const [name, value] of Object.entries(constants)) put(tree, name, value);
  return tree;
}

function matrix(values, scale) { // int8 [n_out, n_in] and float32 [n_out] -> a matrix of gpt2.js
  const [n_out, n_in] = values.shape;
  return { values: Float32Array.from(values, (value, i) => value * scale[Math.floor(i / n_in)]), n_out, n_in };
}

function put(tree, name, value) {
  const path = name.split(".");
  const last = path.pop();
  const leaf = path.reduce((node, key) => (node[key] ??= {}), tree);
  leaf[last] = value;
}
