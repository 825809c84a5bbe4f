// The queue as a table: one row a pair, its first cell a button that shows the pair.

import { count, el } from "./page.js";
import { STATUSES, nameOf, percent } from "./review_words.js";

export function statusChoices(fieldset, chosen) {
  for (const [status, words] of Object.entries(STATUSES)) {
    const radio = el("input", { type: "radio", name: "status", value: status });
    radio.checked = status === chosen;
    fieldset.append(el("label", {}, radio, ` ${words} `, el("span", { class: "count", "data-count": status }, "…")));
  }
}

export function showCounts(fieldset, counts) {
  for (const place of fieldset.querySelectorAll("[data-count]")) {
    place.textContent = count(counts[place.dataset.count]);
  }
}

export class List {
  // place: element for the table; choose(pair): called for a pair that is clicked, null: nobody may look at one.
  constructor(place, choose) {
    this.place = place;
    this.choose = choose;
    this.pairs = [];
    this.rows = new Map();
    this.at = -1;
  }

  // An empty table, with the columns that count.
  clear(withNames, withDecisions) {
    this.pairs = [];
    this.rows.clear();
    this.at = -1;
    const titles = ["Pair", "Likelihood", ...(withNames ? ["One", "Other"] : []), ...(withDecisions ? ["Decided"] : [])];
    this.body = el("tbody", {});
    this.place.replaceChildren(
      el(
        "table",
        { class: "pairs" },
        el("caption", { class: "unseen" }, "Pairs of patients, each with its legacy ids"),
        el("thead", {}, el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)))),
        this.body,
      ),
    );
    this.withNames = withNames;
    this.withDecisions = withDecisions;
  }

  add(pairs) {
    for (const pair of pairs) {
      const row = this.row(pair);
      this.pairs.push(pair);
      this.rows.set(keyOf(pair), row);
      this.body.append(row);
    }
    this.place.classList.toggle("empty", this.pairs.length === 0);
  }

  row(pair) {
    const ids = `${pair.left} and ${pair.right}`;
    const head = this.choose ? el("button", { type: "button", class: "choice" }, ids) : ids;
    if (this.choose) head.addEventListener("click", () => this.choose(pair));
    const cells = [
      percent(pair.score),
      ...(this.withNames ? [nameOf(pair.left_name), nameOf(pair.right_name)] : []),
      ...(this.withDecisions ? [`${STATUSES[pair.status]} by ${pair.decided_by}`] : []),
    ];
    return el("tr", {}, el("th", { scope: "row" }, head), ...cells.map((text) => el("td", {}, el("bdi", { class: "brief" }, text))));
  }

  // Mark a pair as the one that is shown; -1: none.
  mark(at) {
    this.buttonAt(this.at)?.removeAttribute("aria-current");
    this.at = at;
    const button = this.buttonAt(at);
    button?.setAttribute("aria-current", "true");
    button?.closest("tr").scrollIntoView({ block: "nearest" });
  }

  placeOf(pair) {
    return this.pairs.findIndex((other) => keyOf(other) === keyOf(pair));
  }

  // Take a pair out; what came behind it moves up.
  remove(pair) {
    const at = this.placeOf(pair);
    if (at < 0) return;
    this.rows.get(keyOf(pair)).remove();
    this.rows.delete(keyOf(pair));
    this.pairs.splice(at, 1);
    if (at < this.at) this.at -= 1;
    this.place.classList.toggle("empty", this.pairs.length === 0);
  }

  buttonAt(at) {
    const pair = this.pairs[at];
    return pair && this.rows.get(keyOf(pair)).querySelector("button");
  }
}

function keyOf(pair) {
  return `${pair.left} ${pair.right}`;
}
