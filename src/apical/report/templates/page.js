"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const hidden = {}; // figure id -> numbers of the rules that its legend has hidden

// A specification names colours and fonts by CSS variable; Plotly wants the values of this very theme.
function resolve(value, css) {
  if (Array.isArray(value)) return value.map((item) => resolve(item, css));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, css)]));
  const name = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
  return name ? css.getPropertyValue(name[1]).trim() : value;
}

function draw(id) {
  const plot = document.getElementById(id);
  const css = getComputedStyle(root);
  const width = plot.clientWidth;
  const narrow = width < 600;
  const layout = resolve(narrow ? specs[id].narrow : specs[id].wide, css);
  const data = specs[id].data.map((trace) => ({ ...resolve(trace, css), visible: !hidden[id].has(trace.meta) }));
  Plotly.react(plot, data, { ...layout, width }, {
    displaylogo: false,
    displayModeBar: narrow ? false : "hover",
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: id },
  });
}

for (const id of Object.keys(specs)) {
  hidden[id] = new Set();
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (width !== (width = Math.round(entry.contentRect.width))) draw(id);
  }).observe(document.getElementById(id));
}

function mark(id) {
  for (const key of document.querySelectorAll(`[data-figure="${id}"]`))
    key.setAttribute("aria-pressed", !hidden[id].has(Number(key.dataset.rule)));
  draw(id);
}
for (const key of document.querySelectorAll("[data-figure]")) {
  const id = key.dataset.figure;
  const rule = Number(key.dataset.rule);
  key.addEventListener("click", () => {
    if (!hidden[id].delete(rule)) hidden[id].add(rule);
    mark(id);
  });
  key.addEventListener("dblclick", () => { // alone; or, where it is alone already, all of them
    const others = specs[id].data.map((trace) => trace.meta).filter((other) => other !== rule);
    hidden[id] = new Set(others.every((other) => hidden[id].has(other)) ? [] : others);
    mark(id);
  });
}

const toggle = document.getElementById("theme");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
function retheme() {
  toggle.setAttribute("aria-pressed", dark());
  Object.keys(specs).forEach(draw);
}
toggle.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  retheme();
});
systemDark.addEventListener("change", retheme);
toggle.setAttribute("aria-pressed", dark());

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code); // where a browser allows no clipboard, Ctrl-C is left to do
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
