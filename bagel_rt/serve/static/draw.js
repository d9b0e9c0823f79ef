// Drawing and editing: a form, a picture that sharpens, what was drawn before.
"use strict";

const drawing = { kind: "draw", inputs: [], stop: null };

function chooseKind(kind) {
  drawing.kind = kind;
  for (const one of document.querySelectorAll(".only-edit")) one.hidden = kind !== "edit";
  byId("prompt-label").textContent = kind === "edit" ? "What shall be changed?" : "What shall be drawn?";
  byId("prompt").placeholder = kind === "edit" ? "make the circle green" : "a red circle above a blue square";
  byId("go").textContent = kind === "edit" ? "Edit" : "Draw";
  offerPresets(kind);
}

function showInputs() {
  byId("thumbs").replaceChildren(...drawing.inputs.map((url, index) => thumb(url, `picture ${index + 1}: click to take it away`, (event) => {
    event.stopPropagation();
    drawing.inputs.splice(index, 1);
    showInputs();
  })));
  offerMask(drawing.inputs[0]);
}

async function addInputs(files) {
  for (const file of pictures(files)) drawing.inputs.push(await dataUrl(file));
  showInputs();
}

function showPicture(url, sharp) {
  const image = byId("picture");
  image.onload = () => image.classList.toggle("pixelated", image.naturalWidth <= 128);
  image.src = url;
  image.alt = sharp ? byId("prompt").value : "the picture on its way";
  image.hidden = false;
  byId("empty").hidden = true;
}

function busy(is) {
  byId("go").disabled = is;
  byId("stop").disabled = !is;
  byId("progress").hidden = !is;
  byId("draw-form").setAttribute("aria-busy", String(is));
}

async function draw(event) {
  event.preventDefault();
  tell(byId("wrong"), null);
  const kind = drawing.kind, name = kind === "edit" ? "edits" : "generations";
  if (kind === "edit" && !drawing.inputs.length) return tell(byId("wrong"), "Choose the picture that shall be changed first.");
  const body = { prompt: byId("prompt").value, partial_images: 12, progress: true, ...knobs(kind) };
  if (kind === "edit") {
    body.images = drawing.inputs;
    if (maskUrl()) body.mask = maskUrl();
  }
  drawing.stop = new AbortController();
  const shown = { told: byId("told"), wrong: byId("wrong"), busy };
  await follow(`/v1/images/${name}`, body, drawing.stop, took, shown);
}

function took(event) {
  const kind = event.type.split(".")[1];
  if (kind === "progress") {
    const words = { thinking: "planning", drawing: "drawing", decoding: "finishing" };
    byId("told").textContent = `${words[event.stage] ?? event.stage}: ${event.done} of ${event.total}`;
    byId("progress").value = event.stage === "drawing" ? event.done / event.total : byId("progress").value;
  } else if (kind === "partial_image") {
    showPicture(`data:image/png;base64,${event.b64_json}`, false);
  } else if (kind === "completed") {
    finished(event);
  }
}

function finished(event) {
  const url = `data:image/png;base64,${event.b64_json}`, prompt = byId("prompt").value;
  const made = { url, prompt, seed: event.seed, size: event.size, plan: event.revised_prompt };
  byId("told").textContent = "done";
  byId("history").prepend(thumb(url, prompt, () => show(made)));
  show(made);
}

function show(made) {
  showPicture(made.url, true);
  byId("picture").alt = made.prompt;
  byId("caption").textContent = `${made.prompt} (seed ${made.seed}, ${made.size})`;
  byId("download").href = made.url;
  byId("download").download = `bagel-${made.seed}.png`;
  byId("after").hidden = false;
  byId("plan").hidden = !made.plan;
  byId("plan").querySelector("p").textContent = made.plan ?? "";
}

// A dropped picture: its settings, where it has some and something is drawn; else a picture to change.
async function dropped(files) {
  const found = pictures(files);
  const record = drawing.kind === "draw" && found.length === 1 ? await recordOf(found[0]) : null;
  if (record) {
    setKnobs(record);
    byId("told").textContent = "these settings are used again";
  } else if (drawing.kind === "draw") {
    tell(byId("wrong"), "This picture carries no settings; to change it, drop it under Edit.");
  } else {
    await addInputs(found);
  }
}

function prepareDrawing() {
  chooseKind("draw");
  byId("draw-form").addEventListener("submit", draw);
  byId("stop").addEventListener("click", () => drawing.stop?.abort());
  byId("drop").addEventListener("click", () => byId("files").click());
  byId("drop").addEventListener("keydown", (event) => {
    if (event.target === byId("drop") && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      byId("files").click();
    }
  });
  byId("files").addEventListener("change", async (event) => {
    await addInputs(event.target.files);
    event.target.value = "";
  });
  byId("again").addEventListener("click", () => {
    drawing.inputs = [byId("picture").src];
    showInputs();
    choose("edit");
    byId("prompt").value = "";
    byId("prompt").focus();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("draw-form").requestSubmit();
  });
}
