// The control plane's API, and its live feed.

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
