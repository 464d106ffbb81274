"""Make the tables and figures of the documentation from benchmarks/results/*.json.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    fail if a table is not what the results say

A table stands in a Markdown file between <!-- results: NAME --> and <!-- end -->. Below it stand
its records, where they come from, and whether the code that they speak of has changed since.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
sys.path.insert(0, str(Path(__file__).parent))
import ahmed_tables
import claims
import curve_tables
import device_tables
import edge_table
import exact_tables
import formanek_claims
import gate_tables
import lc_tables
import matplotlib.pyplot as plt
import runtime_table
import scale_tables
import torch
import vgg_tables
from gate_tables import helps, spread
from matplotlib.figure import Figure
from provenance import told
from summary_table import lost, summary
from vgg_tables import COLOURS, deviation

from lissom.report import ClassAccuracy, connectivity, per_class, rate_distortion, trade_off

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
FIGURES = DOCS / "figures"
SHOWN = {name for page in PAGES for name in re.findall(r"figures/([\w-]+)\.svg", page.read_text())}
# Studies of one training, and of the curve point by point that stands beside it.
NESTED = (
    ("lenet300-nested", "lenet300-weights"),
    ("lenet300-nested-longer", "lenet300-weights"),
    ("lenet300-nested-neurons", "lenet300-neurons"),
    ("lenet5-nested-weights", "lenet5-weights"),
    ("lenet5-nested-units", "lenet5-units"),
)
GATED = {"MLP": "gates-mlp", "LeNet-5": "gates-lenet5"}


def load(name: str) -> dict[str, Any]:
    """A result file."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    LOADED[name] = record
    return record


LOADED: dict[str, dict[str, Any]] = {}  # by the table that is being made


def made(name: str) -> str:
    """A table, and below it where its records come from."""
    LOADED.clear()
    table = TABLES[name]()
    origins: dict[str, list[str]] = {}
    for record, found in sorted(LOADED.items()):
        origins.setdefault(told(found), []).append(f"{record}.json")
    said = ". ".join(f"{', '.join(records)}: {origin}" for origin, records in origins.items())
    return f"{table}\n\n*{said or 'no record yet'}.*"


def settings(*names: str) -> list[dict[str, Any]]:
    """The settings of studies, each with the errors (%) and non-zero weights of its seeds."""
    found: dict[tuple[str, Any], dict[str, Any]] = {}
    for run in (run for name in names for run in load(name)["runs"]):
        key = (run["label"], run["value"])
        entry = found.setdefault(
            key, {"label": key[0], "value": key[1], "errors": [], "alive": [], "runs": []}
        )
        weights = [v for k, v in run["nonzeros"].items() if counted(names[0], k)]
        entry["errors"].append(100 * run["test"]["error"])
        entry["alive"].append(sum(v["nonzeros"] for v in weights))
        entry["all"] = sum(v["weights"] for v in weights)
        entry["runs"].append(run)
    return list(found.values())


def counted(study: str, variable: str) -> bool:
    """Whether a variable's weights are counted: weights, and in LeNet-5 those of kernels."""
    kernels = study == "formanek-kernels"
    return variable.endswith("weight") and ("conv" in variable or not kernels)


def markdown(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines)


def alive(entry: dict[str, Any]) -> str:
    """Weights that are left, and which fraction of all."""
    mean = statistics.mean(entry["alive"])
    return f"{mean:,.0f} ({100 * mean / entry['all']:.2f} %)"


def plain_table(name: str) -> str:
    """Setting, weights left, test error and spread."""
    rows = []
    for entry in settings(name):
        errors = spread(entry["errors"])
        seeds = str(len(entry["errors"]))
        rows.append([label_of(entry), alive(entry), errors, seeds, helps(entry["runs"][0])])
    return markdown(["setting", "weights left", "test error, %", "seeds", "helped by"], rows)


def henrikson_table() -> str:
    """Zeros as the article counts them: of all variables, biases included."""
    rows = []
    for entry in settings("henrikson", "henrikson-l1"):
        totals = [run["nonzeros"]["total"] for run in entry["runs"]]
        zeros = [100 * (1 - t["nonzeros"] / t["weights"]) for t in totals]
        helped = helps(entry["runs"][0])
        numbers = spread(zeros), spread(entry["errors"]), str(len(zeros))
        rows.append([entry["label"], *numbers, helped])
    columns = ["recipe", "exact zeros, % of 55,050", "test error, %", "seeds", "helped by"]
    return markdown(columns, rows)


def choices() -> list[Path]:
    """The records of all searches by held-out examples."""
    return sorted(RESULTS.glob("choice-*.json"))


def choice_table(record: dict[str, Any]) -> str:
    """Every trial of a search, the chosen one in bold."""
    keys = list(record["chosen"])
    rows = []
    for trial in record["trials"]:
        cells = [str(trial["values"][key]) for key in keys]
        cells += [f"{100 * trial['valid']['error']:.2f}", f"{trial['valid']['loss']:.4f}"]
        cells.append(f"{trial['nonzeros']:,}")
        best = trial["values"] == record["chosen"]
        rows.append([f"**{cell}**" if best else cell for cell in cells])
    columns = [*(f"`{key}`" for key in keys), "validation error, %", "loss", "non-zeros"]
    return f"{record['title']}:\n\n{markdown(columns, rows)}"


def lambda_table() -> str:
    """What is minimised, L + λ‖w‖₁, and where each optimizer ended."""
    strength = 1e-4
    rows = []
    for entry in settings("lambda"):
        objectives = [run["train"]["loss"] + strength * run["l1"] for run in entry["runs"]]
        norms = [run["l1"] for run in entry["runs"]]
        rows.append(
            [
                entry["label"],
                alive(entry),
                spread(norms, 0),
                spread(objectives, 4),
                spread(entry["errors"]),
            ]
        )
    columns = ["optimizer, metric", "weights left", "‖w‖₁", "L + λ‖w‖₁ in training"]
    return markdown([*columns, "test error, %"], rows)


def cost_table() -> str:
    """A method's step over the plain one, in each way to run both, and what is kept."""
    record = load("cost")
    ways = record["times"]
    columns = [
        f"{'compiled' if way['compiled'] else 'eager'}, {way['threads']} thread"
        f"{'s' * (way['threads'] > 1)}, batch {way['batch']}"
        for way in ways
    ]
    rows = [
        [
            "plain, against itself" if name == "plain" else name,
            *(f"{way['methods'][name]['ratio']:.2f}" for way in ways),
            f"≤ {record['goals'][name]:g}" if name in record["goals"] else "",
            f"{kept:.2f}",
        ]
        for name, kept in record["kept"].items()
    ]
    plain = [f"{1e3 * way['methods']['plain']['seconds']:.2f}" for way in ways]
    rows.insert(0, ["plain, ms", *plain, "", ""])
    return markdown(["step", *columns, "goal, eager, batch 100", "kept for backward"], rows)


def large_text() -> str:
    """One sentence about the global TopK."""
    record = load("cost-large")
    return (
        f"One global TopK over {record['weights']:,} weights took {record['seconds']:.1f} s on "
        f"{record['threads']} threads and {record['copies']:.2f} × the memory of the weights on "
        "top of them."
    )


def label_of(entry: dict[str, Any]) -> str:
    """The name of a setting and its strength."""
    return entry["label"] if entry["value"] is None else f"{entry['label']} {entry['value']:g}"


def channels_table() -> str:
    """What shrinking left of each network, what it costs, and that it computes the same."""
    rows = []
    for entry in settings("channels"):
        shrunk = [run["shrunk"] for run in entry["runs"]]
        left = dict.fromkeys("-".join(map(str, s["units"])) for s in shrunk)
        rows.append(
            [
                label_of(entry),
                spread(entry["errors"]),
                ", ".join(left),
                f"{statistics.mean(s['weights_after'] for s in shrunk):,.0f}",
                f"{statistics.mean(s['macs_after'] for s in shrunk):,.0f}",
                f"{statistics.mean(map(macs_ratio, shrunk)):.2f}",
                spread([s["time_ratio"] for s in shrunk]),
                f"{max(s['difference'] for s in shrunk):.0e}",
            ]
        )
    columns = ["setting", "test error, %", "channels left", "weights", "MACs", "× MACs", "× time"]
    return markdown([*columns, "difference"], rows)


def macs_ratio(shrunk: dict[str, Any]) -> float:
    """MACs of the shrunk network over those of the dense one."""
    ratio: float = shrunk["macs_after"] / shrunk["macs_before"]
    return ratio


def exact_table(name: str, make: Callable[[dict[str, Any]], exact_tables.Table]) -> str:
    """A table of exact_tables.py from a record."""
    return markdown(*make(load(name)))


def folded(title: str, table: str) -> str:
    """A table that is shown on a click."""
    return f'??? note "{title}"\n\n' + "\n".join(f"    {line}" for line in table.splitlines())


def claims_table() -> str:
    """What the five documents report and what we found, and how many have which verdict."""
    columns, rows = claims.table(load)
    return f"{claims.counts(rows)}\n\n{markdown(columns, rows)}"


def vgg_table(study: str) -> str:
    """The runs of a study of images, with its figure where there is one."""
    table = markdown(*vgg_tables.runs_table(study, load))
    if study.removeprefix("vgg-") in vgg_tables.GRANULARITIES:
        return with_figure(study, "Accuracy against weights removed", table)
    return table


def vgg_bytes() -> str:
    """Error against bytes, with its figure where there is one."""
    table = markdown(*vgg_tables.bytes_table(load, vgg_tables.STUDIES))
    return with_figure("vgg-bytes", "Error against bytes", table)


def with_figure(name: str, words: str, table: str) -> str:
    """A table below its figure, or alone while there are no runs to draw."""
    figure = vgg_figure(name)
    if figure is None:
        return table
    plt.close(figure)
    return f"![{words}](../figures/{name}.svg)\n\n{table}"


def one_training_table(nested: str, path: str) -> str:
    records = (load(f"curves-{study}") for study in (nested, path))
    return markdown(*curve_tables.one_training(*records))


def one_training_text() -> str:
    """One sentence about the seconds of a curve by one training."""
    record = load("one-training")
    curve, dense = (statistics.fmean(record["seconds"][name]) for name in ("curve", "dense"))
    return (
        f"In seconds, all twelve points of a seed take {curve:.0f} s and the dense training of "
        f"{record['epochs']} epochs {dense:.0f} s: {record['ratio']:.2f} × as long, where "
        f"{record['goal']:g} × was the goal."
    )


def once_measured(name: str, make: Callable[[dict[str, Any]], exact_tables.Table]) -> str:
    """A table that says so as long as there is no record."""
    return exact_table(name, make) if (RESULTS / f"{name}.json").exists() else vgg_tables.NOT_YET


RESNETS = ("resnet20", "resnet20-gates-short")

TABLES: dict[str, Callable[[], str]] = {
    "before-and-after": lambda: markdown(
        *device_tables.before_and_after(load("microcontrollers"), load("curves-lenet5-units"))
    ),
    "edge": lambda: exact_table("edge", edge_table.edge),
    "pruners": lambda: exact_table("pruners", exact_tables.pruners),
    "pruners-each": lambda: folded(
        "Every architecture", exact_table("pruners", exact_tables.pruners_each)
    ),
    "fuzz": lambda: exact_table("fuzz", exact_tables.fuzz),
    "coupling-cost": lambda: exact_table("coupling-cost", exact_tables.coupling),
    "live-shrinking": lambda: once_measured("live-shrinking", exact_tables.live),
    "unit-norms": lambda: exact_table("coupling-cost", exact_tables.unit_norms),
    "latency": lambda: exact_table("latency", exact_tables.latency),
    "speed": lambda: exact_tables.speed(load("latency")),
    "runtimes": lambda: exact_table("runtimes", runtime_table.runtimes),
    "padding": lambda: exact_table("padding", runtime_table.padding),
    "aligned": lambda: exact_table("aligned", runtime_table.aligned),
    "c-speed": lambda: exact_table("c_speed", runtime_table.c_speed),
    "topk": lambda: plain_table("topk"),
    "topk-chosen": lambda: plain_table("topk-chosen"),
    "topk-lenet5": lambda: plain_table("topk-lenet5"),
    "henrikson": henrikson_table,
    "formanek-weights": lambda: plain_table("formanek-weights"),
    "formanek-kernels": lambda: plain_table("formanek-kernels"),
    "channels": channels_table,
    "lambda": lambda_table,
    "cost": cost_table,
    "cost-large": large_text,
    "scale-shards": lambda: exact_table("scale", scale_tables.shards),
    "scale-paths": lambda: exact_table("scale", scale_tables.paths),
    "scale-sent": lambda: exact_table("scale", scale_tables.sent),
    "scale-thousand": lambda: exact_table("scale", scale_tables.thousand),
    "gates-mlp": lambda: markdown(
        *gate_tables.gates("MLP", load("gates-mlp"), load("gates-mlp-shifts"))
    ),
    "gates-lenet5": lambda: markdown(
        *gate_tables.gates("LeNet-5", load("gates-lenet5"), load("gates-lenet5-longer"))
    ),
    "budgets": lambda: exact_table("budgets", gate_tables.budgets),
    "lc": lambda: markdown(*lc_tables.best([load("lc"), load("lc-shifts"), load("lc-no-teacher")])),
    "lc-stronger-teacher": lambda: plain_table("lc-stronger-teacher"),
    "gates-mlp-stronger-teacher": lambda: plain_table("gates-mlp-stronger-teacher"),
    "curves-lenet300": lambda: markdown(*curve_tables.answers(curves_of("lenet300"))),
    "curves-lenet5": lambda: markdown(*curve_tables.answers(curves_of("lenet5"))),
    "curves-asked": lambda: exact_table("curves-lenet300-weights", curve_tables.asked),
    "curves-lenet5-rivals": lambda: exact_table("curves-lenet5-weights", curve_tables.rivals),
    "choices": lambda: "\n\n".join(choice_table(load(path.stem)) for path in choices()),
    "fashion": lambda: exact_table("curves-fashion", curve_tables.shrunk),
    "curves-first-layer": lambda: exact_table("curves-lenet300-first-layer", curve_tables.settings),
    "curves-from-scratch": lambda: exact_table(
        "curves-lenet300-weights", curve_tables.from_scratch
    ),
    **{f"curves-{nested}": partial(one_training_table, nested, path) for nested, path in NESTED},
    "one-training": one_training_text,
    "curves-cost": lambda: markdown(
        *curve_tables.costs(curves_of("lenet300") + curves_of("lenet5"))
    ),
    "claims": claims_table,
    "claims-records": lambda: markdown(*claims.records(load)),
    "vgg-dense": lambda: markdown(*vgg_tables.dense_table(load)),
    **{study: partial(vgg_table, study) for study in (*vgg_tables.STUDIES[1:], *RESNETS)},
    "vgg-bytes": vgg_bytes,
    "vgg-claims": lambda: markdown(*formanek_claims.table(load)),
    **{
        name: partial(once_measured, f"curves-{name}", curve_tables.shrunk)
        for name in ("vgg-nested", "resnet20-nested", "modrec-nested-units")
    },
    **{
        name: partial(once_measured, f"curves-{name}", curve_tables.settings)
        for name in ("vgg-nested-weights", "resnet20-nested-weights")
    },
    **{
        f"{study}-speed": partial(once_measured, f"{study}-speed", runtime_table.shrunk)
        for study in ("vgg-modern", "vgg-full")
    },
    "summary": lambda: markdown(*summary(load)),
    "lost": lambda: markdown(*lost(load)),
    "ahmed-radio": lambda: markdown(*ahmed_tables.points(load("curves-modrec"), closer("modrec"))),
    "ahmed-pixels": lambda: markdown(*ahmed_tables.pixels(closer("lenet300-first-layer"))),
    "ahmed-trees": lambda: markdown(
        *ahmed_tables.trees({name: closer(name) for name in ahmed_tables.NAMES})
    ),
    "ensembles-mnist": lambda: exact_table("ensembles-mnist", ahmed_tables.ensembles),
    "curves-modrec-nested": lambda: exact_table("curves-modrec-nested", curve_tables.settings),
    "modrec-dense": lambda: plain_table("modrec-dense"),
    "ensembles-modrec": lambda: exact_table("ensembles-modrec", ahmed_tables.ensembles),
    "lc-poster": lambda: markdown(*lc_tables.poster(load("lc-poster"), load("lc-published"))),
    "lc-toolkit": lambda: exact_table("lc-toolkit", lc_tables.toolkit),
    "c-steps": lambda: exact_table("lc-cost", lc_tables.c_steps),
    "cortex-m4": lambda: exact_table("microcontrollers", device_tables.on_cortex_m4),
    "boards": lambda: exact_table("microcontrollers", device_tables.on_boards),
}


def closer(name: str) -> dict[str, Any]:
    """What ahmed.py found on a curve."""
    return load(f"ahmed-{name}")


def curves_of(network: str = "") -> list[dict[str, Any]]:
    """The records of all studies of curves, or of those of a network."""
    return [load(path.stem) for path in sorted(RESULTS.glob(f"curves-{network}*.json"))]


def removed(entry: dict[str, Any]) -> float:
    """Weights removed, %, on average over seeds."""
    return 100 * (1 - statistics.mean(entry["alive"]) / entry["all"])


def formanek_figure(name: str, title: str, close: tuple[float, float]) -> None:
    """Test accuracy against the fraction of the weights that was removed (Formanek fig. 2–3).

    Single weights are shown together with what gradual TopK and fine-tuning reach.
    """
    found = vgg_tables.settings(load, name)
    base = next(one for one in found if one.label == "dense").accuracy
    more = vgg_tables.settings(load, "topk")[:2] if name == "formanek-weights" else []
    marks = {f"gradual TopK, {one.label}, fine-tuned": (one.removed, one.accuracy) for one in more}
    figure = vgg_tables.figure(vgg_tables.by_penalty(found), base, close, marks)
    figure.suptitle(title)
    save(figure, name)


def vgg_figure(name: str) -> Figure | None:
    """One of Formanek & Hadházi's own network and data; None while runs are missing."""
    if name == "vgg-bytes":
        return vgg_tables.bytes_figure(load, vgg_tables.STUDIES)
    return vgg_tables.vgg_figure(load, name.removeprefix("vgg-"))


def channels_figure() -> None:
    """Error against the MACs that are left, and the time that they take."""
    figure, (errors, times) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    for label in ("L1", "L1, not fine-tuned", "compress rate", "dense"):
        colour = {**COLOURS, "L1, not fine-tuned": "#8fcfa3"}.get(label, "gray")
        chosen = [e for e in settings("channels") if e["label"] == label]
        shrunk = [run["shrunk"] for e in chosen for run in e["runs"]]
        x = [statistics.mean(r["shrunk"]["macs_after"] for r in e["runs"]) / 1e3 for e in chosen]
        y = [statistics.mean(e["errors"]) for e in chosen]
        spreads = [deviation(e["errors"]) for e in chosen]
        errors.errorbar(
            x, y, spreads, marker="o", color=colour, label=label, capsize=2, lw=1.2, ms=4
        )
        ratios = [s["time_ratio"] for s in shrunk]
        times.plot(list(map(macs_ratio, shrunk)), ratios, "o", color=colour, ms=4)
    errors.set(xlabel="thousand MACs", ylabel="test error, %", yscale="log")
    times.axline((0, 0), slope=1, color="gray", ls=":")
    times.set(xlabel="MACs, × dense", ylabel="time, × dense", xlim=(0, 1.1), ylim=(0, 1.1))
    errors.legend(frameon=False, fontsize="small")
    for axes in (errors, times):
        axes.grid(alpha=0.25)
    figure.suptitle("A small CNN on MNIST, channels, after shrinking")
    save(figure, "channels")


def gates_figure() -> None:
    """Expected MACs over training (Louizos, Welling & Kingma, figure 3)."""
    figure, both = plt.subplots(1, 2, figsize=(9.6, 3.6))
    for axes, (network, study) in zip(both, GATED.items(), strict=True):
        for label, runs in gate_tables.by_label(load(study)).items():
            history = runs[0]["small"]["history"]
            x, y = zip(*((epoch, left["macs"]) for epoch, left in history), strict=True)
            axes.plot(x, y, marker="o", ms=3, label=label)
        axes.set(xlabel="epoch", ylabel="expected MACs", title=network, yscale="log")
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.25)
    save(figure, "gates-macs")


def connections_figure() -> None:
    """How many weights of the first layer read each pixel (the poster's picture), seed 0."""
    weights = {}
    for label, runs in gate_tables.by_label(load("lc-poster")).items():
        if "reference" in label:
            continue
        counts = torch.tensor([int(n) for n in runs[0]["small"]["connections"].split()])
        # Any weights with these counts: the first of each column.
        weights[label] = torch.arange(300)[:, None] < counts
    save(connectivity(weights), "lc-connections")


def curve_figures() -> None:
    """Accuracy against compression, error added by each halving, and accuracy by class."""
    for record in curves_of():
        found = curve_tables.curves(record)
        name, axis = record["study"], record["axis"]
        first, known = next(iter(found.values())), record["curves"][0]["classes"]
        points = {key: tuple(told) for key, told in known["points"].items()}
        classes = ClassAccuracy(tuple(known["names"]), points)
        figures = {
            name: partial(trade_off, found, axis),
            f"{name}-halvings": partial(rate_distortion, found, axis),
            f"{name}-classes": partial(per_class, first, classes, axis),
        }
        for file in SHOWN.intersection(figures):
            save(figures[file](), file)


def ahmed_figures() -> None:
    """Ensembles, attacks, patterns, and what radio networks answer by SNR."""
    for name in ("mnist", "modrec"):
        save(ahmed_tables.boxes(load(f"ensembles-{name}")), f"ensembles-{name}")
    for name in ahmed_tables.NAMES:
        save(ahmed_tables.attacked(load(f"curves-{name}"), closer(name)), f"attacks-{name}")
        save(ahmed_tables.patterns(closer(name)), f"patterns-{name}")
    radio = closer("modrec")
    save(ahmed_tables.snrs(radio), "modrec-snr")
    for setting in ("dense", "knee"):
        save(ahmed_tables.confused(radio, setting), f"modrec-confusions-{setting}")


def save(figure: Figure, name: str) -> None:
    """Write an SVG that is the same whenever the data are."""
    FIGURES.mkdir(exist_ok=True)
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main(check: bool) -> int:
    """Bring every page up to date, or tell which is not."""
    stale = []
    for page in PAGES:
        old = page.read_text()
        new = re.sub(
            r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)",
            lambda m: f"{m[1]}\n{made(m[2])}\n\n{m[3]}",
            old,
            flags=re.DOTALL,
        )
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    if check:
        if stale:
            print(f"not what the results say: {', '.join(stale)}; run benchmarks/tables.py")
        return len(stale)
    formanek_figure("formanek-weights", "LeNet-300-100 on MNIST, single weights", (96, 99))
    formanek_figure("formanek-kernels", "LeNet-5 on MNIST, 5×5 kernels", (97, 99.5))
    for name in (*(f"vgg-{each}" for each in vgg_tables.GRANULARITIES), "vgg-bytes"):
        if figure := vgg_figure(name):
            save(figure, name)
    channels_figure()
    gates_figure()
    connections_figure()
    curve_figures()
    ahmed_figures()
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
