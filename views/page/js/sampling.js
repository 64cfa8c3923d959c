"use strict";
/* From logits to one token id, as in sampling.py: the same steps in the same order, the same ties, the same edge cases.

       bans -> penalties -> temperature -> top_k -> top_p -> min_p -> typical_p -> softmax or entmax -> one draw

   A filter takes shifted logits (the largest is 0) and returns the positions that remain, ascending. The nucleus of
   top_p includes the token that crosses p. Equal logits rank the lowest id first. Each filter sees the distribution that
   the one before it left. */

const GREEDY_BELOW = 1e-5; // a lower temperature is greedy

// ---- the distribution ----------------------------------------------------------------------------------------------

function largest_of(x) {
  let largest = -Infinity;
  for (const value of x) if (value > largest) largest = value;
  return largest;
}

function sum_of(x) {
  let sum = 0;
  for (const value of x) sum += value;
  return sum;
}

/* Return (x - max x) / T in float64. Softmax ignores the shift. */
function shifted_logits(logits, temperature = 1) {
  const largest = largest_of(logits);
  if (largest === -Infinity) throw new RangeError("every token is banned: all logits are -inf");
  return Float64Array.from(logits, (x) => (x - largest) / Math.min(temperature, 1e100));
}

function probabilities_of(x) { // shifted logits [n] -> [n]
  const exp_x = x.map(Math.exp);
  const sum = sum_of(exp_x);
  return exp_x.map((value) => value / sum);
}

function greedy(logits) {
  return logits.indexOf(largest_of(logits));
}

/* p_i = max(0, (alpha - 1) x_i - tau) ^ (1 / (alpha - 1)), with tau such that they sum to one (Peters et al. 2019). */
function entmax(x, alpha) {
  if (alpha - 1 < 1e-6) return probabilities_of(x);
  const scaled = shifted_logits(x).map((value) => value * (alpha - 1));
  const power = 1 / (alpha - 1);
  let tau = -1; // Newton's method from the left end, where the norm (sum z ^ power) ^ (1 / power) is at least 1
  for (let i = 0; i < 50; i++) {
    const z = scaled.filter((value) => value > tau).map((value) => value - tau);
    const slope = z.map((value) => value ** (power - 1));
    const norm = sum_of(z.map((value, j) => value * slope[j])) ** (1 / power);
    const step = (norm - 1) / (norm ** (1 - power) * sum_of(slope));
    tau += step;
    if (step <= 1e-15) break;
  }
  const powers = scaled.map((value) => Math.max(value - tau, 0) ** power);
  const sum = sum_of(powers);
  return powers.map((value) => value / sum);
}

// ---- filters: shifted logits and a number -> the positions that remain, ascending ----------------------------------

const all_positions = (x) => Array.from(x.keys());

/* Return the positions of the n largest; of equal ones, the lowest positions. */
function keep_best(x, n) {
  const nth = x.slice().sort()[x.length - n];
  let n_tied = n - x.filter((value) => value > nth).length;
  return all_positions(x).filter((i) => x[i] > nth || (x[i] === nth && n_tied-- > 0));
}

function keep_top_k(x, k) {
  return k === 0 || k >= x.length ? all_positions(x) : keep_best(x, k);
}

function keep_top_p(x, p) {
  if (p >= 1) return all_positions(x);
  const probs = probabilities_of(x).sort().reverse(); // descending
  let sum = 0;
  let n_kept = 0;
  while (probs[n_kept] > 0) {
    sum += probs[n_kept++];
    if (sum >= p) break;
  }
  return keep_best(x, n_kept);
}

function keep_min_p(x, p) {
  return p === 0 ? all_positions(x) : all_positions(x).filter((i) => x[i] >= Math.log(p));
}

/* Keep the tokens whose surprise is nearest to the entropy, until they have the probability `mass`. */
function keep_typical(x, mass) {
  if (mass >= 1) return all_positions(x);
  const exp_x = x.map(Math.exp);
  const total = sum_of(exp_x);
  const probs = exp_x.map((value) => value / total);
  const finite = x.map((value) => Math.max(value, -1e300)); // banned tokens: 0 * -inf would be NaN
  const mean = sum_of(probs.map((p, i) => p * finite[i]));
  const distance = finite.map((value) => Math.abs(value - mean)); // between -ln p and the entropy
  const order = all_positions(x).sort((i, j) => distance[i] - distance[j] || i - j);
  let sum = 0;
  let n_kept = 0;
  while (n_kept < order.length) {
    sum += probs[order[n_kept++]];
    if (sum >= mass) break;
  }
  return order.slice(0, n_kept).sort((i, j) => i - j);
}

const FILTERS = { top_k: keep_top_k, top_p: keep_top_p, min_p: keep_min_p, typical_p: keep_typical }; // in this order

/* Yield { name, ids, x } after each step that removes tokens: the remaining ids and their shifted logits. */
function* filter_steps(logits, settings) {
  const { temperature = 1 } = settings;
  if (temperature < GREEDY_BELOW) {
    yield { name: "temperature", ids: [greedy(logits)], x: new Float64Array(1) };
    return;
  }
  let x = shifted_logits(logits, temperature);
  let ids = all_positions(x);
  yield { name: null, ids, x };
  for (const [name, keep] of Object.entries(FILTERS)) {
    if (settings[name] === undefined) continue;
    const kept = keep(x, settings[name]);
    ids = kept.map((i) => ids[i]);
    x = shifted_logits(kept.map((i) => x[i])); // typical_p may have removed the largest
    yield { name, ids, x };
  }
}

/* Return the distribution of the draw: probs, float64 [n_vocab], and removed_by, [n_vocab]: the name of the filter that
   removed a token, "ban" for a banned one, or null. */
function distribution(logits, settings) {
  const removed_by = Array.from(logits, (x) => (x === -Infinity ? "ban" : null));
  let last;
  for (const step of filter_steps(logits, settings)) {
    if (step.name) mark_removed(removed_by, step.ids, step.name);
    last = step;
  }
  const kept_probs = entmax(last.x, settings.entmax_alpha ?? 1);
  const probs = new Float64Array(logits.length);
  last.ids.forEach((id, i) => { probs[id] = kept_probs[i]; });
  probs.forEach((p, id) => { if (p === 0 && settings.entmax_alpha > 1) removed_by[id] ??= "entmax_alpha"; });
  return { probs, removed_by };
}

function mark_removed(removed_by, ids, name) {
  const remains = new Set(ids);
  for (let id = 0; id < removed_by.length; id++) if (!remains.has(id)) removed_by[id] ??= name;
}

/* Return the first id whose cumulative probability exceeds u, a number from 0 to below 1. */
function sample_categorical(probs, u) {
  const threshold = u * sum_of(probs);
  let sum = 0;
  let last = 0;
  for (let id = 0; id < probs.length; id++) {
    sum += probs[id];
    if (probs[id] > 0) last = id;
    if (sum > threshold) return id;
  }
  return last;
}

// ---- penalties: logits and all ids so far -> new logits, in float32 as in sampling.py ------------------------------

function counts_of(ids) {
  const counts = new Map();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

function no_repeat_ngram(logits, ids, size) {
  const recent = ids.slice(ids.length - size + 1).join();
  for (let i = 0; i + size <= ids.length; i++) {
    if (ids.slice(i, i + size - 1).join() === recent) logits[ids[i + size - 1]] = -Infinity;
  }
}

function repetition_penalty(logits, ids, penalty) {
  const theta = Math.fround(penalty);
  for (const id of new Set(ids)) logits[id] = logits[id] < 0 ? logits[id] * theta : logits[id] / theta;
}

function presence_penalty(logits, ids, penalty) {
  for (const id of new Set(ids)) logits[id] -= Math.fround(penalty);
}

function frequency_penalty(logits, ids, penalty) {
  for (const [id, count] of counts_of(ids)) logits[id] -= Math.fround(Math.fround(penalty) * count);
}

/* Return the logits after bans and penalties. n_prompt: as in vLLM, repetition and n-grams consider the prompt and the
   new tokens, presence and frequency the new tokens alone. */
function process_logits(logits, ids, n_prompt, settings, banned_ids = []) {
  const processed = Float32Array.from(logits);
  for (const id of banned_ids) processed[id] = -Infinity;
  if (settings.no_repeat_ngram_size) no_repeat_ngram(processed, ids, settings.no_repeat_ngram_size);
  if (settings.repetition_penalty) repetition_penalty(processed, ids, settings.repetition_penalty);
  if (settings.presence_penalty) presence_penalty(processed, ids.slice(n_prompt), settings.presence_penalty);
  if (settings.frequency_penalty) frequency_penalty(processed, ids.slice(n_prompt), settings.frequency_penalty);
  return processed;
}

// ---- measures ------------------------------------------------------------------------------------------------------

function surprise(logits, id) { // -log2 p of a token, in bits
  const x = shifted_logits(logits);
  return (Math.log(sum_of(x.map(Math.exp))) - x[id]) / Math.LN2;
}

function entropy(probs) { // in bits
  return sum_of(probs.map((p) => (p > 0 ? -p * Math.log2(p) : 0)));
}
