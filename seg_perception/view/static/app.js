"use strict";
// The page: asks for frames one at a time, so that a slow link gets fewer frames and never old ones.

const byId = (id) => document.getElementById(id);
const SILENT_S = 3, GONE_S = 20;  // without a word of the server, which tells its status twice a second
const VIEWS = ["overlay", "camera", "labels", "confidence", "mask"];
const page = { socket: null, view: "overlay", opacity: 0.5, paused: false, cameras: [], figures: new Map(), history: [],
               extras: [], waiting: 500, connected: false, heard: 0, chosenAt: -Infinity, steppedAt: -Infinity };

const silence = () => (performance.now() - page.heard) / 1000;

function send(message) {
  if (page.socket && page.socket.readyState === WebSocket.OPEN) page.socket.send(JSON.stringify(message));
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  page.socket = socket;
  socket.onopen = () => {
    Object.assign(page, { connected: true, heard: performance.now(), waiting: 500, cameras: [] });
    state("connected", "good");
    if (page.paused) send({ type: "pause", paused: true });
  };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") onText(JSON.parse(event.data)); else onFrame(event.data);
    page.heard = performance.now();  // and understood
  };
  socket.onclose = onLost;
}

function onLost() {
  page.connected = false;
  state("connection lost, trying again", "bad");
  settled();
  setTimeout(connect, page.waiting);
  page.waiting = Math.min(5000, page.waiting * 1.5);
  fetch("app.js").then((answer) => {  // a source that was started anew has another token
    if (answer.status === 403 && !page.connected) state("refused: open the address with the token that its log names now", "bad");
  }, () => {});
}

// A link that breaks (Wi-Fi out of reach) closes nothing for minutes: the page just hears nothing any more.
function watch() {
  if (page.connected && silence() > GONE_S) {
    page.socket.onmessage = page.socket.onclose = null;
    page.socket.close();
    onLost();
  }
  if (page.connected && silence() < SILENT_S) return;
  for (const figure of page.figures.values()) figure.element.classList.add("stale");
  if (page.connected) state("no answer", "bad");
  alarm("", "");
}

function state(text, kind) {
  byId("state").textContent = text;
  byId("state").className = `badge ${kind}`;
}

function showLevel(level, tables) {
  const said = level ? Object.values(tables).map((rows) => rows[""] || "").filter((text) => text && text !== "ok") : [];
  const text = level ? `${level}: ${[...new Set(said)].join("; ") || "see State below"}` : "";
  byId("level").hidden = !text;
  byId("level").className = level === "WARN" ? "badge warn" : "badge bad";
  fill(byId("level"), text);
}

function look() {
  const figures = [...page.figures.values()];
  const width = Math.ceil((figures.length ? figures[0].image.clientWidth || 640 : 640) * Math.min(2, devicePixelRatio || 1));
  send({ type: "look", cameras: page.cameras, view: page.view, opacity: page.opacity, width: Math.max(1, width) });
}

function lookSoon() {  // a slider that is dragged says more than may be asked
  page.looking ??= setTimeout(() => { page.looking = undefined; look(); }, 100);
}

function onText(message) {
  if (message.type === "status") onStatus(message);
  else if (message.type === "pixel") showPixel(message.pixel);
  else {
    settled();
    byId("answer").textContent = message.type === "refused" ? `refused: ${message.reason}` : "done";
  }
}

function onStatus(message) {
  byId("title").textContent = message.title;
  document.title = message.title;
  if (JSON.stringify(message.cameras) !== JSON.stringify(page.cameras)) {
    page.cameras = message.cameras;
    buildFigures();
    look();
  }
  const status = message.status;
  const sound = !status.level || status.level === "OK";
  const at_work = !["inactive", "unconfigured", "paused"].includes(status.state);
  // a file's playback is held for all pages alike; what was chosen here just now, it may not know yet
  page.plays = ["paused", "playing"].includes(status.state);
  if (page.plays && performance.now() - page.chosenAt > 2000) hold(status.state === "paused");
  if (status.age_s === null) state("connected, but no word of it yet", "warn");
  else if (status.age_s > status.silent_s) state(`silent for ${status.age_s.toFixed(0)} s`, "bad");
  else if (status.state) state(status.state, !sound && status.level !== "WARN" ? "bad" : sound && at_work ? "good" : "warn");
  showLevel(sound || status.age_s > status.silent_s ? "" : status.level, status.tables || {});
  showState(status);
  showLatency(status.latency_ms);
  showControl(message);
  const limit = status.stale_s === undefined ? message.stale_s : status.stale_s ?? Infinity;
  let stale = "", ages = [];
  for (const [camera, figure] of page.figures) {
    const age = message.ages[camera];
    const old = !page.paused && (age === undefined ? figure.number === null && page.sinceOpen() > 3 : age > limit);
    figure.element.classList.toggle("stale", old);
    if (old) stale += `${camera || "camera"}: ${age === undefined ? "no frame yet" : "no new frame"}. `;
    if (old && age !== undefined) ages.push(`${age.toFixed(1)} s`);
  }
  alarm(stale, ages.join(", "));
}

page.opened = performance.now();
page.sinceOpen = () => (performance.now() - page.opened) / 1000;

// What is wrong, and apart from it for how long: a screen reader says an alert again whenever it changes.
function alarm(text, ages) {
  const silent = silence() >= SILENT_S;
  const lost = !page.connected ? "Not connected: what is shown is old. " : silent ? "Nothing heard: what is shown is old. " : "";
  byId("alarm").hidden = !(lost + text);
  fill(byId("why"), lost + text);
  fill(byId("since"), lost && silent ? `${silence().toFixed(0)} s` : ages);
}

function fill(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function buildFigures() {
  byId("cameras").replaceChildren();
  page.figures.clear();
  page.pointed = undefined;  // the legend is of the camera that was pointed at last, or the first one
  for (const camera of page.cameras) {
    const element = document.createElement("figure");
    const image = document.createElement("img");
    image.alt = `${camera || "camera"}: no frame yet`;
    const caption = document.createElement("figcaption");
    const name = document.createElement("span"), number = document.createElement("span");
    name.textContent = camera || "camera";
    caption.append(name, number);
    element.append(image, caption);
    byId("cameras").append(element);
    const figure = { element, image, caption: number, number: null };
    page.figures.set(camera, figure);
    image.onpointermove = image.onpointerdown = (event) => {
      page.pointed = camera;
      figure.pointer = { x: event.clientX, y: event.clientY };
      ask(camera, figure);
    };
    image.onpointerleave = (event) => { if (event.pointerType === "mouse") figure.pointer = null; };  // a finger just taps
  }
}

// What is under the pointer; again of each frame, since the picture moves when the pointer does not.
function ask(camera, figure) {
  const now = performance.now(), box = figure.image.getBoundingClientRect();
  if (!figure.pointer || figure.number === null || now - (figure.asked || 0) < 60 || page.extras.includes(page.view)) return;  // a grid has no such pixels
  figure.asked = now;
  const x = clamp((figure.pointer.x - box.left) / box.width), y = clamp((figure.pointer.y - box.top) / box.height);
  send({ type: "pixel", camera, number: figure.number, x, y });
}

const clamp = (value) => Math.min(1, Math.max(0, value));

function onFrame(buffer) {
  const size = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const figure = page.figures.get(head.camera);
  if (!figure) return;
  const png = head.view === "labels" || head.view === "mask";
  const address = URL.createObjectURL(new Blob([new Uint8Array(buffer, 4 + size)], { type: png ? "image/png" : "image/jpeg" }));
  URL.revokeObjectURL(figure.image.src);
  figure.image.onload = figure.image.onerror = () => {
    URL.revokeObjectURL(address);
    const shape = figure.image.naturalWidth / figure.image.naturalHeight;
    if (shape > 0) figure.image.style.width = `min(100%, calc(80vh * ${shape.toFixed(4)}))`;  // all of it on the screen
    if (!page.paused || page.plays) send({ type: "next", camera: head.camera });
    ask(head.camera, figure);
  };
  figure.image.src = address;
  figure.image.alt = `${head.camera || "camera"}, ${head.view}: ` +
    head.shares.map((row) => `${row.name} ${(100 * row.share).toFixed(0)} %`).join(", ");
  figure.number = head.number;
  figure.element.dataset.number = head.number;
  figure.element.dataset.view = head.view;
  figure.caption.textContent = `${head.width}x${head.height} frame ${head.number}`;
  if (head.camera === (page.pointed ?? page.cameras[0])) showLegend(head.camera, head.shares);
  if (JSON.stringify(head.extras) !== JSON.stringify(page.extras)) { page.extras = head.extras; buildViews(); }
}

function showLegend(camera, shares) {
  byId("classes").textContent = page.cameras.length > 1 ? `Classes, ${camera}` : "Classes";
  const rows = [...shares].sort((a, b) => b.share - a.share).map((row) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = row.color;
    const name = document.createElement("span"), share = document.createElement("span");
    name.textContent = row.name;
    share.textContent = `${(100 * row.share).toFixed(1)} %`;
    item.append(swatch, name, share);
    return item;
  });
  byId("legend").replaceChildren(...rows);
}

function showPixel(pixel) {
  fill(byId("pixel"), pixel
    ? `${pixel.x}, ${pixel.y}: ${pixel.class}, confidence ${pixel.confidence.toFixed(2)}${pixel.drivable ? ", drivable" : ""}`
    : "no frame yet");
}

function showState(status) {
  const tables = Object.entries(status.tables || {});
  const names = JSON.stringify(tables.map(([title, rows]) => [title, Object.keys(rows)]));
  if (names !== page.stateNames) {
    page.stateNames = names;
    byId("status").replaceChildren(...tables.map(([title, rows]) => {
      const table = document.createElement("table");
      table.createCaption().textContent = title;
      for (const key of Object.keys(rows)) {
        const row = table.insertRow();
        row.insertCell().textContent = key;
        row.insertCell();
      }
      return table;
    }));
  }
  const cells = byId("status").querySelectorAll("td:last-child");  // kept, so that a text can be marked and copied
  tables.flatMap(([, rows]) => Object.values(rows)).forEach((value, index) => fill(cells[index], String(value)));
}

function showLatency(latency) {
  if (!latency) return;
  page.history.push(latency);
  if (page.history.length > 120) page.history.shift();
  const canvas = byId("chart"), context = canvas.getContext("2d");
  const left = 46, bottom = 18, width = canvas.width - left - 4, height = canvas.height - bottom - 8;
  const top = niceTop(Math.max(10, ...page.history.map((row) => row.p95 || 0)));
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = "12px system-ui, sans-serif";
  context.lineWidth = 1;
  for (const part of [0, 0.5, 1]) {
    const y = 8 + height * (1 - part);
    context.strokeStyle = "#39424a";
    context.beginPath(); context.moveTo(left, y); context.lineTo(left + width, y); context.stroke();
    context.fillStyle = "#a3adb5";
    context.textAlign = "right";
    context.fillText(`${+(top * part).toFixed(1)}`, left - 6, y + 4);
  }
  context.textAlign = "left"; context.fillText("60 s ago", left, canvas.height - 3);
  context.textAlign = "right"; context.fillText("now", left + width, canvas.height - 3);
  context.lineWidth = 2;
  const first = 120 - page.history.length;  // two a second: the newest is at the right
  for (const [key, color] of [["p50", "#58d68d"], ["p95", "#ffb74d"]]) {
    context.strokeStyle = color;
    context.beginPath();
    page.history.forEach((row, index) => {
      const x = left + ((first + index) / 119) * width, y = 8 + height * (1 - Math.min(1, (row[key] || 0) / top));
      index ? context.lineTo(x, y) : context.moveTo(x, y);
    });
    context.stroke();
  }
  byId("latency").replaceChildren(...["p50", "p95"].map((key) => {
    const item = document.createElement("span");
    item.className = key;
    item.textContent = `${key} ${latency[key].toFixed(1)} ms`;
    return item;
  }));
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 10].find((step) => step * power >= value);
}

function showControl(message) {
  byId("control").hidden = !message.control;
  if (!message.control) return;
  const names = JSON.stringify([message.sliders.map((s) => s.name), message.transitions]);
  if (names !== page.controlNames) {
    page.controlNames = names;
    byId("transitions").replaceChildren(...message.transitions.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.onclick = () => send({ type: "transition", name });
      return button;
    }));
    byId("sliders").replaceChildren(...message.sliders.map((slider) => {
      const label = document.createElement("label"), input = document.createElement("input"), output = document.createElement("output");
      label.append(slider.name, output, input);
      label.title = slider.help;
      Object.assign(input, { type: "range", min: slider.minimum, max: slider.maximum, step: slider.whole ? 1 : (slider.maximum - slider.minimum) / 100, name: slider.name });
      input.oninput = () => { input.moved = true; output.textContent = input.value; };
      input.onchange = () => { input.moved = true; send({ type: "set", name: slider.name, value: Number(input.value) }); };
      return label;
    }));
  }
  for (const slider of message.sliders) {
    const input = byId("sliders").querySelector(`input[name="${CSS.escape(slider.name)}"]`);
    if (input && !input.moved) {  // what the source has, also where it refused or another page was later
      input.value = slider.value;
      input.parentElement.querySelector("output").textContent = slider.value;
    }
  }
}

function settled() {
  for (const input of byId("sliders").querySelectorAll("input")) input.moved = false;
}

function buildViews() {
  byId("views").replaceChildren(...[...VIEWS, ...page.extras].map((view) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = view;
    button.dataset.view = view;
    button.setAttribute("aria-pressed", String(view === page.view));
    button.onclick = () => choose(view);
    return button;
  }));
}

function choose(view) {
  page.view = view;
  for (const button of byId("views").children) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  look();
}

function hold(paused) {
  if (page.paused === paused) return;
  page.paused = paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "go on" : "pause";
  if (!paused) for (const camera of page.cameras) send({ type: "next", camera });
}

function pause(paused) {
  page.chosenAt = performance.now();
  send({ type: "pause", paused });
  hold(paused);
}

function step() {
  if (!page.paused) pause(true);
  if (performance.now() - page.steppedAt < 100) return;  // a key that is held says more than may be asked
  page.steppedAt = performance.now();
  send({ type: "step" });
  for (const camera of page.cameras) send({ type: "next", camera });
}

function keep() {
  for (const [camera, figure] of page.figures) {
    if (figure.number === null) continue;
    const link = document.createElement("a");
    link.href = `keep?camera=${encodeURIComponent(camera)}&number=${figure.number}`;
    link.download = "";
    link.click();
  }
}

byId("opacity").oninput = (event) => { page.opacity = Number(event.target.value); lookSoon(); };
byId("pause").onclick = () => pause(!page.paused);
byId("step").onclick = step;
byId("keep").onclick = keep;
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" && event.key !== " ") return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const views = [...VIEWS, ...page.extras];
  if (/^[1-9]$/.test(event.key) && views[event.key - 1]) choose(views[event.key - 1]);
  else if (event.key === " " && event.target.tagName !== "BUTTON") pause(!page.paused);
  else if (event.key === "ArrowRight") step();
  else if (event.key === "k") keep();
  else if (event.key === "+" || event.key === "-") {
    byId("opacity").value = clamp(page.opacity + (event.key === "+" ? 0.05 : -0.05));
    byId("opacity").oninput({ target: byId("opacity") });
  } else return;
  event.preventDefault();
});
if (location.search) history.replaceState(null, "", location.pathname);  // the cookie has the token now; a screenshot need not
setInterval(watch, 500);
addEventListener("resize", () => { clearTimeout(page.resizing); page.resizing = setTimeout(look, 300); });
buildViews();
connect();
