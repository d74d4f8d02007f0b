// The agents' cards.
import { $, complain, el, forgive, keyed, openDialog, press, say, show } from "./dom.js";
import { call } from "./plane.js";
import { runningOn, standing } from "./standing.js";
import { ago, counted } from "./words.js";

const cards = new Map();
let rows = [];
let sessions = [];

export function showAgents(state) {
  rows = state.agents;
  sessions = state.sessions;
  show($("no-agents"), rows.length === 0);
  lay();
}

setInterval(() => rows.forEach((agent) => cards.get(agent.agentId)?.update(agent)), 1000);

// The sessions below are what a person comes for: of many agents only those come first that need somebody, and the rest on demand.
const PHONE = matchMedia("(max-width: 34rem)");
const TABLET = matchMedia("(max-width: 50rem)");
const room = () => (PHONE.matches ? 1 : TABLET.matches ? 4 : 6);
const FIRST = ["pending", "offline", "stale", "rejected", "handover", "draining", "approved"];
let all = false;

for (const width of [PHONE, TABLET]) width.addEventListener("change", lay);

export function prepareAgents() {
  $("all-agents").onclick = () => {
    all = !all;
    lay();
  };
}

const urgency = (agent) => (FIRST.indexOf(standing(agent)) + FIRST.length + 1) % (FIRST.length + 1);

function lay() {
  const many = rows.length > room();
  const sorted = many ? rows.toSorted((one, other) => urgency(one) - urgency(other)) : rows;
  keyed($("agents"), cards, many && !all ? sorted.slice(0, room()) : sorted, (agent) => agent.agentId, (agent) => new Card(agent));
  show($("agents-foot"), many);
  say($("all-agents"), all ? "Show fewer" : `Show all ${rows.length}`);
  $("all-agents").ariaExpanded = String(all);
  say($("agents-count"), many ? summary() : "");
}

const NAMES = { pending: "waiting for approval", handover: "changing leader" };

function summary() {
  const counts = new Map();
  for (const agent of rows) counts.set(standing(agent), (counts.get(standing(agent)) ?? 0) + 1);
  return [...counts].map(([state, count]) => `${count} ${NAMES[state] ?? state}`).join(", ");
}

// Where nobody else could lead, the host says enough.
function lead({ leader, hostname, epoch, electionBackend }, now) {
  const elected = electionBackend && electionBackend !== "none";
  if (!elected) return hostname ? `${now ? "Runs" : "Last ran"} on ${hostname}` : "";
  return `${now ? "Led" : "Last led"} by ${leader ?? hostname ?? "a replica"}, epoch ${epoch ?? "unknown"} (elected by ${electionBackend})`;
}

const AWAY = (where, id) => `Is docker-agent still running${where}? It connects again by itself, and its own log says what keeps it. If it is gone for good: streamspace-devplane forget --agent ${id}`;
const HELP = {
  approved: () => "Approved; it connects within 30 s, if it is still running.",
  draining: () => "Its leader finishes what it has begun and hands over. The sessions run on.",
  handover: () => "Its leader has left; another replica takes over, usually within seconds. The sessions run on.",
  rejected: (where, id) => `It is refused. To let it in after all, start it again after: streamspace-devplane approve ${id}`,
  offline: AWAY,
  stale: AWAY,
};

// "128Gi" is how the agent writes it to machines.
const unit = (amount) => String(amount).replace(/^([\d.]+)([KMGT]i)$/, "$1 $2B");

function load({ agentId, connected, capacity }) {
  const count = runningOn(agentId, sessions);
  const most = capacity.maxSessions === undefined ? "" : `, of at most ${capacity.maxSessions}`;
  const shared = [capacity.cpu, capacity.memory].filter(Boolean).map(unit).join(" and ");
  return `${counted(count, "session runs", "sessions run")}${connected || count === 0 ? "" : " as far as known"}${most}${most && shared && ` that share ${shared}`}`;
}

class Card {
  constructor(agent) {
    this.state = el("span", { className: "state" });
    this.capacity = el("p", { className: "facts" });
    this.leader = el("p", { className: "facts" });
    this.link = el("p", { className: "facts" });
    const judge = (verdict, button) => press(button, async () => {
      await call("POST", `/agents/${encodeURIComponent(agent.agentId)}/${verdict}`, {});
      forgive();
    }, complain);
    const ask = ({ currentTarget: button }) => {
      say($("reject-title"), `Reject ${agent.agentId}?`);
      say($("reject-undo"), `streamspace-devplane approve ${agent.agentId}`);
      $("reject-form").onsubmit = () => judge("reject", button);
      openDialog($("reject-dialog"));
    };
    const button = (text, onclick, className = "") =>
      el("button", { type: "button", className, onclick, "aria-label": `${text} ${agent.agentId}` }, text);
    this.help = el("p", { className: "busy" });
    this.verdict = el("div", { className: "actions" },
      button("Approve", (event) => judge("approve", event.currentTarget), "primary"), button("Reject", ask, "danger"));
    this.node = el("article", { className: "card" },
      el("div", { className: "top" }, el("h3", {}, agent.agentId), this.state),
      this.leader, this.capacity, this.link, this.help, this.verdict);
  }

  update(agent) {
    const { metadata } = agent;
    const state = standing(agent);
    say(this.state, state === "pending" ? "waits for approval" : NAMES[state] ?? state);
    this.state.className = `state ${state}`;
    say(this.leader, lead(metadata, agent.connected || agent.approval === "pending"));
    say(this.capacity, load(agent));
    const beat = agent.heartbeatAt ? `heartbeat ${ago(agent.heartbeatAt)}` : "no heartbeat yet";
    say(this.link, `${agent.connected ? "Connected" : "Not connected"}, ${beat}`);
    show(this.link, agent.approval !== "pending");
    show(this.capacity, agent.approval !== "pending");
    say(this.help, HELP[state]?.(metadata.hostname ? ` on ${metadata.hostname}` : "", agent.agentId) ?? "");
    show(this.verdict, agent.approval === "pending");
  }
}
