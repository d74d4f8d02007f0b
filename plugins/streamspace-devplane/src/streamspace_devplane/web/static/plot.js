// A small plot over the last minutes.
import { el, say } from "./dom.js";

const WINDOW = 600; // seconds
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 60;

export class Plot {
  // The scale ends above the highest value shown, and never below `least`: what is less than that is no load worth a mountain.
  constructor(kind, title, { bare, full, least }) {
    this.least = least;
    this.bare = bare;
    this.format = full;
    this.title = title;
    this.points = [];
    this.svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" })) {
      this.svg.setAttribute(name, value);
    }
    [this.area, this.line] = ["area", "line"].map((name) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      this.svg.append(path);
      return path;
    });
    this.now = el("b");
    this.scale = el("span");
    const caption = el("figcaption", {}, el("span", {}, `${title} `, this.now), this.scale); // a line each, here as in the plot beside it
    this.node = el("figure", { className: `plot ${kind}` }, caption, this.svg);
  }

  add(time, value, limit) {
    const last = this.points.at(-1);
    if (last && time <= last[0]) return;
    this.points.push([time, value]);
    this.limit = limit;
    while (this.points[0][0] < time - WINDOW) this.points.shift();
  }

  clear() {
    this.points = [];
    this.draw();
  }

  draw() {
    if (!this.points.length) {
      for (const path of [this.area, this.line]) path.setAttribute("d", "");
      say(this.now, "");
      say(this.scale, "not measured yet");
      return;
    }
    const [end, value] = this.points.at(-1);
    const begin = Math.min(this.points[0][0], end - 60);
    const peak = Math.max(...this.points.map((point) => point[1]));
    const top = Math.max(peak * 1.15, this.least);
    const x = (time) => (((time - begin) / (end - begin)) * WIDTH).toFixed(1);
    const y = (amount) => (HEIGHT - 2 - (amount / top) * (HEIGHT - 6)).toFixed(1);
    const line = this.points.map(([time, amount]) => `${x(time)} ${y(amount)}`).join("L");
    this.line.setAttribute("d", `M${line}${this.points.length > 1 ? "" : "h.1"}`);
    this.area.setAttribute("d", `M${x(this.points[0][0])} ${HEIGHT}L${line}L${WIDTH} ${HEIGHT}Z`);
    say(this.now, this.format(value));
    say(this.scale, this.limit ? `peak ${this.bare(peak)} of ${this.format(this.limit)}` : `peak ${this.format(peak)}`);
    this.svg.setAttribute("aria-label", `${this.title} ${this.format(value)}, highest ${this.format(peak)} in the last ${Math.round((end - begin) / 60)} minutes`);
  }
}
