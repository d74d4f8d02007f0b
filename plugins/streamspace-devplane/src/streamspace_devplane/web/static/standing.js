// How an agent stands, and whether it could take a session.

const HANDOVER = 30; // seconds that another replica may take to lead before its agent counts as away

// Its leader left a moment ago, and another replica may be about to lead: no trouble yet.
export function changesLeader(agent) {
  if (!agent || agent.connected || agent.approval !== "approved" || !agent.leftAt) return false;
  const { electionBackend } = agent.metadata;
  return Boolean(electionBackend) && electionBackend !== "none" && Date.now() / 1000 - agent.leftAt < HANDOVER;
}

// One that was approved and has not come back yet is not gone.
export function standing(agent) {
  const { approval, status, connected, registrations, toldStatus } = agent;
  if (approval !== "approved") return approval;
  if (connected) return toldStatus === "draining" ? "draining" : status;
  if (registrations === 0) return "approved";
  if (changesLeader(agent)) return "handover";
  return status === "stale" ? status : "offline"; // who registers looks online, connected or not
}

export const runningOn = (agentId, sessions) =>
  sessions.filter((session) => session.agentId === agentId && session.state === "running").length;

const isFull = ({ agentId, capacity }, sessions) => runningOn(agentId, sessions) >= (capacity.maxSessions ?? Infinity);

// Why a start at this agent would not even begin; empty where it would. `keeps`: commands wait for agents that are away.
export function refusal(agent, { sessions, keeps }) {
  if (!agent.connected) return keeps ? "" : "away";
  if (agent.toldStatus === "draining") return "changing its leader";
  return isFull(agent, sessions) ? "full" : "";
}

// Why nobody can take a session now; empty where somebody can.
export function nobodyTakes(state) {
  const { agents } = state;
  const approved = agents.filter((agent) => agent.approval === "approved");
  const waiting = agents.filter((agent) => agent.approval === "pending");
  const why = approved.map((agent) => refusal(agent, state));
  if (why.includes("")) return "";
  if (why.includes("full")) return "Every agent runs as many sessions as it may: stop or hibernate one first.";
  if (why.includes("changing its leader") || approved.some(changesLeader)) return "The agent is changing its leader; a session can be started in a moment.";
  if (approved.length > 0) return "No agent is connected that could run a session.";
  if (waiting.length > 0) return `Approve ${waiting[0].agentId} first: until then no agent may run a session.`;
  return "Sessions can be started once an agent is connected.";
}
