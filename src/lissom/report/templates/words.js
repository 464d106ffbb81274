// What the page knows, and how it says it. Words from the data only become text nodes, so names
// may hold anything.
const data = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot"), chosen = document.getElementById("chosen");
const many = data.curves.length > 1;
const controls = document.getElementById("controls"), axes = data.axes;
const state = { axis: axes[0], part: data.test ? "test" : "error", all: false,
  hidden: new Set(), chosen: null, byHand: false, reveal: false, seed: null };
const word = (axis) => data.words[axis];

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
const kilobytes = (n) => n < 1000 ? `${n}\u00a0B` : [n >= 1e6 ? n / 1e6 : n / 1000].map((m) =>
  (m < 10 ? m.toFixed(1) : whole.format(m)) + (n >= 1e6 ? "\u00a0MB" : "\u00a0kB"))[0];
const factorOf = data.percent ? 100 : 1; // errors are shown in percent, or as they are
const behind = data.unit ? "\u00a0" + data.unit : "";
const digits = (n, spread = false) => data.percent ? n.toFixed(2) : Number(n.toPrecision(spread ? 2 : 4)).toString();
const told = (error) => digits(data.accuracy ? 100 * (1 - error) : factorOf * error) + behind;
const measured = (pair) => pair[1] === null ? told(pair[0])
  : told(pair[0]).slice(0, -behind.length || undefined) + " ± " + digits(factorOf * pair[1], true) + behind;
const partName = (part) => (part === "test" ? "test " : "validation ") + data.what;

// A word that terms.js explains, if the glossary has it.
function term(parent, word, text = word) {
  const id = "word-" + word.replace(" ", "-");
  if (!document.getElementById(id)) return void parent.append(text);
  make(parent, "button", { type: "button", class: "term", "aria-describedby": id }, text);
}
function removed(x, more = 1) {
  const left = 100 * 2 ** -x;
  return left >= 100 ? "0" : (100 - left).toFixed(Math.min(6, Math.max(0, Math.ceil(-Math.log10(left) - 1e-9)) + more));
}
const smaller = (n, x) => n ? factor(x) : "nothing left";
const factor = (x) => (2 ** x < 20 ? (2 ** x).toFixed(1) : whole.format(2 ** x)) + "\u00a0×\u00a0smaller";
