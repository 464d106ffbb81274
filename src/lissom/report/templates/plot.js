// The curves as SVG: front, band, knee, points that can be hovered, focused and pinned.
const kind = (curve, at) => {
  const on = curve.axes[state.axis], point = curve.points[at];
  return point.from_scratch ? "from-scratch" : on.knee === at ? "knee" : on.front.includes(at) ? "front" : "dominated";
};
const also = (kind) => kind === "front" ? "" : `, ${kind.replace("-", " ")}`;
const shown = () => data.curves.map((curve, number) => ({ curve, number }))
  .filter(({ curve, number }) => !state.hidden.has(number) && curve.axes[state.axis]);

function marks(most, narrow) { // as series.marks in Python
  let found = [1, 2];
  if (most < 1) found = [0, 1, 2, 3, 4, 5].map((tenth) => 1 / (1 - tenth / 10));
  else for (let power = 0; power < 16; power++) found.push(...(narrow || most > 10 ? [10] : [5, 10, 20]).map((f) => f * 10 ** power));
  return found.filter((f) => Math.log2(f) <= most + 0.2);
}
function round(low, high) { // about six round numbers
  const rough = (high - low) / 6 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough);
  const found = [];
  for (let y = Math.ceil(low / step) * step; y <= high + step / 1e6; y += step) found.push(y);
  return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
}

let tip = null;
function draw() {
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  plot.textContent = "";
  plot.classList.add("live");
  const width = Math.max(300, Math.min(960, plot.clientWidth || 900)), tall = Math.max(300, Math.min(460, width * 0.55));
  const edge = { left: 52, right: 14, top: 12, bottom: 58 };
  const rows = shown().flatMap(({ curve, number }) => curve.points.map((point, at) => {
    const pair = point[state.part] || point.error, x = curve.axes[state.axis].halvings[at];
    return { curve, number, point, at, x, y: height(pair[0]), std: (data.percent ? 100 : 1) * (pair[1] || 0) };
  }));
  if (!rows.length) return void make(plot, "p", {}, "No curve is chosen, or none has this size.");
  const most = Math.max(0.25, ...rows.map((r) => r.x)), least = Math.min(0, ...rows.map((r) => r.x)) - 0.03 * most;
  let ys = rows.flatMap((r) => [r.y - r.std, r.y + r.std]);
  const good = data.percent ? Math.max(...rows.map((r) => r.y)) : 0;
  if (state.near) ys = [good - 5, ...ys.filter((y) => y >= good - 5)];
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  if (data.percent) high = Math.min(high, 100);
  const air = 0.05 * (high - low || 1);
  [low, high] = [low - (state.near ? 0 : air), high + air];
  const px = (x) => edge.left + (x - least) / (most * 1.03 - least) * (width - edge.left - edge.right);
  const py = (y) => edge.top + (data.percent ? high - y : y - low) / (high - low) * (tall - edge.top - edge.bottom); // up is better
  const bottom = tall - edge.bottom;

  const svg = make(plot, "svg", { viewBox: `0 0 ${width} ${tall}`, role: "group",
    "aria-label": `${partName(state.part)} against ${gone(state.axis)}; arrow keys go from point to point, Enter shows one` });
  make(make(make(svg, "defs"), "clipPath", { id: "inside" }), "rect",
    { x: edge.left - 12, y: edge.top - 8, width: width - edge.left - edge.right + 24, height: bottom - edge.top + 16 });
  const [levels, digits] = round(low, Math.min(high, data.percent ? 100 : high));
  for (const y of levels) {
    make(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: py(y), y2: py(y) });
    make(svg, "text", { x: edge.left - 8, y: py(y) + 4, "text-anchor": "end" }, y.toFixed(digits));
  }
  let free = -Infinity;
  for (const f of marks(most, width < 560)) {
    const x = Math.log2(f);
    make(svg, "line", { class: "grid", x1: px(x), x2: px(x), y1: edge.top, y2: bottom });
    if (px(x) < free || px(x) > width - 12) continue; // no room for its words
    free = px(x) + 46;
    make(svg, "text", { x: px(x), y: bottom + 17, "text-anchor": "middle" }, removed(x, 0) + " %");
    make(svg, "text", { x: px(x), y: bottom + 31, "text-anchor": "middle", opacity: 0.75 }, "÷ " + count(f));
  }
  make(svg, "text", { class: "name", x: (edge.left + width) / 2, y: tall - 6, "text-anchor": "middle" }, gone(state.axis));
  make(svg, "text", { class: "name", x: 0, y: 0, "text-anchor": "middle",
    transform: `translate(12 ${(edge.top + bottom) / 2}) rotate(-90)` }, partName(state.part) + (data.percent ? ", %" : ""));

  const inside = make(svg, "g", { "clip-path": "url(#inside)" });
  for (const { curve, number } of shown()) {
    const ours = rows.filter((r) => r.number === number), on = curve.axes[state.axis];
    const front = on.front.map((at) => ours.find((r) => r.at === at));
    const group = make(inside, "g", { class: `series c${number % 6}`, "data-curve": number });
    if (front.some((r) => r.std > 0)) {
      const up = front.map((r) => `${px(r.x)},${py(r.y + r.std)}`), down = front.map((r) => `${px(r.x)},${py(r.y - r.std)}`);
      make(group, "polygon", { class: "band", points: [...up, ...down.reverse()].join(" ") });
    }
    make(group, "polyline", { class: "line", points: front.map((r) => `${px(r.x)},${py(r.y)}`).join(" ") });
    if (on.knee !== null && on.range && on.range[0] < on.range[1]) {
      const [a, b] = on.range.map((s) => px(Math.log2((curve.dense[state.axis] || 0.5) / (s || 0.5)))), y = py(ours[on.knee].y);
      make(group, "line", { class: "range", x1: a, x2: b, y1: y, y2: y });
      for (const x of [a, b]) make(group, "line", { class: "range", x1: x, x2: x, y1: y - 6, y2: y + 6 });
    }
    // What zooming cuts off cannot be reached either.
    const order = ours.filter((r) => !state.near || r.y >= low).sort((a, b) => a.x - b.x);
    order.forEach((row, step) => dot(group, row, px(row.x), py(row.y), py(row.y - row.std) - py(row.y), order, step));
  }
  key();
  tip = make(plot, "div", { class: "tip", hidden: "" });
  markChosen();
  const again = focused && plot.querySelector(`[data-key="${focused}"]`);
  if (again) again.focus();
}

function symbol(parent, kind, x, y) {
  if (kind === "knee") return make(parent, "path", { class: "dot", d: `M${x} ${y - 8}l8 8l-8 8l-8 -8z` });
  return make(parent, "circle", { class: "dot", cx: x, cy: y, r: kind === "from-scratch" ? 4.5 : 5 });
}

function dot(group, row, x, y, half, order, step) {
  const is = kind(row.curve, row.at), lines = summary(row.curve, row.at);
  const node = make(group, "g", { class: `point ${is}`, "data-key": `${row.number}-${row.at}`, role: "button",
    tabindex: step === 0 ? 0 : -1, "aria-label": lines.join(", ") });
  if (row.std > 0 && (is === "from-scratch" || is === "dominated"))
    make(node, "line", { class: "spread", x1: x, x2: x, y1: y - half, y2: y + half });
  make(node, "circle", { cx: x, cy: y, r: 13, fill: "transparent" }); // room for a finger
  make(node, "circle", { class: "ring", cx: x, cy: y, r: 11 });
  symbol(node, is, x, y);
  const show = () => {
    tip.textContent = "";
    lines.forEach((line, i) => make(tip, i ? "span" : "b", {}, line));
    tip.hidden = false;
    const scale = plot.querySelector("svg").getBoundingClientRect().width / plot.querySelector("svg").viewBox.baseVal.width;
    const left = Math.min(Math.max(0, x * scale - tip.offsetWidth / 2), plot.clientWidth - tip.offsetWidth);
    const above = y * scale - tip.offsetHeight - 18;
    tip.style.left = left + "px";
    tip.style.top = (above > 0 ? above : y * scale + 18) + "px";
  };
  node.addEventListener("mouseenter", show);
  node.addEventListener("focus", () => {
    for (const other of group.querySelectorAll(".point")) other.setAttribute("tabindex", other === node ? 0 : -1);
    show();
  });
  for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => { tip.hidden = true; });
  node.addEventListener("click", () => pin(row.number, row.at));
  node.addEventListener("keydown", (event) => {
    const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") pin(row.number, row.at);
    else if (event.key === "Escape") tip.hidden = true;
    else if (along && order[step + along]) plot.querySelector(`[data-key="${row.number}-${order[step + along].at}"]`).focus();
    else if (across) { // the point of the next curve that is nearest in size
      const others = shown().map((one) => one.number), next = others[others.indexOf(row.number) + across];
      if (next === undefined) return;
      const far = (node) => Math.abs(data.curves[next].axes[state.axis].halvings[node.dataset.key.split("-")[1]] - row.x);
      [...plot.querySelectorAll(`[data-curve="${next}"] .point`)].sort((a, b) => far(a) - far(b))[0]?.focus();
    } else return;
    event.preventDefault();
  });
}

function summary(curve, at) {
  const point = curve.points[at], x = curve.axes[state.axis].halvings[at], is = kind(curve, at);
  const lines = [(many ? curve.name + ": " : "") + point.title + also(is)];
  if (point.test) lines.push(`test ${what} ${measured(point.test)}`);
  lines.push(`validation ${what} ${measured(point.error)}`);
  const [left] = point.sizes[state.axis];
  lines.push((state.axis === "latency" ? `latency ${time(left)}` : `${count(left)} ${word(state.axis)}`) + `, ${smaller(left, x)}`);
  if (left) lines.push(`${removed(x)} % ${state.axis === "latency" ? "saved" : "removed"}`);
  if (point.failed.length) lines.push(`failed: seed ${point.failed.join(", ")}`);
  return lines;
}

function key() {
  const list = make(plot, "div", { class: "key" });
  const kinds = new Set(shown().flatMap(({ curve }) => curve.points.map((_, at) => kind(curve, at))));
  const words = { front: "front, mean over seeds", knee: "knee, and the seeds' own", dominated: "dominated", "from-scratch": "trained from scratch" };
  for (const [is, text] of Object.entries(words)) {
    if (!kinds.has(is)) continue;
    const entry = make(list, "span");
    symbol(make(make(entry, "svg", { viewBox: "0 0 18 18", class: many ? "" : "c0", "aria-hidden": "true" }), "g", { class: is }), is, 9, 9);
    entry.append(text);
  }
  if (shown().some(({ curve }) => curve.points.some((p) => p.sizes[state.axis][0] === 0))) make(list, "span", {}, "nothing left is drawn as a half left");
  if (kinds.size) make(list, "span", {}, shown().some(({ curve }) => curve.points.some((p) => p.error[1] !== null)) ? "band: ± one standard deviation over seeds" : "one seed: no band");
}
