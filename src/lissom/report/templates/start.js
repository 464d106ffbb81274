// Choices above the picture, the address, and the first drawing.
function choice(label, options, chosen, set) {
  const select = make(make(controls, "label", {}, label + " "), "select");
  for (const [value, text] of options) make(select, "option", value === chosen ? { value, selected: "" } : { value }, text);
  select.addEventListener("change", () => { set(select.value); draw(); if (state.chosen) choose(...state.chosen); });
  return select;
}

function tick(label, checked, set, swatch = null) {
  const holder = make(controls, "label"), box = make(holder, "input", { type: "checkbox", ...(checked ? { checked: "" } : {}) });
  if (swatch) make(holder, "span", { class: `swatch ${swatch}` });
  holder.append(label);
  box.addEventListener("change", () => { set(box.checked); draw(); });
}

const ofAxis = choice("size", axes.map((axis) => [axis, word(axis)]), state.axis, (axis) => { state.axis = axis; });
if (data.test) choice("on", [["test", "test data"], ["error", "validation data"]], state.part, (part) => { state.part = part; });
if (data.percent) tick("the best 5 points only", false, (near) => { state.near = near; });
if (many) data.curves.forEach((curve, number) => tick(curve.name, true,
  (on) => on ? state.hidden.delete(number) : state.hidden.add(number), `c${number % 6}`));

function fromAddress() { // #curve=0&point=3&seed=1&axis=macs
  const hash = new URLSearchParams(location.hash.slice(1)), seed = hash.get("seed");
  if (axes.includes(hash.get("axis"))) state.axis = ofAxis.value = hash.get("axis");
  return hash.has("point") && choose(Number(hash.get("curve") || 0), Number(hash.get("point")), seed === null ? null : Number(seed));
}

addEventListener("hashchange", () => {
  if (!fromAddress()) return;
  draw();
  chosen.scrollIntoView({ block: "nearest" });
});
let width = 0;
new ResizeObserver(() => {
  if (plot.clientWidth !== width && !matchMedia("print").matches) { width = plot.clientWidth; draw(); }
}).observe(plot);
if (!fromAddress()) { // the first knee there is, so that something is seen
  const first = data.curves.findIndex((curve) => curve.axes[state.axis] && curve.axes[state.axis].knee !== null);
  if (first >= 0) choose(first, data.curves[first].axes[state.axis].knee);
}
width = plot.clientWidth;
draw();
