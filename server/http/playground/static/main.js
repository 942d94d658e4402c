// The page: which model, which panel, which text; and what the panels share.

import { ApiError, getJson, hasToken, forgetToken, keepToken, onTokenWanted } from "./api.js";
import { $, el, fail } from "./dom.js";
import { Know } from "./know.js";
import { Learn } from "./learn.js";
import { readLink } from "./link.js";
import { Look } from "./look.js";
import { Take } from "./take.js";
import { Write } from "./write.js";

const PANELS = ["write", "look", "learn", "know", "take"];
const THEMES = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

export const app = {
  models: [], // as /v1/models has them
  pieces: [], // the texts of Write
  active: 0,
  panel: "write",

  get piece() {
    return this.pieces[this.active] ?? null;
  },
  // The model of a name as requests have it; the chosen one without a name.
  model(name = $("model").value) {
    return this.models.find((model) => model.name === name || model.versioned === name) ?? null;
  },
  say(text) {
    $("said").textContent = text;
  },
  notice(error) {
    fail($("notice"), error);
  },
  show(panel, { focus = false } = {}) {
    app.panel = panel;
    for (const name of PANELS) {
      const tab = $(`tab-${name}`);
      const is = name === panel;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      $(`panel-${name}`).hidden = !is;
      if (is && focus) tab.focus();
    }
    for (const one of Object.values(panels)) one.onPanel?.(panel);
  },
  // The text that Look and Take away are about has changed: "more" characters, or the "whole" of it.
  changed(piece, what) {
    if (piece !== app.piece) return;
    for (const one of [panels.look, panels.take]) one?.onText?.(what);
  },
};

const panels = {};

async function loadModels() {
  const { data } = await getJson("v1/models");
  app.models = data.map(({ id, charstream }) => ({ ...charstream, name: id, versioned: `${charstream.name}@${charstream.version}` }));
  app.models.sort((one, other) => Number(other.is_server_default ?? 0) - Number(one.is_server_default ?? 0));
  const options = () => app.models.map(({ name, versioned }) => el("option", { value: name }, name === versioned ? name : `${name} (${versioned.split("@")[1]})`));
  for (const id of ["model", "pair-a", "pair-b"]) $(id).replaceChildren(...options());
  if (app.models.length > 1) $("pair-b").selectedIndex = 1;
}

function wireTabs() {
  for (const name of PANELS) $(`tab-${name}`).addEventListener("click", () => app.show(name));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = PANELS.indexOf(app.panel);
    const next = step ? (at + step + PANELS.length) % PANELS.length : { Home: 0, End: PANELS.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    app.show(PANELS[next], { focus: true });
  });
}

function wireTheme() {
  let theme = localStorage.getItem("charstream.theme") ?? "";
  const set = () => {
    const [sign, name] = THEMES[theme] ?? THEMES[""];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = sign;
    $("theme").setAttribute("aria-label", `Theme: ${name}`);
    $("theme").title = `Theme: ${name}`;
  };
  $("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    localStorage.setItem("charstream.theme", theme);
    set();
    panels.look?.recolour();
  });
  set();
}

function wireToken() {
  const dialog = $("ask");
  let asking = null;
  onTokenWanted((message, refused) => {
    asking ??= new Promise((resolve) => {
      $("ask-why").textContent = refused ? "The one that this tab had was refused." : message;
      $("token").value = "";
      dialog.returnValue = "";
      dialog.addEventListener(
        "close",
        () => {
          const token = $("token").value.trim();
          $("token").value = "";
          asking = null;
          const given = dialog.returnValue === "ok" && token !== "";
          if (given) keepToken(token);
          else if (refused) forgetToken();
          resolve(given);
        },
        { once: true },
      );
      dialog.showModal();
    });
    return asking;
  });
}

Object.assign(app, {
  settings: () => panels.write.settings(),
  length: () => panels.write.length,
  setSampling: (settings) => panels.write.setForm(settings),
  branch: (piece, place, symbol, after) => panels.write.branch(piece, place, symbol, after),
});

async function start() {
  wireTabs();
  wireTheme();
  wireToken();
  Object.assign(panels, { write: new Write(app), look: new Look(app), learn: new Learn(app), know: new Know(app), take: new Take(app) });
  try {
    await loadModels();
  } catch (error) {
    const without = error instanceof ApiError && error.status === 401 && !hasToken();
    app.notice(without ? "Without a token this server answers nothing. Load the page again to give one." : error);
    return;
  }
  if (!app.models.length) {
    app.notice("This server has no model that can be used.");
    return;
  }
  $("model").addEventListener("change", () => Object.values(panels).forEach((one) => one.onModel?.()));
  for (const one of Object.values(panels)) one.onModel?.();
  document.body.dataset.ready = "true";
  await openLink();
  window.addEventListener("hashchange", openLink);
}

// Brings back the text of a permalink.
async function openLink() {
  const link = readLink(location.hash);
  if (!link) return;
  app.show("write");
  await panels.write.open(link);
}

start();
