// The review page: who looks through the queue, decides, and takes back. Nothing is kept here but what is shown.

import { applyTheme, count, el, getJson, guidance, say, sendJson } from "./page.js";
import { List, showCounts, statusChoices } from "./review_list.js";
import { shownPair } from "./review_pair.js";
import { STATUSES } from "./review_words.js";

const WORDS = { confirmed: "one patient", rejected: "two patients", pending: "decision withdrawn" };
const DECIDED = new Set(["asked_again", "confirmed", "rejected"]);
const KEYS_ON = "migration-review-keys";
const [wanted, statuses, more, undoButton, problem, title, shown] = [
  "wanted", "statuses", "more", "undo", "problem", "pair-title", "shown",
].map((id) => document.getElementById(id));

let mayEdit = false;
let list = null;
let next = null;
let pair = null; // as it is shown
const asked = { page: 0, pair: 0 }; // number of the latest question, so that a late answer to an earlier one is dropped
const decided = []; // of this visit, the last one last

function ask(method, what, body) {
  return sendJson(method, `review/${what}`, body);
}

// Runs what a person asked for; what is refused is shown with the next step.
async function attempt(work) {
  problem.replaceChildren();
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    problem.replaceChildren(guidance(error));
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

// What a person has to do first.
function remind(words) {
  problem.replaceChildren(el("div", { class: "notice warn", role: "alert" }, el("p", {}, words)));
}

function filters(after) {
  const form = new FormData(wanted);
  const share = (name) => (form.get(name) === "" ? null : Number(form.get(name)) / 100);
  return {
    status: form.get("status"),
    order: form.get("order"),
    lowest: share("lowest"),
    highest: share("highest"),
    id: form.get("id").trim() || null,
    after,
  };
}

// Adds a page to the queue; returns the counts, or null where another page was asked for meanwhile.
async function readPage(after) {
  const mine = ++asked.page;
  const page = await ask("POST", mayEdit ? "named-pairs" : "pairs", filters(after));
  if (mine !== asked.page) return null;
  if (after === null) list.clear(mayEdit, DECIDED.has(filters(null).status));
  list.add(page.pairs);
  next = page.next;
  more.hidden = next === null;
  showCounts(statuses, page.counts);
  return page.counts;
}

// The queue from its beginning, and its first pair.
async function showQueue() {
  const { status, order: _, ...narrowing } = filters(null);
  history.replaceState(null, "", `#${status}`);
  const counts = await readPage(null);
  if (!counts) return;
  await showAt(0, false);
  const whole = Object.values(narrowing).every((value) => value === null);
  const number = whole ? counts[status] : list.pairs.length;
  say(`${STATUSES[status]}: ${count(number)}${!whole && next ? " or more" : ""} ${number === 1 ? "pair" : "pairs"}.`);
}

async function showAt(at, focus = true) {
  if (!mayEdit) return; // who may not see names is shown no pair
  if (at >= list.pairs.length && next !== null) await readPage(next);
  const chosen = list.pairs[Math.min(at, list.pairs.length - 1)];
  if (chosen) {
    await showPair(chosen, focus);
    return;
  }
  asked.pair += 1;
  nothingShown("No pair is left here");
  if (focus) title.focus();
}

// While it is asked for, no pair is shown that a key could decide.
async function showPair(chosen, focus) {
  const mine = ++asked.pair;
  pair = null;
  list.mark(list.placeOf(chosen));
  shown.setAttribute("aria-busy", "true");
  try {
    const answer = await ask("POST", "pair", { left: chosen.left, right: chosen.right });
    if (mine !== asked.pair) return;
    pair = answer;
    title.textContent = `Patients ${pair.left} and ${pair.right}`;
    shown.replaceChildren(...shownPair(pair, { decide, skip, unmerge }));
    if (focus) title.focus();
  } catch (error) {
    if (mine === asked.pair) nothingShown("No pair is shown");
    throw error;
  } finally {
    if (mine === asked.pair) shown.removeAttribute("aria-busy");
  }
}

function nothingShown(words) {
  pair = null;
  title.textContent = words;
  shown.replaceChildren();
}

function step(by) {
  const at = list.at + by;
  if (at < 0 || (at >= list.pairs.length && next === null)) {
    say(by > 0 ? "This is the last pair." : "This is the first pair.");
    return undefined;
  }
  return attempt(() => showAt(at));
}

function skip() {
  if (pair) return step(1);
  return undefined;
}

let busy = false;

// One change at a time: a key that is pressed twice decides once.
async function change(work) {
  if (busy) return;
  busy = true;
  try {
    await attempt(work);
  } finally {
    busy = false;
  }
}

function decide(decision) {
  if (!pair) return undefined;
  const comment = document.getElementById("comment");
  if (decision === "pending" && !comment.value.trim()) {
    remind("To withdraw a decision, write into the comment why.");
    comment.focus();
    return undefined;
  }
  return change(async () => {
    const { left, right, seen, reviewed } = pair;
    try {
      const kept = await ask("PUT", "decision", { left, right, decision, seen, reviewed, reason: comment.value });
      if (kept.changed) remember({ left, right });
      const at = leave({ left, right }, decision, kept.counts);
      await showAt(at);
      say(`${left} and ${right}: ${WORDS[decision]}. ${count(kept.counts.pending)} are waiting.`);
    } catch (error) {
      // Shown as it is now, under what went wrong.
      if (error.guidance?.code === "REVIEW_PAIR_CHANGED") await showPair({ left, right }, true);
      throw error;
    }
  });
}

// What the queue shows behind a decision; returns the place of the pair that comes next.
function leave(done, decision, counts) {
  showCounts(statuses, counts);
  const at = Math.max(list.placeOf(done), 0);
  if (filters(null).status === decision) return at + 1;
  list.remove(done);
  return at;
}

function remember(done) {
  decided.push(done);
  undoButton.disabled = false;
}

function forget() {
  decided.pop();
  undoButton.disabled = decided.length === 0;
}

function undo() {
  const last = decided.at(-1);
  if (!last) {
    say("There is nothing to undo.");
    return undefined;
  }
  return change(async () => {
    let undone;
    try {
      undone = await ask("PUT", "undo", last);
      forget();
    } catch (error) {
      if (error.guidance?.code === "REVIEW_NOTHING_TO_UNDO") forget();
      throw error;
    }
    await readPage(null);
    showCounts(statuses, undone.counts);
    await showPair(last, true);
    say(`${last.left} and ${last.right}: undone, ${STATUSES[undone.status].toLowerCase()} again.`);
  });
}

function unmerge(legacyIds, opener) {
  if (!legacyIds.length) {
    remind("Choose which merged patients are to be patients of their own again.");
    return;
  }
  const dialog = document.getElementById("unmerging");
  const reason = document.getElementById("unmerging-reason");
  const what = `${legacyIds.length > 1 ? "Patients" : "Patient"} ${legacyIds.join(", ")}`;
  document.getElementById("unmerging-what").textContent = what;
  reason.value = "";
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue !== "unmerge") {
      opener.focus();
      return;
    }
    change(async () => {
      const { left, right } = pair;
      const undone = await ask("PUT", "unmerge", { legacy_ids: legacyIds, reason: reason.value });
      await readPage(null);
      showCounts(statuses, undone.counts);
      await showPair({ left, right }, true);
      say(`${what}: the merge is undone.`);
    });
  };
  dialog.showModal();
}

// Single keys, wherever nothing is typed and no dialog is open; they can be turned off.
const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  c: () => decide("confirmed"),
  r: () => decide("rejected"),
  s: () => skip(),
  u: () => undo(),
  m: () => document.getElementById("comment")?.focus(),
  "/": () => wanted.elements.id.focus(),
  "?": () => document.getElementById("help").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const inside = event.target;
  if (event.key === "Escape" && inside.id === "comment") title.focus();
  if (inside.closest("textarea, select, dialog, input:not([type=radio], [type=checkbox])")) return;
  const arrow = { ArrowDown: "j", ArrowUp: "k" }[event.key];
  const key = arrow && inside.closest("#list") ? arrow : event.key;
  if (!(key in KEYS) || (event.repeat && !"jk".includes(key))) return;
  if (!arrow && !document.getElementById("keys-on").checked) return;
  if ("cr".includes(key) && document.querySelector(`[data-act="${key}"]`)?.disabled) return;
  event.preventDefault();
  KEYS[key]();
}

// Of this browser; where it keeps nothing, of this visit.
function keepSwitch(box) {
  try {
    box.checked = localStorage.getItem(KEYS_ON) !== "off";
    box.addEventListener("change", () => localStorage.setItem(KEYS_ON, box.checked ? "on" : "off"));
  } catch {
    box.checked = true;
  }
}

async function start() {
  applyTheme();
  const rights = await getJson("review/rights");
  mayEdit = rights.may_edit;
  document.getElementById("rights").hidden = mayEdit;
  for (const id of ["pair", "undo", "help-open"]) document.getElementById(id).hidden = !mayEdit;
  document.body.classList.toggle("alone", !mayEdit);
  document.getElementById("list").tabIndex = mayEdit ? -1 : 0; // without buttons in it, a keyboard scrolls it itself
  const choose = mayEdit ? (chosen) => attempt(() => showPair(chosen, true)) : null;
  list = new List(document.getElementById("list"), choose);
  const named = location.hash.slice(1);
  statusChoices(statuses, named in STATUSES ? named : "pending");

  wanted.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(showQueue);
  });
  for (const control of [statuses, wanted.elements.order]) {
    control.addEventListener("change", () => attempt(showQueue));
  }
  more.addEventListener("click", () => attempt(() => readPage(next)));
  undoButton.addEventListener("click", undo);
  document.getElementById("help-open").addEventListener("click", KEYS["?"]);
  keepSwitch(document.getElementById("keys-on"));
  if (mayEdit) document.addEventListener("keydown", onKey);
  await showQueue();
}

attempt(start);
