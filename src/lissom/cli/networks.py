"""Commands about the network of a run: measured, shrunk, exported, reported on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lissom.cli.shared import (
    AsJson,
    DataDir,
    Quiet,
    Run,
    Trust,
    Verbose,
    app,
    console,
    mistakes_in_red,
    print_json,
    say,
)
from lissom.errors import RunError

if TYPE_CHECKING:
    from torch import nn

    from lissom.shrinking import Shrinkage

RoundTo = Annotated[
    int | None,
    typer.Option(
        help="Leave a multiple of N units in each layer, such as 8; some hardware is faster then.",
        metavar="N",
    ),
]


@app.command(epilog="Example: lissom measure runs/digits-demo --latency")
def measure(
    run: Run,
    tolerance: Annotated[
        float, typer.Option(help="Count weights of at most this size as zeros.")
    ] = 0.0,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency", help="Measure the seconds of a forward pass as well, as it is and shrunk."
        ),
    ] = False,
    runtime: Annotated[
        Literal["torch", "onnxruntime", "openvino"] | None,
        typer.Option(help="What runs it for --latency; torch if not given."),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Count the network of a run: non-zeros of each variable, MACs of each layer, units, bytes."""
    from lissom.cli.folders import load_model
    from lissom.measuring import measure as measure_model
    from lissom.recipes import make_example

    with mistakes_in_red():
        if runtime is not None and not latency:
            raise RunError(f"--runtime {runtime} is where --latency is measured: give both")
        model, shape = load_model(run)
        example = make_example(model, shape, 1)
        counted = measure_model(
            model, example, tolerance=tolerance, latency=latency, runtime=runtime or "torch"
        )
        if as_json:
            print_json(counted.to_dict())
        else:
            console.print(counted.table())


@app.command(epilog="Example: lissom shrink runs/digits-channels --round-to 4")
def shrink(
    run: Run,
    round_to: RoundTo = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Remove the inputs that nothing reads as well.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; RUN/small.safetensors if not given.", metavar="FILE"),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove what is dead from the network of a run: a smaller network with the same outputs."""
    from lissom.cli.folders import load_model
    from lissom.measuring.macs import forward_pass
    from lissom.parametrized import plain
    from lissom.recipes import make_example
    from lissom.running import as_inputs
    from lissom.saving import save as save_model
    from lissom.storage import save_json

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
        runs = [forward_pass(plain(net), as_inputs(one)) for net in (model, small)]
        before, after = (run.total // run.examples for run in runs)
        found = {"macs_before": before, "macs_after": after, **report.to_dict()}
        save_json(found, run / "shrinkage.json", "lissom shrinkage 1")
        if as_json:
            print_json({"file": path, **found})
        else:
            typer.echo(f"{report}\n{before:,} MACs for one example → {after:,}")
        say(f"written: {path}, {run}/shrinkage.json")


@app.command(epilog="Example: lissom export runs/digits-channels --to onnx")
def export(
    run: Run,
    to: Annotated[
        Literal["onnx", "pt2", "c", "tflite", "pte"],
        typer.Option(
            help="The format: onnx for ONNX Runtime and others, pt2 for torch.export, c for a "
            "microcontroller, tflite for LiteRT, pte for ExecuTorch."
        ),
    ] = "onnx",
    dense: Annotated[
        bool, typer.Option("--dense", help="Write the network as it is, with its zeros.")
    ] = False,
    round_to: RoundTo = None,
    no_pad: Annotated[
        bool,
        typer.Option(
            "--no-pad",
            help="Leave the widths of convolutions alone, though ONNX Runtime may be slower then.",
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            help="The only batch size of the file; if not given, any for onnx and pt2, else 1.",
            metavar="N",
        ),
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8/--float32",
            help="Compute in integers, whose scales 1,000 training inputs give, or in floats "
            "(--float32). C is int8 and ONNX float32 if not given.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; RUN/model.TO if not given.", metavar="FILE"),
    ] = None,
    data_dir: DataDir = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the network of a run, shrunk, as a checked file for another program or a device."""
    from lissom.cli.folders import calibration_inputs, data_of, load_model
    from lissom.exporting import export as export_model
    from lissom.exporting.c import reference
    from lissom.exporting.runtime import Opened
    from lissom.progress import judged
    from lissom.recipes import make_example
    from lissom.training import evaluate

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
        seen = None
        if (to == "c") if int8 is None else int8:
            data, task = data_of(run, data_dir)
            seen = calibration_inputs(data, task)
        example = make_example(model, shape, 1)
        written = export_model(model, example, path, pad=not no_pad, batch=batch, int8=seen)
        found = {**vars(written), "shrunk": not dense}
        lines = [str(written), what]
        if written.cost is not None:
            found["cost"] = written.cost.to_dict()
            if not as_json:
                console.print(written.cost.table())
        if seen is not None:
            quantized = (
                reference(model, example, seen)
                if to == "c"
                else Opened(
                    path, model, make_example(model, shape, batch or 1), dynamic=written.dynamic
                )
            )
            errors = [evaluate(net, data, task, "test").error for net in (model, quantized)]
            found |= {"error": errors[0], "error_int8": errors[1]}
            float32, integers = (judged(error, task) for error in errors)
            lines.append(f"test {float32} in float32, {integers} in int8")
        if as_json:
            print_json(found)
        say("\n".join([f"written: {lines[0]}", *lines[1:]]))


@app.command(epilog="Example: lissom report runs/digits-path")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a finished run or of a curve; or several curves, to be compared.",
            metavar="FOLDER…",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page about curves to write; report.html in the first folder if not given.",
            metavar="FILE",
        ),
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write report.html, one page that works offline, about a run or about curves."""
    from lissom.report import write_curve_report, write_report

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


def _shrunk(
    model: "nn.Module", shape: Any, *, round_to: int | None, inputs: bool = False
) -> tuple["nn.Module", "Shrinkage"]:
    """The network of a run without what is dead, and what went; recipes need no traced graphs."""
    from lissom.recipes import make_example
    from lissom.shrinking import Shrinkage
    from lissom.shrinking import shrink as shrink_model

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
