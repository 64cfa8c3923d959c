"use strict";
/* The state of the page, what the user can do with it, and the keys. Every action changes the state and calls `update`.

   The cursor is the token after which the next one is chosen; the panel "Next token" shows that choice. The leaf is the
   end of the text on display. u is the uniform number of the next draw: it is drawn in advance, so that the page can show
   which token it selects, also while the settings change. */

const PAUSE = 60; // milliseconds without a change
const FRAME = 12; // milliseconds of computation before the page is drawn again

const state = {
  about: null, model: null, encoder: null,
  n_prompt: 0, leaf: null, cursor: null, pointed: null,
  settings: neutral(), u: 0, counts: null, choice: null, ends: "",
  n_rows: FEW_ROWS, tab: "attention", head: [0, 0], sample: "", step: null, task: null, timer: null,
};

// ---- actions -------------------------------------------------------------------------------------------------------

function update() {
  state.ends = why_it_ends(state.cursor);
  state.choice = state.ends ? null : choice_at(state);
  tell(state.ends);
  render_text(state);
  render_choice(state);
  render_tree(state);
  clearTimeout(state.timer); // the panel below follows when the user pauses
  state.timer = setTimeout(() => render_inside(state), PAUSE);
  const can_append = Boolean(state.choice) && !state.choice.error;
  for (const id of ["append", "append-greedy"]) find(id).disabled = !can_append;
  for (const id of ["append-many", "compare"]) find(id).disabled = !can_append || !state.model.is_live;
}

/* Return a sentence if nothing can follow a token, "" otherwise. The last token needs no position in the context. */
function why_it_ends(node) {
  const { stop_ids, hparams } = state.about;
  if (node.how !== "prompt" && stop_ids.includes(node.id)) return `The text has ended with ${state.encoder.name(node.id)}.`;
  const is_full = path_to(node).length > hparams.n_ctx;
  return is_full ? `The context is full: this model reads at most ${counted(hparams.n_ctx, "token")}.` : "";
}

const tell = (text) => { find("status").textContent = text; };

function new_draw() {
  state.u = Math.random();
  state.counts = null;
}

/* Set the cursor. In a recorded text, u is that of the recorded draw. */
state.go_to = (node) => {
  state.cursor = node;
  state.pointed = null;
  new_draw();
  if (!state.model.is_live && state.model.has_logits(node)) state.u = state.about.draws[state.model.place(node) - state.model.n_prompt + 1];
  update();
};

state.open = (leaf) => {
  state.leaf = leaf;
  state.go_to(leaf);
};

/* Continue with a token after the cursor; a token that is there already is kept with what follows it. */
state.choose = (id, how = "chosen") => {
  if (!state.model.is_live && !state.cursor.children.some((child) => child.id === id)) {
    tell("This page holds recorded steps of a model that is too large to compute here: branches and new prompts need a live model.");
    return;
  }
  const node = child_of(state.cursor, id, how);
  state.leaf = leaf_below(node);
  state.go_to(node);
};

state.point_at = (node) => {
  if (state.pointed === node) return;
  state.pointed = node;
  render_inside(state);
};

state.show_head = (layer, head) => {
  state.head = [layer, head];
  render_inside(state);
};

state.open_tab = (name) => {
  state.tab = name;
  render_tabs(state);
  render_inside(state);
};

function append_drawn() {
  if (!state.choice || state.choice.error) return;
  state.choose(state.choice.drawn, "sampled");
}

function append_likeliest() {
  if (!state.choice || state.choice.error) return;
  state.choose(state.choice.greedy, "greedy");
}

/* Append up to n tokens after a node without drawing the page, except between frames. Return the last node. */
async function append(node, n, how, pick, task) {
  let frame = performance.now();
  for (let i = 0; i < n && !task.is_stopped; i++) {
    if (why_it_ends(node)) break;
    state.cursor = node;
    const choice = choice_at(state);
    if (!choice || choice.error) break;
    node = child_of(node, pick(choice), how);
    if (performance.now() - frame > FRAME) {
      state.leaf = node;
      render_text(state);
      await new Promise(requestAnimationFrame);
      frame = performance.now();
    }
  }
  return node;
}

const drawn_token = ({ probs }) => sample_categorical(probs, Math.random());

/* Run an action that takes several frames. `finish` receives the end of its text, unless a new prompt has begun. */
async function run(action, finish) {
  if (state.task) return;
  const task = { is_stopped: false };
  state.task = task;
  find("stop").hidden = false;
  const end = await action(state.cursor, task);
  if (state.task !== task) return;
  end_task();
  finish(end);
}

function end_task() {
  if (state.task) state.task.is_stopped = true;
  state.task = null;
  find("stop").hidden = true;
}

const append_many = (n) => run((start, task) => append(start, n, "sampled", drawn_token, task), state.open);

const compare = () => run(async (start, task) => {
  await append(start, 20, "greedy", (choice) => choice.greedy, task);
  return append(start, 20, "sampled", drawn_token, task);
}, (end) => {
  state.open(end);
  tell("Both continuations are under Branches: the greedy one, and the sampled one, which is shown.");
});

/* Begin again with a prompt. */
function begin(text) {
  let ids;
  try {
    ids = state.encoder.encode_prompt(text);
  } catch (error) {
    tell(error.message);
    return;
  }
  if (ids.length > state.about.hparams.n_ctx) {
    tell(`The prompt has ${counted(ids.length, "token")}; this model reads at most ${whole(state.about.hparams.n_ctx)}: shorten it.`);
    return;
  }
  end_task();
  plant_prompt(ids);
  state.open(state.leaf);
}

function plant_prompt(ids) {
  state.leaf = plant(ids);
  state.cursor = state.leaf;
  state.n_prompt = ids.length;
  find("prompt-ids").textContent = `${counted(ids.length, "token")}: ${ids.slice(0, 30).join(" ")}${ids.length > 30 ? " …" : ""}`;
}

// ---- keys and buttons ----------------------------------------------------------------------------------------------

function move(step) {
  const path = path_to(state.leaf);
  const target = path[path.indexOf(state.cursor) + step];
  if (target) state.go_to(target);
}

const KEYS = {
  " ": append_drawn, g: append_likeliest, r: () => { new_draw(); update(); },
  ArrowLeft: () => move(-1), ArrowRight: () => move(1),
};

function on_key(event) {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const { tagName, type } = event.target;
  const is_typing = tagName === "TEXTAREA" || (tagName === "INPUT" && type === "text");
  const is_own_key = (tagName === "INPUT" && event.key !== " ") || (["BUTTON", "A"].includes(tagName) && event.key === " ");
  if (!action || is_typing || is_own_key || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
}

function connect() {
  const actions = {
    append: append_drawn, "append-greedy": append_likeliest, "append-many": () => append_many(50), compare,
    stop: () => { if (state.task) state.task.is_stopped = true; },
    "draw-again": KEYS.r,
    "draw-thousand": () => { state.counts = draw_thousand(state.choice.probs); render_choice(state); },
    "more-rows": () => { state.n_rows = state.n_rows === FEW_ROWS ? MANY_ROWS : FEW_ROWS; render_choice(state); },
    reset: () => set_sliders(state.settings, neutral(), settings_changed),
    theme: () => set_theme(document.documentElement.dataset.theme !== "dark"),
    "lesson-open": () => open_step(state.step === null ? 0 : null),
    "lesson-next": () => open_step(state.step + 1),
    "lesson-back": () => open_step(state.step - 1),
    "lesson-close": () => open_step(null),
  };
  for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", action);
  document.addEventListener("keydown", on_key);
  find("prompt").addEventListener("input", (event) => begin(event.target.value));
  find("prompt-form").addEventListener("submit", (event) => event.preventDefault());
  follow_strip((u) => { state.u = u; update(); }, () => state.u);
  for (const event of ["resize", "beforeprint", "afterprint"]) window.addEventListener(event, () => render_choice(state));
}

function settings_changed() {
  state.counts = null;
  update();
}

function open_step(number) {
  state.step = number;
  show_step(number, (settings) => set_sliders(state.settings, settings, settings_changed));
}

function set_theme(is_dark) {
  document.documentElement.dataset.theme = is_dark ? "dark" : "light";
  find("theme").textContent = is_dark ? "Light" : "Dark";
  find("theme").setAttribute("aria-pressed", String(is_dark));
  if (state.model) update();
}

// ---- the beginning -------------------------------------------------------------------------------------------------

function about_model({ model, hparams, is_live }) {
  const size = `${counted(hparams.n_layer, "layer")}, ${counted(hparams.n_head, "head")}, ${whole(hparams.n_parameters)} parameters`;
  const kind = is_live
    ? "It runs in this page, on this device."
    : `The page holds ${counted(hparams.n_steps, "recorded step")} of it; settings and draws work on these, new prompts and branches need a live model.`;
  return `${model}: a GPT-2 with ${size}. ${kind}`;
}

async function start() {
  set_theme(window.matchMedia("(prefers-color-scheme: dark)").matches);
  const about = JSON.parse(find("description").textContent);
  const tensors = await read_data(find("data").textContent);
  const { vocabulary, ...rest } = tensors;
  state.about = about;
  state.encoder = new Encoder(JSON.parse(new TextDecoder().decode(vocabulary)));
  state.model = about.is_live ? new LiveModel(weights_tree(rest, about.constants), about.hparams) : new RecordedModel(rest, about.hparams);
  Object.assign(state.settings, about.settings);
  state.sample = about.prompt;
  find("about-model").textContent = about_model(about);
  find("prompt").value = about.prompt;
  find("prompt").readOnly = !about.is_live;
  find("main").hidden = false;
  render_legend();
  render_tabs(state);
  make_sliders(state.settings, settings_changed);
  connect();
  plant_prompt(about.is_live ? about.ids : Array.from(rest.ids.slice(0, state.model.n_prompt)));
  if (!about.is_live) for (const id of rest.ids.slice(state.model.n_prompt)) state.leaf = child_of(state.leaf, id, "sampled");
  state.go_to(state.cursor);
  if (about.is_live && about.n_steps) await append_many(about.n_steps);
  if (about.is_lesson) open_step(0);
}

start().catch((error) => {
  tell(`The page cannot start: ${error.message}`);
  throw error;
});
