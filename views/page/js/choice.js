"use strict";
/* The next token: the strip of the cumulative distribution with the uniform number u, and the bars of the alternatives. */

const FEW_ROWS = 12;
const MANY_ROWS = 60;

/* Return what the panel shows after the cursor: the model's probabilities, those of the draw, and the drawn token. */
function choice_at(state) {
  const logits = state.model.logits(state.cursor);
  if (!logits) return null;
  const settings = effective(state.settings);
  const ids = path_to(state.cursor).map(({ id }) => id);
  const processed = process_logits(logits, ids, state.n_prompt, settings, state.about.banned_ids);
  const own = probabilities_of(shifted_logits(logits));
  try {
    const { probs, removed_by } = distribution(processed, settings);
    return { own, processed, probs, removed_by, drawn: sample_categorical(probs, state.u), greedy: greedy(processed) };
  } catch (error) {
    return { own, processed, error: error.message };
  }
}

/* Return the ids of the rows, in the order of the logits: the likeliest by the model, the likeliest of the draw, the
   drawn one, and the one that the text has here. */
function rows_of({ own, probs, processed, drawn }, n, here) {
  const can_be_drawn = keep_best(probs, Math.min(n, probs.length)).filter((id) => probs[id] > 0);
  const rows = new Set([...keep_best(own, Math.min(n, own.length)), ...can_be_drawn, drawn]);
  if (here) rows.add(here.id);
  return [...rows].sort((i, j) => processed[j] - processed[i] || i - j);
}

function render_choice(state) {
  const { choice, encoder } = state;
  const here = path_to(state.leaf).find(({ parent }) => parent === state.cursor);
  find("choice-place").replaceChildren(...place_sentence(state, here));
  const can_draw = Boolean(choice) && !choice.error;
  for (const id of ["draw-again", "draw-thousand", "more-rows"]) find(id).disabled = !can_draw;
  if (!choice || choice.error) {
    show("bars");
    find("draw-sentence").textContent = choice ? `${sentence(choice.error)} Change the settings.` : state.ends || no_logits(state);
    find("choice-summary").textContent = "";
    clear_strip();
    return;
  }
  draw_strip(state);
  find("draw-sentence").textContent = draw_sentence(state);
  const rows = rows_of(choice, state.n_rows, here);
  const largest = largest_of(choice.probs);
  show("bars", heading_row(state), ...rows.map((id) => bar_row(state, id, largest, here?.id === id)));
  const n_kept = choice.probs.reduce((n, p) => n + (p > 0), 0);
  find("choice-summary").textContent =
    `${whole(n_kept)} of ${counted(choice.probs.length, "token")} can be drawn; their entropy is ` +
    `${entropy(choice.probs).toFixed(2)} bits (the model's own: ${entropy(choice.own).toFixed(2)}). ` +
    `The thin line is the model's own probability.`;
  find("more-rows").textContent = state.n_rows === FEW_ROWS ? "More tokens" : "Fewer tokens";
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

function no_logits(state) {
  return `The page stores the logits of ${counted(state.about.hparams.n_steps, "recorded step")}, not of this place. ` +
    "Choose a token after the prompt in the recorded text. New prompts and branches need a live model.";
}

function place_sentence(state, here) {
  const before = text_of(state.encoder, path_to(state.cursor)).slice(-40);
  const parts = ["after ", element("q", {}, `…${before}`)];
  if (here) parts.push(", in place of ", element("b", {}, state.encoder.name(here.id)));
  return parts;
}

function draw_sentence({ choice, encoder, u, settings }) {
  const name = encoder.name(choice.drawn);
  if (settings.temperature < GREEDY_BELOW) return `The likeliest token is ${name}; temperature 0 draws nothing.`;
  const begin = sum_of(choice.probs.subarray(0, choice.drawn));
  const end = begin + choice.probs[choice.drawn];
  return `u = ${u.toFixed(4)} lies in the interval [${begin.toFixed(4)}, ${end.toFixed(4)}) of ${name}. ` +
    "The intervals follow each other in the order of the token ids.";
}

// ---- the bars ------------------------------------------------------------------------------------------------------

function heading_row({ counts }) {
  const last = counts ? "of 1,000" : "drawn with";
  const cells = [["name", "token"], ["number", "model"], ["", ""], ["number", last]];
  return element("div", { class: "bar-row head" }, ...cells.map(([name, text]) => element("span", { class: name || "middle" }, text)));
}

function bar_row(state, id, largest, is_here) {
  const { choice, encoder, counts } = state;
  const why = choice.removed_by[id];
  const name = encoder.name(id);
  const last = why ? "" : counts ? whole(counts.get(id) ?? 0) : probability(choice.probs[id]);
  const middle = why
    ? element("span", { class: "why" }, `✗ ${why}`)
    : element(
        "span",
        { class: "track" },
        element("i", { style: `width: ${(100 * choice.probs[id]) / largest}%` }),
        element("i", { class: "own", style: `width: ${Math.min(100, (100 * choice.own[id]) / largest)}%` }),
        counts ? element("i", { class: "count", style: `width: ${(0.1 * (counts.get(id) ?? 0)) / largest}%` }) : null,
      );
  const row = element(
    "button",
    {
      type: "button",
      class: `bar-row${why ? " removed" : ""}${id === choice.drawn ? " is-drawn" : ""}${is_here ? " is-here" : ""}`,
      title: `continue with ${name} (id ${id})`,
      "aria-label": row_label(name, choice, id, counts),
    },
    element("span", { class: "name mono" }, name),
    element("span", { class: "number" }, probability(choice.own[id])),
    middle,
    element("span", { class: "number" }, last),
  );
  row.addEventListener("click", () => state.choose(id));
  return row;
}

function row_label(name, choice, id, counts) {
  const fate = choice.removed_by[id] ? `removed by ${choice.removed_by[id]}` : `drawn with ${probability(choice.probs[id])}`;
  const times = counts && !choice.removed_by[id] ? `, ${counts.get(id) ?? 0} of 1,000 draws` : "";
  return `${name}: model ${probability(choice.own[id])}, ${fate}${times}`;
}

function draw_thousand(probs) { // -> Map of id -> number of draws
  const counts = new Map();
  for (let i = 0; i < 1000; i++) {
    const id = sample_categorical(probs, Math.random());
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}

// ---- the strip -----------------------------------------------------------------------------------------------------

function strip_context() {
  const canvas = find("strip");
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.round(canvas.clientHeight * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width: canvas.clientWidth, height: canvas.clientHeight };
}

function clear_strip() {
  const { context, width, height } = strip_context();
  context.clearRect(0, 0, width, height);
}

/* Draw the intervals of all tokens, in the order of their ids, and a mark at u. */
function draw_strip({ choice, encoder, u }) {
  const { context, width, height } = strip_context();
  const shades = [colour("--own"), colour("--surprise-2")];
  let sum = 0;
  let n = 0;
  context.font = `15px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  choice.probs.forEach((p, id) => {
    if (p === 0) return;
    const [left, size] = [sum * width, p * width];
    context.fillStyle = id === choice.drawn ? colour("--drawn") : shades[n++ % 2];
    context.fillRect(left, 8, Math.max(size, 0.5), height - 8);
    const name = size > 28 ? encoder.name(id) : "";
    if (name && context.measureText(name).width < size - 8) {
      context.fillStyle = colour(id === choice.drawn ? "--page" : "--ink");
      context.fillText(name, left + 4, 8 + (height - 8) / 2);
    }
    sum += p;
  });
  mark_u(context, u * width, height);
  const canvas = find("strip");
  canvas.setAttribute("aria-valuenow", u.toFixed(4));
  canvas.setAttribute("aria-valuetext", `u = ${u.toFixed(4)}: ${encoder.name(choice.drawn)}`);
}

function mark_u(context, x, height) {
  context.fillStyle = colour("--ink");
  context.fillRect(x - 1, 0, 2, height);
  context.beginPath();
  context.moveTo(x - 7, 0);
  context.lineTo(x + 7, 0);
  context.lineTo(x, 9);
  context.fill();
}

/* Let the pointer and the arrow keys move u. set: receives the new u. */
function follow_strip(set, get) {
  const canvas = find("strip");
  const clamp = (u) => Math.min(Math.max(u, 0), 1 - 1e-9);
  const at = (event) => set(clamp(event.offsetX / canvas.clientWidth));
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); at(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
  const steps = { ArrowLeft: -0.01, ArrowRight: 0.01, ArrowDown: -0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    set(clamp(get() + steps[event.key]));
  });
}
