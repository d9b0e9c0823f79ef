// Thinking in words and pictures: a question, then texts and pictures as they come, then the answer.
"use strict";

const thinking = { shown: [], parts: [], stop: null };

const STYLES = {
  "": "as the model was taught", generic: "generic", "zebra-cot": "Zebra-CoT", thinkmorph: "ThinkMorph",
  mathcanvas: "MathCanvas", unicot: "Uni-CoT",
};

function showThoughtOf() {
  byId("reason-thumbs").replaceChildren(...thinking.shown.map((url, index) => thumb(url, `picture ${index + 1}: click to take it away`, () => {
    thinking.shown.splice(index, 1);
    showThoughtOf();
  })));
}

async function showInReason(files) {
  for (const file of pictures(files)) thinking.shown.push(await dataUrl(file));
  showThoughtOf();
}

// The entry of a part, made when its first piece comes.
function part(index) {
  if (!thinking.parts[index]) {
    const item = document.createElement("li");
    item.className = "answered";
    byId("thoughts").append(item);
    thinking.parts[index] = item;
  }
  return thinking.parts[index];
}

function thought(event) {
  const kind = event.type.slice("reason.".length);
  if (kind === "text.delta") {
    const item = part(event.part);
    (item.querySelector("p") ?? line(item)).textContent += event.delta;
  } else if (kind === "image.partial_image" || kind === "image") {
    picture(part(event.part), `data:image/png;base64,${event.b64_json}`, kind === "image" ? "a picture it drew" : "the picture on its way");
  } else if (kind === "progress") {
    byId("reason-told").textContent = `${event.stage}: ${event.done} of ${event.total}`;
  } else if (kind === "completed") {
    byId("reason-told").textContent = `done (seed ${event.seed}, ${event.stopped})`;
    const item = part(thinking.parts.length);
    item.classList.add("final");
    line(item, `Answer: ${event.answer}`);
  }
}

function reasonBody() {
  const body = {
    prompt: byId("question").value, images: thinking.shown, partial_images: 8, progress: true,
    num_timesteps: Number(byId("reason-steps").value), max_pictures: Number(byId("most-pictures").value),
  };
  if (byId("reason-style").value) body.style = byId("reason-style").value;
  if (byId("reason-seed").value !== "") body.seed = Number(byId("reason-seed").value);
  return body;
}

async function think(event) {
  event.preventDefault();
  tell(byId("reason-wrong"), null);
  byId("thoughts").replaceChildren();
  thinking.parts = [];
  thinking.stop = new AbortController();
  const shown = { told: byId("reason-told"), wrong: byId("reason-wrong"), busy: reasoning };
  await follow("/v1/reason", reasonBody(), thinking.stop, thought, shown);
}

function reasoning(is) {
  byId("think-it").disabled = is;
  byId("reason-stop").disabled = !is;
}

function prepareReason() {
  byId("reason-style").replaceChildren(...Object.entries(STYLES).map(([name, words]) => new Option(words, name)));
  byId("reason-form").addEventListener("submit", think);
  byId("reason-stop").addEventListener("click", () => thinking.stop?.abort());
  byId("reason-show").addEventListener("click", () => byId("reason-files").click());
  byId("reason-files").addEventListener("change", async (event) => {
    await showInReason(event.target.files);
    event.target.value = "";
  });
}
