// The dialog that starts a session.
import { $, complain, el, forgive, openDialog, press, say, show } from "./dom.js";
import { call } from "./plane.js";
import { refusal, nobodyTakes } from "./standing.js";

let templates = [];

let latest;

// `asked` tells what is there at the moment.
export function prepareStart(asked) {
  latest = asked;
  $("start").onclick = () => press($("start"), open, complain);
  $("start-template").onchange = describe;
  $("start-form").onsubmit = (event) => {
    event.preventDefault();
    press($("start-submit"), submit, (error) => {
      say($("start-error"), error.message);
      show($("start-error"), true);
    });
  };
}

// A start that nobody could take would only fail. `away`: the control plane is, and there is nobody to ask.
export function offerStart(state, away) {
  const why = nobodyTakes(state);
  $("start").disabled = away || Boolean(why);
  say($("start-why"), why);
  show($("start-why"), Boolean(why) && !away && state.agents.length > 0);
}

async function open() {
  templates = await call("GET", "/templates");
  $("start-template").replaceChildren(
    ...templates.map(({ metadata, spec }) => el("option", { value: metadata.name }, spec?.displayName ?? metadata.name)));
  $("start-agent").replaceChildren(
    el("option", { value: "" }, "any"),
    ...agents().map((agent) => {
      const why = refusal(agent, latest());
      const text = agent.connected ? why : why || "away: it would wait";
      return el("option", { value: agent.agentId, disabled: Boolean(why) }, text ? `${agent.agentId} (${text})` : agent.agentId);
    }));
  $("start-form").reset();
  describe();
  show($("start-error"), false);
  openDialog($("start-dialog"));
}

const agents = () => (latest()?.agents ?? []).filter((agent) => agent.approval === "approved");

// Of an ended session the name is free again, and of one that was never started.
function lives(name) {
  const session = latest()?.sessions.find(({ sessionId }) => sessionId === name);
  if (!session || session.state === "failed" || session.state === "terminated") return false;
  return session.state !== "pending" || session.lastStart?.state !== "failed";
}

function chosen() {
  return templates.find(({ metadata }) => metadata.name === $("start-template").value);
}

function describe() {
  const spec = chosen()?.spec ?? {};
  say($("start-hint"), spec.description ?? "");
  $("start-form").elements.image.value = spec.baseImage ?? "";
}

async function submit() {
  const fields = $("start-form").elements;
  const wish = { template: fields.template.value, user: fields.user.value, persistentHome: fields.persistentHome.checked };
  for (const name of ["sessionId", "cpu", "memory", "idleTimeout", "agentId"]) {
    const value = fields[name].value.trim();
    if (value) wish[name] = value;
  }
  if (lives(wish.sessionId)) {
    fields.sessionId.focus();
    throw new Error(`There is a session of this name: ${wish.sessionId}.`);
  }
  const template = chosen();
  const image = fields.image.value.trim();
  if (image !== (template.spec?.baseImage ?? "")) wish.manifest = { ...template, spec: { ...template.spec, baseImage: image } };
  await call("POST", "/sessions", wish);
  $("start-dialog").close();
  forgive();
}
