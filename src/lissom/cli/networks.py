"""Commands about the network of a run: measured, shrunk, exported, reported on."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from torch import nn

from lissom.cli.shared import Trust, app, console, mistakes_in_red, say, stderr
from lissom.errors import RunError
from lissom.exporting import export as export_model
from lissom.measuring import measure as measure_model
from lissom.recipes import load_checkpoint, load_weights, make_example, make_model, read_record
from lissom.report import write_curve_report, write_report
from lissom.saving import save as save_model
from lissom.shrinking import Shrinkage
from lissom.shrinking import shrink as shrink_model
from lissom.storage import save_json

RoundTo = Annotated[
    int | None,
    typer.Option(help="Leave a multiple of N units in each layer, such as 8.", metavar="N"),
]


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    tolerance: Annotated[
        float, typer.Option(help="Count |w| ≤ tolerance as zero; exact zeros by default.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time as well.")] = False,
    trust: Trust = False,
) -> None:
    """Measure a run: non-zeros by variable (Henrikson's table), MACs by layer, neurons, bytes."""
    with mistakes_in_red():
        model, shape = load_model(run)
        example = make_example(model, shape, 1)
        counted = measure_model(model, example, tolerance=tolerance, latency=latency)
        if as_json:
            typer.echo(json.dumps(counted.to_dict(), indent=2))
        else:
            console.print(counted.table())


@app.command()
def shrink(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    round_to: RoundTo = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Remove the inputs that nothing reads as well.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/small.safetensors.")] = None,
    trust: Trust = False,
) -> None:
    """Remove what is dead from the network of a run: a smaller network with the same outputs."""
    with mistakes_in_red():
        path = out or run / "small.safetensors"
        if path.suffix != ".safetensors" or path.is_dir():
            raise RunError(f"shrink writes a file that ends in .safetensors, got --out {path}")
        if path.resolve() == (run / "model.safetensors").resolve():
            raise RunError(f"{path} is the network that is to be shrunk: choose another --out")
        model, shape = load_model(run)
        small, report = _shrunk(model, shape, round_to=round_to, inputs=inputs)
        save_model(small, path)
        one = make_example(model, shape, 1)
        before, after = (measure_model(net, one).macs for net in (model, small))
        found = {"macs_before": before, "macs_after": after, **report.to_dict()}
        save_json(found, run / "shrinkage.json", "lissom shrinkage 1")
        typer.echo(f"{report}\n{before:,} MACs for one example → {after:,}")
        say(f"written: {path}, {run}/shrinkage.json")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[Literal["onnx", "pt2"], typer.Option(help="The format.")] = "onnx",
    dense: Annotated[
        bool, typer.Option("--dense", help="The network as it is, with its zeros.")
    ] = False,
    round_to: RoundTo = None,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/model.onnx or .pt2.")] = None,
    trust: Trust = False,
) -> None:
    """Write the network of a run, shrunk, as a checked file for ONNX Runtime or torch.export."""
    with mistakes_in_red():
        path = out or run / f"model.{to}"
        if path.suffix != f".{to}":
            raise RunError(f"--to {to} writes a file that ends in .{to}, got --out {path}")
        if dense and round_to is not None:
            raise RunError("--dense removes nothing, so there is nothing to --round-to: choose one")
        model, shape = load_model(run)
        what = "the network as it is, with its zeros (--dense)"
        if not dense:
            model, report = _shrunk(model, shape, round_to=round_to)
            before, after = report.weights
            what = (
                f"the network was shrunk first, {before:,} weights → {after:,}; --dense leaves them"
            )
        written = export_model(model, make_example(model, shape), path)
        say(f"written: {written}\n{what}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A finished run, or folders of curves to be overlaid.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page of curves; report.html in the first folder.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write report.html: one page that works offline, about a run, or about curves."""
    with mistakes_in_red():
        single = [run for run in runs if not (run / "path.json").exists()]
        if single and (len(runs) > 1 or out is not None):
            raise RunError(
                f"{single[0]} holds no curve of `lissom path`: a page about a run is of one run, "
                "and lies in its directory"
            )
        page = (
            write_report(single[0])
            if single
            else write_curve_report(runs, out or runs[0] / "report.html")
        )
        say(f"written: {page}")


def load_model(run: Path) -> tuple[nn.Module, Any]:
    """The network of a run, or what its last checkpoint would deliver; the shape of an example."""
    record = read_record(run / "recipe.json")
    finished = run / "model.safetensors"
    if finished.exists():
        model = make_model(record.recipe, record.shape, record.classes)
        load_weights(model, run)
        return model, record.shape
    model, method = load_checkpoint(run, record)
    say(f"{run} is not finished; this is its last checkpoint", to=stderr)
    if method is not None:
        method.finalize()
    return model, record.shape


def _shrunk(
    model: nn.Module, shape: Any, *, round_to: int | None, inputs: bool = False
) -> tuple[nn.Module, Shrinkage]:
    """The network of a run without what is dead, and what went; recipes need no traced graphs."""
    small = shrink_model(
        model,
        make_example(model, shape),
        round_to=1 if round_to is None else round_to,
        inputs=inputs,
        as_graph=False,
    )
    report = small.shrinkage
    assert isinstance(report, Shrinkage)
    return small, report
