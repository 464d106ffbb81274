"""[data]: what a recipe says about its data."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from lissom.recipes.strict import Spec, Whole, complaint

TABLE = ("target", "inputs", "size", "targets", "test_fraction", "split_seed")
OPTIONS = {  # of where the data come from
    "name": ("file", "snr_min", "am_ssb", "split", "test_fraction", "split_seed"),
    "files": TABLE,
    "hub": ("config", *TABLE),
    "make": (),
}
ALL = dict.fromkeys(option for options in OPTIONS.values() for option in options)


class DataSpec(Spec):
    """[data]: where the data come from, and how many training examples are held out to choose by.

    One of these says where: `name`, of a data set that lissom knows; `files`, a file or folder of
    one's own; `hub`, a name on the Hugging Face hub; `make`, the import path of a function, whose
    arguments are the other keys.

    `center` takes the mean of the training examples, pixel by pixel, off all examples. `bootstrap`
    trains on as many examples drawn from them with repetition, by the run's seed. The other keys
    are arguments of `load_modrec`, `load_files` and `load_hub`, with their defaults; `split_seed`
    is their `seed`, of the split into training and test examples, which is not that of the run.
    """

    model_config = ConfigDict(extra="allow")

    name: Literal["digits", "fashion-mnist", "jpeg-cifar10", "mnist", "modrec"] | None = None
    files: str | None = None
    hub: str | None = None
    make: str | None = None
    validation: Annotated[int, Field(ge=0)] = 0
    center: bool = False
    bootstrap: bool = False
    file: str | None = None
    snr_min: float | None = None
    am_ssb: Literal["noise", "true"] | None = None
    split: Literal["run", "cell"] | None = None
    config: str | None = None
    target: str | list[str] | None = None
    inputs: str | list[str] | None = None
    size: Annotated[list[Whole], Field(min_length=2, max_length=2)] | None = None
    targets: Literal["labels", "numbers"] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    @property
    def kind(self) -> str:
        """Where they come from: "name", "files", "hub" or "make"."""
        return next(kind for kind in OPTIONS if getattr(self, kind) is not None)

    @property
    def called(self) -> str:
        """The data set in messages and tables: its name, path or import path."""
        return str(getattr(self, self.kind))

    @property
    def brings_validation(self) -> bool:
        """Whether examples are held out, or may be by whoever made the data."""
        return bool(self.validation) or self.kind != "name"

    def options(self) -> dict[str, Any]:
        """Arguments of the loader, or of the user's function."""
        given = self.model_dump(include={*ALL, *(self.model_extra or {})}, exclude_none=True)
        return {"seed" if key == "split_seed" else key: value for key, value in given.items()}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        """Those of a function of the user's are its own business."""
        if isinstance(given, Mapping) and "make" in given:
            return given
        return super()._known_keys(given)  # type: ignore[operator]

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        kinds = [kind for kind in OPTIONS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            what = (
                'say where the data come from by one of name = "digits", files = "my.npz", '
                'hub = "owner/name" and make = "my.data:splits"'
            )
            raise complaint(what, *kinds[1:2])
        for key in ALL:
            if getattr(self, key) is None:
                continue
            if self.name is not None and self.name != "modrec":
                raise complaint(f"only 'modrec' has a {key} to choose, not {self.name!r}", key)
            if key not in OPTIONS[self.kind] and self.kind != "make":
                raise complaint(f"data that are given by {self.kind} have no {key}", key)
        return self
