// The control plane's API, and its live feed.
import { say } from "./dom.js";

export async function call(method, path, body) {
  const wish = {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  };
  const answer = await request(`/api/v1${path}`, wish, method === "GET" ? 5 : 1);
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `the control plane answered ${answer.status}`);
  return told;
}

// A browser gives up all requests when the machine's network changes, as it does when a container starts: what only asks is asked again.
async function request(url, wish, tries) {
  try {
    return await fetch(url, wish);
  } catch (error) {
    if (tries <= 1) throw error;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return request(url, wish, tries - 1);
  }
}

export const pathOf = (session, what) => `/sessions/${encodeURIComponent(session)}/${what}`;

export const socketTo = (path, ...protocols) =>
  new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1${path}`, protocols);

const RECONNECT = 1000; // ms

// `on`: state(state), log(rows), away(). It connects again by itself, after the last line that it has seen.
export function follow(feed, on, session = null, last = 0) {
  const wish = new URLSearchParams(session === null ? { after: last } : { session });
  const socket = socketTo(`/live?${wish}`);
  const tell = (text, live) => {
    say(feed, text);
    feed.classList.toggle("live", live);
  };
  socket.addEventListener("message", (event) => {
    const told = JSON.parse(event.data);
    tell("live", true);
    if (told.state) on.state?.(told.state);
    if (told.log) on.log?.(told.log);
    last = told.last ?? last;
  });
  socket.addEventListener("close", () => {
    tell("the control plane is away", false);
    on.away?.();
    setTimeout(() => follow(feed, on, session, last), RECONNECT);
  });
}
