"use strict";
/* The sliders: one per setting of sampling.py, with its formula. */

/* name -> its group, range, the value at which it has no effect, and the formula of sampling.py. log: the slider moves
   on a logarithmic scale. */
const SETTINGS = {
  temperature: {
    min: 0, max: 5, step: 0.05, off: 1,
    formula: "pᵢ = exp(xᵢ / T) / Σⱼ exp(xⱼ / T); at 0 the likeliest token has probability 1",
  },
  top_k: { min: 0, max: 100, step: 1, off: 0, formula: "keep exactly the k largest logits; 0 keeps all" },
  top_p: {
    min: 0, max: 1, step: 0.01, off: 1,
    formula: "keep the fewest tokens, likeliest first, whose probabilities sum to p or more",
  },
  min_p: { min: 0, max: 1, step: 0.01, off: 0, formula: "keep the tokens with pᵢ ≥ min_p · max pⱼ" },
  typical_p: {
    min: 0, max: 1, step: 0.01, off: 1,
    formula: "keep the tokens with the smallest |−ln pᵢ − H|, until their probabilities sum to typical_p or more; H = −Σ pⱼ ln pⱼ",
  },
  entmax_alpha: {
    min: 1, max: 2, step: 0.01, off: 1,
    formula: "pᵢ = max(0, (α − 1) xᵢ − τ)^(1 / (α − 1)), with τ such that Σ pᵢ = 1; 1 is softmax, 2 is sparsemax",
  },
  repetition_penalty: {
    min: 0.5, max: 2, step: 0.05, off: 1,
    formula: "for every token of the text: xᵢ / θ if xᵢ ≥ 0, xᵢ · θ if xᵢ < 0",
  },
  presence_penalty: { min: -2, max: 2, step: 0.1, off: 0, formula: "xᵢ − λ for every generated token, once" },
  frequency_penalty: { min: -2, max: 2, step: 0.1, off: 0, formula: "xᵢ − λ · (number of occurrences among the generated tokens)" },
  no_repeat_ngram_size: {
    min: 0, max: 6, step: 1, off: 0,
    formula: "ban every token that would repeat a sequence of n tokens of the text; 0 bans none",
  },
};

/* Return the settings that have an effect, { name: value }, for sampling.js. */
function effective(values) {
  const names = Object.keys(SETTINGS).filter((name) => values[name] !== SETTINGS[name].off);
  return Object.fromEntries(names.map((name) => [name, values[name]]));
}

/* Fill the panel. values: { name: number }, changed by the sliders, which then call `changed`. */
function make_sliders(values, changed) {
  show("sliders", ...Object.entries(SETTINGS).map(([name, setting]) => make_slider(name, setting, values, changed)));
}

function make_slider(name, { min, max, step, formula }, values, changed) {
  const id = `set-${name}`;
  // A value beyond the slider, from the command line, widens it.
  const range = { min: Math.min(min, values[name]), max: Math.max(max, values[name]), step: Number.isInteger(values[name] / step) ? step : "any" };
  const input = element("input", { id, type: "range", ...range, "aria-describedby": `${id}-formula` });
  const output = element("output", { htmlFor: id });
  const box = element(
    "div",
    { class: "setting", id: `${id}-box` },
    element("div", { class: "line" }, element("label", { htmlFor: id }, name), output),
    input,
    element("p", { class: "formula", id: `${id}-formula` }, formula),
  );
  input.value = values[name];
  input.addEventListener("input", () => {
    values[name] = Number(input.value);
    show_value(name, values);
    changed();
  });
  queueMicrotask(() => show_value(name, values));
  return box;
}

function show_value(name, values) {
  const is_off = values[name] === SETTINGS[name].off;
  const box = find(`set-${name}-box`);
  box.classList.toggle("is-off", is_off);
  box.querySelector("output").textContent = is_off ? `${values[name]} (no effect)` : `${values[name]}`;
}

function set_sliders(values, changes, changed) {
  for (const [name, value] of Object.entries(changes)) {
    values[name] = value;
    find(`set-${name}`).value = value;
    show_value(name, values);
  }
  changed();
}

const neutral = () => Object.fromEntries(Object.entries(SETTINGS).map(([name, { off }]) => [name, off]));
