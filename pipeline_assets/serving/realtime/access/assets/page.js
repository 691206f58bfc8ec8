"use strict";
// The page's only script: asks for the living part again, and sends the form. Everything that an answer holds is written as text.

const EVERY_MS = 2000;
const SHOWN = 12;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function refresh() {
  const live = document.getElementById("live");
  if (live === null || document.hidden || live.contains(document.activeElement) || !getSelection().isCollapsed) return;
  try {
    const answer = await fetch("/status", { headers: { accept: "text/html" }, redirect: "manual" });
    if (answer.type === "opaqueredirect") location.assign("/login"); // the session has ended
    if (answer.ok) live.innerHTML = await answer.text(); // from this service, which has escaped every value
    document.body.classList.remove("lost");
  } catch (error) {
    document.body.classList.add("lost"); // the service is away: what is shown is old
  }
}

function valueOf(input) {
  const text = input.value.trim();
  if (text === "") return input.dataset.required === "true" ? null : undefined;
  if (input.dataset.kind === "boolean") return text === "true";
  if (input.dataset.kind === "number" || input.dataset.kind === "integer") {
    const number = Number(text);
    return Number.isFinite(number) ? number : text; // what is no number is refused by the service, which names the field
  }
  return text;
}

function instanceOf(form) {
  const instance = {};
  for (const input of form.querySelectorAll("[name]")) {
    const value = valueOf(input);
    if (value !== undefined) instance[input.name] = value;
  }
  return instance;
}

async function ask(model, verb, instance) {
  const answer = await fetch(`/v1/models/${encodeURIComponent(model)}:${verb}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ instances: [instance] }),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.detail || `The service answered ${answer.status}.`);
  return found;
}

function scoreOf(prediction) {
  if (prediction.predicted !== undefined) return String(prediction.predicted);
  const value = prediction.score !== undefined ? prediction.score : prediction.value;
  return typeof value === "number" ? value.toFixed(4) : String(value);
}

function numbers(pairs) {
  const list = element("dl", "numbers");
  for (const [name, value] of pairs) {
    const cell = element("div");
    cell.append(element("dt", "", name), element("dd", "", value));
    list.append(cell);
  }
  return list;
}

function showPrediction(target, model, prediction) {
  const verdict = element("div", "verdict");
  const score = element("div");
  score.append(element("div", "big", scoreOf(prediction)), element("div", "muted", model));
  const classes = Object.entries(prediction.scores || {}).map(([name, share]) => [name, Number(share).toFixed(4)]);
  verdict.append(score, numbers([["version", String(prediction.model_version)], ...classes]));
  const views = element("div", "views");
  for (const [view, status] of Object.entries(prediction.feature_status || {})) {
    const one = element("span");
    one.append(element("span", `dot ${["fresh", "stale", "unknown"].includes(status) ? status : ""}`), `${view}: ${status}`);
    views.append(one);
  }
  const link = element("a", "", prediction.id);
  link.href = `/predictions/${encodeURIComponent(prediction.id)}`;
  const id = element("p", "muted", "Prediction ");
  id.append(link);
  target.replaceChildren(verdict, views, id);
}

function bar(value, most) {
  const NS = "http://www.w3.org/2000/svg";
  const length = most > 0 ? (100 * Math.abs(value)) / most : 0;
  const drawn = document.createElementNS(NS, "svg");
  drawn.setAttribute("class", `bar ${value >= 0 ? "up" : "down"}`);
  drawn.setAttribute("viewBox", "0 0 200 12");
  drawn.setAttribute("preserveAspectRatio", "none");
  const rect = document.createElementNS(NS, "rect");
  for (const [name, set] of Object.entries({ x: value >= 0 ? 100 : 100 - length, y: 1, width: length, height: 10, rx: 2 })) rect.setAttribute(name, set);
  const line = document.createElementNS(NS, "line");
  for (const [name, set] of Object.entries({ x1: 100, y1: 0, x2: 100, y2: 12 })) line.setAttribute(name, set);
  drawn.append(rect, line);
  return drawn;
}

function showContributions(target, explanation) {
  const all = explanation.contributions || {}; // of a model with classes those of each class
  const own = explanation.predicted === undefined ? all : all[explanation.predicted] || {};
  const found = Object.entries(own).filter(([, value]) => typeof value === "number");
  found.sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  if (found.length === 0) return;
  const most = Math.abs(found[0][1]);
  const table = element("table", "contributions");
  const head = element("tr");
  head.append(element("th", "", "feature"), element("th", "right", "value"));
  head.append(element("th", "", "lowers / raises"), element("th", "right", "contribution"));
  const body = element("tbody");
  for (const [feature, value] of found.slice(0, SHOWN)) {
    const row = element("tr");
    const cell = element("td");
    cell.append(bar(value, most));
    const given = (explanation.features || {})[feature];
    row.append(element("td", "", feature), element("td", "right", given === undefined ? "" : String(given)));
    row.append(cell, element("td", "right strong", `${value >= 0 ? "+" : ""}${value.toFixed(4)}`));
    body.append(row);
  }
  const top = element("thead");
  top.append(head);
  table.append(top, body);
  const scroll = element("div", "scroll");
  scroll.append(table);
  target.append(scroll);
}

async function predict(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const target = document.getElementById("answer");
  button.disabled = true;
  target.replaceChildren();
  try {
    const instance = instanceOf(form);
    const { predictions } = await ask(form.dataset.model, "predict", instance);
    showPrediction(target, form.dataset.model, predictions[0]);
    const { explanations } = await ask(form.dataset.model, "explain", instance);
    showContributions(target, explanations[0]);
  } catch (error) {
    const alarm = element("p", "alarm", error.message);
    alarm.setAttribute("role", "alert");
    target.append(alarm);
  } finally {
    button.disabled = false;
  }
}

function choose() {
  const chosen = document.getElementById("model").value;
  for (const form of document.querySelectorAll("form.instance")) form.hidden = form.dataset.model !== chosen;
  document.getElementById("answer").replaceChildren();
}

for (const form of document.querySelectorAll("form.instance")) form.addEventListener("submit", predict);
if (document.getElementById("model") !== null) {
  document.getElementById("model").addEventListener("change", choose);
  choose(); // a browser that goes back keeps what was chosen
}
if (document.getElementById("live") !== null) setInterval(refresh, EVERY_MS);
