// One session's desktop.
import { Channel } from "./channel.js";
import { $, press, say, show } from "./dom.js";
import { call, follow, pathOf, socketTo } from "./plane.js";
import { changesLeader } from "./standing.js";
import { refusal } from "./web.js";
import { notStarted, noView, plain, stateName, toneOf, webPage } from "./words.js";

// The control plane shows this page in place of a web session's own, at its address, while that cannot be had.
const IN_PLACE = "/api/v1/http/";
const inPlace = location.pathname.startsWith(IN_PLACE);
const sessionId = named(location.pathname.split("/")[inPlace ? 4 : 2]);
const RETRY = [300, 1000, 2000, 4000]; // ms, after a connection that ended by itself
const TRIES = 6; // connections in a row that show no picture
const PATIENCE = 15_000; // ms for the picture
const WEB_RETRY = 3000; // ms until a web page that was not there is looked for again
const ON_ITS_WAY = new Set(["pending", "sent", "ack"]);

const ASKED = { waking: "It wakes.", hibernating: "It falls asleep.", terminating: "It is being stopped." };
const SLEEPS = "It hibernates.";

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
let asking = false; // of a web session: whether its page can be had
let closed = ""; // why not
let pause = null; // until this page looks again by itself

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

// Beside the session's name stands how it is, not how this page's own line to the control plane is.
function stand() {
  const [text, tone] = standing();
  say($("feed"), text);
  $("feed").dataset.tone = tone;
}

function standing() {
  if (away) return ["the control plane is away", "warn"];
  if (!latest) return ["connecting", "warn"];
  const { session, agent } = latest;
  if (!session) return ["no such session", "bad"];
  if (session.state !== "running") return [stateName(session), toneOf(session)];
  if (document.body.dataset.viewer === "connected" && agent?.connected) return ["connected", "good"];
  if (!agent?.connected) return [changesLeader(agent) ? "changing leader" : "agent away", "warn"];
  if (noView(session)) return ["no view", "quiet"];
  return [halt ? "not connected" : closed ? "not reachable" : session.vncReady || webPage(session) ? "connecting" : stateName(session), "warn"];
}

const CONNECTING = "Connecting";

function veil(text, action) {
  say($("why"), text);
  show($("veil"), true);
  show($("again"), Boolean(action));
  show($("back"), text !== CONNECTING);
  show($("progress"), false);
  stand();
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
  stand();
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
  if (state === "failed") return veil(`It failed: ${plain(session.platformMetadata.reason ?? last?.error ?? "no reason was told")}`);
  if (notStarted(session)) return veil(`It was never started: ${plain(lastStart.error)}`);
  if (changesLeader(agent)) return veilOfHandover();
  if (!agent?.connected) return veil(`Its agent is not connected. This page ${halt ? "says so" : "goes on"} when it is back.`);
  if (state === "hibernated") return veilOfSleep(last);
  if (ASKED[state] && !lost(last)) return veilOfWork(ASKED[state]);
  if (state === "waking") return veilOfSleep(last);
  if (ASKED[state]) return veil(`${ASKED[state]} Nothing was heard of it${last?.error ? `: ${plain(last.error)}` : ""}.`);
  if (inPlace && !webPage(session)) return location.replace(pathOf(sessionId, "view"));
  if (state === "running" && webPage(session)) return openWeb(webPage(session));
  if (state === "running" && noView(session)) return veil(`There is no view of it: ${noView(session)}.`);
  if (state === "pending" || !session.vncReady) return veilOfProgress(session);
  if (halt) return veil(halt.text, { text: halt.action, run: halt.run });
  connect();
}

function veilOfSleep(last) {
  const waking = last?.action === "wake_session";
  if (waking && ON_ITS_WAY.has(last.state)) return veilOfWork(ASKED.waking);
  const failed = problem || (waking && last.state === "failed" && plain(last.error));
  veil(failed ? `${SLEEPS} Waking it failed: ${failed}` : SLEEPS, { text: "Wake it", run: wake });
}

function veilOfHandover() {
  veilOfWork("Its agent is changing its leader. The session stays as it is, and this page goes on in a moment.");
  lookIn(1000); // nobody tells that it takes too long
}

function lookIn(ms) {
  pause ??= setTimeout(() => {
    pause = null;
    if (document.hidden) lookIn(ms);
    else look();
  }, ms);
}

// A page that comes is the session's own, with no word of ours on it: look whether it comes before going there.
function openWeb(page) {
  if (closed) veil(closed, { text: "Try again", run: tryWeb });
  else veilOfWork("Opening its web page");
  if (!pause) tryWeb(page);
}

async function tryWeb(page = webPage(latest.session)) {
  if (asking) return;
  asking = true;
  closed = await refusal(inPlace ? location.pathname + location.search : page);
  if (!closed) { // and no other question on the way out: who leaves in the middle of its answer ends the deployed control plane
    if (inPlace) location.reload();
    else location.replace(page);
    return;
  }
  asking = false;
  lookIn(WEB_RETRY);
  look();
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
    if (!rfb) veilOfWork(ASKED.waking);
  } catch (error) {
    problem = error.message;
    look();
  }
}

function connect() {
  if (!RFB) return void load(5);
  document.body.dataset.viewer = "connecting";
  veil(CONNECTING);
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
    stand();
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

function stay(text, action = "Try again", run = again) {
  halt = { text, action, run };
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
}, (error) => {
  say($("problem"), error.message);
  show($("problem"), true);
});
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
let loading = false;

async function load(tries) {
  if (loading) return;
  loading = true;
  veil(CONNECTING);
  const failed = await loaded(tries);
  loading = false;
  if (failed === null) return look();
  const { help } = await call("GET", "/viewer").catch(() => ({}));
  stay(help ?? `noVNC could not be loaded: ${failed.message}`, "Try again", () => location.reload());
  look();
}

async function loaded(tries) {
  try {
    keysyms = (await import("/novnc/core/input/keysymdef.js")).default;
    RFB = (await import("/novnc/core/rfb.js")).default;
    return null;
  } catch (error) {
    const { available } = await call("GET", "/viewer").catch(() => ({}));
    if (available === false || tries <= 1) return error;
    await new Promise((resolve) => setTimeout(resolve, 500));
    return loaded(tries - 1);
  }
}

follow({
  state({ agents, sessions }) {
    const session = sessions.find((row) => row.sessionId === sessionId);
    latest = { session, agent: agents.find((row) => row.agentId === session?.agentId) };
    away = false;
    if (session?.state !== "hibernated") problem = "";
    if (session?.state !== "running") closed = "";
    look();
  },
  away() {
    latest = null;
    away = true;
    look();
  },
}, sessionId);
