"use strict";
/* GPT-2 in plain JavaScript: from a token id to the logits of the next token.

   It is gpt2_pico.py with a KV cache. One call computes one position; the keys and values of the positions before it are
   in the cache. The names are those of gpt2_pico.py. A matrix has one row per output:

       { values: Float32Array [n_out * n_in], n_out, n_in }

   Vectors are Float32Arrays. Sizes in the shape comments:

       n_embd     width of the residual stream, n_head * d_head
       n_total    positions attended to: those in the cache and the new one */

// ---- arithmetic ----------------------------------------------------------------------------------------------------

const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
const relu = (x) => Math.max(x, 0);
const silu = (x, beta = 1) => x / (1 + Math.exp(-beta * x));
const quick_gelu = (x) => silu(x, 1.702);

function gelu_erf(x) { // x * Phi(x); Phi by Abramowitz and Stegun 7.1.26
  const t = 1 / (1 + 0.3275911 * Math.SQRT1_2 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return relu(x) - Math.abs(x) * 0.5 * series * Math.exp(-0.5 * x * x);
}

const ACTIVATIONS = { gelu, gelu_erf, relu, silu, quick_gelu };

function softmax(x) { // [n] -> [n]
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const exp_x = x.map((value) => Math.exp(value - largest));
  const sum = exp_x.reduce((a, b) => a + b, 0);
  return exp_x.map((value) => value / sum);
}

function layer_norm(x, { g, b, eps = 1e-5 }) { // [n_embd] -> [n_embd]
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const deviation = Math.sqrt(variance + eps);
  return x.map((value, i) => (g[i] * (value - mean)) / deviation + b[i]);
}

function dot(x, values, start) { // the product of x with values[start : start + n]
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * values[start + i];
  return sum;
}

function product(x, { values, n_out, n_in }) { // [n_in] -> [n_out]
  const y = new Float32Array(n_out);
  let o = 0;
  for (; o + 3 < n_out; o += 4) { // four outputs at a time: the sums do not wait for each other, and x is read once
    const [row0, row1, row2, row3] = [o * n_in, (o + 1) * n_in, (o + 2) * n_in, (o + 3) * n_in];
    let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
    for (let i = 0; i < n_in; i++) {
      sum0 += x[i] * values[row0 + i];
      sum1 += x[i] * values[row1 + i];
      sum2 += x[i] * values[row2 + i];
      sum3 += x[i] * values[row3 + i];
    }
    y.set([sum0, sum1, sum2, sum3], o);
  }
  for (; o < n_out; o++) y[o] = dot(x, values, o * n_in);
  return y;
}

function linear(x, { w, b }) { // [n_in] -> [n_out]
  return product(x, w).map((value, o) => value + b[o]);
}

function row(matrix, i) { // -> [n_in]
  return matrix.values.subarray(i * matrix.n_in, (i + 1) * matrix.n_in);
}

const add = (x, y) => x.map((value, i) => value + y[i]);

// ---- the model -----------------------------------------------------------------------------------------------------

function ffn(x, { c_fc, c_proj, activation = "gelu" }) { // [n_embd] -> [4 * n_embd] -> [n_embd]
  return linear(linear(x, c_fc).map((value) => ACTIVATIONS[activation](value)), c_proj);
}

/* Return the attention weights [n_total] of one head. q: [d_head]. keys: [n_ctx * n_embd], of which this head uses the
   d_head columns from `column` on. window: the number of positions attended to, if it is limited. */
function attention_weights(q, keys, column, n_total, n_embd, window = Infinity) {
  const first = Math.max(0, n_total - window);
  const scores = new Float32Array(n_total).fill(-1e10);
  for (let p = first; p < n_total; p++) scores[p] = dot(q, keys, p * n_embd + column) / Math.sqrt(q.length);
  return softmax(scores);
}

function attention(weights, values, column, d_head, n_embd) { // [n_total], [n_ctx * n_embd] -> [d_head]
  const head = new Float32Array(d_head);
  for (let p = 0; p < weights.length; p++) {
    for (let i = 0; i < d_head; i++) head[i] += weights[p] * values[p * n_embd + column + i];
  }
  return head;
}

/* Multi-head attention: [n_embd] -> [n_embd], and the weights of each head, n_head x [n_total]. It stores the key and
   the value of the new position in the cache of the layer. */
function mha(x, { c_attn, c_proj, window }, n_head, cache, position) {
  const n_embd = x.length;
  const d_head = n_embd / n_head;
  const qkv = linear(x, c_attn); // [n_embd] -> [3 * n_embd]
  cache.k.set(qkv.subarray(n_embd, 2 * n_embd), position * n_embd);
  cache.v.set(qkv.subarray(2 * n_embd), position * n_embd);
  const merged = new Float32Array(n_embd);
  const weights = [];
  for (let h = 0; h < n_head; h++) {
    const q = qkv.subarray(h * d_head, (h + 1) * d_head); // [d_head]
    weights.push(attention_weights(q, cache.k, h * d_head, position + 1, n_embd, window));
    merged.set(attention(weights[h], cache.v, h * d_head, d_head, n_embd), h * d_head);
  }
  return { attended: linear(merged, c_proj), weights };
}

function transformer_block(x, { mlp, attn, ln_1, ln_2 }, n_head, cache, position) { // [n_embd] -> [n_embd]
  const { attended, weights } = mha(layer_norm(x, ln_1), attn, n_head, cache, position);
  x = add(x, attended);
  return { x: add(x, ffn(layer_norm(x, ln_2), mlp)), weights };
}

/* Return what the model computes for one new token. cache: from make_kv_cache; the token continues it.

   logits [n_vocab]: of the token that follows. residuals: the residual stream, [n_embd] after the embedding and after
   each block. weights: for each block and each head, the attention to all positions, [n_total]. */
function gpt2(id, { wte, wpe, blocks, ln_f, head = wte }, n_head, cache) {
  const position = cache.length;
  if (position >= wpe.n_out) throw new RangeError("the context is full");
  const residuals = [add(row(wte, id), row(wpe, position))];
  const weights = [];
  blocks.forEach((block, l) => {
    const result = transformer_block(residuals[l], block, n_head, cache.layers[l], position);
    residuals.push(result.x);
    weights.push(result.weights);
  });
  cache.length = position + 1;
  return { logits: predict(residuals.at(-1), ln_f, head), residuals, weights };
}

function predict(x, ln_f, head) { // [n_embd] -> [n_vocab]
  return product(layer_norm(x, ln_f), head);
}

function make_kv_cache({ wpe, blocks }) { // for each block, keys and values of [n_ctx * n_embd]
  const size = wpe.n_out * wpe.n_in;
  return { length: 0, layers: blocks.map(() => ({ k: new Float32Array(size), v: new Float32Array(size) })) };
}
