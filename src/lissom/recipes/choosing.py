"""A point of a recipe's curve as a run of its own, to be measured, shrunk and exported."""

from pathlib import Path

from lissom.curves import Curve, Point, Setting
from lissom.curves.storing import fill
from lissom.errors import RunError
from lissom.recipes.fitting import DATA_SEED
from lissom.recipes.making import make_model
from lissom.recipes.paths import point_recipe
from lissom.recipes.runs import keep_record, keep_result, keep_weights
from lissom.recipes.specs import Record
from lissom.storage import read_events, save_events


def keep_chosen(curve: Curve, setting: Setting, record: Record, out: Path) -> Point:
    """Write the network of a setting into a run directory, with the recipe of its last epochs.

    It was trained on from the next denser point, so that this recipe alone would not make it again;
    "point" of result.json says from which. The seed of the record is that of the path's held-out
    examples, 0 for all points; that of the point is in result.json.

    Args:
        curve: of `lissom path`.
        setting: of the curve. Of its seeds the one with the lowest validation error is taken.
        record: of the curve.
        out: a new or an empty directory.
    """
    point = min(setting.points, key=lambda p: (p.error, p.size(), p.seed))
    same = [p for p in curve.points if p.seed == point.seed]
    before = next((p.strength for p in same if p.folder.name == point.origin), None)
    untrained = point.origin is None
    recipe = point_recipe(record.recipe, point.strength, before, untrained=untrained)
    own = record.model_copy(update={"recipe": recipe, "seed": DATA_SEED})
    net = make_model(recipe, own.shape, own.classes)
    fill(net, point.folder)
    events = read_events(point.folder / "fit" / "events.jsonl")
    if not events:
        raise RunError(f"{point.folder} says nothing of its network: make the curve again")
    keep_record(own, out)
    save_events(events, out / "events.jsonl")
    keep_weights(net, out)
    keep_result(own, {**events[-1], "point": point.to_dict()}, out)
    return point
