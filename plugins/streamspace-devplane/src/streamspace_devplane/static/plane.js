// The control plane's API, and its live feed.

export async function call(method, path, body) {
  const answer = await fetch(`/api/v1${path}`, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `the control plane answered ${answer.status}`);
  return told;
}

export const pathOf = (session, what) => `/sessions/${encodeURIComponent(session)}/${what}`;

// `on`: state(state), log(rows). The browser connects again by itself, from the last line it has seen.
export function follow(feed, on) {
  const source = new EventSource("/api/v1/live");
  const tell = (text, live) => {
    feed.textContent = text;
    feed.classList.toggle("live", live);
  };
  source.addEventListener("open", () => tell("live", true));
  source.addEventListener("error", () => {
    tell("the control plane is away", false);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => (source.close(), follow(feed, on)), 2000);
  });
  source.addEventListener("state", (event) => on.state?.(JSON.parse(event.data)));
  source.addEventListener("log", (event) => on.log?.(JSON.parse(event.data)));
}
