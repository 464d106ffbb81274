"""What does not go together in a training, and the words with which it is refused.

A `Trainer` and a recipe can say the same, so both are here, with the words that both have to use:
a rule is written once in the library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

import lissom
from lissom import L0, L1, L2, Threshold, TopK, weights
from lissom.compressions import Codebook
from lissom.methods import Method

EPOCHS = 6
TIMES = ("start", "every", "finalize_at")  # options that count steps here and epochs in a recipe

METHODS: Mapping[str, Callable[..., Method]] = {
    "proximal": lissom.proximal,
    "gates": lambda optimizer, *rest, net, **options: lissom.gate(optimizer, net, *rest, **options),
    "lc": lissom.lc,
    "subgradient": lissom.subgradient,
}


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """One combination.

    Attributes:
        name: of the test.
        words: all that is said, or where `others` is true all but the methods that would work.
        at: the key or the table of a recipe that is named before the words.
        train: options of a `Trainer`, and keys of [train].
        pad: of `Augment(pad)` and [train.augment], where there is one.
        method: its name, or None.
        options: of the method, times in epochs.
        penalty: of the weights.
        penalty_toml: the same as a recipe has it.
        validation: whether there are validation data.
        others: whether the methods that would work are named at the end.
    """

    name: str
    words: str
    at: str
    train: Mapping[str, Any] = field(default_factory=dict)
    pad: int | None = None
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    penalty: Any = None
    penalty_toml: str = ""
    validation: bool = False
    others: bool = False

    def attach(self, optimizer: Optimizer, net: nn.Module, epoch: int) -> Method | None:
        """The method on this optimizer and model, with so many steps in an epoch."""
        if self.method is None:
            return None
        given = {k: v * epoch if k in TIMES else v for k, v in self.options.items()}
        if self.method == "gates":
            given["net"] = net
        return METHODS[self.method](optimizer, {weights(net): self.penalty}, **given)

    def toml(self) -> str:
        """The whole recipe."""
        lines = ['title = "Digits, wrong"', "[data]", 'name = "digits"']
        lines += ["validation = 100"] if self.validation else []
        lines += ["[model]", 'name = "cnn"', "[optimizer]", 'name = "Adam"', "lr = 1e-3"]
        lines += ["[train]", *_table({"epochs": EPOCHS, **self.train})]
        lines += [] if self.pad is None else ["[train.augment]", f"pad = {self.pad}"]
        if self.method is not None:
            lines += ["[method]", *_table({"name": self.method, **self.options})]
            lines += ["[[penalties]]", self.penalty_toml]
        return "\n".join(lines) + "\n"


def _table(given: Mapping[str, Any]) -> list[str]:
    """Lines of TOML; numbers and words are written there as in Python."""
    return [f"{key} = {value!r}" for key, value in given.items()]


OF_OPTIONS = [
    Wrong(name=f"{next(iter(train))}={next(iter(train.values()))}", train=train, at=at, words=words)
    for train, at, words in (
        ({"epochs": 0}, "train.epochs", "epochs is a whole number ≥ 1, got 0"),
        ({"batch_size": 0}, "train.batch_size", "batch_size is a whole number ≥ 1, got 0"),
        ({"evaluate_every": -1}, "train.evaluate_every",
         "evaluate_every is a whole number ≥ 1, got -1"),
        ({"patience": 0}, "train.patience", "patience is a whole number ≥ 1, got 0"),
        ({"patience_from": 6}, "train.patience_from",
         "patience_from is an epoch from 0 to 5, before the last of epochs=6; got 6"),
        ({"average_from": 6}, "train.average_from",
         "average_from is an epoch from 0 to 5, before the last of epochs=6; got 6"),
        ({"average_from": -1}, "train.average_from",
         "average_from is an epoch from 0 to 5, before the last of epochs=6; got -1"),
        ({"average_decay": 1.0}, "train.average_decay", "average_decay is in [0, 1), got 1.0"),
        ({"average_decay": -0.5}, "train.average_decay", "average_decay is in [0, 1), got -0.5"),
        ({"patience": 3}, "train.patience",
         "patience=3 chooses an epoch by validation data, and there are none: hold some out, 5000 "
         "say"),
    )
]  # fmt: skip


def _of_times(name: str, penalty: Any, penalty_toml: str) -> list[Wrong]:
    """Start, end, average and patience, under any method that can end when it is told to."""
    given: dict[str, Any] = {"method": name, "penalty": penalty, "penalty_toml": penalty_toml}
    return [
        Wrong(
            name=f"{name} starts after the training",
            options={"start": 6},
            at="method.start",
            words=f"method '{name}' starts after epoch 6, and training ends after epochs=6",
            **given,
        ),
        Wrong(
            name=f"{name} ends after the training",
            options={"finalize_at": 7},
            at="method.finalize_at",
            words=f"method '{name}' ends after epoch 7, and training ends after epochs=6: train "
            "longer, or let it end earlier",
            **given,
        ),
        Wrong(
            name=f"average before the end of {name}",
            train={"average_from": 2},
            options={"start": 1, "finalize_at": 3},
            at="train.average_from",
            words=f"weights are averaged from epoch 2 on, before method '{name}' ends, after 3: an "
            "average must start after the zeros stay, so set average_from=3 or later",
            **given,
        ),
        Wrong(
            name=f"patience before the end of {name}",
            train={"patience": 2, "patience_from": 2},
            options={"start": 1, "finalize_at": 3},
            at="train.patience_from",
            words="patience counts from epoch 2 on, and an epoch before method "
            f"'{name}' ends, after 3, could be chosen: set patience_from=3 or later",
            validation=True,
            **given,
        ),
    ]


LC: dict[str, Any] = {
    "method": "lc",
    "penalty": TopK(fraction=0.5),
    "penalty_toml": "TopK = { fraction = 0.5 }",
}
CODEBOOK: dict[str, Any] = {
    "method": "lc",
    "penalty": Codebook(2),
    "penalty_toml": "Codebook = { k = 2 }",
}

OF_METHODS = [
    *_of_times("proximal", TopK(fraction=0.5), "TopK = { fraction = 0.5 }"),
    *_of_times("gates", L0(1e-3), "L0 = 1e-3"),
    *_of_times("subgradient", L1(1e-3), "L1 = 1e-3"),
    Wrong(
        name="average of proximal, which never ends",
        train={"average_from": 2},
        method="proximal",
        penalty=L1(1e-3),
        penalty_toml="L1 = 1e-3",
        at="train.average_from",
        words="weights are averaged from epoch 2 on, and under method 'proximal' weights come and "
        "go until it is finalized, so that an average has no zeros: set finalize_at to 2 epochs or "
        "earlier",
    ),
    Wrong(
        name="lc starts after the training",
        options={"start": 6, "every": 1, "c_steps": 1},
        at="method.start",
        words="method 'lc' starts after epoch 6, and training ends after epochs=6",
        **LC,
    ),
    Wrong(
        name="lc has C steps after the training",
        options={"start": 1, "every": 2, "c_steps": 3},
        at="method",
        words="method 'lc' ends after epoch 7, and training ends after epochs=6: train longer, or "
        "let it end earlier",
        **LC,
    ),
    Wrong(
        name="average before the last C step",
        train={"average_from": 2},
        options={"every": 1, "c_steps": 3},
        at="train.average_from",
        words="weights are averaged from epoch 2 on, before method 'lc' ends, after 3: an average "
        "must start after the zeros stay, so set average_from=3 or later",
        **LC,
    ),
    Wrong(
        name="patience before the last C step",
        train={"patience": 2, "patience_from": 1},
        options={"every": 1, "c_steps": 3},
        at="train.patience_from",
        words="patience counts from epoch 1 on, and an epoch before method 'lc' ends, after 3, "
        "could be chosen: set patience_from=3 or later",
        validation=True,
        **LC,
    ),
    Wrong(
        name="patience until the last C step, which is the end",
        train={"patience": 2, "patience_from": 1},
        options={"every": 2, "c_steps": 3},
        at="train.patience_from",
        words="patience counts from epoch 1 on, and an epoch before method 'lc' ends, after 6, "
        "could be chosen: train longer than epochs=6, or let the method end earlier",
        validation=True,
        **LC,
    ),
    Wrong(
        name="an average before anything can have vanished",
        train={"average_from": 0},
        method="proximal",
        penalty=L1(1e-3),
        penalty_toml="L1 = 1e-3",
        at="train.average_from",
        words="weights are averaged from epoch 0 on, and under method 'proximal' weights come and "
        "go until it is finalized, so that an average has no zeros: set finalize_at to 1 epochs or "
        "earlier",
    ),
    Wrong(
        name="codebooks with epochs left",
        options={"every": 1, "c_steps": 5},
        at="train.epochs",
        words="zeros stay after method 'lc' has ended, but other forms of the weights, such as "
        "codebooks, would not: end training there, with epochs=5",
        **CODEBOOK,
    ),
    Wrong(
        name="codebooks finalized early",
        options={"every": 1, "c_steps": 6, "finalize_at": 4},
        at="train.epochs",
        words="zeros stay after method 'lc' has ended, but other forms of the weights, such as "
        "codebooks, would not: end training there, with epochs=4",
        **CODEBOOK,
    ),
    Wrong(
        name="proximal with a codebook",
        method="proximal",
        penalty=Codebook(2),
        penalty_toml="Codebook = { k = 2 }",
        at="penalties.0",
        words=f"method 'proximal' takes penalties, such as L0, L1, TopK or L1Ball; got "
        f"{Codebook(2)}.",
        others=True,
    ),
    Wrong(
        name="proximal with a penalty that knows no metric",
        method="proximal",
        options={"metric": "adaptive"},
        penalty=Threshold(0.1),
        penalty_toml="Threshold = 0.1",
        at="penalties.0",
        words="metric='adaptive' takes what follows a metric, as L0 does, whose threshold is "
        f"√(2tλ/d); got {Threshold(0.1)}, which knows no metric: use metric='euclidean' with it",
    ),
    Wrong(
        name="gates with L1",
        method="gates",
        penalty=L1(1e-3),
        penalty_toml="L1 = 1e-3",
        at="penalties.0",
        words="method 'gates' takes L0, L2 and L0 + L2, since gates have a probability of being "
        f"open, P(z ≠ 0); got {L1(1e-3)}, which has no expectation under it.",
        others=True,
    ),
    Wrong(
        name="gates with TopK",
        method="gates",
        penalty=TopK(fraction=0.5),
        penalty_toml="TopK = { fraction = 0.5 }",
        at="penalties.0",
        words="method 'gates' takes L0, L2 and L0 + L2, since gates have a probability of being "
        f"open, P(z ≠ 0); got {TopK(fraction=0.5)}, which has no expectation under it.",
        others=True,
    ),
    Wrong(
        name="subgradient with L0",
        method="subgradient",
        penalty=L0(1e-3) + L2(1e-3),
        penalty_toml="L0 = 1e-3\nL2 = 1e-3",
        at="penalties.0",
        words="method 'subgradient' takes penalties with a gradient: L1, L2, MCP and their "
        f"sums; got {L0(1e-3) + L2(1e-3)}, which has none that says anything.",
        others=True,
    ),
    Wrong(
        name="lc with a strength that is weighed against μ",
        method="lc",
        options={"every": 1, "c_steps": 6},
        penalty=L0(1e-3),
        penalty_toml="L0 = 1e-3",
        at="method",
        words="method 'lc' takes sizes, such as TopK(fraction=0.02), where mu is to be found; got "
        f"{L0(1e-3)}, which is weighed against μ: give mu",
    ),
]

WRONG = [*OF_OPTIONS, *OF_METHODS]
