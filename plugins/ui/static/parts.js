// What both pages show: tasks under way, pairs that wait, the last runs.
import { between, count, duration, el, getJson, guidance, moment, Refused, words } from "./page.js";
import { table, trend } from "./tables.js";

const OPEN_STATES = ["running", "queued", "deferred", "up_for_retry", "awaiting_input", "failed"];
const MEANS = { up_for_retry: "waits for its next attempt", awaiting_input: "waits for an approval", deferred: "waits for an answer from outside" };

/** The tasks of a run that are at work or need somebody, as Airflow itself knows them; null where there are none. */
export async function tasksUnderWay(root, dag, run) {
  const query = OPEN_STATES.map((state) => `state=${state}`).join("&");
  let found;
  try {
    found = await getJson(`${root}/api/v2/dags/${dag}/dagRuns/${run}/taskInstances?${query}&limit=50`);
  } catch (error) {
    // Started by another Airflow, which knows its tasks.
    return error instanceof Refused && error.status === 404 ? null : guidance(error);
  }
  const rows = found.task_instances.map((task) => [
    task.task_id + (task.map_index >= 0 ? ` · ${task.rendered_map_index ?? task.map_index}` : ""),
    MEANS[task.state] ?? task.state,
    task.try_number > 1 ? count(task.try_number) : "",
    task.start_date ? duration(between(task.start_date, task.end_date ?? new Date())) : "",
  ]);
  return rows.length ? table("Tasks at work", ["Task", "State", "#Attempt", "#For"], rows) : null;
}

/** How many pairs wait for a person, and the way there. */
export function reviewLink(pairs, href) {
  const waiting = pairs.reduce((sum, one) => sum + one.pending, 0);
  const again = pairs.reduce((sum, one) => sum + one.asked_again, 0);
  return el("p", {}, waiting || again
    ? `${count(waiting)} pairs wait for a person, ${count(again)} decided ones for a second look. `
    : "Nothing waits for a person. ",
  el("a", { href }, "Review duplicates"));
}

/** The last runs as a table, and how they went as small charts. */
export function history(found, runs, mine = "") {
  if (found.runs.length === 0) return el("p", { class: "muted" }, "There was none yet.");
  const forward = found.runs.filter((run) => run.status === "completed" && !run.dry_run && run.type !== "validation").reverse();
  const point = (run, value, text) => ({ at: moment(run.started_at), value, text: value === null ? "" : text(value) });
  const lag = (run) => (run.followed ? between(run.followed, run.ended_at) : null);
  return el("div", {},
    el("p", {}, found.follows
      ? `The target follows the source up to ${moment(found.follows)}: ${duration(between(found.follows, found.now))} ago.`
      : "No complete run has loaded everything yet."),
    el("div", { class: "trends" },
      trend("Age of the data when a run ended", forward.map((run) => point(run, lag(run), duration))),
      trend("Rows rejected", forward.map((run) => point(run, run.rejected, count))),
      trend("Time a run took", forward.map((run) => point(run, between(run.started_at, run.ended_at), duration)))),
    table("The last runs into this target", ["Run", "Kind", "State", "Started", "#Took", "#Rows", "#Written", "#Rejected"],
      found.runs.map((run) => [
        el("a", { href: address(run, runs), "aria-current": run.run_id === mine ? "page" : null }, run.run_id),
        `${run.type}${run.dry_run ? ", dry" : ""}${run.scope === "quarantine" ? ", quarantine" : ""}`,
        words(run.status), moment(run.started_at), duration(between(run.started_at, run.ended_at ?? found.now)),
        count(run.rows), count(run.written), count(run.rejected)])));
}

function address(run, runs) {
  const own = new URL(runs, location.href).pathname.replace(/\/dags\/[^/]+\/runs\/$/, `/dags/${encodeURIComponent(run.dag_id)}/runs/`);
  return `${own}${encodeURIComponent(run.run_id)}/page`;
}

/** Who migrates now, if anybody does. */
export function holder(lock, runs) {
  if (!lock) return el("p", {}, "No run is migrating.");
  const silent = lock.silent > 60 ? ` It gave no sign of life for ${duration(lock.silent)}.` : "";
  return el("p", {}, el("span", { class: "badge accent" }, "migrating"), " ", el("a", { href: address(lock, runs) }, lock.run_id), ` since ${moment(lock.since)}.${silent}`);
}
