// Tabs, dropping and pasting, and what the server says of itself.
"use strict";

const tabs = ["draw", "edit", "chat", "reason"];
let open = "draw";

function choose(name) {
  open = name;
  for (const one of tabs) {
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
  }
  const drawn = name === "draw" || name === "edit";
  byId("draw").hidden = !drawn;
  byId("chat").hidden = name !== "chat";
  byId("reason").hidden = name !== "reason";
  if (!drawn) return;
  byId("draw").setAttribute("aria-labelledby", `tab-${name}`);
  chooseKind(name);
}

async function received(files) {
  if (!pictures(files).length) return;
  if (open === "chat") await showInChat(files);
  else if (open === "reason") await showInReason(files);
  else await dropped(files);
}

function prepareTabs() {
  for (const name of tabs) byId(`tab-${name}`).addEventListener("click", () => choose(name));
  document.querySelector("nav").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(open) + step + tabs.length) % tabs.length];
    choose(next);
    byId(`tab-${next}`).focus();
  });
}

function prepareDropping() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    received(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => received(event.clipboardData?.files));
}

// Asked until the model is loaded.
async function introduce() {
  const state = await fetch("/ready").then((answer) => answer.json()).catch(() => ({ why: "the server does not answer" }));
  if (!state.ready) {
    byId("model").textContent = state.why;
    setTimeout(introduce, 2000);
    return;
  }
  const known = await (await request("/v1/models")).json();
  byId("model").textContent = known.data[0].id;
}

if (matchMedia("(max-width: 52rem)").matches) byId("knobs").open = false; // so that the picture is near its words
prepareTabs();
prepareDropping();
prepareDrawing();
prepareChat();
prepareMask();
prepareReason();
introduce();
