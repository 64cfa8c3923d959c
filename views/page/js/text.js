"use strict";
/* The text as tokens that can be chosen, coloured by their surprise, and the tree of its branches. */

/* Return the text of nodes, with U+FFFD in place of an incomplete character at the end. */
function text_of(encoder, path) {
  const bytes = path.flatMap(({ id }) => Array.from(encoder.bytes(id)));
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

function render_text(state) {
  const path = path_to(state.leaf);
  const parts = state.encoder.stream(path.map(({ id }) => id));
  const tokens = path.map((node, i) => token_button(state, node, parts[i]));
  const at = path.indexOf(state.cursor) + 1;
  tokens.splice(at, 0, element("span", { class: "caret", "aria-hidden": "true" }), ...ghost(state, at, path.length));
  show("text", ...tokens);
}

/* Return the token that would be appended, in a dashed frame, if the cursor is at the end of the text. */
function ghost({ choice, encoder }, at, n) {
  if (at < n || !choice || choice.error) return [];
  return [element("span", { class: "token ghost", title: "the drawn token: space appends it" }, encoder.name(choice.drawn))];
}

function token_button(state, node, part) {
  const bits = state.model.surprise(node);
  const name = state.encoder.name(node.id);
  const is_here = node.parent === state.cursor;
  const surprise_words = bits === null ? "" : `, surprise ${bits.toFixed(1)} bits`;
  const button = element(
    "button",
    {
      type: "button",
      class: `token ${shade_of(bits)}${node.how === "prompt" ? " prompt" : ""}${is_here ? " target" : ""}`,
      title: `${name}: id ${node.id}${surprise_words}`,
      "aria-label": `${name}, id ${node.id}${surprise_words}`,
    },
    part === "" ? "·" : part.replace(/\n/g, "⏎\n"), // "·": the beginning of a character that several tokens form
  );
  button.addEventListener("click", () => state.go_to(node.parent ?? node));
  return button;
}

function render_legend() {
  const samples = SHADES.map(({ name, words }) => element("span", { class: `sample ${name}` }, words));
  show("surprise-legend", "Surprise, −log₂ p:", ...samples);
}

// ---- the tree ------------------------------------------------------------------------------------------------------

function render_tree(state) {
  const [root] = path_to(state.leaf);
  const on_path = new Set(path_to(state.leaf));
  find("tree").replaceChildren(element("ul", {}, branch(state, root, on_path)));
}

/* Return the list item of a branch: its tokens up to the next fork, and below it the branches of the fork. */
function branch(state, first, on_path) {
  const run = [first];
  while (run.at(-1).children.length === 1 && run.at(-1).children[0].how === run.at(-1).how) run.push(run.at(-1).children[0]);
  const last = run.at(-1);
  const button = element(
    "button",
    { type: "button", "aria-current": String(on_path.has(last)) },
    run_text(state, run),
    element("span", { class: "note" }, run_summary(state, run)),
  );
  button.addEventListener("click", () => state.open(leaf_below(last)));
  const below = last.children.map((child) => branch(state, child, on_path));
  return element("li", {}, button, below.length ? element("ul", {}, ...below) : null);
}

function run_text({ encoder }, run) {
  const text = text_of(encoder, run);
  return text.length > 400 ? `${text.slice(0, 300)} … ${text.slice(-80)}` : text;
}

function run_summary({ model }, run) {
  const surprises = run.map((node) => model.surprise(node)).filter((bits) => bits !== null);
  const mean = sum_of(surprises) / surprises.length;
  const measure = surprises.length ? `, ${mean.toFixed(2)} bits per token` : "";
  return `${run[0].how}, ${counted(run.length, "token")}${measure}`;
}
