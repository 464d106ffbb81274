"""[data]: what a recipe says about its data set."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lissom.recipes.strict import Spec, complaint

OPTIONS = ("file", "snr_min", "am_ssb", "split", "test_fraction", "split_seed")


class DataSpec(Spec):
    """[data]: which data set, and how many training examples to hold out for validation.

    `center` takes the mean of the training examples, pixel by pixel, off all examples. `bootstrap`
    trains on as many examples drawn from them with repetition, by the run's seed. The other keys
    are arguments of `load_modrec`, with its defaults; `split_seed` is its `seed`, of the split into
    training and test examples, which is not that of the run.
    """

    name: Literal["digits", "jpeg-cifar10", "mnist", "modrec"]
    validation: Annotated[int, Field(ge=0)] = 0
    center: bool = False
    bootstrap: bool = False
    file: str | None = None
    snr_min: float | None = None
    am_ssb: Literal["noise", "true"] | None = None
    split: Literal["run", "cell"] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of the loader."""
        given = self.model_dump(include=set(OPTIONS), exclude_none=True)
        return {"seed" if key == "split_seed" else key: value for key, value in given.items()}

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        for key in OPTIONS:
            if self.name != "modrec" and getattr(self, key) is not None:
                raise complaint(f"only 'modrec' has a {key} to choose, not {self.name!r}", key)
        return self
