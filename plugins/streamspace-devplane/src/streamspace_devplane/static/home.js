// The first page: agents, sessions, messages.
import { showAgents } from "./agents.js";
import { $, complain, say, show } from "./dom.js";
import { addToLog, prepareLog } from "./log.js";
import { call, follow } from "./plane.js";
import { noteUsage, showSessions } from "./sessions.js";
import { prepareStart } from "./start.js";

let agents = [];

const scheme = location.protocol === "https:" ? "wss" : "ws";
say($("agent-command"), `AGENT_ID=my-agent CONTROL_PLANE_URL=${scheme}://${location.host} AGENT_API_KEY_FILE=my-agent.key docker-agent`);
prepareLog();
prepareStart(() => agents);

follow($("feed"), {
  state(state) {
    agents = state.agents;
    showAgents(agents, state.sessions);
    showSessions(state.sessions, state.unseen);
  },
  log(rows) {
    addToLog(rows);
    noteUsage(rows);
  },
});

call("GET", "/viewer").then(({ available, help }) => {
  say($("no-viewer"), help ?? "");
  show($("no-viewer"), !available);
}, complain);
