// The page about a run: asks for its progress while it goes on, and shows it.
import { applyTheme, between, count, duration, el, getJson, guidance, isOver, moment, percent, poll, Refused, say, show, words } from "./page.js";
import { progressBar, stackedBar, table } from "./tables.js";
import { history, reviewLink, tasksUnderWay } from "./parts.js";
import { Quarantine } from "./quarantine.js";

const RUN_SECONDS = 3;
const STATE_SECONDS = 20;
const FATES = ["inserted", "updated", "unchanged", "merged", "rejected", "skipped"];
const LEVELS = { 1: "counts", 2: "key sets", 3: "content", 4: "integrity", 5: "samples" };
const MODE = { completed: "good", failed: "bad", running: "accent", rolled_back: "warn" };

const place = (id) => document.getElementById(id);
const [, root, dag, run] = location.pathname.match(/^(.*)\/migration\/dags\/([^/]+)\/runs\/([^/]+)\/page$/);
const quarantine = new Quarantine(place("quarantine"), "../../quarantine");
let checksShown = null;
let spoken = "";

function headline(found) {
  const { run: about, seconds_left: left } = found;
  const seconds = between(about.started_at, about.ended_at ?? found.now);
  const over = about.status !== "running";
  const facts = [
    ["Mode", about.dry_run ? "dry run: nothing is kept" : "real run"],
    ["Takes up", { everything: "every row", changes: "what changed", quarantine: "rows in quarantine" }[about.scope]],
    ["Started", moment(about.started_at)],
    [over ? "Took" : "Running for", duration(seconds)],
    !over && ["Time left", left === null ? "not known yet" : `about ${duration(left)}`],
    !over && about.silent_seconds > 60 && ["Last sign of life", `${duration(about.silent_seconds)} ago`],
  ].filter(Boolean);
  show(place("headline"),
    el("p", {}, el("span", { class: `badge ${MODE[about.status]}` }, words(about.status)), " ", el("span", { class: "muted" }, `${dag} · ${decodeURIComponent(run)}`)),
    el("dl", { class: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    about.has_report && el("p", {}, el("a", { href: "report" }, "Report of this run")));
}

function trouble(found) {
  const failed = found.run.failed_steps;
  show(place("trouble"),
    ...found.errors.map((error) => el("div", { class: "notice bad" },
      el("p", {}, el("code", {}, error.code), " ", error.meaning), el("p", {}, el("strong", {}, "Next: "), error.next_step))),
    failed.length > 0 && el("div", { class: "notice bad" }, el("p", {}, `Failed: ${failed.join(", ")}. The last lines of the task's log say what to do; then clear it, and the run goes on where it stopped.`)),
    ...found.notes.map((note) => el("p", { class: `notice ${note.severity === "warn" ? "warn" : "muted"}` }, el("strong", {}, note.severity === "warn" ? "Warning: " : "Note: "), note.text)));
}

function partRow(part) {
  const name = words(part.entity || part.phase);
  const done = part.total === null || part.state === "done" ? count(part.rows) : `${count(part.rows)} of ${count(part.total)}`;
  return [
    name,
    part.state,
    part.state === "running" || (part.share !== null && part.state !== "waiting" && part.share < 1)
      ? el("span", {}, progressBar(`${name}: ${part.share === null ? "under way" : percent(part.share)}`, part.share), " ", percent(part.share)) : percent(part.state === "waiting" ? null : part.share),
    part.rows || part.total ? done : "",
    part.rate === null ? "" : count(Math.round(part.rate)),
    duration(part.seconds_left),
  ];
}

function progress(found) {
  const shown = [...document.querySelectorAll("details[data-phase]")];
  const isOpen = (phase) => shown.find((one) => one.dataset.phase === phase.phase)?.open ?? phase.state === "running";
  const phases = found.parts.filter((part) => !part.entity);
  const rows = phases.map(partRow);
  show(place("parts"),
    table("Phases of this run", ["Phase", "State", "Done", "#Rows", "#Rows/s", "#Time left"], rows, { hidden: true }),
    ...phases.filter((phase) => found.parts.some((part) => part.entity && part.phase === phase.phase)).map((phase) =>
      el("details", { "data-phase": phase.phase, open: isOpen(phase) },
        el("summary", {}, `${words(phase.phase)} by entity`),
        table(`${words(phase.phase)} by entity`, ["Entity", "State", "Done", "#Rows", "#Rows/s", "#Time left"],
          found.parts.filter((part) => part.entity && part.phase === phase.phase).map(partRow), { hidden: true }))));
  const current = phases.find((part) => part.state === "running");
  const said = found.run.status !== "running" ? `The run is ${words(found.run.status)}.`
    : current ? `${words(current.phase)} ${current.share === null ? "under way" : `${Math.floor(current.share * 10) * 10} percent`}` : "";
  if (said !== spoken) say((spoken = said));
}

function fates(found) {
  const kinds = found.fates.some((row) => row.deleted) ? [...FATES, "deleted"] : FATES;
  const parts = (row) => FATES.map((name) => ({ name, count: row[name] }));
  const planned = Object.fromEntries(found.plans.map((plan) => [plan.entity, plan.source_rows]));
  show(place("fates"), found.fates.length === 0 ? el("p", { class: "muted" }, "Nothing is loaded yet.") : el("div", {},
    el("ul", { class: "legend", "aria-hidden": "true" }, ...FATES.map((name) => el("li", {}, el("span", { class: `key ${name}` }), name))),
    table(`${found.run.dry_run ? "What would become" : "Fates"} of rows by entity`, ["Entity", "Share", "#In the source", ...kinds.map((name) => `#${name}`)],
      found.fates.map((row) => [words(row.entity), stackedBar(words(row.entity), parts(row)), count(planned[row.entity] ?? 0), ...kinds.map((name) => count(row[name]))]))));
}

function checks(found) {
  const number = found.checks.reduce((sum, level) => sum + level.checks, 0);
  const bad = found.checks.reduce((sum, level) => sum + level.failed + level.warned, 0);
  if (checksShown === number + bad / 1e6) return;
  checksShown = number + bad / 1e6;
  const details = el("div", {});
  place("checks").replaceChildren(number === 0 ? el("p", { class: "muted" }, "None was made yet.") : el("div", {},
    table("Checks by level", ["Level", "#Checks", "#Passed", "#Failed", "#Warned"],
      found.checks.map((level) => [`${level.level} ${LEVELS[level.level]}`, count(level.checks), count(level.passed), count(level.failed), count(level.warned)])),
    el("p", {}, el("button", { type: "button", onclick: () => listChecks(details) }, bad ? "Show what did not pass" : "Show every check")), details));
  if (bad) listChecks(details);
}

async function listChecks(details) {
  try {
    const all = await getJson("checks");
    const bad = all.filter((check) => !check.passed);
    const chosen = bad.length ? bad : all;
    details.replaceChildren(table(bad.length ? "Checks that did not pass" : "Every check", ["Check", "Entity", "Result", "Expected", "Found", "Legacy ids, some"],
      chosen.map((check) => [words(check.name), words(check.entity), check.passed ? "passed" : check.severity === "fail" ? "FAILED" : "warned", check.expected, check.found, check.sample_keys.join(", ")])));
  } catch (error) {
    details.replaceChildren(guidance(error));
  }
}

function embeddings(found) {
  const { estimates, requests, refused, spent } = found.embeddings;
  const names = [...new Set([...Object.keys(estimates), ...requests.map((one) => one.entity)])];
  const budget = found.run.ai_budget;
  const of = (name) => requests.filter((one) => one.entity === name);
  const sum = (name, what) => of(name).reduce((total, one) => total + Number(one[what] ?? 0), 0);
  const money = (value) => (value === null || value === undefined || value === "" ? "unknown" : `${Number(value).toFixed(4)} $`);
  show(place("embeddings"), names.length === 0 ? el("p", { class: "muted" }, "None in this run.") : el("div", {},
    budget !== null && el("p", {}, "Spent ", el("strong", {}, money(spent)), ` of ${budget} $. `,
      el("meter", { min: 0, max: budget || 1, value: Number(spent), "aria-label": `Spent ${money(spent)} of ${budget} dollars` })),
    table("Embeddings by entity", ["Entity", "Model", "#Documents", "#Texts estimated", "#Texts sent", "#Tokens estimated", "#Tokens", "#Cost estimated", "#Cost", "#Refused"],
      names.map((name) => {
        const estimate = estimates[name] ?? {};
        return [words(name), estimate.model ?? of(name)[0]?.model ?? "", count(estimate.documents ?? 0), count(estimate.texts ?? 0), count(sum(name, "texts")),
          count(estimate.tokens ?? 0), count(sum(name, "billed_tokens")), money(estimate.cost), money(String(sum(name, "cost"))),
          count(refused.filter((one) => one.entity === name).reduce((total, one) => total + one.rows, 0))];
      }))));
}

async function readRun() {
  try {
    const found = await getJson("progress");
    headline(found);
    trouble(found);
    progress(found);
    fates(found);
    checks(found);
    embeddings(found);
    show(place("now"), found.run.status === "running" ? await tasksUnderWay(root, dag, run) : null);
    // A failed run goes on when its tasks are cleared.
    return found.run.status === "running" ? RUN_SECONDS : STATE_SECONDS;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) {
      show(place("headline"), el("p", { class: "muted" }, error.message));
      show(place("now"), await tasksUnderWay(root, dag, run));
      return RUN_SECONDS;
    }
    show(place("trouble"), guidance(error));
    return isOver(error) ? null : RUN_SECONDS;
  }
}

async function readState() {
  try {
    const found = await getJson("../../now");
    quarantine.mayLook(found.may_edit);
    quarantine.counts(found.quarantine);
    show(place("review"), reviewLink(found.pairs, "../../review"));
    show(place("history"), history(found, "../", decodeURIComponent(run)));
    return STATE_SECONDS;
  } catch (error) {
    show(place("history"), guidance(error));
    return isOver(error) ? null : STATE_SECONDS;
  }
}

applyTheme();
document.title = `Migration ${decodeURIComponent(run)}`;
poll(readRun);
poll(readState);
