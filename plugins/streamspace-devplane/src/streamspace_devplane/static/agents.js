// The agents' cards.
import { $, complain, el, forgive, keyed, press, say, show } from "./dom.js";
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

class Card {
  constructor(agent) {
    this.state = el("span", { className: "state" });
    this.capacity = el("p", { className: "facts" });
    this.leader = el("p", { className: "facts" });
    this.link = el("p", { className: "facts" });
    const judge = (verdict) => (event) => press(event.currentTarget, async () => {
      await call("POST", `/agents/${encodeURIComponent(agent.agentId)}/${verdict}`, {});
      forgive();
    }, complain);
    const button = (text, onclick, className = "") =>
      el("button", { type: "button", className, onclick, "aria-label": `${text} ${agent.agentId}` }, text);
    this.verdict = el("div", { className: "actions" },
      button("Approve", judge("approve"), "primary"), button("Reject", judge("reject"), "danger"));
    this.node = el("article", { className: "card" },
      el("div", { className: "top" }, el("h3", {}, agent.agentId), this.state),
      this.leader, this.capacity, this.link, this.verdict);
  }

  update(agent) {
    const { metadata, capacity } = agent;
    const state = agent.approval === "approved" ? agent.status : agent.approval;
    say(this.state, state === "pending" ? "waits for approval" : state);
    this.state.className = `state ${state}`;
    say(this.leader, lead(metadata, agent.connected || agent.approval === "pending"));
    const count = running[agent.agentId] ?? 0;
    const most = capacity.maxSessions === undefined ? "" : `${capacity.maxSessions} sessions`;
    const room = [most, capacity.cpu, capacity.memory].filter(Boolean).join(", ");
    say(this.capacity, `${count} ${count === 1 ? "session runs" : "sessions run"}${room && `; room for ${room}`}`);
    const beat = agent.heartbeatAt ? `heartbeat ${ago(agent.heartbeatAt)}` : "no heartbeat yet";
    say(this.link, `${agent.connected ? "Linked" : "No link"}, ${beat}`);
    show(this.verdict, agent.approval === "pending");
  }
}
