// Runs the shipped model in the visitor's browser with ONNX Runtime's WebAssembly.
import * as ort from "./ort.wasm.min.mjs";
import { nearest, networkSize, resizeRgb } from "./pixels.js";

const byId = (id) => document.getElementById(id);
const VIEWS = ["overlay", "picture", "labels", "confidence", "drivable"];
const LARGEST = 1280; // longer sides are shrunk first: a phone's picture has 12 million pixels
const page = { view: "overlay", opacity: 0.5, answer: null, busy: false, stream: null };

ort.env.wasm.wasmPaths = new URL("./", location.href).href;
ort.env.wasm.numThreads = 1; // more need headers that a folder of files cannot send

async function load() {
  page.card = await (await fetch("model.json")).json();
  page.session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  byId("card").textContent = `${page.card.id}. ${page.card.data_license}. ${page.card.limits.join("; ")}.`;
  say("ready: drop a picture");
}

/** Segment RGBA pixels: labels and confidence at the picture's size, and the milliseconds of the network. */
export async function segment(rgba, width, height) {
  const size = networkSize(width, height, page.card.input_size, page.card.size_multiple);
  const pixels = resizeRgb(rgba, width, height, size);
  const began = performance.now();
  const answer = await page.session.run({ image: new ort.Tensor("uint8", pixels, [1, size.height, size.width, 3]) });
  const milliseconds = performance.now() - began;
  return {
    width, height, milliseconds, network: size,
    labels: nearest(answer.labels.data, size, width, height),
    confidence: nearest(answer.confidence.data, size, width, height),
  };
}
window.segment = segment; // for the tests
window.ready = load();
window.ready.catch((error) => say(`the model could not be loaded: ${error.message}`));

function say(text) { byId("state").textContent = text; }

async function show(source, width, height, name) {
  if (page.busy) return;
  page.busy = true;
  try {
    await window.ready;
    const shrink = Math.min(1, LARGEST / Math.max(width, height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * shrink)), Math.max(1, Math.round(height * shrink)));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    page.answer = { ...(await segment(rgba, canvas.width, canvas.height)), rgba };
    say(`${name}: ${page.answer.milliseconds.toFixed(0)} ms for ${page.answer.network.width}x${page.answer.network.height}`);
    draw();
  } catch (error) {
    say(`${name} cannot be shown: ${error.message}`);
  } finally {
    page.busy = false;
  }
}

function draw() {
  const answer = page.answer;
  if (!answer) return;
  const { width, height, labels, confidence, rgba } = answer, classes = page.card.label_set.classes;
  const canvas = byId("picture");
  canvas.width = width;
  canvas.height = height;
  const out = new ImageData(width, height), counts = new Array(classes.length).fill(0);
  for (let i = 0; i < labels.length; i++) {
    const label = classes[labels[i]];
    counts[labels[i]] += 1;
    const sure = confidence[i] >= 128, drivable = label.drivable && sure;
    for (let c = 0; c < 3; c++) {
      const picture = rgba[4 * i + c];
      out.data[4 * i + c] = { overlay: picture * (1 - page.opacity) + label.color[c] * page.opacity, picture,
        labels: label.color[c], confidence: confidence[i], drivable: drivable ? 255 : 0 }[page.view];
    }
    out.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
  const rows = classes.map((c, id) => [c, counts[id] / labels.length]).filter((row) => row[1] > 0).sort((a, b) => b[1] - a[1]);
  canvas.setAttribute("aria-label", rows.map(([c, share]) => `${c.name} ${(100 * share).toFixed(0)} %`).join(", "));
  byId("legend").replaceChildren(...rows.map(([c, share]) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = `rgb(${c.color.join(",")})`;
    const name = document.createElement("span"), part = document.createElement("span");
    name.textContent = c.name;
    part.textContent = `${(100 * share).toFixed(1)} %`;
    item.append(swatch, name, part);
    return item;
  }));
}

byId("picture").addEventListener("pointermove", (event) => {
  const answer = page.answer, box = byId("picture").getBoundingClientRect();
  if (!answer) return;
  const x = Math.min(answer.width - 1, Math.floor(((event.clientX - box.left) / box.width) * answer.width));
  const y = Math.min(answer.height - 1, Math.floor(((event.clientY - box.top) / box.height) * answer.height));
  const at = Math.max(0, y) * answer.width + Math.max(0, x);
  byId("pixel").textContent = `${x}, ${y}: ${page.card.label_set.classes[answer.labels[at]].name}, ${(answer.confidence[at] / 255).toFixed(2)}`;
});

async function showFiles(files) {
  for (const file of files) {
    try {
      const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
      await show(bitmap, bitmap.width, bitmap.height, file.name);
    } catch {
      say(`${file.name} is no picture that this browser reads`);
    }
  }
}

byId("file").onchange = (event) => showFiles(event.target.files);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") showFiles(event.dataTransfer.files);
  });

byId("camera").onclick = async () => {
  const button = byId("camera");
  if (page.stream) {
    page.stream.getTracks().forEach((track) => track.stop());
    page.stream = null;
  } else {
    try {
      page.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      say(`no camera: ${error.message}`);
      return;
    }
    const video = document.createElement("video");
    video.srcObject = page.stream;
    await video.play();
    const next = async () => {
      if (!page.stream) return;
      await show(video, video.videoWidth, video.videoHeight, "camera");
      requestAnimationFrame(next);
    };
    next();
  }
  button.setAttribute("aria-pressed", String(page.stream !== null));
  button.textContent = page.stream ? "stop the camera" : "use the camera";
};

byId("views").append(...VIEWS.map((view) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = view;
  button.dataset.view = view;
  button.setAttribute("aria-pressed", String(view === page.view));
  button.onclick = () => {
    page.view = view;
    for (const other of byId("views").children) other.setAttribute("aria-pressed", String(other === button));
    draw();
  };
  return button;
}));
byId("opacity").oninput = (event) => { page.opacity = Number(event.target.value); draw(); };
