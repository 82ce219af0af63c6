"use strict";
/* Unpacks the responses in #packed (the layout is told in packing.py) and searches them. Shows nothing. */
const traitlineResponses = (function () {
  const pause = () => new Promise((go) => setTimeout(go, 0));
  const SLICE = 1 << 20; // characters of base64 decoded at a time, a multiple of four

  async function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const parts = [];
    for (let start = 0; start < text.length; start += SLICE) {
      const piece = atob(text.slice(start, start + SLICE));
      parts.push(Uint8Array.from(piece, (c) => c.charCodeAt(0)));
      await pause();
    }
    return new Blob(parts).bytes ? new Blob(parts).bytes() : new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  async function unpacked(text) {
    const deflated = await bytesOf(text);
    await pause();
    const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    await pause();
    const decode = (from, to) => new TextDecoder().decode(new Uint8Array(buffer, from, to - from));
    let at = 4 + new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(decode(4, at));
    const columns = {};
    for (const [name, type, length] of header.columns) {
      const kind = { Uint8Array, Int16Array, Uint16Array, Int32Array }[type], end = at + length * kind.BYTES_PER_ELEMENT;
      columns[name] = new kind(buffer.slice(at, end)); // a copy, since a view would have to begin at a multiple of its size
      at = end;
    }
    const joined = decode(at, buffer.byteLength);
    await pause();
    const texts = joined.split("\0");
    texts.pop();
    await pause();
    return { header, columns, texts, find: finder(joined.toLowerCase(), texts.length) };
  }

  // Returns a function that tells for every text whether it has some words in it: 1 or 0 by number of text.
  function finder(lowered, count) {
    const starts = new Int32Array(count + 1);
    for (let i = 0, at = 0; i < count; i += 1) { at = lowered.indexOf("\0", at) + 1; starts[i + 1] = at; }
    const known = new Map();
    return (words) => {
      if (known.has(words)) return known.get(words);
      const hits = new Uint8Array(count);
      let text = 0;
      for (let at = lowered.indexOf(words); at !== -1; at = lowered.indexOf(words, starts[text])) {
        let low = text, high = count; // the text that begins last before this place
        while (high - low > 1) { const middle = (low + high) >> 1; if (starts[middle] <= at) low = middle; else high = middle; }
        hits[low] = 1;
        text = low + 1;
        if (text >= count) break;
      }
      if (known.size > 8) known.delete(known.keys().next().value);
      known.set(words, hits);
      return hits;
    };
  }

  return { unpacked, able: typeof DecompressionStream === "function" };
})();
