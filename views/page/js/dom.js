"use strict";
/* What the panels share: finding and making elements, numbers as text, the surprise of a token as a colour. */

const find = (id) => document.getElementById(id);

/* Return a new element. properties: of the element; "class", "style" and names with a hyphen are attributes. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class" || name === "style" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function show(id, ...children) {
  find(id).replaceChildren(...children);
}

function probability(p) { // four decimals, or the magnitude of a smaller number
  return p > 0 && p < 0.00005 ? p.toExponential(0).replace("e-", "e−") : p.toFixed(4);
}

const whole = (number) => number.toLocaleString("en-US");

const counted = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;

const SHADES = [ // upper limit in bits, class, in words
  { below: 1, name: "s0", words: "under 1 bit" },
  { below: 3, name: "s1", words: "1 to 3" },
  { below: 6, name: "s2", words: "3 to 6" },
  { below: 10, name: "s3", words: "6 to 10" },
  { below: Infinity, name: "s4", words: "10 and more" },
];

function shade_of(bits) {
  return bits === null ? "s0" : SHADES.find(({ below }) => bits < below).name;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
