// Numbers and times for people.

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count >= 100 || unit === 0 ? Math.round(count) : Number(count.toPrecision(3))} ${units[unit]}`;
}

export const cores = (count) => (count < 0.01 ? "<0.01" : `${Number(count.toPrecision(count < 0.1 ? 2 : 3))}`);
export const coresUsed = (count) => (count < 0.005 ? "idle" : `${cores(count)} ${count === 1 ? "core" : "cores"}`);

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

export function span(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export const ago = (seconds) => {
  const age = Date.now() / 1000 - seconds;
  return age < 2 ? "just now" : `${span(Math.round(age)).replace(".0", "")} ago`;
};

// Why a session cannot be viewed here, whatever it does; empty where it can.
const NO_VIEW = {
  web: "it serves a web page of its own, not VNC",
  none: "its template says that it has no desktop",
};
// Where its own web pages are, for what the control plane takes for a web session.
const WEB = new Set(["selkies", "guacamole", "kasm"]);
export const webPage = ({ sessionId, streamingProtocol }) =>
  (WEB.has(streamingProtocol) ? `/api/v1/http/${encodeURIComponent(sessionId)}/` : "");
export const noView = (session) => (webPage(session) ? "" : NO_VIEW[session.screen] ?? "");

// What people call a session's state.
const STATES = { pending: "starting", terminating: "stopping", terminated: "ended" };
const UNDONE = { hibernating: "not hibernated", waking: "not woken", terminating: "not stopped" };
export const TONES = { running: "good", failed: "bad", hibernated: "quiet", terminated: "quiet" }; // of the others: warn

// Its start was refused, or got lost.
export const notStarted = ({ state, lastStart }) => state === "pending" && lastStart?.state === "failed";

export function stateName(session) {
  const { state, vncReady, lastCommand } = session;
  if (notStarted(session)) return "not started";
  if (UNDONE[state] && lastCommand?.state === "failed") return UNDONE[state];
  return state === "running" && !vncReady ? "running, not ready" : STATES[state] ?? state;
}

export const toneOf = (session) =>
  (stateName(session).startsWith("not ") ? "bad" : session.state === "running" && !session.vncReady ? "warn" : TONES[session.state] ?? "warn");

// Agents put a word for machines before what they say, "image_not_found: there is no ...": people get the rest, and the log has
// the word. Where it comes alone it is read as the words that it is made of.
const CODED = /^([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?:: *(\S.*))?$/s;
const ALONE = { agent_unavailable: "its agent was away for too long, and it was given up" };

export function plain(text) {
  const [, code, said] = CODED.exec(String(text ?? "").trim()) ?? [];
  return code ? said ?? ALONE[code] ?? code.replaceAll("_", " ") : String(text ?? "").trim();
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const sentence = (text) => capital(/[.!?…]$/.test(text) ? text : `${text}.`);
export const counted = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
