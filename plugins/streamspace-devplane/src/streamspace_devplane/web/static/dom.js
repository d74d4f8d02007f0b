// Elements without HTML strings: whatever agents and users say ends up as text.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Only real changes: a reader's selection and a screen reader's attention stay where they are.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

// A text of which more than the first line is folded away; what a reader has unfolded stays so until the text changes.
export class Folded {
  constructor(className) {
    this.node = el("div", { className });
    this.text = "";
  }

  say(text) {
    if (this.text === text) return;
    this.text = text;
    const [first, ...rest] = text.trim().split("\n");
    this.node.replaceChildren(rest.length === 0 ? first
      : el("details", {}, el("summary", {}, first), el("div", { className: "rest" }, rest.join("\n"))));
  }
}

// Keep one part per key in `box`, in the order of `items`; parts have `node` and `update(item)`. Where a part or its
// button goes while it has the keyboard's focus, what comes next takes that, and its reader does not lose the place.
export function keyed(box, parts, items, key, make) {
  const heading = box.closest("section")?.querySelector("h2");
  const wanted = new Set(items.map(key));
  for (const [id, part] of parts) {
    if (wanted.has(id)) continue;
    const held = part.node.contains(document.activeElement);
    part.node.remove();
    parts.delete(id);
    if (held) heading?.focus();
  }
  items.forEach((item, place) => {
    const id = key(item);
    if (!parts.has(id)) parts.set(id, make(item));
    const part = parts.get(id);
    const held = part.node.contains(document.activeElement) && document.activeElement;
    part.update(item);
    if (held && held.closest("[hidden]")) (toPress(part.node) ?? heading)?.focus();
    if (box.children[place] !== part.node) box.insertBefore(part.node, box.children[place] ?? null);
  });
}

const toPress = (node) => [...node.querySelectorAll("button, a")].find((button) => !button.closest("[hidden]"));

// Run what a button is for. Until it is done a second press does nothing; what goes wrong is told.
export async function press(button, work, tell) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    await work();
  } catch (error) {
    tell(error);
  } finally {
    button.ariaBusy = "false";
  }
}

// The first page's line for trouble, until something goes well, or trouble of that kind is over.
let trouble = null;

export function complain(error) {
  trouble = error;
  say($("notice"), error.message);
  show($("notice"), true);
}

export function forgive(kind = Error) {
  if (trouble instanceof kind) show($("notice"), false);
}

export function openDialog(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.onclick = () => dialog.close();
  dialog.showModal();
}
