// What the pages share: elements made of text, requests, and what is said to a screen reader.

/** An element; attributes by name, `on…` as listeners, children as nodes or texts. Data only ever becomes text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same of an image. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An answer that is not the one asked for; `guidance` is what to show of it. */
export class Refused extends Error {
  constructor(status, guidance) {
    super(guidance.meaning);
    this.status = status;
    this.guidance = guidance;
  }
}

export function getJson(url) {
  return ask(url, {});
}

export function sendJson(method, url, body) {
  return ask(url, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    throw new Refused(0, { code: "", meaning: "Airflow does not answer.", detail: "", next_step: "This page tries again.", transient: true });
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  throw new Refused(answer.status, body.code ? body : { code: "", meaning: plain(answer.status, body.detail), detail: "", next_step: "", transient: answer.status >= 500 });
}

function plain(status, detail) {
  if (status === 401) return "Your session is over: sign in again.";
  if (status === 403) return "You may not do this: it takes permission to edit the DAG.";
  return typeof detail === "string" ? detail : `The answer was ${status}.`;
}

/** What went wrong and what to do, for people. */
export function guidance(error) {
  if (!(error instanceof Refused)) throw error;
  const { code, meaning, detail, next_step: next } = error.guidance;
  return el("div", { class: "notice bad", role: "alert" },
    el("p", {}, code && el("code", {}, code), code && " ", meaning, detail && ` ${detail}`),
    next && el("p", {}, el("strong", {}, "Next: "), next));
}

/** Says something to a screen reader; the element with id `said` is a live region. */
export function say(text) {
  const place = document.getElementById("said");
  if (place && place.textContent !== text) place.textContent = text;
}

/** Airflow keeps light or dark in the storage of its pages, which are of the same origin; else the system's wish counts. */
export function applyTheme() {
  const chosen = () => {
    try {
      return parent.document.documentElement.classList.contains("dark") ? "dark"
        : parent.document.documentElement.classList.contains("light") ? "light" : localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const apply = () => {
    const theme = chosen();
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  };
  apply();
  try {
    if (parent !== window) new MutationObserver(apply).observe(parent.document.documentElement, { attributeFilter: ["class"] });
  } catch {
    // The page of somebody else: what it looks like is its own affair.
  }
}

/** Replaces what is in a place, and leaves it alone where nothing changed; what has the focus keeps it. */
export function show(place, ...children) {
  const next = el("div", {}, ...children);
  if (place.innerHTML === next.innerHTML) return;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const path = [];
  for (let node = focused; node && node !== place; node = node.parentNode) path.unshift([...node.parentNode.children].indexOf(node));
  place.replaceChildren(...next.childNodes);
  const again = path.reduce((node, step) => node?.children[step], place);
  if (focused && again?.tagName === focused.tagName) again.focus({ preventScroll: true });
}

const WHOLE = new Intl.NumberFormat("en");

export const count = (number) => WHOLE.format(number);

export const percent = (share) => (share === null ? "" : `${Math.floor(share * 100)}%`);

/** 45 s, 12 min, 3.5 h, 2 d. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.1) return "0 s";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} d`;
}

export const between = (begin, end) => (new Date(end) - new Date(begin)) / 1000;

export function moment(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "";
}

export const words = (name) => name.replaceAll("_", " ");

const AFTER_A_FAULT_SECONDS = 20;

/** Asks while the page is seen, one request at a time; `ask` says after how many seconds again, or null when it is over. */
export function poll(ask) {
  let timer = null;
  let busy = false;
  let wait = AFTER_A_FAULT_SECONDS;
  const turn = async () => {
    clearTimeout(timer);
    if (busy || wait === null || document.hidden) return;
    busy = true;
    wait = AFTER_A_FAULT_SECONDS;
    try {
      wait = await ask();
    } finally {
      busy = false;
      if (wait !== null) timer = setTimeout(turn, wait * 1000);
    }
  };
  document.addEventListener("visibilitychange", turn);
  return turn();
}

/** After which answers asking again is of no use. */
export const isOver = (error) => error.status === 401 || error.status === 403;
