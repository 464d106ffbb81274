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

// Where the useful end is: errors up to twice the best one, or 2½ times what the knees cost.
function useful(rows) {
  const knees = rows.filter((r) => kind(r.curve, r.at) === "knee").map((r) => r.wrong);
  const best = Math.min(...rows.map((r) => r.wrong));
  return knees.length ? Math.max(2 * best, best + 2.5 * (Math.max(...knees) - best)) : Infinity;
}

let tip = null, ink = []; // ink: places where the curves are drawn, which the tip leaves free
function draw() {
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  plot.textContent = "";
  plot.classList.add("live");
  const width = Math.max(300, Math.min(960, plot.clientWidth || 900)), tall = Math.max(300, Math.min(460, width * 0.55));
  const edge = { left: 52, right: 14, top: 12, bottom: 58 };
  const rows = shown().flatMap(({ curve, number }) => curve.points.map((point, at) => {
    const pair = point[state.part] || point.error, x = curve.axes[state.axis].halvings[at];
    return { curve, number, point, at, x, wrong: factorOf * pair[0], std: factorOf * (pair[1] || 0) };
  }));
  everything.holder.hidden = true;
  if (!rows.length) return void make(plot, "p", {}, "No curve is chosen, or none has this size.");
  const limit = useful(rows);
  if (state.reveal && rows.some((r) => r.wrong > limit && [r.number, r.at].join() === state.chosen.join())) state.all = everything.box.checked = true;
  state.reveal = false;
  const cut = (r) => !state.all && r.wrong > limit;
  const beyond = rows.filter((r) => r.wrong > limit).length;
  everything.holder.hidden = !beyond;
  everything.text.textContent = `show all (${beyond} of ${rows.length} points are further down)`;
  const most = Math.max(0.25, ...rows.map((r) => r.x)), least = Math.min(0, ...rows.map((r) => r.x)) - 0.03 * most;
  const ends = rows.filter((r) => !cut(r)).flatMap((r) => [r.wrong - r.std, r.wrong + r.std]);
  let [low, high] = [Math.max(0, Math.min(...ends)), Math.max(...ends)];
  if (beyond && !state.all) high = limit; // nor closer, where differences are chance
  const air = 0.05 * (high - low || 1);
  [low, high] = [low - air, high + air];
  const [levels, places] = data.accuracy ? round(Math.max(0, 100 - high), 100 - Math.max(0, low)) : round(Math.max(0, low), high);
  edge.left = 26 + 7 * Math.max(...levels.map((level) => level.toFixed(places).length)); // room for its numbers
  const px = (x) => edge.left + (x - least) / (most * 1.03 - least) * (width - edge.left - edge.right);
  const py = (wrong) => edge.top + (wrong - low) / (high - low) * (tall - edge.top - edge.bottom); // up is better
  const bottom = tall - edge.bottom;

  const svg = make(plot, "svg", { viewBox: `0 0 ${width} ${tall}`, role: "group",
    "aria-label": `${partName(state.part)} against ${gone(state.axis)}; arrow keys go from point to point, Enter shows one` });
  make(make(make(svg, "defs"), "clipPath", { id: "inside" }), "rect",
    { x: edge.left - 12, y: edge.top - 8, width: width - edge.left - edge.right + 24, height: bottom - edge.top + 8 });
  for (const level of levels) {
    const y = py(data.accuracy ? 100 - level : level);
    make(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y, y2: y });
    make(svg, "text", { class: "level", x: edge.left - 8, y: y + 4, "text-anchor": "end" }, level.toFixed(places));
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
  make(svg, "text", { class: "name", x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${(edge.top + bottom) / 2}) rotate(-90)` },
    partName(state.part) + (data.unit && ", " + data.unit) + (data.accuracy ? "" : " (up is better)"));

  ink = [];
  for (const { curve, number } of shown()) {
    const ours = rows.filter((r) => r.number === number), on = curve.axes[state.axis];
    const front = on.front.map((at) => ours.find((r) => r.at === at));
    const group = make(svg, "g", { class: `series c${number % 6}`, "data-curve": number });
    const inside = make(group, "g", { "clip-path": "url(#inside)" });
    if (front.some((r) => r.std > 0)) {
      const up = front.map((r) => `${px(r.x)},${py(r.wrong - r.std)}`), down = front.map((r) => `${px(r.x)},${py(r.wrong + r.std)}`);
      make(inside, "polygon", { class: "band", points: [...up, ...down.reverse()].join(" ") });
    }
    const line = front.map((r) => [px(r.x), py(r.wrong)]);
    make(inside, "polyline", { class: "line", points: line.join(" ") });
    line.slice(1).forEach(([x, y], i) => {
      for (let t = 0; t <= 1; t += 0.01) ink.push([line[i][0] + t * (x - line[i][0]), line[i][1] + t * (y - line[i][1])]);
    });
    ink = ink.filter(([, y]) => y < bottom);
    if (on.knee !== null && on.range && on.range[0] < on.range[1]) {
      const [a, b] = on.range.map((s) => px(Math.log2((curve.dense[state.axis] || 0.5) / (s || 0.5)))), y = py(ours[on.knee].wrong);
      make(inside, "line", { class: "range", x1: a, x2: b, y1: y, y2: y });
      for (const x of [a, b]) make(inside, "line", { class: "range", x1: x, x2: x, y1: y - 6, y2: y + 6 });
    }
    // What zooming cuts off cannot be reached either.
    const order = ours.filter((r) => !cut(r)).sort((a, b) => a.x - b.x);
    order.forEach((row, step) => {
      ink.push([px(row.x), py(row.wrong)]);
      dot(group, row, px(row.x), py(row.wrong), py(row.wrong) - py(row.wrong - row.std), order, step);
    });
  }
  key();
  tip = make(plot, "div", { class: "tip", hidden: "" });
  markChosen();
  const again = focused && plot.querySelector(`[data-key="${focused}"]`);
  if (again) again.focus();
}

// Beside the curves: of the places around a point, in the corners and below, the one that hides least.
function beside(x, y, w, h, wide, tall) {
  const near = [20, -w - 20, -w / 2].flatMap((dx) => [20, -h - 20, -h / 2].map((dy) => [x + dx, y + dy]));
  const corners = [[56, tall - h - 64], [wide - w - 4, 4], [56, 4], [wide - w - 4, tall - h - 64]];
  const cost = ([left, top]) => Math.hypot(left + w / 2 - x, top + h / 2 - y) +
    500 * ink.filter(([a, b]) => a > left - 8 && a < left + w + 8 && b > top - 8 && b < top + h + 8).length;
  const clamp = (n, most) => Math.min(Math.max(0, n), most);
  return [...[...near, ...corners].map(([left, top]) => [clamp(left, wide - w), clamp(top, tall - h)]), [clamp(x - w / 2, wide - w), tall]]
    .sort((a, b) => cost(a) - cost(b))[0];
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
    const svg = plot.querySelector("svg"), { width, height } = svg.viewBox.baseVal;
    const scale = svg.getBoundingClientRect().width / width;
    const [left, top] = beside(x, y, tip.offsetWidth / scale, tip.offsetHeight / scale, width, height);
    tip.style.left = scale * left + "px";
    tip.style.top = scale * top + "px";
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
  if (point.test) lines.push(`${partName("test")} ${measured(point.test)}`);
  lines.push(`${partName("error")} ${measured(point.error)}`);
  const [left] = point.sizes[state.axis];
  lines.push((state.axis === "latency" ? `${word("latency")} ${time(left)}` : `${count(left)} ${word(state.axis)}`) + `, ${smaller(left, x)}`);
  if (left) lines.push(`${removed(x)} % ${state.axis === "latency" ? "saved" : "removed"}`);
  if (point.failed.length) lines.push(`failed: seed ${point.failed.join(", ")}`);
  return lines;
}

function key() {
  const list = make(plot, "div", { class: "key" });
  const points = shown().flatMap(({ curve }) => curve.points), kinds = new Set(shown().flatMap(({ curve }) => curve.points.map((_, at) => kind(curve, at))));
  const words = { front: ", mean over seeds", knee: ", and the seeds' own", dominated: "", "from-scratch": "" };
  for (const [is, more] of Object.entries(words)) {
    if (!kinds.has(is)) continue;
    const entry = make(list, "span");
    symbol(make(make(entry, "svg", { viewBox: "0 0 18 18", class: many ? "" : "c0", "aria-hidden": "true" }), "g", { class: is }), is, 9, 9);
    term(entry, is.replace("-", " "));
    if (points.some((p) => p.error[1] !== null)) entry.append(more);
  }
  if (points.some((p) => p.sizes[state.axis][0] === 0)) make(list, "span", {}, "nothing left is drawn as a half left");
  const entry = make(list, "span");
  if (points.some((p) => p.error[1] !== null)) {
    term(entry, "band");
    entry.append(": ± one standard deviation over seeds");
  } else if (kinds.size) entry.append("one seed: no band");
}
