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
