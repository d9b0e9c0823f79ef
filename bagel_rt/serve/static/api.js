// The server's routes: one function that posts, one that reads server-sent events, pictures as data URLs.
"use strict";

const byId = (id) => document.getElementById(id);

function headers(more = {}) {
  const key = sessionStorage.getItem("key");
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function askForKey() {
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  sessionStorage.setItem("key", byId("key").value);
  byId("key").value = "";
}

// The answer to a request; a 401 asks for a key once and tries again. Throws an Error in the server's words.
async function request(path, body, signal, method = body === undefined ? "GET" : "POST") {
  const send = () => fetch(path, {
    method, signal, headers: headers({ "Content-Type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  let answer = await send();
  if (answer.status === 401) {
    await askForKey();
    answer = await send();
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    const error = new Error(told?.error?.message ?? `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

// The events of a stream, as they come.
async function* events(path, body, signal) {
  const answer = await request(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const one of whole) {
      const line = one.split("\n").find((part) => part.startsWith("data: "));
      if (!line || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function dataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error(`${file.name} could not be read`));
    reader.readAsDataURL(file);
  });
}

const pictures = (list) => [...(list ?? [])].filter((file) => file.type.startsWith("image/"));

// A small picture as a button.
function thumb(url, label, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = label;
  const image = document.createElement("img");
  image.src = url;
  image.alt = label;
  button.append(image);
  button.addEventListener("click", act);
  return button;
}

function tell(place, text) {
  place.textContent = text ?? "";
  place.hidden = !text;
}

const cancelled = (error) => error.name === "AbortError";

// Ask, and hand each event on. shown: where is told what goes on and what went wrong, and what makes a form busy.
async function follow(path, body, stop, took, shown) {
  shown.busy(true);
  shown.told.textContent = "waiting for the model";
  try {
    for await (const one of events(path, body, stop.signal)) took(one);
  } catch (error) {
    if (!cancelled(error)) tell(shown.wrong, error.message);
    shown.told.textContent = cancelled(error) ? "cancelled" : "";
  } finally {
    shown.busy(false);
  }
}
