// The first page: agents, sessions, messages.
import { prepareAgents, showAgents } from "./agents.js";
import { $, complain, forgive, say, show } from "./dom.js";
import { addToLog, prepareLog } from "./log.js";
import { call, follow, Gone } from "./plane.js";
import { noteUsage, showSessions } from "./sessions.js";
import { offerStart, prepareStart } from "./start.js";

let latest = null; // as last told

const scheme = location.protocol === "https:" ? "wss" : "ws";
say($("agent-command"), `AGENT_ID=my-agent CONTROL_PLANE_URL=${scheme}://${location.host} AGENT_API_KEY_FILE=<the file that serve named> docker-agent`);
prepareAgents();
prepareLog();
prepareStart(() => latest);

function lay(away) {
  document.body.classList.toggle("away", away);
  showAgents(latest);
  showSessions(latest, away);
  offerStart(latest, away);
  const { count, last } = latest.crashes;
  if (count > 0) say($("crashes"), `The deployed control plane would have crashed here${count > 1 ? ` ${count} times` : ""}: ${last.cause} (session ${last.sessionId})`);
  show($("crashes"), count > 0);
}

follow({
  feed(text, live) {
    say($("feed"), text);
    $("feed").dataset.tone = live ? "good" : "warn";
  },
  state(state) {
    latest = state;
    forgive(Gone);
    lay(false);
  },
  away() {
    complain(new Gone());
    if (latest) lay(true);
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
