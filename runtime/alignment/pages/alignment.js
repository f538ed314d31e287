"use strict";
// Waveforms, drawn while they are in sight; and words, played from where they begin to where they end.

let playing = null; // {audio, end}: `end` is null where the whole recording is played
const blobs = new WeakMap(); // of an audio element
const levels = new WeakMap(); // of an item: signed bytes, the lowest and the highest of each place; none if unknown
const words = new Map(); // of an item, in the order of time
const reachable = new Map(); // of an item: the word that Tab leads to
const playhead = Object.assign(document.createElement("div"), { className: "playhead" });
const now = document.querySelector(".now");

const itemOf = element => element.closest(".item");

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// ---- the sound ----

function blobOf(audio) { // Safari cannot seek in a data address, but in a blob
  if (!blobs.has(audio)) {
    const [head, body] = audio.src.split(",");
    const blob = new Blob([bytesOf(body)], { type: head.slice(5).split(";")[0] });
    blobs.set(audio, blob);
    audio.src = URL.createObjectURL(blob);
  }
  return blobs.get(audio);
}

function play(word) {
  stop();
  say(word);
  const audio = itemOf(word).querySelector("audio");
  if (!audio) return;
  blobOf(audio);
  playing = { audio, end: +word.dataset.end };
  audio.currentTime = +word.dataset.start;
  audio.play().catch(() => {}); // what it was stopped by has been said
}

function stop() {
  playing?.audio.pause();
  playing = null;
  playhead.remove();
}

function follow() {
  if (!playing) return;
  const { audio, end } = playing;
  if (end !== null && audio.currentTime >= end) {
    audio.pause();
    audio.currentTime = end;
  }
  if (audio.paused) return stop();
  show(itemOf(audio), audio.currentTime, end === null);
  requestAnimationFrame(follow);
}

function show(item, time, everything) {
  const line = [...item.querySelectorAll(".line")].findLast(each => +each.dataset.start <= time);
  if (line) {
    playhead.style.left = `calc(${time - line.dataset.start} * var(--second))`;
    if (playhead.parentNode !== line) line.append(playhead);
  }
  if (everything) mark(wordAt(item, time));
}

function wordAt(item, time) {
  const found = words.get(item).findLast(word => word.dataset.start <= time);
  return found && time < +found.dataset.end ? found : null;
}

function mark(word) {
  const before = document.querySelector(".word[aria-current]");
  if (before === word) return;
  before?.removeAttribute("aria-current");
  word?.setAttribute("aria-current", "true");
}

function say(word) { // what a tooltip says, for who has none; it is read aloud too
  mark(word);
  now.textContent = `${word.textContent} · ${word.title}`;
}

document.addEventListener("play", event => {
  if (playing?.audio !== event.target) { // started by its own control
    stop();
    playing = { audio: event.target, end: null };
  }
  requestAnimationFrame(follow);
}, true);
document.addEventListener("timeupdate", follow, true); // in a tab that is not seen no frame is drawn
document.addEventListener("error", event => {
  if (event.target.matches?.("audio")) note(itemOf(event.target), "This browser cannot play the audio.");
}, true);

function note(item, text) {
  if (item.querySelector(".note.browser")) return;
  const line = Object.assign(document.createElement("p"), { className: "note browser", textContent: text });
  item.querySelector("header").after(line);
}

// ---- words ----

document.addEventListener("click", event => {
  const link = event.target.closest(".context a");
  const word = link ? document.querySelector(link.hash) : event.target.closest("button.word");
  if (!word) return;
  if (link) {
    event.preventDefault();
    history.replaceState(null, "", link.hash);
    word.scrollIntoView({ block: "center", inline: "center" });
  }
  reach(word);
  play(word);
});

document.addEventListener("keydown", event => {
  if (event.key === "Escape") return stop();
  const word = event.target.closest?.("button.word");
  if (!word) return;
  const all = words.get(itemOf(word)), at = all.indexOf(word);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  if (all[next]) reach(all[next]);
});

function reach(word) {
  tabTo(word);
  word.focus();
  say(word);
}

function tabTo(word) { // of an item Tab leads to one word, and arrows to the others
  const item = itemOf(word), before = reachable.get(item);
  if (before) before.tabIndex = -1;
  word.tabIndex = 0;
  reachable.set(item, word);
}

for (const item of document.querySelectorAll(".item")) {
  const all = [...item.querySelectorAll("button.word")];
  words.set(item, all);
  for (const word of all) word.tabIndex = -1;
  if (all.length) tabTo(all[0]);
}

// ---- waveforms ----

async function decoded(item) { // what Python does not read
  const audio = item.querySelector("audio");
  if (!audio) return null;
  const rate = +item.dataset.rate, hertz = 8000; // enough to be seen, and an hour fits into memory
  try {
    const bytes = await blobOf(audio).arrayBuffer();
    const sound = await new OfflineAudioContext(1, 1, hertz).decodeAudioData(bytes);
    compare(item, sound.duration);
    const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
    const step = hertz / rate, ends = new Float32Array(2 * Math.ceil(sound.length / step));
    for (const channel of channels)
      for (let i = 0; i < channel.length; i++) {
        const place = 2 * Math.floor(i / step);
        ends[place] = Math.min(ends[place], channel[i]);
        ends[place + 1] = Math.max(ends[place + 1], channel[i]);
      }
    const loudest = ends.reduce((most, each) => Math.max(most, Math.abs(each)), 0) || 1;
    return Int8Array.from(ends, each => Math.round((127 * each) / loudest));
  } catch {
    note(item, "This browser cannot read the audio.");
    return null;
  }
}

function compare(item, heard) { // as Python does where it knows the length
  const aligned = +item.dataset.duration;
  if (Math.abs(heard - aligned) <= 0.5 + 0.01 * aligned) return;
  const lengths = `The audio has ${heard.toFixed(2)} seconds, the alignment ${aligned.toFixed(2)}.`;
  note(item, `${lengths} Is it the right file, and the right hop?`);
}

async function levelsOf(item) {
  if (!levels.has(item)) {
    const known = item.dataset.levels;
    levels.set(item, known ? Promise.resolve(new Int8Array(bytesOf(known).buffer)) : decoded(item));
  }
  return levels.get(item);
}

async function draw(line) {
  const item = itemOf(line), ends = await levelsOf(item);
  if (!line.seen) return;
  const canvas = line.querySelector("canvas"), box = canvas.getBoundingClientRect(), dots = devicePixelRatio;
  canvas.width = Math.round(box.width * dots);
  canvas.height = Math.round(box.height * dots);
  const pen = canvas.getContext("2d"), style = getComputedStyle(line);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) * dots;
  const from = +line.dataset.start, to = +line.dataset.end, second = canvas.width / (to - from);
  const top = 1.15 * rem, colour = name => style.getPropertyValue(name).trim();
  drawAxis(pen, { from, to, second, top, rem, ink: colour("--muted"), rule: colour("--rule") });
  if (ends) drawWave(pen, line, { ends, from, second, top, rate: +item.dataset.rate, rest: colour("--muted") });
}

function drawAxis(pen, { from, to, second, top, rem, ink, rule }) {
  pen.font = `${0.6875 * rem}px system-ui, "DejaVu Sans", sans-serif`;
  for (let at = Math.ceil(from - 1e-6); at < to; at++) {
    const x = Math.round((at - from) * second);
    pen.fillStyle = rule;
    pen.fillRect(x, 0, Math.max(1, rem / 16), pen.canvas.height);
    pen.fillStyle = ink;
    if (at + 0.3 < to) pen.fillText(clock(at), x + 0.3 * rem, 0.72 * rem);
  }
  pen.fillStyle = rule;
  pen.fillRect(0, top, pen.canvas.width, Math.max(1, rem / 16));
}

function clock(seconds) {
  const two = number => String(number).padStart(2, "0");
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  return hours ? `${hours}:${two(minutes % 60)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

function drawWave(pen, line, { ends, from, second, top, rate, rest }) {
  const { width, height } = pen.canvas, middle = (top + height) / 2, scale = (height - top) / 2 / 128;
  const colours = new Array(width).fill(rest);
  for (const word of line.querySelectorAll(".word")) {
    const tone = getComputedStyle(word).getPropertyValue("--tone").trim();
    const left = Math.floor((word.dataset.start - from) * second);
    colours.fill(tone, Math.max(0, left), Math.max(0, Math.ceil((word.dataset.end - from) * second)));
  }
  for (let x = 0; x < width; x++) {
    const first = Math.floor((from + x / second) * rate), last = Math.floor((from + (x + 1) / second) * rate);
    if (2 * first >= ends.length) break; // the sound ends before the alignment
    let low = 0, high = 0;
    for (let place = first; place <= Math.max(first, last - 1) && 2 * place < ends.length; place++) {
      low = Math.min(low, ends[2 * place]);
      high = Math.max(high, ends[2 * place + 1]);
    }
    pen.fillStyle = colours[x];
    pen.globalAlpha = colours[x] === rest ? 0.45 : 0.9;
    pen.fillRect(x, middle - high * scale, 1, Math.max(1, (high - low) * scale));
  }
}

const sight = new IntersectionObserver(entries => {
  for (const { target: line, isIntersecting } of entries) {
    line.seen = isIntersecting;
    if (isIntersecting) draw(line);
    else line.querySelector("canvas").width = 0; // hours of waveforms would fill the memory
  }
}, { rootMargin: "600px" });
const allLines = document.querySelectorAll(".line");
for (const line of allLines) sight.observe(line);

const again = () => { for (const line of allLines) if (line.seen) draw(line); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
addEventListener("resize", again);
