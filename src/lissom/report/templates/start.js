// Choices above the picture, the address, and the first drawing.
function choice(label, options, chosen, set) {
  const holder = make(controls, "label", {}, label + " "), select = make(holder, "select");
  for (const [value, text] of options) make(select, "option", value === chosen ? { value, selected: "" } : { value }, text);
  select.addEventListener("change", () => { set(select.value); update(); });
  return select;
}

function tick(label, checked, set, swatch = null) {
  const holder = make(controls, "label"), box = make(holder, "input", { type: "checkbox", ...(checked ? { checked: "" } : {}) });
  if (swatch) make(holder, "span", { class: `swatch ${swatch}` });
  const text = make(holder, "span", {}, label);
  box.addEventListener("change", () => { set(box.checked); draw(); });
  return { holder, box, text };
}

// All of the page that depends on the size or the part: answers, marks in tables, the point.
function update() {
  for (const node of document.querySelectorAll("[data-axis]")) node.hidden = node.dataset.axis !== state.axis;
  meaning.textContent = "";
  term(meaning, state.axis, "what is that?");
  if (state.byHand) choose(...state.chosen, state.seed);
  else { // the first knee there is, so that something is seen
    const first = data.curves.findIndex((curve) => curve.axes[state.axis] && curve.axes[state.axis].knee !== null);
    if (first >= 0) choose(first, data.curves[first].axes[state.axis].knee);
    else { state.chosen = null; chosen.textContent = ""; }
  }
  draw();
}

const ofAxis = choice("size", axes.map((axis) => [axis, word(axis)]), state.axis, (axis) => {
  state.axis = axis;
  if (state.byHand) address();
});
const meaning = make(controls, "span");
if (data.test) choice("on", [["test", "test data"], ["error", "validation data"]], state.part, (part) => { state.part = part; });
if (many) data.curves.forEach((curve, number) => tick(curve.name, true,
  (on) => on ? state.hidden.delete(number) : state.hidden.add(number), `c${number % 6}`));
const everything = tick("show all", false, (all) => { state.all = all; });

function fromAddress() { // #curve=0&point=3&seed=1&axis=macs
  const hash = new URLSearchParams(location.hash.slice(1)), seed = hash.get("seed");
  if (axes.includes(hash.get("axis"))) state.axis = ofAxis.value = hash.get("axis");
  const found = hash.has("point") && choose(Number(hash.get("curve") || 0), Number(hash.get("point")), seed === null ? null : Number(seed));
  if (found) state.byHand = state.reveal = true; // also where it is further down
  return found;
}

addEventListener("hashchange", () => {
  if (!fromAddress()) return;
  update();
  chosen.scrollIntoView({ block: "nearest" });
});
let width = 0;
new ResizeObserver(() => {
  if (plot.clientWidth !== width && !matchMedia("print").matches) { width = plot.clientWidth; draw(); }
}).observe(plot);
width = plot.clientWidth;
fromAddress();
update();
