// The page about the target as it is now: who migrates, what waits for people, the last runs.
import { applyTheme, getJson, guidance, isOver, poll, show } from "./page.js";
import { history, holder, reviewLink } from "./parts.js";
import { Quarantine } from "./quarantine.js";

const SECONDS = 5;

const place = (id) => document.getElementById(id);
const quarantine = new Quarantine(place("quarantine"), "quarantine");

async function read() {
  try {
    const found = await getJson("now");
    quarantine.mayLook(found.may_edit);
    quarantine.counts(found.quarantine);
    show(place("headline"), holder(found.lock, "runs/"));
    show(place("review"), reviewLink(found.pairs, "review"));
    show(place("history"), history(found, "runs/"));
    show(place("trouble"));
    return SECONDS;
  } catch (error) {
    show(place("trouble"), guidance(error));
    return isOver(error) ? null : SECONDS;
  }
}

applyTheme();
poll(read);
