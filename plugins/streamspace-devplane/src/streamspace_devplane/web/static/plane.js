// The control plane's API, and its live feed.
const PATIENCE = 10_000; // ms for any answer: a plane that is frozen takes connections, and says nothing

export class Gone extends Error {
  constructor() {
    super("The control plane does not answer. Is streamspace-devplane serve (or make demo) still running? This page goes on by itself when it is back.");
  }
}

export async function call(method, path, body) {
  const wish = {
    method,
    signal: AbortSignal.timeout(PATIENCE),
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
  } catch {
    if (tries <= 1 || wish.signal.aborted) throw new Gone();
    await new Promise((resolve) => setTimeout(resolve, 300));
    return request(url, wish, tries - 1);
  }
}

export const pathOf = (session, what) => `/sessions/${encodeURIComponent(session)}/${what}`;

export const socketTo = (path, ...protocols) =>
  new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1${path}`, protocols);

const RECONNECT = 1000; // ms

// `on`: state(state), log(rows), away(), and feed(text, live) on how the feed itself is. It connects again by itself, after the
// last line that it has seen. A connection
// that ended says little, since a browser drops them for its own reasons; one that brought nothing says that the plane is away.
export function follow(on, session = null, last = 0) {
  const wish = new URLSearchParams(session === null ? { after: last } : { session });
  const socket = socketTo(`/live?${wish}`);
  const tell = (text, live) => {
    document.body.dataset.feed = live ? "live" : "";
    on.feed?.(text, live);
  };
  const patience = setTimeout(() => socket.close(), PATIENCE);
  let heard = false;
  socket.addEventListener("message", (event) => {
    clearTimeout(patience);
    heard = true;
    const told = JSON.parse(event.data);
    tell("live", true);
    if (told.state) on.state?.(told.state);
    if (told.log) on.log?.(told.log);
    last = told.last ?? last;
  });
  socket.addEventListener("close", () => {
    clearTimeout(patience);
    tell(heard ? "connecting" : "the control plane is away", false);
    if (!heard) on.away?.();
    setTimeout(() => follow(on, session, last), RECONNECT);
  });
}
