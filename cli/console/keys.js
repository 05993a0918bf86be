'use strict';
// Keys are bytes. They come as base64 and are shown as text where they are text, else as hexadecimal digits. Whatever they
// hold reaches the page as text nodes only: no key can become markup.

const SPACE = '\u202f'; // narrow and unbreakable, between thousands

function bytesOf(base64) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let n = 0; n < raw.length; n++) bytes[n] = raw.charCodeAt(n);
  return bytes;
}

const hexOf = bytes => Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');

function compareKeys(a, b) {
  const length = Math.min(a.length, b.length);
  for (let n = 0; n < length; n++) if (a[n] !== b[n]) return a[n] - b[n];
  return a.length - b.length;
}

// Letters, digits, marks and signs of any script; neither controls nor what turns the direction of text around.
const READABLE = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$/u;

// A key for people: {text, kind}, where kind is 'text' or 'hex'.
function keyForPeople(bytes) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (READABLE.test(text)) return { text: '"' + text.replace(/["\\]/g, '\\$&') + '"', kind: 'text' };
  } catch { /* not UTF-8 */ }
  let plain = 0;
  for (const byte of bytes) if (byte >= 32 && byte < 127) plain++;
  if (plain * 5 < bytes.length * 3) return { text: '0x' + hexOf(bytes), kind: 'hex' };
  const escaped = Array.from(bytes, byte => {
    if (byte === 34 || byte === 92) return '\\' + String.fromCharCode(byte);
    return byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '\\x' + byte.toString(16).padStart(2, '0');
  });
  return { text: '"' + escaped.join('') + '"', kind: 'text' };
}

const startText = region => region.start.length ? keyForPeople(region.start).text : 'the first key';
const endText = region => region.end.length ? keyForPeople(region.end).text : 'the last key';

// The first key after all that begin with `prefix`; null if there is none.
function afterPrefix(prefix) {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 255) length--;
  if (length === 0) return null;
  const after = prefix.slice(0, length);
  after[length - 1]++;
  return after;
}

// Whether the range holds keys that begin with `prefix`, or `prefix` itself.
function holds(region, prefix) {
  const after = afterPrefix(prefix);
  return (region.end.length === 0 || compareKeys(prefix, region.end) < 0)
    && (after === null || compareKeys(region.start, after) < 0);
}

// What somebody typed into the search field, as a question to regions; null: all of them.
function questionOf(typed) {
  const text = typed.trim();
  if (!text) return null;
  const named = /^(store|leader):(\d+)$/i.exec(text);
  if (named) {
    const id = Number(named[2]);
    if (named[1].toLowerCase() === 'leader') return region => region.leader === id;
    return region => region.peers.some(peer => peer[0] === id);
  }
  if (/^odd$/i.test(text)) return region => region.flags !== 0 || region.leader === 0;
  const hex = /^0x((?:[0-9a-f]{2})+)$/i.exec(text);
  if (hex) {
    const bytes = Uint8Array.from(hex[1].match(/../g), pair => parseInt(pair, 16));
    return region => holds(region, bytes);
  }
  const bytes = new TextEncoder().encode(text);
  if (/^\d+$/.test(text)) return region => region.id === Number(text) || holds(region, bytes);
  return region => holds(region, bytes);
}

// ---- numbers for people ----

function whole(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+(?!\d))/g, SPACE);
}

function rate(number) {
  if (number === 0 || number >= 10) return whole(number);
  return number.toFixed(1);
}

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit++; }
  return (unit === 0 || bytes >= 100 ? whole(bytes) : bytes.toFixed(1)) + '\u00a0' + units[unit];
}

function span(millis) {
  const seconds = millis / 1000;
  if (seconds < 10) return seconds.toFixed(1) + ' s';
  if (seconds < 120) return Math.round(seconds) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
  return Math.round(seconds / 86400) + ' d';
}

const many = (count, one, more) => whole(count) + ' ' + (count === 1 ? one : more || one + 's');
