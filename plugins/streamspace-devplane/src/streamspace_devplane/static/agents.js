// The agents' cards.
import { $, complain, el, forgive, keyed, openDialog, press, say, show } from "./dom.js";
import { call } from "./plane.js";
import { ago } from "./words.js";

const cards = new Map();
let rows = [];
let running = {};

export function showAgents({ agents, sessions }) {
  rows = agents;
  running = {};
  for (const { agentId, state } of sessions) if (state === "running") running[agentId] = (running[agentId] ?? 0) + 1;
  show($("no-agents"), agents.length === 0);
  keyed($("agents"), cards, agents, (agent) => agent.agentId, (agent) => new Card(agent));
}

setInterval(() => rows.forEach((agent) => cards.get(agent.agentId)?.update(agent)), 1000);

// Where nobody else could lead, the host says enough.
function lead({ leader, hostname, epoch, electionBackend }, now) {
  const elected = electionBackend && electionBackend !== "none";
  if (!elected) return hostname ? `${now ? "Runs" : "Last ran"} on ${hostname}` : "";
  return `${now ? "Led" : "Last led"} by ${leader ?? hostname ?? "a replica"}, epoch ${epoch ?? "unknown"} (elected by ${electionBackend})`;
}

// What its card says of it; one that was approved and has not come back yet is not gone.
function stateOf({ approval, status, connected, registrations }) {
  if (approval !== "approved") return approval;
  return connected ? status : registrations === 0 ? "approved" : status;
}

const AWAY = (where, id) => `Is docker-agent still running${where}? It connects again by itself, and its own log says what keeps it. If it is gone for good: streamspace-devplane forget --agent ${id}`;
const HELP = {
  approved: () => "Approved; it connects within 30 s, if it is still running.",
  offline: AWAY,
  stale: AWAY,
};

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
    const { metadata, capacity } = agent;
    const state = stateOf(agent);
    say(this.state, state === "pending" ? "waits for approval" : state);
    this.state.className = `state ${state}`;
    say(this.leader, lead(metadata, agent.connected || agent.approval === "pending"));
    const count = running[agent.agentId] ?? 0;
    const most = capacity.maxSessions === undefined ? "" : `${capacity.maxSessions} sessions`;
    const room = [most, capacity.cpu, capacity.memory].filter(Boolean).join(", ");
    say(this.capacity, `${count} ${count === 1 ? "session runs" : "sessions run"}${agent.connected || count === 0 ? "" : " as far as known"}${room && `; room for ${room}`}`);
    const beat = agent.heartbeatAt ? `heartbeat ${ago(agent.heartbeatAt)}` : "no heartbeat yet";
    say(this.link, `${agent.connected ? "Linked" : "No link"}, ${beat}`);
    say(this.help, HELP[state]?.(metadata.hostname ? ` on ${metadata.hostname}` : "", agent.agentId) ?? "");
    show(this.verdict, agent.approval === "pending");
  }
}
