// The knobs of the form, and the settings that a picture carries in its file.
"use strict";

const PRESETS = {
  draw: { model: "the model's own", notebook: "the official notebook", app: "the official app", geneval: "GenEval", wise: "WISE" },
  edit: { model: "the model's own", notebook: "the official notebook", app: "the official app", gedit: "GEdit", kris: "KRIS", rise: "RISE", imgedit: "ImgEdit" },
};
const NUMBERS = { width: "width", height: "height", steps: "num_timesteps", seed: "seed", "text-scale": "cfg_text_scale", "image-scale": "cfg_img_scale" };

function offerPresets(kind) {
  const list = byId("preset"), before = list.value;
  list.replaceChildren(...Object.entries(PRESETS[kind]).map(([name, words]) => new Option(words, name)));
  list.value = before in PRESETS[kind] ? before : "model";
}

// What the knobs say, under the server's names; what is empty is left to the server.
function knobs(kind) {
  const found = { preset: byId("preset").value };
  for (const [id, name] of Object.entries(NUMBERS)) {
    const text = byId(id).value;
    if (text !== "" && (kind === "edit" || id !== "image-scale")) found[name] = Number(text);
  }
  if (byId("negative").value) found.negative_prompt = byId("negative").value;
  if (byId("think").checked) found.think = true;
  return found;
}

// The knobs as a picture's record has them. Its preset is spelled out there, so the notebook's holds.
function setKnobs(record) {
  const options = record.options ?? {};
  byId("prompt").value = record.prompt ?? "";
  byId("preset").value = "notebook";
  for (const [id, name] of Object.entries(NUMBERS)) byId(id).value = options[name] ?? "";
  byId("negative").value = options.negative_prompt ?? "";
  byId("think").checked = options.think === true;
}

// The bagel_rt record of a PNG, null where there is none: an iTXt chunk that is not compressed.
async function recordOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] !== 0x89 || bytes[1] !== 0x50) return null;
  const view = new DataView(bytes.buffer), letters = new TextDecoder("latin1");
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at), data = bytes.subarray(at + 8, at + 8 + length);
    if (letters.decode(bytes.subarray(at + 4, at + 8)) === "iTXt") {
      const record = recordIn(data);
      if (record) return record;
    }
    at += 12 + length;
  }
  return null;
}

function recordIn(data) {
  const ends = [...data.keys()].filter((i) => data[i] === 0);
  const key = new TextDecoder("latin1").decode(data.subarray(0, ends[0]));
  if (key !== "bagel_rt" || data[ends[0] + 1] !== 0) return null;
  const text = ends.filter((i) => i > ends[0] + 2)[1]; // behind the language and the translated key
  try {
    return JSON.parse(new TextDecoder().decode(data.subarray(text + 1)));
  } catch {
    return null;
  }
}
