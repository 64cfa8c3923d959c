"use strict";
/* Inside the model: the attention of each head, the prediction of each layer, the KV cache, and the tokenizer. */

const N_LENS = 5; // tokens per layer

const TABS = { attention: "Attention", lens: "Logit lens", cache: "KV cache", tokenizer: "Tokenizer" };
const PANELS = { attention: attention_panel, lens: lens_panel, cache: cache_panel, tokenizer: tokenizer_panel };

function render_tabs(state) {
  const names = Object.keys(TABS);
  show("tabs", ...names.map((name) => {
    const is_selected = state.tab === name;
    const tab = element(
      "button",
      { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(is_selected), "aria-controls": "panel", tabIndex: is_selected ? 0 : -1 },
      TABS[name],
    );
    tab.addEventListener("click", () => state.open_tab(name));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.stopPropagation();
      state.open_tab(names[(names.indexOf(name) + step + names.length) % names.length]);
      find(`tab-${state.tab}`).focus();
    });
    return tab;
  }));
  find("panel").setAttribute("aria-labelledby", `tab-${state.tab}`);
}

function render_inside(state) {
  const focused = document.activeElement?.dataset.place;
  show("panel", ...PANELS[state.tab](state));
  if (focused !== undefined) find("panel").querySelector(`[data-place="${focused}"]`)?.focus();
}

/* Return buttons for the tokens of the text up to the cursor; pointing at one selects it. */
function pointed_tokens(state, path, properties) {
  const parts = state.encoder.stream(path.map(({ id }) => id));
  return path.map((node, i) => {
    const button = element(
      "button",
      { type: "button", "data-place": String(i), ...properties(node, i), class: `token ${properties(node, i).class ?? ""}` },
      parts[i] === "" ? "·" : parts[i],
    );
    for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, () => state.point_at(node));
    return button;
  });
}

const pointed_of = (state, path) => (path.includes(state.pointed) ? state.pointed : path.at(-1));

/* Return the tokens up to the cursor that have a position in the context. */
const computed_path = (state) => path_to(state.cursor).slice(0, state.about.hparams.n_ctx);

// ---- attention -----------------------------------------------------------------------------------------------------

function attention_panel(state) {
  const path = computed_path(state);
  const pointed = pointed_of(state, path);
  const place = path.indexOf(pointed);
  const weights = state.model.weights(pointed); // [n_layer][n_head] -> [place + 1]
  const [layer, head] = state.head;
  const row = weights[layer][head];
  const tokens = pointed_tokens(state, path, (node, i) => ({
    class: i > place ? "later" : node === pointed ? "target" : "",
    style: `--weight: ${i <= place ? row[i] : 0}`,
    title: i <= place ? `weight ${row[i].toFixed(3)}` : "a later token, which is not attended to",
    "aria-label": `${state.encoder.name(node.id)}${i <= place ? `, weight ${row[i].toFixed(3)}` : ""}`,
  }));
  return [
    element("p", {}, `Head ${head + 1} of layer ${layer + 1}: the weights with which it averages the values of the tokens for `,
      element("b", { class: "mono" }, state.encoder.name(pointed.id)), ". Point at a token to see its own weights."),
    element("div", { class: "attended" }, ...tokens),
    element("p", { class: "note" }, strongest(state, path, row)),
    element("h3", {}, "All heads"),
    element("p", { class: "note" }, "One row per layer, one picture per head. In a picture, row i shows the weights of token i, from the first token on the left. Formula: softmax(q·k / √d_head) over the tokens up to i."),
    element("div", { class: "scroll" }, heads_grid(state, path)),
  ];
}

function strongest(state, path, row) {
  const best = keep_best(Float64Array.from(row), Math.min(4, row.length)).sort((i, j) => row[j] - row[i]);
  return `Largest weights: ${best.map((i) => `${state.encoder.name(path[i].id)} ${row[i].toFixed(3)}`).join(", ")}.`;
}

const MOST_IN_PICTURE = 64; // tokens; of a longer text the last ones

function heads_grid(state, path) {
  const shown = path.slice(-MOST_IN_PICTURE);
  const first = path.length - shown.length;
  const all = shown.map((node) => state.model.weights(node)); // [n_shown][n_layer][n_head] -> [n_total]
  const n_head = all[0][0].length;
  const grid = element("div", { class: "heads", style: `grid-template-columns: repeat(${n_head}, max-content)`, role: "group", "aria-label": "Heads" });
  const rgb = colour("--bar");
  all[0].forEach((_, l) => {
    for (let h = 0; h < n_head; h++) {
      const is_pressed = l === state.head[0] && h === state.head[1];
      const button = element(
        "button",
        { type: "button", "aria-pressed": String(is_pressed), "aria-label": `layer ${l + 1}, head ${h + 1}`, title: `layer ${l + 1}, head ${h + 1}`, "data-place": `head-${l}-${h}` },
        head_picture(all.map((weights) => weights[l][h].subarray(first)), rgb),
      );
      button.addEventListener("click", () => state.show_head(l, h));
      grid.append(button);
    }
  });
  return grid;
}

function head_picture(rows, rgb) {
  const canvas = element("canvas", { width: rows.length, height: rows.length });
  const context = canvas.getContext("2d");
  context.fillStyle = rgb;
  rows.forEach((row, i) => row.forEach((weight, j) => {
    context.globalAlpha = Math.sqrt(weight); // small weights remain visible
    context.fillRect(j, i, 1, 1);
  }));
  return canvas;
}

// ---- logit lens ----------------------------------------------------------------------------------------------------

function lens_panel(state) {
  const path = computed_path(state);
  const pointed = pointed_of(state, path);
  const layers = state.model.lens(pointed, N_LENS);
  const rows = layers.map((tokens, l) => element(
    "tr", {},
    element("th", { scope: "row" }, l === 0 ? "embedding" : `after block ${l}`),
    ...tokens.map(({ id, p }) => element("td", { class: "cell mono", style: `--weight: ${p}` }, `${state.encoder.name(id)} ${p.toFixed(2)}`)),
  ));
  return [
    element("p", {}, "Each layer adds to the residual stream. The logit lens applies the last norm and the head to the stream after each layer: what would the model predict after ",
      element("b", { class: "mono" }, state.encoder.name(pointed.id)), ", if it ended here?"),
    element("div", { class: "attended" }, ...pointed_tokens(state, path, (node) => ({ class: node === pointed ? "target" : "" }))),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", {}, "layer"), element("th", { colSpan: N_LENS }, `the ${N_LENS} likeliest tokens and their probabilities`))),
      element("tbody", {}, ...rows))),
    element("p", { class: "note" }, "Source: nostalgebraist 2020, “interpreting GPT: the logit lens”."),
  ];
}

// ---- the cache -----------------------------------------------------------------------------------------------------

function cache_panel(state) {
  const { n_layer, n_embd, n_parameters } = state.about.hparams;
  const n_total = computed_path(state).length;
  const n_bytes = 2 * n_layer * n_total * n_embd * 4;
  const last = state.model.work;
  const shown = Math.min(n_total, 40);
  const cells = [];
  for (let l = 0; l < n_layer; l++) for (let p = 0; p < shown; p++) cells.push(element("i", { class: p === shown - 1 ? "new" : "" }));
  const sentences = [
    `For each of the ${n_layer} layers and each of the ${counted(n_total, "token")}, the cache stores a key and a value of ${n_embd} numbers: 2 · ${n_layer} · ${n_total} · ${n_embd} numbers of 4 bytes = ${whole(n_bytes)} bytes.`,
    `The next token computes one position: about ${whole(n_parameters)} multiplications and additions, one per weight, and the comparison of its query with ${counted(n_total, "key")} per head and layer. Without the cache, all ${counted(n_total, "position")} would be computed again: ${whole(n_total)} times as much.`,
  ];
  if (state.model.is_live) {
    sentences.push(`The last computation of this page: ${counted(last.computed, "position")} computed, ${counted(last.cached, "position")} taken from the cache.`);
  }
  return [
    element("p", {}, "Rows are layers, columns are tokens", n_total > shown ? ` (the last ${shown})` : "", ". ",
      element("span", { class: "legend" }, element("span", {}, "grey: stored in the cache"), element("span", {}, "orange, last column: computed for the newest token"))),
    element("div", { class: "cache", style: `grid-template-columns: repeat(${shown}, minmax(3px, 1.1rem))`, role: "img", "aria-label": `${n_layer} layers, ${n_total} tokens; the last column is computed, the others are stored` }, ...cells),
    ...sentences.map((text) => element("p", {}, text)),
  ];
}

// ---- the tokenizer -------------------------------------------------------------------------------------------------

function tokenizer_panel(state) {
  const { encoder } = state;
  const input = element("input", { type: "text", value: state.sample, id: "sample", "aria-label": "Text to encode", "data-place": "sample", size: 40 });
  const result = element("div", {});
  const fill = () => { state.sample = input.value; result.replaceChildren(...encoded(encoder, input.value)); };
  input.addEventListener("input", fill);
  fill();
  return [element("p", {}, element("label", { htmlFor: "sample" }, "Text to encode "), input), result];
}

function encoded(encoder, text) {
  if (encoder.kind === "other") return [element("p", {}, "This model's tokenizer is not a byte-level BPE; the page shows its tokens, but cannot encode a text.")];
  if (encoder.kind !== "bytes") return units_of(encoder, text);
  return encoder.pieces(text).slice(0, 40).flatMap((piece) => piece_steps(encoder, piece));
}

function units_of(encoder, text) {
  try {
    const ids = encoder.encode(text);
    const unit = encoder.kind === "words" ? "word" : "character";
    return [element("p", {}, `In this vocabulary, each ${unit} is a token; nothing is merged.`), symbols(ids.map((id) => `${encoder.name(id)} = ${id}`))];
  } catch (error) {
    return [element("p", {}, error.message)];
  }
}

/* Return the merges of a piece one by one: its characters, its bytes, the symbols after each merge, the ids. */
function piece_steps(encoder, piece) {
  const steps = encoder.steps(piece);
  const lines = [
    element("h3", {}, "Piece ", element("span", { class: "mono" }, visible(UTF8.encode(piece)))),
    line("characters", Array.from(piece, (character) => visible(UTF8.encode(character)))),
    line("bytes", Array.from(UTF8.encode(piece), (byte) => byte.toString(16).padStart(2, "0"))),
  ];
  for (const { symbols: now, pair, rank } of steps) {
    const name = pair ? `merge ${rank}` : "symbols";
    lines.push(line(name, now.map((symbol) => symbol_name(encoder, symbol)), (i) => pair && now[i] === pair.replace(" ", "")));
  }
  const ids = steps.at(-1).symbols.map((symbol) => encoder.id_of.get(symbol) ?? "none");
  return [...lines, line("ids", ids.map(String))];
}

function symbol_name(encoder, symbol) {
  return visible(Uint8Array.from(Array.from(symbol), (character) => BYTE_OF.get(character)));
}

function line(name, texts, is_new = () => false) {
  return element("div", { class: "symbols" }, element("b", {}, name), ...texts.map((text, i) => element("span", { class: is_new(i) ? "mono new" : "mono" }, text)));
}

const symbols = (texts) => element("div", { class: "symbols" }, ...texts.map((text) => element("span", { class: "mono" }, text)));
