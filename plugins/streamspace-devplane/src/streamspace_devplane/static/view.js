// One session's desktop.
import { Channel } from "./channel.js";
import { $, press, say, show } from "./dom.js";
import { call, follow, pathOf, socketTo } from "./plane.js";
import { noView, webPage } from "./words.js";

const sessionId = named(location.pathname.split("/")[2]);
const RETRY = [300, 1000, 2000, 4000]; // ms, after a connection that ended by itself
const TRIES = 6; // connections in a row that show no picture
const PATIENCE = 15_000; // ms for the picture
const ON_ITS_WAY = new Set(["pending", "sent", "ack"]);

const ASKED = { waking: "It wakes.", hibernating: "It falls asleep.", terminating: "It is being stopped." };

let RFB;
let keysyms;
let rfb = null;
let mine = ""; // the mark of this page's latest connection, by which others' are told apart
let link = 0; // which of its agent's connections was the latest when that was made
let halt = null; // {text, action}: why this page does not connect by itself, though it could
let failures = 0;
let waiting = null;
let latest = null; // {session, agent}, as last told
let away = false; // the control plane does not answer
let problem = ""; // why the last wake was not even sent

// An address that was typed may be no text at all: no session has such a name.
function named(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

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
    $("again").onclick = () => press($("again"), action.run, (error) => veil(error.message, action));
  }
}

// Buttons do something or are off.
function enable() {
  const state = latest?.session?.state;
  $("hands").disabled = document.body.dataset.viewer !== "connected";
  $("full").disabled = !state || ["failed", "terminating", "terminated"].includes(state);
}

function look() {
  enable();
  if (away && !rfb) return veil("The control plane does not answer. This page goes on when it does.");
  if (waiting || !latest) return;
  const { session, agent } = latest;
  if (rfb) {
    // The deployed relay leaves a viewer frozen when its agent connects anew.
    if (session?.state !== "running" || agent?.links > link) rfb.disconnect();
    return;
  }
  if (!session) return veil("There is no such session.");
  const { state, lastCommand: last, lastStart } = session;
  if (state === "terminated") return veil("It has ended.");
  if (state === "failed") return veil(`It failed: ${session.platformMetadata.reason ?? last?.error ?? "no reason was told"}`);
  if (state === "pending" && lastStart?.state === "failed") return veil(`It was never started: ${lastStart.error}`);
  if (!agent?.connected) return veil(`Its agent is not connected. This page ${halt ? "says so" : "goes on"} when it is back.`);
  if (state === "hibernated") return veilOfSleep(last);
  if (ASKED[state] && !lost(last)) return veilOfWork(ASKED[state]);
  if (state === "waking") return veilOfSleep(last);
  if (ASKED[state]) return veil(`${ASKED[state]} Nothing was heard of it${last?.error ? `: ${last.error}` : ""}.`);
  if (state === "running" && webPage(session)) return location.replace(webPage(session));
  if (state === "running" && noView(session)) return veil(`There is no view of it: ${noView(session)}.`);
  if (state === "pending" || !session.vncReady) return veilOfProgress(session);
  if (halt) return veil(halt.text, { text: halt.action, run: again });
  connect();
}

function veilOfSleep(last) {
  const waking = last?.action === "wake_session";
  if (waking && ON_ITS_WAY.has(last.state)) return veilOfWork("It wakes.");
  const failed = problem || (waking && last.state === "failed" && last.error);
  veil(failed ? `It hibernates. Waking it failed: ${failed}` : "It hibernates.", { text: "Wake it", run: wake });
}

function veilOfProgress(session) {
  const step = session.platformMetadata.progress;
  veilOfWork(session.state === "pending" ? `It starts${step ? `: ${step.phase}` : ""}` : "Its desktop does not answer yet.", step?.percent);
}

function veilOfWork(text, percent) {
  veil(text);
  show($("progress"), true);
  if (Number.isFinite(percent)) Object.assign($("progress"), { max: 100, value: percent });
  else $("progress").removeAttribute("value");
}

// A command that failed or was lost leaves its session in the state that was asked for.
const lost = (command) => command?.state === "failed" || Date.now() / 1000 - (command?.createdAt ?? 0) > 60;

// Whoever wakes it wants to see it, whatever happened to this page before.
async function wake() {
  halt = null;
  try {
    await call("POST", pathOf(sessionId, "wake"), {});
    problem = "";
    if (!rfb) veilOfWork("It wakes.");
  } catch (error) {
    problem = error.message;
    look();
  }
}

function connect() {
  veil("Connecting");
  document.body.dataset.viewer = "connecting";
  mine = String(Math.random());
  link = latest.agent.links;
  const socket = socketTo(`${pathOf(sessionId, "vnc")}?viewer=${mine}`, "binary");
  const one = new RFB($("screen"), new Channel(socket), { shared: true });
  const patience = setTimeout(() => {
    stay("Nothing that a viewer understands came within 15 seconds: its server hangs, or does not speak VNC.");
    one.disconnect();
  }, PATIENCE);
  let seen = false;
  rfb = one;
  one.scaleViewport = true;
  one.showDotCursor = true;
  one.background = "transparent";
  one.addEventListener("connect", () => {
    clearTimeout(patience);
    seen = true;
    failures = 0;
    document.body.dataset.viewer = "connected";
    enable();
    show($("veil"), false);
    show($("keys"), true);
    one.focus();
  });
  one.addEventListener("credentialsrequired", () => {
    stay("Its VNC server asks for a password, which this page has no way to know.");
    one.disconnect();
  });
  one.addEventListener("securityfailure", ({ detail }) => stay(`Its VNC server refuses: ${detail.reason ?? `status ${detail.status}`}`));
  socket.addEventListener("close", ({ reason }) => {
    clearTimeout(patience);
    ended(reason, seen);
  });
}

function stay(text, action = "Try again") {
  halt = { text, action };
}

const tookOver = () => stay("Another viewer took over: a session has one at a time.", "Take it back");

function ended(reason, seen) {
  rfb = null;
  show($("keys"), false);
  document.body.dataset.viewer = "waiting";
  if (reason === "another viewer connected") tookOver();
  failures += 1;
  const text = reason ? `The connection ended: ${reason}` : "The connection ended.";
  if (!seen && failures >= TRIES) stay(`${text} It was tried ${failures} times, and no picture came.`);
  if (halt || away) return look();
  veil(text);
  enable();
  waiting = setTimeout(() => {
    waiting = null;
    if (seen && latest?.session?.viewer !== mine) tookOver(); // the deployed relay gives no reason
    look();
  }, RETRY[Math.min(failures, RETRY.length) - 1]);
}

function again() {
  halt = null;
  failures = 0;
  look();
}

$("keys").onclick = () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
};
show($("full"), Boolean(document.documentElement.requestFullscreen)); // an iPhone has none
$("full").onclick = () => press($("full"), async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await document.querySelector("main").requestFullscreen();
  rfb?.focus();
}, (error) => say($("hint"), error.message));
// Every other key belongs to the desktop, Tab too.
document.addEventListener("keydown", async (event) => {
  if (event.key === "F8" && event.shiftKey) {
    event.preventDefault();
    event.stopPropagation();
    window.dispatchEvent(new Event("blur")); // noVNC lets go of Shift, whose release it will not see
    if (document.fullscreenElement) await document.exitFullscreen().catch(() => {}); // the field is not part of that
    $("text").focus();
  }
}, { capture: true });

// For hands without a keyboard, and for text from elsewhere.
const type = (keysym) => rfb?.sendKey(keysym);
$("typing").onsubmit = (event) => {
  event.preventDefault();
  for (const letter of $("text").value) type(keysyms.lookup(letter.codePointAt(0)));
  $("text").value = "";
};
for (const button of document.querySelectorAll("[data-key]")) button.onclick = () => type(Number(button.dataset.key));

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
      away = false;
      if (session?.state !== "hibernated") problem = "";
      look();
    },
    away() {
      latest = null;
      away = true;
      look();
    },
  }, sessionId);
}
