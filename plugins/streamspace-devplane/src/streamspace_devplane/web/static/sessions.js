// The sessions' cards.
import { $, complain, el, Folded, forgive, keyed, openDialog, press, say, show } from "./dom.js";
import { showSessionLog } from "./log.js";
import { call, pathOf } from "./plane.js";
import { Plot } from "./plot.js";
import { changesLeader, nobodyTakes } from "./standing.js";
import { bytes, capital, cores, coresUsed, notStarted, noView, plain, span, stateName, toneOf, webPage } from "./words.js";

const running = new Map();
const ended = new Map();
const ON_ITS_WAY = new Set(["pending", "sent", "ack"]);
const UNDER_WAY = new Set(["hibernating", "waking", "terminating"]); // what was asked for is told when it is there
const PATIENCE = 60; // seconds: a command may be lost on its way, and its session must not be stuck for that
const DOING = { start_session: "starting", stop_session: "stopping", hibernate_session: "hibernating", wake_session: "waking" };
const MEASURED = new Set(["running", "hibernating", "terminating"]); // it runs until it is told otherwise

// `away`: the control plane is, and all this is what it told last.
export function showSessions(state, away) {
  const { agents, sessions, unseen } = state;
  const known = new Map(agents.map((agent) => [agent.agentId, agent]));
  const rows = sessions.map((session) => ({ ...session, agent: known.get(session.agentId), away }));
  const over = rows.filter((session) => session.state === "terminated");
  const here = rows.filter((session) => session.state !== "terminated");
  keyed($("running"), running, here, (session) => session.sessionId, (session) => new Card(session));
  keyed($("ended"), ended, over, (session) => session.sessionId, (session) => new Card(session));
  show($("no-sessions"), here.length === 0);
  const begin = agents.length === 0 ? "Once an agent is connected, start one here" : nobodyTakes(state) ? "" : "Start one";
  say($("first-steps"), `No session runs.${begin && ` ${begin}; then View shows its desktop in this browser.`}`);
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
  const said = (session) => (UNDER_WAY.has(session.state) && known?.get(session.sessionId)) || stateName(session);
  const now = new Map(sessions.map((session) => [session.sessionId, said(session)]));
  const changed = [...now].filter(([id, state]) => known && known.get(id) !== state);
  if (changed.length > 0) say($("told"), changed.map(([id, state]) => `${id}: ${state}`).join("; "));
  known = now;
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
    this.image = el("code", { className: "facts" });
    this.note = el("p", { className: "facts" });
    this.reason = new Folded("reason");
    this.away = el("p", { className: "facts" });
    this.busy = el("p", { className: "busy" });
    this.bar = el("progress", { max: 100 });
    this.phase = el("span");
    this.meter = el("label", { className: "meter" }, this.phase, this.bar);
    this.cpu = new Plot("cpu", "CPU", { bare: cores, full: coresUsed, least: 0.1 });
    this.memory = new Plot("memory", "Memory", { bare: bytes, full: bytes, least: 64 * 2 ** 20 });
    this.plots = el("div", { className: "plots" }, this.cpu.node, this.memory.node);
    const button = (text, onclick, className = "") =>
      el("button", { type: "button", className, onclick: (event) => event.currentTarget.ariaDisabled !== "true" && onclick(event),
        "aria-label": `${text} ${sessionId}` }, text);
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
      this.facts, this.image, this.note, this.away, this.meter, this.reason.node, this.plots, this.busy,
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

  showPlots() {
    show(this.plots, MEASURED.has(this.session?.state) && this.cpu.points.length + this.memory.points.length > 0);
  }

  // `cpu` in cores, `memory` in bytes.
  used(time, { cpu, memory }) {
    const { cpuLimitCores, memoryLimitBytes } = this.session?.platformMetadata ?? {};
    if (Number.isFinite(cpu)) this.cpu.add(time, cpu, cpuLimitCores);
    if (Number.isFinite(memory)) this.memory.add(time, memory, memoryLimitBytes);
    for (const plot of [this.cpu, this.memory]) plot.draw();
    this.showPlots();
  }

  update(session) {
    this.session = session;
    const { state, lastCommand: last, lastStart, platformMetadata: about } = session;
    const neverStarted = notStarted(session);
    // No agent has ever held it: its start was refused, or never sent.
    this.untouched = ["failed", "pending"].includes(lastStart?.state) && session.statuses === 0;
    if (state === "running" && !this.recalled) this.recall();
    this.node.dataset.state = state;
    say(this.state, stateName(session));
    this.state.className = `state ${toneOf(session)}`;
    say(this.facts, `${session.template} for ${session.user} on ${session.agentId}`);
    say(this.image, about.image ?? "");
    say(this.note, capital((state !== "failed" && plain(about.reason)) || (state === "running" && noView(session) && `no view: ${noView(session)}`) || ""));
    const underWay = last && ON_ITS_WAY.has(last.state);
    const waits = underWay && last.state === "pending";
    const starts = state === "pending" && !neverStarted;
    const over = state === "failed" || state === "terminated" || neverStarted;
    const linked = Boolean(session.agent?.connected);
    const changes = changesLeader(session.agent);
    const left = !linked && !over && !(starts && waits);
    this.node.classList.toggle("lost", left && !changes);
    say(this.away, changes ? "Its agent is changing its leader; the session stays as it is." : "Its agent is away; this is what was last known.");
    show(this.away, left && !session.away);
    show(this.meter, starts);
    if (starts) this.progress(about.progress, waits);
    const problem = neverStarted ? `${this.untouched ? "It was never started" : "Its start failed"}: ${plain(lastStart.error)}`
      : last?.state === "failed" ? `${capital(DOING[last.action] ?? last.action)} failed: ${plain(last.error)}` : "";
    const failed = state === "failed" ? plain(about.reason) : "";
    this.reason.say(failed && !problem.includes(failed) ? [capital(failed), problem].filter(Boolean).join("\n") : problem);
    const age = underWay ? Date.now() / 1000 - last.createdAt : 0;
    const doing = underWay && capital(DOING[last.action] ?? last.action);
    const isSaid = UNDER_WAY.has(state) || last?.action === "start_session"; // by badge, bar or button
    say(this.busy, !underWay || starts || over ? "" : waits ? `${doing}: waiting for its agent`
      : age > PATIENCE ? `${doing}: not done after ${span(age)}` : isSaid ? "" : `${doing} …`);
    this.showPlots();
    const page = webPage(session);
    Object.assign(this.buttons.view, page ? { href: page, target: "_blank" } : { href: pathOf(this.id, "view"), target: "" });
    show(this.buttons.view, state === "running" && (page || session.vncReady) && !noView(session) && (linked || changes) && !session.away);
    // A command may be lost on its way, and its session must not be stuck for that.
    show(this.buttons.wake, state === "hibernated" || state === "waking");
    show(this.buttons.hibernate, state === "running" || state === "hibernating");
    show(this.buttons.stop, !over);
    show(this.buttons.remove, over && state !== "terminated");
    const busy = underWay && age <= PATIENCE ? last.action : "";
    this.label("wake", "Wake", "Waking …", busy === "wake_session", busy);
    this.label("hibernate", "Hibernate", "Hibernating …", busy === "hibernate_session", busy);
    this.label("stop", "Stop", "Stopping …", busy === "stop_session", busy === "stop_session");
  }

  // A button says what it does, or what it has begun: pressing it again would do nothing.
  label(name, text, doing, begun, off) {
    const button = this.buttons[name];
    say(button, begun ? doing : text);
    const label = `${begun ? doing : text} ${this.id}`;
    if (button.ariaLabel !== label) button.ariaLabel = label;
    button.ariaDisabled = String(Boolean(off));
  }

  progress(step, waits) {
    if (!step) {
      this.bar.removeAttribute("value");
      say(this.phase, waits ? "Waiting for its agent" : "Starting");
      return;
    }
    if (Number.isFinite(step.percent)) this.bar.value = step.percent;
    else this.bar.removeAttribute("value");
    const amount = step.totalBytes ? `${bytes(step.currentBytes)} of ${bytes(step.totalBytes)} (${step.percent} %)` : "";
    say(this.phase, [capital(step.phase), amount || step.detail].filter(Boolean).join(": "));
  }

  order(what) {
    return ({ currentTarget: button }) => this.send(button, "POST", pathOf(this.id, what), {});
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
