// The part of a picture that shall change, painted over it: what is painted is transparent in the mask that is sent.
"use strict";

const masking = { of: null, painted: false, last: null };

// Offer the first of the pictures for painting; another picture begins with an empty mask.
function offerMask(url) {
  byId("masking").hidden = !url;
  if (url === masking.of) return;
  masking.of = url ?? null;
  const image = byId("mask-under");
  image.onload = clearMask;
  if (url) image.src = url;
}

function clearMask() {
  const canvas = byId("mask"), image = byId("mask-under");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  masking.painted = false;
  masking.last = { x: canvas.width / 2, y: canvas.height / 2 };
}

// The mask as a data URL, null where nothing was painted.
function maskUrl() {
  if (!masking.of || !masking.painted) return null;
  const strokes = byId("mask"), whole = document.createElement("canvas");
  [whole.width, whole.height] = [strokes.width, strokes.height];
  const context = whole.getContext("2d");
  context.fillRect(0, 0, whole.width, whole.height);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(strokes, 0, 0);
  return whole.toDataURL("image/png");
}

const brush = () => (byId("mask").width * Number(byId("brush").value)) / 100;

function paint(from, to) {
  const context = byId("mask").getContext("2d");
  context.strokeStyle = "#d6006c";
  context.lineWidth = brush();
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y + 0.01);
  context.stroke();
  masking.painted = true;
  masking.last = to;
}

function place(event) {
  const canvas = byId("mask"), box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

// Arrows paint on from where the last stroke ended, which is the middle at first; with the shift key they only move.
function paintByKeys(event) {
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!right && !down && event.key !== " ") return;
  event.preventDefault();
  const to = { x: masking.last.x + (right * brush()) / 2, y: masking.last.y + (down * brush()) / 2 };
  if (event.shiftKey) masking.last = to;
  else paint(masking.last, to);
}

function prepareMask() {
  const canvas = byId("mask");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    paint(place(event), place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) paint(masking.last, place(event));
  });
  canvas.addEventListener("keydown", paintByKeys);
  byId("mask-clear").addEventListener("click", clearMask);
}
