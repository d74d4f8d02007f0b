// What agents and the control plane say to each other: all of it, live, and one session's.
import { $, el, openDialog, say } from "./dom.js";
import { call, pathOf } from "./plane.js";
import { bytes, clock, cores, span } from "./words.js";

const KEPT = 400;
const ROUTINE = new Set(["heartbeat", "ping", "pong"]);
const PROBLEMS = new Set(["failed", "unreadable", "stuck_session"]);
const AS_ASKED = /^(the session is (hibernated|terminated)$|idle_timeout:|max_session_duration:)/; // an end that somebody wanted
const actions = new Map(); // what the latest commands' ids stand for
const ARROWS = { to_agent: "→ ", from_agent: "← ", plane: "· " };

export function prepareLog() {
  $("log-beats").onchange = $("log-filter").oninput = () => [...$("log").children].forEach(sift);
}

export function addToLog(rows) {
  const log = $("log");
  for (const row of rows) {
    if (row.type === "command") actions.set(row.payload.commandId, summary(row));
    if (actions.size > KEPT) actions.delete(actions.keys().next().value);
    const line = lineOf(row, true);
    line.dataset.text = `${row.type} ${row.agentId ?? ""} ${JSON.stringify(row.payload)}`.toLowerCase();
    line.dataset.routine = ROUTINE.has(row.type) || Boolean(row.payload.platformMetadata?.usage);
    sift(line);
    log.prepend(line);
  }
  while (log.children.length > KEPT) log.lastElementChild.remove();
}

function sift(line) {
  const wanted = $("log-filter").value.trim().toLowerCase();
  line.hidden = (line.dataset.routine === "true" && !$("log-beats").checked) || !line.dataset.text.includes(wanted);
}

// The payload is laid out when somebody opens it.
function lineOf(row, withAgent) {
  const about = [summary(row), withAgent && row.agentId].filter(Boolean).join(" · ");
  const head = el("summary", {},
    el("time", { dateTime: new Date(row.time * 1000).toISOString() }, clock(row.time)),
    el("span", { className: "way" }, (ARROWS[row.direction] ?? "") + row.type),
    el("span", { className: "what" }, about));
  const details = el("details", {}, head);
  details.addEventListener("toggle", () => details.append(el("pre", {}, JSON.stringify(row.payload, null, 2))), { once: true });
  const problem = PROBLEMS.has(row.type) || (row.type === "status" && row.payload.state === "failed")
    || (row.type === "vnc_error" && !AS_ASKED.test(row.payload.error));
  return el("li", { className: `${row.direction}${problem ? " problem" : ""}` }, details);
}

function summary({ type, payload }) {
  const about = payload.platformMetadata ?? {};
  switch (type) {
    case "command":
      return [payload.action, payload.payload?.sessionId].filter(Boolean).join(" ");
    case "status": {
      const { progress, usage } = about;
      const more = progress ? `${progress.phase}${Number.isFinite(progress.percent) ? ` ${progress.percent} %` : ""}`
        : usage ? [Number.isFinite(usage.cpuCores) && `${cores(usage.cpuCores)} cores`, `${bytes(usage.memoryBytes)}`].filter(Boolean).join(", ")
        : about.reason;
      return [payload.sessionId, payload.state, more].filter(Boolean).join(" ");
    }
    case "heartbeat":
      return `${payload.status}, ${payload.activeSessions} sessions`;
    default: {
      const subject = payload.sessionId ?? actions.get(payload.commandId) ?? payload.commandId;
      return [subject, payload.reason ?? payload.error].filter(Boolean).join(": ");
    }
  }
}

export async function showSessionLog(sessionId) {
  const { commands, events } = await call("GET", pathOf(sessionId, "log"));
  say($("log-dialog-title"), sessionId);
  say($("log-dialog-docker"), `docker logs streamspace-${sessionId}`);
  $("log-dialog-commands").replaceChildren(...commands.toReversed().map((row) => el("tr", {},
    el("td", {}, clock(row.createdAt)),
    el("td", {}, row.action.replace("_session", "")),
    el("td", {}, el("span", { className: `state ${row.state}` }, row.state)),
    el("td", {}, row.finishedAt ? span(row.finishedAt - row.createdAt) : ""),
    el("td", {}, row.error ?? ""))));
  $("log-dialog-events").replaceChildren(...events.toReversed().map((row) => lineOf(row, false)));
  openDialog($("log-dialog"));
}
