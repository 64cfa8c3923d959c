"use strict";
/* Text to token ids and back, as in encoder.py: the byte-level BPE of GPT-2, and two simpler vocabularies.

   A vocabulary is { kind, tokens, merges, added, add_prefix_space, start, prefix }:

       kind      "bytes": byte-level BPE; "characters": a token per character; "words": a token per word of the toy;
                 "other": the page shows its tokens, but cannot encode a text
       tokens    the token of each id, null for an id without one; for "bytes", in the characters of GPT-2's byte table
       merges    "a b" for each merge, in the order in which they were learnt
       added     the ids of the added tokens, such as <|endoftext|>, which are no byte sequences
       start     the id from which an empty text is continued
       prefix    ids before every prompt */

// GPT-2's pieces: contractions; runs of letters, digits or other characters after at most one space; white space.
const PIECES = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);

/* Return GPT-2's table [byte] -> printable character, with which tokens are written. */
function bytes_to_unicode() {
  const is_printable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let substitute = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(is_printable(byte) ? byte : substitute++));
}

const SYMBOL_OF = bytes_to_unicode();
const BYTE_OF = new Map(SYMBOL_OF.map((symbol, byte) => [symbol, byte]));
const UTF8 = new TextEncoder();

/* Yield the symbols of a piece after each merge: { symbols, pair, rank }; first as they are, without a pair. Each step
   merges all occurrences of the pair with the lowest rank, from left to right. */
function* merge_steps(symbols, ranks) {
  yield { symbols, pair: null, rank: null };
  for (;;) {
    const pairs = symbols.slice(1).map((symbol, i) => `${symbols[i]} ${symbol}`);
    const known = pairs.filter((pair) => ranks.has(pair));
    if (!known.length) return;
    const pair = known.reduce((best, other) => (ranks.get(other) < ranks.get(best) ? other : best));
    symbols = merged(symbols, pair);
    yield { symbols, pair, rank: ranks.get(pair) };
  }
}

function merged(symbols, pair) {
  const [left, right] = pair.split(" ");
  const result = [];
  for (let i = 0; i < symbols.length; i++) {
    const is_pair = symbols[i] === left && symbols[i + 1] === right;
    result.push(is_pair ? left + right : symbols[i]);
    if (is_pair) i++;
  }
  return result;
}

class Encoder {
  constructor(vocabulary) {
    Object.assign(this, { merges: [], added: [], prefix: [], ...vocabulary });
    this.added = new Set(this.added);
    this.id_of = new Map(this.tokens.map((token, id) => [token, id]));
    this.ranks = new Map(this.merges.map((pair, rank) => [pair, rank]).filter(([pair]) => this.has(pair)));
  }

  has(pair) { // a merge whose result has no id is left out
    return this.id_of.has(pair.replace(" ", ""));
  }

  /* Return the ids of a text. Throw an Error with a sentence for the user if a part of it has no token. */
  encode(text) {
    if (this.kind === "words") return text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => this.lookup(word));
    if (this.kind === "characters") return Array.from(text, (character) => this.lookup(character));
    return this.pieces(text).flatMap((piece) => this.encode_piece(piece));
  }

  /* Return the ids of a prompt, at least one. */
  encode_prompt(text) {
    const ids = [...this.prefix, ...this.encode(text)];
    return ids.length ? ids : [this.start];
  }

  pieces(text) {
    if (this.add_prefix_space && text && !text.startsWith(" ")) text = ` ${text}`;
    return text.match(PIECES) ?? [];
  }

  encode_piece(piece) {
    return this.steps(piece).at(-1).symbols.map((symbol) => this.lookup(symbol));
  }

  steps(piece) {
    return [...merge_steps(Array.from(UTF8.encode(piece), (byte) => SYMBOL_OF[byte]), this.ranks)];
  }

  lookup(token) {
    const id = this.id_of.get(token);
    if (id !== undefined) return id;
    const choice = this.tokens.length > 100 ? "" : `; it has: ${this.tokens.join(" ")}`;
    throw new Error(`The vocabulary has no token “${token}”${choice}.`);
  }

  bytes(id) { // -> Uint8Array
    const token = this.tokens[id] ?? "";
    if (this.kind === "words") return UTF8.encode(`${token} `);
    if (this.kind !== "bytes" || this.added.has(id)) return UTF8.encode(token);
    return Uint8Array.from(Array.from(token).flatMap((symbol) => BYTE_OF.get(symbol) ?? [...UTF8.encode(symbol)]));
  }

  /* Return the text of each id. A character may take several ids: the text is "" until the last of them. */
  stream(ids) {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    return ids.map((id) => utf8.decode(this.bytes(id), { stream: true }));
  }

  /* Return a token in visible characters: a space is ␣, and bytes that are no character are hexadecimal. */
  name(id) {
    if (this.tokens[id] === null || this.tokens[id] === undefined) return `(id ${id} is unused)`;
    if (this.kind === "words") return this.tokens[id];
    return visible(this.bytes(id));
  }
}

function visible(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    text = Array.from(bytes, (byte) => (byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : hexadecimal(byte))).join("");
  }
  const shown = text.replace(/\n/g, "⏎").replace(/ /g, "␣").replace(/[\p{C}\p{Z}]/gu, escaped);
  return /^\p{M}/u.test(shown) ? `◌${shown}` : shown; // a combining mark needs a character before it
}

const hexadecimal = (byte) => `\\x${byte.toString(16).padStart(2, "0")}`;
const escaped = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;
