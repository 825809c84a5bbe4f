// Rows in quarantine: counts with reasons, a filter, pages, and the values of one row for those who may see them.
import { count, el, guidance, moment, say, sendJson, show, words } from "./page.js";
import { table } from "./tables.js";

export class Quarantine {
  constructor(place, url) {
    this.url = url;
    this.summary = el("div", {});
    this.rows = el("div", {});
    this.entity = el("select", { "aria-label": "Entity", onchange: () => this.read() });
    this.code = el("select", { "aria-label": "Reason", onchange: () => this.read() });
    this.controls = el("div", { class: "controls", hidden: true },
      el("label", {}, "Entity", this.entity), el("label", {}, "Reason", this.code));
    this.dialog = el("dialog", { "aria-labelledby": "values-title" });
    this.edit = false;
    this.open = false;
    place.replaceChildren(this.summary, this.controls, this.rows, this.dialog);
  }

  /** Whether the user may see values; the server decides again. */
  mayLook(edit) {
    this.edit = edit;
  }

  /** What is there now: {entity, code, rows, reason, how_to_fix}. */
  counts(found) {
    const total = found.reduce((sum, one) => sum + one.rows, 0);
    show(this.summary, total === 0 ? el("p", { class: "muted" }, "It is empty.") : el("div", {},
      el("p", {}, `${count(total)} rows wait here until their cause is gone; each run tries them again.`),
      table("Rows in quarantine by reason", ["Code", "Entity", "#Rows", "Reason", "What to do"],
        found.map((one) => [el("code", {}, one.code), words(one.entity), count(one.rows), one.reason ?? "", one.how_to_fix ?? ""]))));
    options(this.entity, found.map((one) => one.entity), words);
    options(this.code, found.map((one) => one.code), (code) => code);
    this.controls.hidden = total === 0;
    if (total && !this.open) this.offer();
    if (total === 0) this.rows.replaceChildren();
  }

  offer() {
    this.open = true;
    this.rows.replaceChildren(el("button", { type: "button", onclick: () => this.read() }, "List the rows"));
  }

  async read(after = null) {
    try {
      const found = await sendJson("POST", this.url, { entity: this.entity.value || null, code: this.code.value || null, after });
      if (!after) {
        this.body = table("Rows in quarantine", ["Legacy id", "Entity", "Code", "Column", "Since", "Values"], []);
        this.rows.replaceChildren(this.body);
      }
      this.body.querySelector("tbody").append(...found.rows.map((row) => this.line(row)));
      this.rows.querySelector(".more")?.remove();
      if (found.more) this.rows.append(el("button", { type: "button", class: "more", onclick: () => this.read(last(found.rows)) }, "More"));
      say(`${this.body.querySelectorAll("tbody tr").length} rows are listed.`);
    } catch (error) {
      this.rows.replaceChildren(guidance(error));
    }
  }

  line(row) {
    const look = this.edit && row.has_values
      ? el("button", { type: "button", onclick: () => this.look(row) }, "Show", el("span", { class: "unseen" }, ` values of ${row.entity} ${row.legacy_id}`))
      : el("span", { class: "muted" }, row.has_values ? "for editors" : "none kept");
    return el("tr", {}, el("th", { scope: "row" }, row.legacy_id), el("td", {}, words(row.entity)), el("td", {}, el("code", {}, row.code)),
      el("td", {}, row.column), el("td", {}, moment(row.recorded_at)), el("td", {}, look));
  }

  async look(row) {
    const title = el("h2", { id: "values-title" }, `${words(row.entity)} ${row.legacy_id}`);
    const close = el("button", { type: "button", onclick: () => this.dialog.close(), autofocus: true }, "Close");
    let shown;
    try {
      const { values } = await sendJson("POST", `${this.url}/values`, { id: row.id });
      shown = table("Health data: the audit trail keeps that you looked", ["Column", "Value"],
        Object.entries(values).map(([name, value]) => [name, value === null ? el("span", { class: "muted" }, "NULL") : typeof value === "string" ? value : JSON.stringify(value)]));
    } catch (error) {
      shown = guidance(error);
    }
    // What was shown is gone with the dialog.
    this.dialog.addEventListener("close", () => this.dialog.replaceChildren(), { once: true });
    this.dialog.replaceChildren(title, shown, el("p", {}, close));
    this.dialog.showModal();
  }
}

const last = (rows) => (({ code, entity, legacy_id }) => ({ code, entity, legacy_id }))(rows.at(-1));

/** The choices of a filter; what is chosen stays chosen. */
function options(select, values, name) {
  const wanted = ["", ...new Set(values)];
  if (wanted.join("\n") === [...select.options].map((one) => one.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((value) => el("option", { value, selected: value === chosen }, value ? name(value) : "all")));
}
