// What agents and the control plane say to each other: all of it, live, and one session's.
import { $, el, keyed, openDialog, say, show } from "./dom.js";
import { call, pathOf } from "./plane.js";
import { bytes, clock, cores, counted, span } from "./words.js";

const KEPT = { false: 400, true: 100 }; // lines, by whether they are routine: what comes all the time drives out nothing else
const ROUTINE = new Set(["heartbeat", "ping", "pong"]);
const PROBLEMS = new Set(["failed", "unreadable", "stuck_session", "register_refused", "connect_refused", "crash"]);
// What ends a viewer as somebody wanted, or until another leader serves it.
const AS_ASKED = /^(the session is (hibernated|terminated)$|idle_timeout:|max_session_duration:|the connection to the session (was interrupted|is being renewed))/;
const ACTIONS = 400;
const actions = new Map(); // what the latest commands' ids stand for
const STEPS = { pending: "not sent yet", ack: "under way" };
const ARROWS = { to_agent: "→ ", from_agent: "← " }; // the plane's own notes go nowhere

export function prepareLog() {
  $("log-beats").onchange = $("log-filter").oninput = () => {
    [...$("log").children].forEach(sift);
    tellNone();
  };
}

export function addToLog(rows) {
  const log = $("log");
  for (const row of rows) {
    if (row.type === "command") actions.set(row.payload.commandId, summary(row));
    if (actions.size > ACTIONS) actions.delete(actions.keys().next().value);
    const line = lineOf(row, true);
    line.dataset.text = `${line.textContent} ${JSON.stringify(row.payload)}`.toLowerCase();
    line.dataset.routine = ROUTINE.has(row.type);
    sift(line);
    log.prepend(line);
  }
  for (const [routine, most] of Object.entries(KEPT)) {
    for (const line of [...log.querySelectorAll(`:scope > [data-routine=${routine}]`)].slice(most)) line.remove();
  }
  tellNone();
  tellAgain();
}

function tellNone() {
  const any = [...$("log").children].some((line) => !line.hidden);
  show($("log"), any);
  show($("log-none"), !any);
}

function sift(line) {
  const wanted = $("log-filter").value.trim().toLowerCase();
  line.hidden = (line.dataset.routine === "true" && !$("log-beats").checked) || !line.dataset.text.includes(wanted);
}

// The payload is laid out when somebody opens it.
function lineOf(row, withAgent) {
  const head = el("summary", {},
    el("time", { dateTime: new Date(row.time * 1000).toISOString() }, clock(row.time)),
    el("span", { className: "way" }, el("span", { className: "arrow", ariaHidden: "true" }, ARROWS[row.direction] ?? ""), row.type),
    el("span", { className: "what" }, summary(row)),
    ...(withAgent ? [el("span", { className: "who" }, row.agentId ?? "")] : []));
  const details = el("details", {}, head);
  details.addEventListener("toggle", () => details.append(el("pre", {}, JSON.stringify(row.payload, null, 2))), { once: true });
  const problem = PROBLEMS.has(row.type) || (row.type === "status" && row.payload.state === "failed")
    || (row.type === "vnc_error" && !AS_ASKED.test(row.payload.error));
  return el("li", { className: `${row.direction}${problem ? " problem" : ""}` }, details);
}

const use = ([id, { cpu, memory }]) =>
  [id, Number.isFinite(cpu) && `${cores(cpu)} cores`, Number.isFinite(memory) && bytes(memory)].filter(Boolean).join(" ");

function summary({ type, payload }) {
  const about = payload.platformMetadata ?? {};
  switch (type) {
    case "command":
      return [payload.action, payload.payload?.sessionId].filter(Boolean).join(" ");
    case "status": {
      const { progress } = about;
      const more = progress ? `${progress.phase}${Number.isFinite(progress.percent) ? ` ${progress.percent} %` : ""}`
        : about.reason;
      return [payload.sessionId, payload.state, more].filter(Boolean).join(" ");
    }
    case "heartbeat":
      return [payload.status, counted(payload.activeSessions ?? 0, "session"), ...Object.entries(payload.sessions ?? {}).map(use)].join(", ");
    default: {
      const subject = payload.sessionId ?? actions.get(payload.commandId) ?? payload.commandId;
      return [subject, payload.reason ?? payload.error ?? payload.cause].filter(Boolean).join(": ");
    }
  }
}

// One session's: asked for again while it is open and something is said.
const PAUSE = 1000; // ms between two askings
const told = { commands: new Map(), events: new Map() };
let open = null; // the session
let asking = null;

export async function showSessionLog(sessionId) {
  await tell(sessionId);
  say($("log-dialog-title"), sessionId);
  say($("log-dialog-docker"), `docker logs streamspace-${sessionId}`);
  open = sessionId;
  $("log-dialog").onclose = () => { open = null; };
  openDialog($("log-dialog"));
}

function tellAgain() {
  if (open === null) return;
  asking ??= setTimeout(() => {
    asking = null;
    if (open !== null) tell(open).catch(() => {}); // the page says what is wrong, and what was told stays
  }, PAUSE);
}

async function tell(sessionId) {
  const { commands, events } = await call("GET", pathOf(sessionId, "log"));
  if (open !== null && open !== sessionId) return;
  keyed($("log-dialog-commands"), told.commands, commands.toReversed(), (row) => row.commandId, () => new Command());
  keyed($("log-dialog-events"), told.events, events.toReversed(), (row) => row.seq, (row) => ({ node: lineOf(row, false), update() {} }));
}

class Command {
  constructor() {
    this.state = el("span");
    this.cells = Array.from({ length: 5 }, () => el("td"));
    this.cells[2].append(this.state);
    this.node = el("tr", {}, ...this.cells);
  }

  update(row) {
    const [when, what, , took, error] = this.cells;
    say(when, clock(row.createdAt));
    say(what, row.action.replace("_session", ""));
    say(this.state, STEPS[row.state] ?? row.state);
    this.state.className = `state ${row.state}`;
    say(took, row.finishedAt ? span(row.finishedAt - row.createdAt) : "");
    say(error, row.error ?? "");
  }
}
