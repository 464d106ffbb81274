"""lissom in skorch's networks, and in scikit-learn's searches over them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integration_cases import (
    ALL,
    BATCH,
    EPOCHS,
    MIDDLE,
    PER_EPOCH,
    STEPS,
    Net,
    equal,
    examples,
    own_loop,
    require_same_zeros,
    zeros,
)
from products import few
from torch import nn

import lissom
from lissom import L1, TopK
from lissom.errors import MethodError

skorch = pytest.importorskip("skorch")
from skorch.callbacks import Checkpoint, EpochScoring, GradientNormClipping, LoadInitState  # noqa: E402

from lissom.integrations.skorch import LissomCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
X, Y = (part.numpy() for part in examples().tensors)


def classifier(callback: LissomCallback, *others: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"max_epochs": EPOCHS, "train_split": None, **options}
    return skorch.NeuralNetClassifier(
        Net, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=0.02,
        optimizer__weight_decay=0.0, batch_size=BATCH, verbose=0,
        callbacks=[("lissom", callback), *others], **given,
    )  # fmt: skip


QUICK = ["proximal", "gates", "a user's own"]


@pytest.mark.parametrize("name", few(ALL, QUICK))
def test_it_ends_with_the_zeros_of_ones_own_loop(name: str) -> None:
    net = classifier(LissomCallback(ALL[name])).fit(X, Y)
    require_same_zeros(net.module_, own_loop(ALL[name]))


def test_penalties_are_clipped_as_if_in_the_loss() -> None:
    net = classifier(LissomCallback(ALL["gates"]), ("clip", GradientNormClipping(0.05))).fit(X, Y)
    require_same_zeros(net.module_, own_loop(ALL["gates"], clip=0.05))


@pytest.mark.parametrize("name", few(ALL, ["ended gates"]))
def test_a_resumed_training_has_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = classifier(LissomCallback(ALL[name])).fit(X, Y)
    middle = MIDDLE // PER_EPOCH
    keep = Checkpoint(
        monitor=lambda net: len(net.history) == middle, dirname=tmp_path, f_lissom="lissom.pt"
    )
    classifier(LissomCallback(ALL[name]), ("keep", keep), max_epochs=middle + 1).fit(X, Y)
    again = classifier(
        LissomCallback(ALL[name]), ("load", LoadInitState(keep)), max_epochs=EPOCHS - middle
    ).fit(X, Y)
    assert equal(again.module_, whole.module_)


@pytest.mark.parametrize("name", ["gates"])
def test_what_is_validated_is_what_would_be_delivered(name: str) -> None:
    seen = EpochScoring(lambda net, x, y: zeros(net.module_), name="zeros", use_caching=False)
    split = skorch.dataset.ValidSplit(3, stratified=True)
    net = classifier(LissomCallback(ALL[name]), train_split=split)
    net.set_params(callbacks=[("zeros", seen), ("lissom", LissomCallback(ALL[name]))]).fit(X, Y)
    assert net.history[-1, "zeros"] == zeros(net.module_) > 0


def lasso(optimizer: Any, module: nn.Module, strength: float) -> lissom.Method:
    return lissom.proximal(optimizer, {lissom.weights(module): L1(strength)})


def test_a_search_goes_over_lambda() -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(
        StandardScaler(), classifier(LissomCallback(lasso, strength=0.0), max_epochs=2)
    )
    key = "neuralnetclassifier__callbacks__lissom__strength"
    search = GridSearchCV(pipeline, {key: [0.0, 10.0]}, cv=3, refit=False).fit(X, Y)
    dense, empty = search.cv_results_["mean_test_score"]
    assert dense > 0.5 > empty
    for strength, all_zero in ((0.0, False), (10.0, True)):
        fitted = pipeline.set_params(**{key: strength}).fit(X, Y)
        weight = fitted[-1].module_[0].weight
        assert bool((weight == 0).all()) == all_zero


def test_a_fitted_network_is_pickled_with_its_zeros() -> None:
    net = classifier(LissomCallback(lasso, strength=0.5), max_epochs=2).fit(X, Y)
    copy = pickle.loads(pickle.dumps(net))
    assert equal(copy.module_, net.module_) and np.array_equal(copy.predict(X), net.predict(X))


def tenth(optimizer: Any, module: nn.Module) -> lissom.Method:
    return lissom.proximal(optimizer, {lissom.weights(module): TopK(fraction=0.1)})


def test_zeros_stay_in_partial_fits_and_a_new_fit_begins_anew() -> None:
    callback = LissomCallback(tenth)
    net = classifier(callback).fit(X, Y)
    dead = [p == 0 for p in net.module_.parameters()]
    [method] = callback.methods_
    net.partial_fit(X, Y)
    assert callback.methods_ == [method] and method.step == 2 * STEPS
    assert all(bool((p[d] == 0).all()) for p, d in zip(net.module_.parameters(), dead, strict=True))
    net.fit(X, Y)
    assert callback.methods_ != [method] and callback.methods_[0].step == STEPS


@pytest.mark.parametrize("make", [None, 3, lambda optimizer, module: None])
def test_what_makes_no_method_is_refused(make: Any) -> None:
    with pytest.raises(MethodError, match=r"LissomCallback\(lambda"):
        classifier(LissomCallback(make)).fit(X, Y)
