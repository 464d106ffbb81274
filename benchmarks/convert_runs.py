"""Bring the runs of benchmarks/results/*.json from version 0.1.0's names to those of `Evaluation`.

python benchmarks/convert_runs.py            convert what is not converted yet
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PARTS = ("train", "valid", "test")


def run(old: dict[str, Any]) -> dict[str, Any]:
    """A run, with every other key where it was."""
    if old.get("event") != "measure_test":
        return old
    new: dict[str, Any] = {}
    for key, value in old.items():
        if key == "event":
            new[key] = "evaluation"
        elif key == "epochAfter":
            new["epoch"] = value
            for part in PARTS:
                if f"ent_{part}" in old:
                    loss, error = old[f"ent_{part}"], old[f"inacc_{part}"]
                    new[part] = {"loss": loss, "error": error, "scores": {}}
        elif key == "num_nonzero":
            new["nonzeros"] = {
                name: {"weights": count["num"], "nonzeros": count["numNz"]}
                for name, count in value.items()
            }
        elif key in ("shrunk", "small"):
            new[key] = {
                "test" if k == "inacc_test" else k: {"error": v} if k == "inacc_test" else v
                for k, v in value.items()
            }
        elif not key.startswith(("ent_", "inacc_")):
            new[key] = value
    return new


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        text = path.read_text()
        record = json.loads(text)
        if "runs" not in record:
            continue
        record["runs"] = [run(old) for old in record["runs"]]
        new = json.dumps(record, indent=1) + "\n"
        if json.loads(new) != json.loads(text):
            path.write_text(new)
            print(f"{path.name}: {len(record['runs'])} runs")


if __name__ == "__main__":
    main()
