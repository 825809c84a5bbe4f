// One pair: what speaks for and against it, both rows side by side, what is merged with it, and the decision.

import { el } from "./page.js";
import { BESIDE, FIELDS, REASONS, STATES, STATUSES, compared, nameOf, percent, visible } from "./review_words.js";

// Elements for a pair; acts: {decide(decision), skip(), unmerge(legacyIds)}.
export function shownPair(pair, acts) {
  return [facts(pair), values(pair), evidence(pair), merges(pair, acts), decision(pair, acts)].filter(Boolean);
}

function facts(pair) {
  const told = [
    ["Likelihood", percent(pair.score)],
    ["State", STATUSES[pair.status]],
    ["Decided", pair.decided_by && `by ${pair.decided_by}, ${day(pair.decided_at)}`],
    ["Reason", pair.decision_reason],
    ["Second look", pair.asked_again_at && `a row changed, found ${day(pair.asked_again_at)}; the decision holds until you decide anew`],
  ].filter(([, value]) => value);
  return el("dl", { class: "told" }, ...told.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, el("bdi", {}, value))]));
}

function values(pair) {
  const rows = pair.rows;
  const differing = Object.keys(FIELDS).filter((field) => compared(...rows.map((row) => valueOf(row, field)))[0] === "differs");
  const caption = `Both patients side by side: ${differing.length} of ${Object.keys(FIELDS).length} fields differ`;
  const head = ["Field", ...rows.map((row) => `Patient ${row.legacy_id}`), "Compared"];
  return el(
    "table",
    { class: "sides" },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...head.map((title) => el("th", { scope: "col" }, title)))),
    el(
      "tbody",
      {},
      ...Object.keys(FIELDS).map((field) => fieldRow(rows, field)),
      ...Object.keys(BESIDE).map((field) => besideRow(rows, field)).filter(Boolean),
      line("Now", rows.map((row) => STATES[row.state] ?? row.state), "", "beside"),
    ),
  );
}

function fieldRow(rows, field) {
  const [kind, words] = compared(...rows.map((row) => valueOf(row, field)));
  const shown = rows.map((row) => row.names[field] ?? valueOf(row, field));
  return line(FIELDS[field], shown, rows.every((row) => row.values) ? words : "", kind);
}

function besideRow(rows, field) {
  const shown = rows.map((row) => row.beside[field] ?? row[field] ?? row.values?.[field]);
  if (shown.every((value) => value === null || value === undefined)) return null;
  return line(BESIDE[field], shown.map((value) => (field.endsWith("_at") ? day(value) : value)), "", "beside");
}

function line(title, shown, words, kind) {
  return el(
    "tr",
    { class: kind },
    el("th", { scope: "row" }, title),
    ...shown.map((value) => el("td", {}, el("bdi", { class: "value" }, ...textOf(value)))),
    el("td", { class: "verdict" }, words),
  );
}

function textOf(value) {
  return value === null || value === undefined || value === "" ? [el("span", { class: "none" }, "—")] : [visible(String(value))];
}

function valueOf(row, field) {
  return row.values ? row.values[field] : null;
}

function day(moment) {
  return moment ? String(moment).slice(0, 10) : "";
}

function evidence(pair) {
  const { in_favour: inFavour, against, vetoes } = pair.explanation;
  const parts = [
    ["Speaks for one patient", inFavour],
    ["Speaks against", against],
    ["Why no run merges it by itself", vetoes],
  ].filter(([, told]) => told.length);
  if (!parts.length) return el("p", {}, "No run has compared these two: a person decided.");
  return el(
    "section",
    { class: "evidence", "aria-label": "Why this likelihood" },
    ...parts.map(([title, told]) =>
      el("div", {}, el("h3", {}, title), el("ul", {}, ...told.map((each) => el("li", {}, each.words)))),
    ),
    el("p", { class: "note" }, "Each +1 in brackets doubles the odds that both are one patient, each −1 halves them."),
  );
}

function merges(pair, acts) {
  if (!pair.merges.length) return null;
  const boxes = pair.merges.map((member) => memberOf(member));
  const button = el("button", { type: "button", class: "bad" }, "Undo the chosen merges…");
  const section = el(
    "section",
    { class: "merges", "aria-labelledby": "merges-title" },
    el("h3", { id: "merges-title" }, "Merged with these two"),
    el("ul", {}, ...boxes),
    button,
  );
  button.addEventListener("click", () =>
    acts.unmerge([...section.querySelectorAll("input:checked")].map((box) => box.value), button),
  );
  return section;
}

function memberOf(member) {
  const words = `${member.legacy_id}: ${nameOf(member.name)}`;
  if (member.survivor === null) return el("li", {}, el("bdi", {}, words), ", the survivor");
  const since = member.merged_at ? ` since ${day(member.merged_at)}` : "";
  const box = el("input", { type: "checkbox", value: member.legacy_id });
  return el("li", {}, el("label", {}, box, " ", el("bdi", {}, words), `, merged into ${member.survivor}${since}`));
}

function decision(pair, acts) {
  const comment = el("textarea", { id: "comment", rows: "2", maxlength: "1000", "aria-describedby": "comment-note" });
  const groups = Object.entries(REASONS).map(([title, reasons]) => quickReasons(title, reasons, comment));
  const gone = pair.rows.some((row) => !row.values);
  const buttons = [
    act("Same patient", "c", "confirm", () => acts.decide("confirmed")),
    act("Two patients", "r", "reject", () => acts.decide("rejected")),
    act("Skip", "s", "", () => acts.skip()),
  ];
  buttons[0].disabled = buttons[1].disabled = gone;
  if (pair.decided_by) buttons.push(act("Withdraw the decision", "", "", () => acts.decide("pending")));
  return el(
    "section",
    { class: "decision", "aria-label": "Decision" },
    gone ? el("p", { class: "note" }, "A patient is not there any more: nothing can be decided but to withdraw.") : "",
    el("label", { for: "comment" }, "Comment ", el("kbd", {}, "m")),
    comment,
    el("p", { id: "comment-note", class: "note" }, "No names. Needed to withdraw a decision. The next run applies what you decide."),
    el("div", { class: "reasons" }, ...groups),
    el("p", { class: "tools" }, ...buttons),
  );
}

function quickReasons(title, reasons, comment) {
  const buttons = reasons.map((reason) => {
    const button = el("button", { type: "button", class: "quick" }, reason);
    button.addEventListener("click", () => {
      comment.value = reason;
    });
    return button;
  });
  return el("div", { role: "group", "aria-label": `Comments: ${title}` }, el("span", {}, `${title}: `), ...buttons);
}

function act(words, key, kind, does) {
  const button = el("button", { type: "button", class: kind, "data-act": key || "withdraw" }, words, ...(key ? [" ", el("kbd", {}, key)] : []));
  button.addEventListener("click", does);
  return button;
}
