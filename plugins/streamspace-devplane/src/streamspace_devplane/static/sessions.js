// The sessions' cards.
import { $, complain, el, Folded, forgive, keyed, openDialog, press, say, show } from "./dom.js";
import { showSessionLog } from "./log.js";
import { call, pathOf } from "./plane.js";
import { Plot } from "./plot.js";
import { bytes, cores, coresUsed, noView, span, webPage } from "./words.js";

const running = new Map();
const ended = new Map();
const ON_ITS_WAY = new Set(["pending", "sent", "ack"]);
const UNDER_WAY = new Set(["hibernating", "waking", "terminating"]); // what was asked for is told when it is there
const PATIENCE = 60; // seconds: a command may be lost on its way, and its session must not be stuck for that
const DOING = { start_session: "starting", stop_session: "stopping", hibernate_session: "hibernating", wake_session: "waking" };

// `away`: the control plane is, and all this is what it told last.
export function showSessions({ agents, sessions, unseen }, away) {
  const linked = new Set(agents.filter((agent) => agent.connected).map((agent) => agent.agentId));
  const rows = sessions.map((session) => ({ ...session, linked: linked.has(session.agentId), away }));
  const over = rows.filter((session) => session.state === "terminated");
  const here = rows.filter((session) => session.state !== "terminated");
  keyed($("running"), running, here, (session) => session.sessionId, (session) => new Card(session));
  keyed($("ended"), ended, over, (session) => session.sessionId, (session) => new Card(session));
  show($("no-sessions"), here.length === 0);
  show($("ended-box"), over.length > 0);
  say($("ended-count"), unseen.terminated ? `(the latest ${over.length} of ${over.length + unseen.terminated})` : `(${over.length})`);
  say($("unseen"), `${unseen.failed} more failed ${unseen.failed === 1 ? "session is" : "sessions are"} older than those shown here.`);
  show($("unseen"), unseen.failed > 0);
  announce(rows);
}

setInterval(() => [...running.values()].forEach((card) => card.update(card.session)), 5000); // for what only time changes

let known = null; // the states as told last

// To those who do not see the cards.
function announce(sessions) {
  const said = (session) => (UNDER_WAY.has(session.state) && known?.get(session.sessionId)) || stateOf(session);
  const now = new Map(sessions.map((session) => [session.sessionId, said(session)]));
  const changed = [...now].filter(([id, state]) => known && known.get(id) !== state);
  if (changed.length > 0) say($("told"), changed.map(([id, state]) => `${id}: ${state}`).join("; "));
  known = now;
}

const notStarted = ({ state, lastStart }) => state === "pending" && lastStart?.state === "failed";

function stateOf(session) {
  if (notStarted(session)) return "not started";
  return session.state === "running" && !session.vncReady ? "running, not ready" : session.state;
}

// Messages of the log may hold readings that the cards plot: heartbeats those of all sessions, or a status its own.
export function noteUsage(rows) {
  for (const row of rows) {
    if (row.type === "status") running.get(row.payload.sessionId)?.measured(row.time, row.payload);
    if (row.type === "heartbeat") {
      for (const [id, used] of Object.entries(row.payload.sessions ?? {})) running.get(id)?.used(row.time, used);
    }
  }
}

class Card {
  constructor({ sessionId }) {
    this.id = sessionId;
    this.state = el("span", { className: "state" });
    this.facts = el("p", { className: "facts" });
    this.reason = new Folded("reason");
    this.away = el("p", { className: "facts" }, "Its agent is away; this is what was last known.");
    this.busy = el("p", { className: "busy" });
    this.bar = el("progress", { max: 100 });
    this.phase = el("span");
    this.meter = el("label", { className: "meter" }, this.phase, this.bar);
    this.cpu = new Plot("cpu", "CPU", { bare: cores, full: coresUsed, least: 0.1 });
    this.memory = new Plot("memory", "Memory", { bare: bytes, full: bytes, least: 64 * 2 ** 20 });
    this.plots = el("div", { className: "plots" }, this.cpu.node, this.memory.node);
    const button = (text, onclick, className = "") =>
      el("button", { type: "button", className, onclick, "aria-label": `${text} ${sessionId}` }, text);
    this.buttons = {
      view: el("a", { className: "button primary", href: pathOf(sessionId, "view"), "aria-label": `View ${sessionId}` }, "View"),
      wake: button("Wake", this.order("wake"), "primary"),
      hibernate: button("Hibernate", this.order("hibernate")),
      stop: button("Stop", () => this.ask("Stop"), "danger"),
      remove: button("Remove", (event) => (this.untouched ? this.forget(event) : this.ask("Remove")), "danger"),
      log: button("Log", (event) => press(event.currentTarget, () => showSessionLog(this.id), complain)),
    };
    this.node = el("article", { className: "card" },
      el("div", { className: "top" }, el("h3", {}, sessionId), this.state),
      this.facts, this.away, this.meter, this.reason.node, this.plots, this.busy,
      el("div", { className: "actions" }, ...Object.values(this.buttons)));
    this.node.dataset.session = sessionId;
  }

  // What was measured before this page was opened.
  async recall() {
    this.recalled = true;
    try {
      const { readings } = await call("GET", pathOf(this.id, "log"));
      for (const plot of [this.cpu, this.memory]) plot.points = [];
      for (const row of readings) this.used(row.time, row);
    } catch {
      // the plots begin with what comes
    }
  }

  measured(time, { state }) {
    for (const plot of [this.cpu, this.memory]) {
      if (state !== "running") plot.clear();
      plot.draw();
    }
  }

  // `cpu` in cores, `memory` in bytes.
  used(time, { cpu, memory }) {
    const { cpuLimitCores, memoryLimitBytes } = this.session?.platformMetadata ?? {};
    if (Number.isFinite(cpu)) this.cpu.add(time, cpu, cpuLimitCores);
    if (Number.isFinite(memory)) this.memory.add(time, memory, memoryLimitBytes);
    for (const plot of [this.cpu, this.memory]) plot.draw();
  }

  update(session) {
    this.session = session;
    const { state, lastCommand: last, lastStart, platformMetadata: about } = session;
    const neverStarted = notStarted(session);
    // No agent has ever held it: its start was refused, or never sent.
    this.untouched = ["failed", "pending"].includes(lastStart?.state) && session.statuses === 0;
    if (state === "running" && !this.recalled) this.recall();
    this.node.dataset.state = state;
    say(this.state, stateOf(session));
    this.state.className = `state ${neverStarted ? "failed" : state}`;
    say(this.facts, [session.template, `for ${session.user}`, `on ${session.agentId}`, about.image, state !== "failed" && about.reason,
      state === "running" && noView(session) && `no view: ${noView(session)}`]
      .filter(Boolean).join(" · "));
    const underWay = last && ON_ITS_WAY.has(last.state);
    const waits = underWay && last.state === "pending";
    const starts = state === "pending" && !neverStarted;
    const over = state === "failed" || state === "terminated" || neverStarted;
    const lost = !session.linked && !over && !(starts && waits);
    this.node.classList.toggle("lost", lost);
    show(this.away, lost);
    show(this.meter, starts);
    if (starts) this.progress(about.progress, waits);
    const problem = neverStarted ? `${this.untouched ? "It was never started" : "Its start failed"}: ${lastStart.error}`
      : last?.state === "failed" ? `${DOING[last.action] ?? last.action} failed: ${last.error}` : "";
    const failed = state === "failed" && about.reason;
    this.reason.say(failed && !problem.includes(failed) ? [failed, problem].filter(Boolean).join("\n") : problem);
    const age = underWay ? Date.now() / 1000 - last.createdAt : 0;
    const doing = underWay && (DOING[last.action] ?? last.action);
    say(this.busy, !underWay || starts || state === "terminated" ? "" : waits ? `${doing}: waiting for its agent`
      : age > PATIENCE ? `${doing}: not done after ${span(age)}` : `${doing} …`);
    show(this.plots, state === "running");
    const page = webPage(session);
    Object.assign(this.buttons.view, page ? { href: page, target: "_blank" } : { href: pathOf(this.id, "view"), target: "" });
    show(this.buttons.view, state === "running" && (page || session.vncReady) && !noView(session) && session.linked && !session.away);
    // A command may be lost on its way, and its session must not be stuck for that.
    show(this.buttons.wake, state === "hibernated" || state === "waking");
    show(this.buttons.hibernate, state === "running" || state === "hibernating");
    show(this.buttons.stop, !over);
    show(this.buttons.remove, over && state !== "terminated");
    for (const name of ["wake", "hibernate"]) this.buttons[name].ariaDisabled = String(Boolean(underWay && age <= PATIENCE));
  }

  progress(step, waits) {
    if (!step) {
      this.bar.removeAttribute("value");
      say(this.phase, waits ? "waiting for its agent" : "starting");
      return;
    }
    if (Number.isFinite(step.percent)) this.bar.value = step.percent;
    else this.bar.removeAttribute("value");
    const amount = step.totalBytes ? `${bytes(step.currentBytes)} of ${bytes(step.totalBytes)} (${step.percent} %)` : "";
    say(this.phase, [step.phase, amount || step.detail].filter(Boolean).join(": "));
  }

  order(what) {
    return ({ currentTarget: button }) => button.ariaDisabled !== "true" && this.send(button, "POST", pathOf(this.id, what), {});
  }

  forget(event) {
    return this.send(event.currentTarget, "DELETE", `/sessions/${encodeURIComponent(this.id)}`);
  }

  send(button, ...wish) {
    return press(button, async () => {
      await call(...wish);
      forgive();
    }, complain);
  }

  ask(verb) {
    say($("stop-title"), `${verb} ${this.id}?`);
    say($("stop-submit"), `${verb} it`);
    $("stop-form").reset();
    $("stop-form").onsubmit = (event) =>
      this.send(this.buttons[verb.toLowerCase()], "POST", pathOf(this.id, "stop"), event.target.deletePVC.checked ? { deletePVC: true } : {});
    openDialog($("stop-dialog"));
  }
}
