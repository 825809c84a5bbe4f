// Tables and charts with the same numbers for eyes and for screen readers.
import { el, svg } from "./page.js";

/** A table: heads are texts (numbers are set right where a head begins with "#"), rows are lists of nodes or texts. */
export function table(caption, heads, rows, { hidden = false } = {}) {
  const right = heads.map((head) => head.startsWith("#"));
  const cells = (row) => row.map((cell, place) => (place === 0
    ? el("th", { scope: "row" }, cell)
    : el("td", { class: right[place] ? "number" : null }, cell)));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {},
      el("caption", { class: hidden ? "unseen" : null }, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head, place) => el("th", { scope: "col", class: right[place] ? "number" : null }, head.replace(/^#/, ""))))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row))))));
}

/** Parts of a whole as one bar; the table beside it has the same numbers. */
export function stackedBar(label, parts) {
  const whole = parts.reduce((sum, part) => sum + part.count, 0);
  const said = parts.filter((part) => part.count).map((part) => `${part.name} ${part.count}`).join(", ");
  const bar = svg("svg", { class: "bar", viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${said || "nothing"}` });
  let from = 0;
  for (const part of parts.filter((one) => one.count)) {
    const wide = (1000 * part.count) / whole;
    bar.append(svg("rect", { class: `fate ${part.name}`, x: from.toFixed(1), y: 0, width: Math.max(wide, 2).toFixed(1), height: 20 }, svg("title", {}, `${part.name} ${part.count}`)));
    from += wide;
  }
  return bar;
}

/** How far something is; without a share only that it goes on. */
export function progressBar(label, share) {
  return el("progress", { max: 100, value: share === null ? null : Math.floor(share * 100), "aria-label": label });
}

const [WIDE, HIGH, EDGE] = [320, 72, 4];

/** A line over time, oldest first: points are {at, value, text}; null values leave a gap. */
export function trend(title, points) {
  const known = points.filter((point) => point.value !== null);
  if (known.length === 0) return el("figure", {}, el("figcaption", {}, title), el("p", { class: "muted" }, "nothing yet"));
  const most = Math.max(...known.map((point) => point.value), 0) || 1;
  const across = (place) => (points.length < 2 ? WIDE / 2 : EDGE + (place * (WIDE - 2 * EDGE)) / (points.length - 1));
  const up = (value) => HIGH - EDGE - (value * (HIGH - 2 * EDGE)) / most;
  const placed = points.map((point, place) => ({ ...point, x: across(place), y: point.value === null ? null : up(point.value) })).filter((point) => point.y !== null);
  const last = known.at(-1);
  const label = `${title}: last ${last.text}, highest ${known.find((point) => point.value === Math.max(...known.map((one) => one.value))).text}, over ${known.length} runs`;
  return el("figure", {},
    el("figcaption", {}, title, " ", el("strong", {}, last.text)),
    svg("svg", { class: "trend", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label },
      svg("line", { class: "base", x1: 0, x2: WIDE, y1: HIGH - EDGE, y2: HIGH - EDGE }),
      svg("polyline", { points: placed.map((point) => `${point.x.toFixed(1)},${point.y.toFixed(1)}`).join(" ") }),
      ...placed.map((point) => svg("circle", { cx: point.x.toFixed(1), cy: point.y.toFixed(1), r: 3 }, svg("title", {}, `${point.at}: ${point.text}`)))));
}
