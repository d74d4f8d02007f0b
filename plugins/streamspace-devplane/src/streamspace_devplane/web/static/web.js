// Whether a web session's own page can be had now. The control plane's proxy and the agent's gateway answer in its place where not.

// Empty where it can be had, else why not. What its own server says of itself, a wish for a password too, is for people to see.
export async function refusal(address) {
  let answer;
  let text = "";
  try {
    answer = await fetch(address, { redirect: "manual", cache: "no-store" });
    text = await answer.text(); // whole: the deployed control plane dies of a browser that leaves in the middle of an answer
  } catch {
    if (!answer) return "Its web page gave no answer.";
  }
  const told = (name) => answer.headers.get(name) ?? "";
  const { status } = answer;
  const isOwn = told("content-type").startsWith("text/plain") && told("cache-control").includes("no-store");
  if (status < 400 || told("content-type").startsWith("text/html")) return "";
  if (status < 500 && status !== 409 && !isOwn && !(status === 400 && address.includes("?"))) return "";
  return said(status, text, isOwn);
}

function said(status, text, isOwn) {
  if (isOwn) return `${BEGINS[status] ?? "Its web page cannot be had"}: ${text.trim()}.`;
  const { error, message } = parsed(text);
  if (status === 503) return "Nothing listens at its web address. Its agent's gateway may be about to take over; else see WEB_GATEWAY at the agent.";
  if (status === 502) return `Its web address cannot be reached: ${message ?? error ?? "no reason was told"}. It leads to the agent's gateway: see WEB_GATEWAY at the agent, and serve --web-gateway here.`;
  return `Its web page cannot be had: ${message ?? error ?? `the answer's status is ${status}`}.`;
}

const BEGINS = { 404: "There is no web page of it", 503: "Its web page is not there yet" };

// The deployed control plane's words are pasted into its JSON as they are, which may make it none.
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { message: /"message": "(.*)"\}$/s.exec(text)?.[1] };
  }
}
