// The chosen point: its sizes, its layers, who reads which input, its classes, and its network.
function choose(number, at, seed = null) {
  const curve = data.curves[number];
  if (!curve || !curve.points[at]) return false;
  const same = state.chosen && state.chosen[0] === number;
  state.seed = seed === null && same ? state.seed : seed;
  state.chosen = [number, at];
  detail();
  markChosen();
  return true;
}

function pin(number, at, seed = null) {
  if (!choose(number, at, seed)) return;
  state.byHand = true;
  address();
}

function address() {
  const hash = new URLSearchParams(), [number, at] = state.chosen;
  if (number) hash.set("curve", number);
  hash.set("point", at);
  if (state.seed !== null) hash.set("seed", state.seed);
  if (state.axis !== axes[0]) hash.set("axis", state.axis);
  try { history.replaceState(null, "", "#" + hash); } catch { /* a page within a mail has no address */ }
}

function markChosen() {
  const key = state.chosen ? state.chosen.join("-") : null;
  for (const node of plot.querySelectorAll(".point")) node.classList.toggle("pinned", node.dataset.key === key);
  document.querySelectorAll("table.points").forEach((table, number) => {
    table.querySelectorAll("tbody tr").forEach((row, at) => row.classList.toggle("pinned", `${number}-${at}` === key));
  });
}

function detail() {
  const [number, at] = state.chosen, curve = data.curves[number], point = curve.points[at];
  const network = point.networks.find((one) => one.seed === state.seed) || point.networks[0];
  const is = kind(curve, at);
  chosen.textContent = "";
  chosen.className = `c${number % 6}`;
  make(chosen, "h2", { class: many ? "curve" : "" }, (many ? curve.name + ": " : "") + point.title + also(is));
  make(chosen, "div", {}, summary(curve, at).slice(1).join(" · "));
  const seeds = make(chosen, "div", { class: "seeds" });
  make(seeds, "span", {}, point.networks.length > 1 ? "Network of seed" : `Network of seed ${network.seed}`);
  if (point.networks.length > 1) for (const one of point.networks) {
    const button = make(seeds, "button", { type: "button", "aria-pressed": one === network, class: one === network ? "" : "screen" }, one.seed);
    button.addEventListener("click", () => {
      pin(number, at, one.seed);
      chosen.querySelector("button[aria-pressed=true]")?.focus();
    });
  }
  if (network.link) {
    const link = make(seeds, "a", { download: network.link.name, class: "screen" }, `download ${network.link.name}`);
    link.setAttribute("href", network.link.href);
    make(seeds, "span", { class: "screen" }, kilobytes(network.link.bytes));
    make(chosen, "pre", { class: "code" }, network.link.code);
  }
  const parts = make(chosen, "div", { class: "parts" }), left = make(parts, "div"), right = make(parts, "div");
  layers(left, curve, network);
  sizes(right, curve, network);
  if (network.readers && curve.pattern) pattern(right, curve.pattern, network.readers);
  if (network.classes) classes(left, curve.classes, network.classes);
}

function grid(parent, title, columns, cells) {
  make(parent, "h3", {}, title);
  const table = make(make(parent, "div", { class: "wide" }), "table"), head = make(make(table, "thead"), "tr");
  for (const column of columns) make(head, "th", {}, column);
  const body = make(table, "tbody");
  for (const row of cells) {
    const line = make(body, "tr");
    for (const cell of row) {
      if (typeof cell === "string") make(line, "td", {}, cell);
      else if (Array.isArray(cell)) term(make(line, "td"), ...cell); // a word and its text
      else make(make(line, "td", { class: "bar" }), "div").style.width = `${100 * cell}%`; // a fraction
    }
  }
}

function layers(parent, curve, network) {
  if (!network.nonzero) return void make(parent, "p", {}, `Its layers are not shown: ${network.why}`);
  const cells = curve.layers.map((layer, i) => [layer.name, layer.shape.join(" × "), count(network.nonzero[i]),
    count(layer.weights), network.nonzero[i] / Math.max(1, layer.weights)]);
  grid(parent, "Layers, before shrinking", ["parameter", "shape", "non-zero", "of", ""], cells);
}

function sizes(parent, curve, network) {
  const cells = Object.entries(network.sizes).filter(([axis]) => axis !== "bits").map(([axis, n]) =>
    [[axis, word(axis)], sized(axis, n), smaller(n, Math.log2((curve.dense[axis] || 0.5) / (n || 0.5)))]);
  if (network.link) cells.push([["file"], kilobytes(network.link.bytes), ""]);
  const scores = [...(network.test === null ? [] : [[["test", partName("test")], told(network.test), ""]]),
    [["validation", partName("error")], told(network.error), ""]];
  grid(parent, "This network", ["", "", ""], [...scores, ...cells, ["made in", network.seconds.toFixed(1) + "\u00a0s", ""]]);
  if (network.empty) make(parent, "p", {}, "Its answer does not depend on the input any more.");
}

function pattern(parent, about, readers) {
  const image = about.height > 1, most = Math.max(1, ...readers), tall = image ? about.height : 40;
  const title = make(parent, "h3");
  title.append(image ? "Who " : "How many units ");
  term(title, "reads", image ? "reads" : "read");
  title.append(image ? " which input" : " each input");
  const figure = make(parent, "div", { class: "pattern" + (image ? "" : " strip") });
  const svg = make(figure, "svg", { viewBox: `0 0 ${about.width} ${tall}`, "shape-rendering": "crispEdges", fill: "currentColor",
    role: "img", "aria-label": `how many units of ${about.name} read each input`, ...(image ? {} : { preserveAspectRatio: "none" }) });
  readers.forEach((count, i) => {
    if (!count) return; // transparent
    const fraction = count / most, x = i % about.width, y = Math.floor(i / about.width);
    if (image) make(svg, "rect", { x, y, width: 1, height: 1, "fill-opacity": (0.2 + 0.8 * fraction).toFixed(2) });
    else make(svg, "rect", { x, y: tall * (1 - fraction), width: 1, height: tall * fraction });
  });
  scale(figure, most, image);
  const read = readers.filter((count) => count).length;
  make(figure, "div").append(make(null, "small", {}, `${about.name}: ${count(read)} of ${count(readers.length)} inputs are read, by ≤ ${count(most)} of ${count(about.units)} units`));
}

function scale(figure, most, image) { // what the shades, or the heights, stand for
  const legend = make(figure, "div", { class: "scale" });
  if (!image) return void make(legend, "span", {}, `bars: 0 to ${count(most)} units`);
  make(legend, "span", { class: "none" });
  make(legend, "span", {}, "0");
  make(legend, "span", {}, most > 1 ? "1" : "");
  make(legend, "span", { class: "ramp" }).style.background =
    `linear-gradient(to right, color-mix(in srgb, currentColor ${most > 1 ? 20 + 80 / most : 100}%, transparent), currentColor)`;
  make(legend, "span", {}, count(most) + (most > 1 ? " units" : " unit"));
}

function classes(parent, names, accuracies) {
  grid(parent, "Accuracy by class", ["class", "%", ""], names.map((name, i) => [name, (100 * accuracies[i]).toFixed(1), accuracies[i]]));
}
