// What the page knows, and how it says it. Words from the data only become text nodes, so names
// may hold anything.
const data = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot"), chosen = document.getElementById("chosen");
const many = data.curves.length > 1;
const controls = document.getElementById("controls"), axes = Object.keys(data.axes);
const state = { axis: axes[0], part: data.test ? "test" : "error", near: false,
  hidden: new Set(), chosen: null, seed: null };
const short = { macs: "MACs", nonzeros: "non-zero weights" }; // as axis_words in Python
const word = (axis) => short[axis] || axis;

function make(parent, tag, attributes = {}, text = null) {
  const space = parent && (parent.namespaceURI || "").endsWith("svg") || tag === "svg";
  const node = space ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// Numbers as people read them: the same as in table.py.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (n) => n >= 10 || Number.isInteger(n) ? whole.format(n) : Number(n.toPrecision(3)).toString();
const time = (s) => s < 1e-3 ? Number((1e6 * s).toPrecision(3)) + "\u00a0µs" : Number((1e3 * s).toPrecision(3)) + "\u00a0ms";
const sized = (axis, n) => axis === "latency" ? time(n) : count(n);
const gone = (axis) => word(axis) + (axis === "latency" ? " saved" : " removed");
const height = (error) => data.percent ? 100 * (1 - error) : error;
const told = (error) => data.percent ? height(error).toFixed(2) + " %" : Number(error.toPrecision(4)).toString();
const measured = (pair) => told(pair[0]) + (pair[1] === null ? "" : " ± " +
  (data.percent ? (100 * pair[1]).toFixed(2) : Number(pair[1].toPrecision(2))));
const what = data.percent ? "accuracy" : "error";
const partName = (part) => (part === "test" ? "test " : "validation ") + what;
function removed(x, more = 1) {
  const left = 100 * 2 ** -x;
  return left >= 100 ? "0" : (100 - left).toFixed(Math.min(6, Math.max(0, Math.ceil(-Math.log10(left) - 1e-9)) + more));
}
const smaller = (n, x) => n ? factor(x) : "nothing left";
const factor = (x) => (2 ** x < 20 ? (2 ** x).toFixed(1) : whole.format(2 ** x)) + "\u00a0×\u00a0smaller";
