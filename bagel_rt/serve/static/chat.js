// A conversation about pictures, kept by the server as a session; each turn can be taken back.
"use strict";

const talk = { session: null, shown: [], turns: [], stop: null };

async function session() {
  if (!talk.session) talk.session = (await (await request("/v1/sessions", {})).json()).id;
  return talk.session;
}

function entry(kind) {
  byId("log").querySelector(".empty")?.remove();
  const item = document.createElement("li");
  item.className = kind;
  byId("log").append(item);
  item.scrollIntoView({ block: "nearest" });
  return item;
}

function line(item, text = "") {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  item.append(paragraph);
  return paragraph;
}

function picture(item, url, words) {
  const image = item.querySelector("img.drawn") ?? document.createElement("img");
  image.className = "drawn";
  image.onload = () => {
    image.classList.toggle("pixelated", image.naturalWidth <= 128);
    item.scrollIntoView({ block: "nearest" });
  };
  image.src = url;
  image.alt = words;
  item.append(image);
}

function showChosen() {
  byId("chat-thumbs").replaceChildren(...talk.shown.map((url, index) => thumb(url, `picture ${index + 1}: click to take it away`, () => {
    talk.shown.splice(index, 1);
    showChosen();
  })));
}

function talking(is) {
  for (const id of ["ask", "draw-it", "fresh"]) byId(id).disabled = is;
  byId("chat-stop").disabled = !is;
  byId("undo").disabled = is || !talk.turns.length;
}

function sayIt(text, shown) {
  const item = entry("said");
  for (const url of shown) {
    const image = document.createElement("img");
    image.src = url;
    image.alt = "a picture that was shown";
    item.append(image);
  }
  if (text) line(item, text);
  return item;
}

async function take(output) {
  tell(byId("chat-wrong"), null);
  const text = byId("say").value.trim(), shown = talk.shown;
  if (!text && !shown.length) return tell(byId("chat-wrong"), "Say something, or show a picture, first.");
  const items = [sayIt(text, shown), entry("answered")];
  talk.stop = new AbortController();
  talking(true);
  try {
    const body = { text, images: shown, output, partial_images: output === "image" ? 8 : 0, progress: true };
    const path = `/v1/sessions/${await session()}/turns`;
    for await (const one of events(path, body, talk.stop.signal)) said(one, items[1], text);
    talk.turns.push(items);
    talk.shown = [];
    byId("say").value = "";
    showChosen();
  } catch (error) {
    for (const item of items) item.remove();
    tell(byId("chat-wrong"), cancelled(error) ? "cancelled; nothing of it stays" : error.message);
    if (error.status === 404) forget();
  } finally {
    talking(false);
  }
}

function said(event, item, text) {
  const words = item.querySelector("p") ?? line(item, "…");
  if (event.type === "session.text.delta") {
    words.textContent = (words.textContent === "…" ? "" : words.textContent) + event.delta;
  } else if (event.type === "session.image.partial_image") {
    picture(item, `data:image/png;base64,${event.b64_json}`, "the picture on its way");
  } else if (event.type === "session.progress") {
    words.textContent = `${event.stage}: ${event.done} of ${event.total}`;
  } else if (event.type === "session.turn.completed") {
    words.textContent = event.text ?? event.reasoning_content ?? "";
    if (event.image) picture(item, `data:image/png;base64,${event.image.b64_json}`, text || "a drawn picture");
  }
}

async function undo() {
  tell(byId("chat-wrong"), null);
  try {
    await request(`/v1/sessions/${talk.session}/rollback`, { turns: 1 });
    for (const item of talk.turns.pop()) item.remove();
  } catch (error) {
    tell(byId("chat-wrong"), error.message);
    if (error.status === 404) forget();
  }
  talking(false);
}

function forget() {
  talk.session = null;
  talk.turns = [];
  byId("log").replaceChildren();
  talking(false);
}

function prepareChat() {
  byId("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    take("text");
  });
  byId("draw-it").addEventListener("click", () => take("image"));
  byId("show").addEventListener("click", () => byId("chat-files").click());
  byId("chat-files").addEventListener("change", async (event) => {
    await showInChat(event.target.files);
    event.target.value = "";
  });
  byId("chat-stop").addEventListener("click", () => talk.stop?.abort());
  byId("undo").addEventListener("click", undo);
  byId("fresh").addEventListener("click", async () => {
    if (talk.session) await request(`/v1/sessions/${talk.session}`, undefined, undefined, "DELETE").catch(() => null);
    forget();
  });
  byId("say").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!byId("ask").disabled) take("text");
    }
  });
  addEventListener("pagehide", () => {
    if (talk.session) fetch(`/v1/sessions/${talk.session}`, { method: "DELETE", headers: headers(), keepalive: true });
  });
}

async function showInChat(files) {
  for (const file of pictures(files)) talk.shown.push(await dataUrl(file));
  showChosen();
}
