"use strict";
/* A lesson in steps of one sentence. A step may change settings, and names the part of the page that it is about. */

const LESSON = [
  { at: "writing", text: "A language model continues a text token by token, and each token is one entry of a fixed vocabulary.", settings: {} },
  { at: "choice", text: "For the text so far, the model gives every token a number, its logit, and softmax turns the logits into probabilities that sum to 1.", settings: {} },
  { at: "choice", text: "The strip gives each token an interval as wide as its probability, in the order of the ids.", settings: {} },
  { at: "choice", text: "A draw takes one uniform number u between 0 and 1, and the interval that contains u names the token: move u and watch the drawn token change.", settings: {} },
  { at: "choice", text: "“Draw 1,000 times” repeats the draw, and the frequencies come close to the probabilities." , settings: {} },
  { at: "set-temperature-box", text: "A temperature below 1 sharpens the distribution: here it is 0.3, and the likeliest token takes nearly everything.", settings: { temperature: 0.3 } },
  { at: "set-temperature-box", text: "A temperature above 1 flattens it: here it is 3, and unlikely tokens are drawn often.", settings: { temperature: 3 } },
  { at: "set-temperature-box", text: "At temperature 0 nothing is drawn: the likeliest token is always chosen, which is greedy decoding.", settings: { temperature: 0 } },
  { at: "set-top_k-box", text: "top_k keeps a fixed number of tokens, here 3, however the probabilities are distributed.", settings: { top_k: 3 } },
  { at: "set-top_p-box", text: "top_p keeps the fewest tokens that together have probability p, here 0.9, so that their number follows the model's certainty.", settings: { top_p: 0.9 } },
  { at: "choice", text: "A removed token shows the filter that removed it, and the remaining tokens share its probability.", settings: { top_p: 0.9 } },
  { at: "set-min_p-box", text: "min_p keeps the tokens that are at least a share, here 0.1, as likely as the likeliest one.", settings: { min_p: 0.1 } },
  { at: "set-repetition_penalty-box", text: "A penalty changes the logits of tokens that are in the text, before all other steps.", settings: { repetition_penalty: 1.5 } },
  { at: "writing", text: "The drawn token is appended to the text, the model computes the next distribution, and the same steps begin again.", settings: {} },
  { at: "branches", text: "Every choice opens a branch: click a token of the text, choose an alternative, and compare the two continuations.", settings: {} },
  { at: "inside", text: "The panel below shows how the model arrives at its logits: what its heads attend to, and what each layer would predict.", settings: {} },
];

/* Show a step of the lesson. number: from 0; null ends it. apply: receives the settings of the step. */
function show_step(number, apply) {
  for (const spot of document.querySelectorAll(".spot")) spot.classList.remove("spot");
  find("lesson").hidden = number === null;
  find("lesson-open").setAttribute("aria-expanded", String(number !== null));
  if (number === null) return;
  const { at, text, settings } = LESSON[number];
  find("lesson-text").textContent = text;
  find("lesson-place").textContent = `${number + 1} of ${LESSON.length}`;
  find("lesson-back").disabled = number === 0;
  find("lesson-next").disabled = number === LESSON.length - 1;
  apply({ ...neutral(), ...settings });
  const spot = find(at);
  spot.classList.add("spot");
  spot.scrollIntoView?.({ block: "nearest" });
}
