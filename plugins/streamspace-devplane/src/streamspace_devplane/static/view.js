// One session's desktop.
import { $, say, show } from "./dom.js";
import { call, follow, pathOf } from "./plane.js";

const sessionId = decodeURIComponent(location.pathname.split("/")[2]);
const RETRY = [300, 1000, 2000, 4000]; // ms, after a connection that ended by itself

let RFB;
let keysyms;
let rfb = null;
let wanted = true; // false once another viewer took our place: taking it back would go on for ever
let failures = 0;
let waiting = null;
let latest = null; // {session, agent}, as last told

document.title = `${sessionId} · StreamSpace development control plane`;
say($("name"), sessionId);
document.body.dataset.viewer = "waiting";

function veil(text, action) {
  say($("why"), text);
  show($("veil"), true);
  show($("again"), Boolean(action));
  show($("progress"), false);
  if (action) {
    say($("again"), action.text);
    $("again").onclick = action.run;
  }
}

// Buttons do something or are off.
function enable() {
  const state = latest?.session?.state;
  $("hands").disabled = document.body.dataset.viewer !== "connected";
  $("full").disabled = !state || state === "failed" || state === "terminated";
}

function look() {
  enable();
  if (waiting || !latest) return;
  const { session, agent } = latest;
  if (rfb) {
    if (session?.state !== "running") rfb.disconnect();
    return;
  }
  if (!session) return veil("There is no such session.");
  if (!agent?.connected) return veil("Its agent is not connected. This page goes on when it is back.");
  if (session.state === "hibernated") return veil("It hibernates.", { text: "Wake it", run: wake });
  if (session.state === "terminated") return veil("It has ended.");
  if (session.state === "failed") return veil(`It failed: ${session.platformMetadata.reason ?? session.lastCommand?.error ?? "no reason was told"}`);
  if (session.state === "pending" && session.lastStart?.state === "failed") return veil(`It was never started: ${session.lastStart.error}`);
  if (session.state === "pending" || !session.vncReady) return veilOfProgress(session);
  if (!wanted) return;
  connect();
}

function veilOfProgress(session) {
  const step = session.platformMetadata.progress;
  veil(session.state === "pending" ? `It starts${step ? `: ${step.phase}` : ""}` : "Its desktop does not answer yet.");
  show($("progress"), true);
  if (Number.isFinite(step?.percent)) Object.assign($("progress"), { max: 100, value: step.percent });
  else $("progress").removeAttribute("value");
}

async function wake() {
  show($("again"), false);
  say($("why"), "Waking");
  await call("POST", pathOf(sessionId, "wake"), {}).catch((error) => veil(error.message, { text: "Try again", run: wake }));
}

function connect() {
  veil("Connecting");
  document.body.dataset.viewer = "connecting";
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/api/v1${pathOf(sessionId, "vnc")}`, "binary");
  socket.addEventListener("close", (event) => ended(event.reason));
  rfb = new RFB($("screen"), socket, { shared: true });
  rfb.scaleViewport = true;
  rfb.showDotCursor = true;
  rfb.background = "transparent";
  rfb.addEventListener("connect", () => {
    failures = 0;
    document.body.dataset.viewer = "connected";
    enable();
    show($("veil"), false);
    show($("keys"), true);
    rfb.focus();
  });
  rfb.addEventListener("credentialsrequired", () => {
    wanted = false;
    veil("Its VNC server asks for a password, which this page has no way to know.");
  });
}

function ended(reason) {
  rfb = null;
  show($("keys"), false);
  document.body.dataset.viewer = "waiting";
  enable();
  if (reason === "another viewer connected") {
    wanted = false;
    veil("Another viewer took over: a session has one at a time.", { text: "Take it back", run: again });
    return;
  }
  veil(reason ? `The connection ended: ${reason}` : "The connection ended.");
  const pause = RETRY[Math.min(failures++, RETRY.length - 1)];
  waiting = setTimeout(() => {
    waiting = null;
    look();
  }, pause);
}

function again() {
  wanted = true;
  look();
}

$("keys").onclick = () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
};
$("full").onclick = async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await document.querySelector("main").requestFullscreen();
  rfb?.focus();
};
// Every other key belongs to the desktop, Tab too.
document.addEventListener("keydown", (event) => {
  if (event.key === "F8" && event.shiftKey) {
    event.preventDefault();
    event.stopPropagation();
    $("text").focus();
  }
}, { capture: true });

// For hands without a keyboard, and for text from elsewhere.
const press = (keysym) => rfb?.sendKey(keysym);
$("typing").onsubmit = (event) => {
  event.preventDefault();
  for (const letter of $("text").value) press(keysyms.lookup(letter.codePointAt(0)));
  $("text").value = "";
};
$("enter").onclick = () => press(0xff0d);

// A browser gives up all requests when the machine's network changes, as it does when a container starts.
async function load(tries) {
  try {
    RFB = (await import("/novnc/core/rfb.js")).default;
    keysyms = (await import("/novnc/core/input/keysymdef.js")).default;
  } catch (error) {
    const { help } = await call("GET", "/viewer").catch(() => ({}));
    if (!help && tries > 1) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      return load(tries - 1);
    }
    veil(help ?? `noVNC could not be loaded: ${error.message}`, { text: "Try again", run: () => location.reload() });
  }
}

await load(5);
if (RFB) {
  follow($("feed"), {
    state({ agents, sessions }) {
      const session = sessions.find((row) => row.sessionId === sessionId);
      latest = { session, agent: agents.find((row) => row.agentId === session?.agentId) };
      look();
    },
  });
}
