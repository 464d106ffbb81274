"""What a recipe may say: every key of its TOML file, its type, and what cannot go together."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from lissom.errors import LissomError, MethodError, RunError
from lissom.methods import NAMED, Method, Options
from lissom.recipes.data import DataSpec
from lissom.recipes.examples import Shape
from lissom.recipes.methods import FINE, MethodSpec
from lissom.recipes.models import ModelSpec, OwnModelSpec
from lissom.recipes.optimizers import OptimizerSpec
from lissom.recipes.paths import PathSpec, check_path
from lissom.recipes.penalties import PenaltySpec
from lissom.recipes.strict import Spec, Whole, complaint, keys, refusals
from lissom.recipes.tasks import TaskSpec
from lissom.recipes.training import TrainSpec
from lissom.training.teacher import check_distillation

NAMED_MODEL, OWN_MODEL = "one of lissom's", "one's own"  # the members of a union, for pydantic

AnyModelSpec = Annotated[
    Annotated[ModelSpec, Tag(NAMED_MODEL)] | Annotated[OwnModelSpec, Tag(OWN_MODEL)],
    Discriminator(
        lambda given: (
            OWN_MODEL
            if isinstance(given, OwnModelSpec) or (isinstance(given, Mapping) and "make" in given)
            else NAMED_MODEL
        )
    ),
]


class TeacherSpec(Spec):
    """[teacher]: a recipe whose network is trained first, on the same examples.

    Its answers are then learnt beside the labels; where the student's images are augmented, they
    are to what the student sees. `recipe` is a name or a path where it is read, and the whole
    recipe from then on, so that the record of a run needs no other file. `seed` is the teacher's
    own, so that students of all seeds have the same; without it it is the student's.
    """

    recipe: "Recipe"
    seed: Annotated[int, Field(ge=0)] | None = None
    alpha: float = 0.9
    temperature: float = 4.0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        with refusals():
            check_distillation(self.alpha, self.temperature)
        return self

    @model_validator(mode="before")
    @classmethod
    def _names_a_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe", {}) if isinstance(given, Mapping) else {}
        if not isinstance(recipe, Mapping | Recipe):
            what = f"this is the name of a recipe or the path of a .toml file, got {recipe!r}"
            raise complaint(what, "recipe")
        return given


class Recipe(Spec):
    """An experiment: data, model, optimizer, training, and which groups may vanish, and how.

    `log` makes `lissom train` write the evaluations in another form too: see recipes/henrikson.py.
    """

    title: str
    source: str = ""
    log: Literal["henrikson"] | None = None
    data: DataSpec
    model: AnyModelSpec
    task: TaskSpec = Field(default_factory=TaskSpec)
    optimizer: OptimizerSpec
    train: TrainSpec
    method: MethodSpec | None = None
    penalties: list[PenaltySpec] = Field(default_factory=list)
    teacher: TeacherSpec | None = None
    path: PathSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_its_method(cls, given: Any) -> Any:
        named = [key for key in given if key in NAMED] if isinstance(given, Mapping) else []
        if named:
            what = f'a method stands in [method]: name = "{named[0]}", then its options'
            raise complaint(what, named[0])
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with refusals("train"):
            self.train.options().check_data(validation=self.data.brings_validation)
        if self.train.augment is not None and self.data.name == "modrec":
            what = (
                "crops and flips are of images, and 'modrec' has vectors of I and Q: leave it out"
            )
            raise complaint(what, "train", "augment")
        if (self.method is None) != (not self.penalties):
            what, at = (
                ('[[penalties]] need a [method] as well: name = "proximal", say', "penalties")
                if self.method is None
                else ("[method] needs [[penalties]] as well: L0 = 1e-4, say", "method")
            )
            raise complaint(what, at)
        if self.method is not None:
            self._check_method(self.method)
        if self.teacher is not None:
            self._check_teacher(self.teacher.recipe)
        if self.path is not None:
            check_path(self)
        return self

    def _check_method(self, method: MethodSpec) -> None:
        """What a `Trainer` would refuse, in the same words."""
        kind, options = method.type, method.options(FINE)
        penalties = [spec.penalty(1) for spec in self.penalties]
        try:
            kind.check(penalties, options)
        except LissomError as error:
            if error.field not in (None, "penalties"):
                raise complaint(str(error), "method", *keys(error.field)) from error
            refused = [i for i, one in enumerate(penalties) if _refuses(kind, options, one)]
            raise complaint(str(error), "penalties", *refused[:1]) from error
        if method.counts_steps():
            return  # it begins or ends by a number of steps: a `Trainer` knows in which epoch
        try:
            self.train.options().check_method(kind, options, penalties, FINE)
        except MethodError as error:
            raise complaint(str(error), "method", *filter(None, [error.field])) from error
        except RunError as error:
            raise complaint(str(error), "train", *filter(None, [error.field])) from error

    def _check_teacher(self, teacher: "Recipe") -> None:
        if (teacher.data.kind, teacher.data.called) != (self.data.kind, self.data.called):
            what = f"it learns {teacher.data.called!r}, but the student learns {self.data.called!r}"
            raise complaint(what, "teacher", "recipe")
        if teacher.train.patience is not None and not self.data.brings_validation:
            what = (
                "it has train.patience and shares the student's examples, of which none are held "
                "out: set data.validation = 5000, say"
            )
            raise complaint(what, "teacher", "recipe")


def _refuses(kind: type[Method], options: Options, penalty: Any) -> bool:
    """Whether it is this penalty that the method cannot train with."""
    try:
        kind.check([penalty], options)
    except LissomError as error:
        return error.field in (None, "penalties")
    return False


TeacherSpec.model_rebuild()


class Record(Spec):
    """recipe.json of a run: all that its network and its training follow from.

    Attributes:
        recipe: with every default written out.
        seed: of the initialisation, of the order of the examples, and of dropout.
        shape: of one example, or what is known of each input, so that the network can be made
            without the data: see recipes/examples.py.
        classes: of the data; None where the targets are no labels.
        code: what is known of the user's code that the recipe names, as `code_of` tells; None if
            it names none.
    """

    recipe: Recipe
    seed: Annotated[int, Field(ge=0)]
    shape: Shape
    classes: Whole | None
    code: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """What the file says."""
        return {**self.model_dump(exclude_none=True), "classes": self.classes}
