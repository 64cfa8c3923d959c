"use strict";
/* The tree of texts, and the two models that can continue it.

   A node is a token: { id, parent, children, how, result }. how: "prompt", "sampled", "greedy" or "chosen". A text is
   the path from the root to a node. result: what the model computed after this token, from which its successor is
   drawn; null until it is needed. */

function new_node(id, parent, how) {
  return { id, parent, children: [], how, result: null };
}

function path_to(node) { // the nodes of a text, from the root on
  const path = [];
  for (; node; node = node.parent) path.push(node);
  return path.reverse();
}

function leaf_below(node) { // the end of the newest branch
  while (node.children.length) node = node.newest ?? node.children.at(-1);
  return node;
}

/* Return the child with this id; add one if there is none. */
function child_of(node, id, how) {
  let child = node.children.find((other) => other.id === id);
  if (!child) {
    child = new_node(id, node, how);
    node.children.push(child);
  }
  for (let below = child; below.parent; below = below.parent) below.parent.newest = below;
  return child;
}

/* Return the last node of a new tree that holds a prompt. */
function plant(prompt_ids) {
  let node = null;
  for (const id of prompt_ids) {
    const child = new_node(id, node, "prompt");
    node?.children.push(child);
    node = child;
  }
  return node;
}

/* A model that computes in the page. The cache holds the text that was computed last; a text that begins in the same
   way continues from their common beginning. Attribute: `work`, the numbers of positions of the last computation. */
class LiveModel {
  is_live = true;

  constructor(params, hparams) {
    this.params = params;
    this.hparams = hparams;
    this.cache = make_kv_cache(params);
    this.in_cache = []; // nodes
    this.work = { cached: 0, computed: 0 };
  }

  /* Return the result after a node. */
  result(node) {
    if (node.result) return node.result;
    const path = path_to(node);
    let n_equal = 0;
    while (n_equal < path.length && this.in_cache[n_equal]?.id === path[n_equal].id) n_equal++;
    n_equal = Math.min(n_equal, path.length - 1); // the last position gives the logits
    this.cache.length = n_equal;
    this.in_cache.length = n_equal;
    for (const next of path.slice(n_equal)) {
      next.result = gpt2(next.id, this.params, this.hparams.n_head, this.cache);
      this.in_cache.push(next);
    }
    for (const [i, before] of path.entries()) before.result ??= this.in_cache[i].result;
    this.work = { cached: n_equal, computed: path.length - n_equal };
    return node.result;
  }

  logits(node) {
    return this.result(node).logits;
  }

  surprise(node) { // in bits; null for the first token
    if (!node.parent) return null;
    node.surprise ??= surprise(this.logits(node.parent), node.id);
    return node.surprise;
  }

  weights(node) { // [n_layer][n_head] -> [n_total]
    return this.result(node).weights;
  }

  /* Return the distribution that each layer would predict: for the embedding and each block, the likeliest tokens. */
  lens(node, n_tokens) {
    const { ln_f, wte, head = wte } = this.params;
    return this.result(node).residuals.map((x) => likeliest(predict(x, ln_f, head), n_tokens));
  }
}

function likeliest(logits, n) {
  const probs = probabilities_of(shifted_logits(logits));
  return keep_best(probs, Math.min(n, probs.length)).map((id) => ({ id, p: probs[id] })).sort((a, b) => b.p - a.p || a.id - b.id);
}

/* The steps of a larger model, recorded in advance by views/page/recording.py. The tensors:

       ids [n_total]               the prompt and the tokens that followed
       surprises [n_total]         in bits
       best_ids, best_logits       [n_steps, n_best] of the likeliest tokens, relative to the largest logit
       other_logits                [n_steps, n_vocab], in float16
       weights                     n_total x [n_layer, n_head, n_seen], of each position
       lens_ids, lens_probs        [n_total, n_layer + 1, n_lens] */
class RecordedModel {
  is_live = false;

  constructor(tensors, hparams) {
    this.tensors = tensors;
    this.hparams = hparams;
    this.n_prompt = tensors.ids.length - hparams.n_steps;
  }

  has_logits(node) {
    const place = this.place(node);
    return place !== null && place >= this.n_prompt - 1 && place < this.n_prompt - 1 + this.hparams.n_steps;
  }

  place(node) { // the position in the recorded text, null for another text
    const path = path_to(node);
    return path.every(({ id }, i) => this.tensors.ids[i] === id) ? path.length - 1 : null;
  }

  logits(node) {
    if (!this.has_logits(node)) return null;
    const step = this.place(node) - this.n_prompt + 1;
    const { n_vocab } = this.hparams;
    const { best_ids, best_logits, other_logits } = this.tensors;
    const n_best = best_ids.shape[1];
    const logits = other_logits.slice(step * n_vocab, (step + 1) * n_vocab);
    for (let i = step * n_best; i < (step + 1) * n_best; i++) logits[best_ids[i]] = best_logits[i];
    return logits;
  }

  surprise(node) {
    const place = this.place(node);
    return place ? this.tensors.surprises[place] : null;
  }

  weights(node) {
    const { n_layer, n_head } = this.hparams;
    const n_seen = this.place(node) + 1;
    const start = (n_layer * n_head * (n_seen - 1) * n_seen) / 2; // 1 + 2 + ... + (n_seen - 1) weights come before
    const rows = (l, h) => start + (l * n_head + h) * n_seen;
    return Array.from({ length: n_layer }, (_, l) =>
      Array.from({ length: n_head }, (_, h) => this.tensors.weights.subarray(rows(l, h), rows(l, h) + n_seen)),
    );
  }

  lens(node, n_tokens) {
    const { lens_ids, lens_probs } = this.tensors;
    const [, n_layers, n_lens] = lens_ids.shape;
    return Array.from({ length: n_layers }, (_, l) =>
      Array.from({ length: Math.min(n_tokens, n_lens) }, (_, i) => {
        const at = (this.place(node) * n_layers + l) * n_lens + i;
        return { id: lens_ids[at], p: lens_probs[at] };
      }),
    );
  }
}
