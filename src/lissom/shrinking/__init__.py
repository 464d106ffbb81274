"""A smaller network that computes what the sparse one did."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated
from lissom.coupling import Coupler, Family, couple, families, trace
from lissom.coupling.constants import Constants
from lissom.errors import GroupError, LissomError
from lissom.methods import require_plain
from lissom.running import ExampleInputs, as_inputs, require_numbers
from lissom.shrinking.decision import Decider, Decision, Mask
from lissom.shrinking.graph import cut_graph
from lissom.shrinking.reading import reading_less
from lissom.shrinking.report import Kept, Shrinkage
from lissom.shrinking.selection import Selected
from lissom.shrinking.sizes import Sizes
from lissom.shrinking.surgery import Surgery, operate, plan
from lissom.shrinking.verify import (
    Inputs,
    copied,
    difference,
    fresh_inputs,
    other_lengths,
    other_sizes,
)

__all__ = ["Shrinkage", "Surgery", "operate", "shrink"]


@as_annotated(LissomError, "model", "example_inputs", "verify")
def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    round_to: int = 1,
    fold: bool = True,
    inputs: bool = False,
    select: bool = False,
    in_place: bool = False,
    verify: bool | Iterable[ExampleInputs] = True,
    as_graph: bool | None = None,
) -> nn.Module:
    """Remove every unit that cannot change the output, and check that nothing else changed.

    A unit goes if everything that reads it finds it zero, or constant where a bias can take the
    constant, or multiplies it by zeros in all rows that stay. This is decided by rules on the
    traced graph, for all inputs; the check on fresh random inputs guards the implementation. It
    does not matter what made the zeros: an algorithm of lissom, torch.nn.utils.prune, or a mask.

    Args:
        model: any module that `torch.export` can read. It is left as it is, unless `in_place`.
        example_inputs: one input tensor, or the tuple of inputs; a batch of 2 or more is best.
        round_to: leave a multiple of this many units in each layer where there are so many;
            widths that are multiples of 8 or 16 are often faster.
        fold: whether units that are constant but not zero (a bias was left in) are folded into the
            biases of the layers that read them. Otherwise they stay.
        inputs: whether entries of the inputs that nothing reads may go too; the small network then
            starts with a selection of them.
        select: whether dense and convolution layers may also leave out inputs that live, where all
            their own weights on them are zero; they then select what they read. Fewer weights and
            operations, for a copy of the input.
        in_place: cut the model itself; its parameters stay the same objects, so an optimizer may go
            on (`small.shrinkage.slice_optimizer` cuts its moments).
        verify: True for random inputs like example_inputs, also at a larger resolution where the
            model takes one; inputs of your own to be checked besides; False for example_inputs
            alone.
        as_graph: True for the traced graph as the result; False for the model's own class, even if
            less can be removed; None for the graph only where the own class cannot express it.

    Returns:
        The small module, in the mode the model is in, with its report as `small.shrinkage`.

    Raises:
        GroupError: if the model cannot be traced on example_inputs.
        LissomError: if an option has an impossible value, or the model is random.
    """
    _check_options(model, round_to, in_place, as_graph)
    if select not in (True, False):
        raise LissomError(f"select is True or False, got {select!r}")
    if select and as_graph:
        raise LissomError(
            "select=True lets layers select what they read, and as_graph=True gives a graph "
            "without layers: choose one"
        )
    args = as_inputs(example_inputs)
    case = _Case(model, args, verify, fold, inputs, round_to)
    found = case.by_graph() if as_graph else case.by_module()
    if found is None and not in_place and as_graph is None and case.code_fixes_sizes:
        found = case.by_graph()
    if found is None:
        found = case.by_module(case.what_modules_cannot())
    if found is None:
        raise LissomError(
            f"{type(model).__name__} gives other outputs than a copy of itself: is it random in "
            "evaluation mode? shrink cannot be checked on it"
        )
    if select and not found.as_graph:
        found = case.reading_less(found)
    result, report = found.small, case.report(found)
    if in_place:
        operate(model, found.surgery, in_place=True)
        result = Selected(model, found.surgery.inputs) if found.surgery.inputs else model
    result.training = model.training  # each submodule of a copy has its own mode already
    object.__setattr__(result, "shrinkage", report)
    return result


@dataclass(frozen=True)
class _Found:
    """A small module that has been checked, and how it came about."""

    small: nn.Module
    as_graph: bool
    decision: Decision
    surgery: Surgery
    difference: float
    tolerance: float


class _Traced:
    """A model's coupling, and what is known of its constants."""

    def __init__(self, model: nn.Module, args: Inputs, *, fold: bool, inputs: bool) -> None:
        self.coupler: Coupler = couple(trace(model, args), inputs=inputs)
        self.constants = Constants(self.coupler.trace)
        self.decider = Decider(self.coupler, self.constants, fold=fold)
        self.families = families(self.coupler, model)


class _Case:
    """One model to be shrunk."""

    def __init__(
        self,
        model: nn.Module,
        args: Inputs,
        verify: object,
        fold: bool,
        inputs: bool,
        round_to: int,
    ) -> None:
        self.model, self.args, self.verify = model, args, verify
        _checks(args, verify)  # reports mistakes before the work is done
        self.fold, self.inputs, self.round_to = fold, inputs, round_to
        self.traced = _Traced(model, args, fold=fold, inputs=inputs)
        self.weights = sum(p.numel() for p in model.parameters())
        self.apart = 0.0  # of the last try that failed
        self.refused: dict[int, str] = {}  # label: reason

    def decision(self, stay: Mask | None = None) -> Decision:
        """What can go, if these labels stay."""
        return self.traced.decider.decide(stay, self.round_to)

    @property
    def code_fixes_sizes(self) -> bool:
        """Whether a smaller module did not run, as opposed to one that computed something else."""
        return self.apart == float("inf") and bool(self.decision().gone.any())

    def by_module(self, stay: Mask | None = None) -> _Found | None:
        """The model's own class with smaller tensors, if its code can express that."""
        traced, decision = self.traced, self.decision(stay)
        tried: list[dict[str, Sizes]] = []
        for counts_only in (False, True):
            surgery = plan(
                self.model, traced.coupler, decision, traced.constants, counts_only=counts_only
            )
            if surgery.sizes in tried:
                continue
            tried.append(surgery.sizes)
            small = copied(self.model)
            operate(small, surgery)
            found = self._checked(small, decision, surgery)
            if found is not None:
                return found
        return None

    def reading_less(self, found: _Found) -> _Found:
        """The same with layers that select what they read, if the model calls them as layers."""
        inner = found.small.net if found.surgery.inputs else found.small
        assert isinstance(inner, nn.Module)
        surgery = reading_less(inner, found.surgery)
        small = copied(self.model)
        operate(small, surgery)
        return self._checked(small, found.decision, surgery) or found

    def by_graph(self) -> _Found | None:
        """The traced graph on smaller tensors."""
        traced, decision = self.traced, self.decision()
        surgery = plan(self.model, traced.coupler, decision, traced.constants)
        try:
            with warnings.catch_warnings(action="ignore"):  # torch.fx on torch's own doings
                small = cut_graph(traced.coupler, decision, traced.constants, surgery)
        except GroupError:
            return None
        return self._checked(small, decision, surgery)

    def what_modules_cannot(self) -> Mask:
        """The labels of families whose new sizes the model's code does not follow, by bisection.

        And all that are in no family, such as the columns alone of a weight.
        """
        gone = self.decision().gone
        losing = [family for family in self.traced.families if gone[family.labels].any()]
        self._find_failing(losing)
        stay = np.ones(len(gone), bool)
        for family in self.traced.families:
            stay[family.labels] = False
        stay[list(self.refused)] = True
        return stay

    def _find_failing(self, suspects: list[Family]) -> None:
        stay = np.ones(len(self.traced.coupler.labels), bool)
        for family in suspects:
            stay[family.labels] = False
        if not suspects or self.by_module(stay) is not None:
            return
        if len(suspects) > 1:
            half = len(suspects) // 2
            self._find_failing(suspects[:half])
            self._find_failing(suspects[half:])
            return
        fixed = self.apart == float("inf")
        reason = "the model's code fixes this size" if fixed else f"it would cost {self.apart:.1e}"
        self.refused.update(dict.fromkeys(suspects[0].labels.tolist(), reason))

    def _checked(self, small: nn.Module, decision: Decision, surgery: Surgery) -> _Found | None:
        whole = Selected(small, surgery.inputs) if surgery.inputs else small
        graph = isinstance(small, torch.fx.GraphModule)
        shapes = self.traced.coupler.trace.open_sizes  # all that a graph takes
        checks = _checks(
            self.args,
            self.verify,
            resolution=not graph,
            length=not graph or any(len(s) > 1 and s[1] is None for s in shapes),
        )
        apart, tolerance = difference(self.model, whole, checks)
        if not apart <= tolerance:
            self.apart = apart
            return None
        return _Found(whole, graph, decision, surgery, apart, tolerance)

    def report(self, found: _Found) -> Shrinkage:
        """What happened."""
        gone = found.decision.gone
        before: Shrinkage | None = getattr(self.model, "shrinkage", None)
        families_ = self.traced.families
        folded = {
            int(label)
            for site, constants in found.decision.folds.items()
            for label in self.traced.coupler.labels.find(site.labels)[(constants != 0).numpy()]
        }
        return Shrinkage(
            families=tuple(
                (f.name, f.kind, len(f.labels), int((~gone[f.labels]).sum())) for f in families_
            ),
            weights=(self.weights, sum(p.numel() for p in found.small.parameters())),
            folded=len(folded),
            shared=len(found.decision.shared),
            kept=tuple(self._kept(found)),
            pinned_by=dict(Counter(op.name for op, _ in self.traced.coupler.declined)),
            reasons={op.name: reason for op, reason in self.traced.coupler.declined},
            difference=found.difference,
            tolerance=found.tolerance,
            as_graph=found.as_graph,
            surgery=found.surgery.after(before.surgery if before else None),
            example_inputs=self.args,
        )

    def _kept(self, found: _Found) -> Iterator[Kept]:
        """Families with units whose norm is zero and that stay, by reason."""
        decision = found.decision
        for family in self.traced.families:
            with torch.no_grad():
                zero = (family.norms() == 0).cpu().numpy()
            dead = family.labels[zero & ~decision.gone[family.labels]]
            reasons: Counter[str] = Counter()
            for label in dead.tolist():
                if label in self.refused:
                    reasons[self.refused[label]] += 1
                elif label in decision.standing:
                    reasons["it is a constant, and stands for others"] += 1
                elif label in decision.last:
                    reasons["the layer is dead; one unit stays, or it would be empty"] += 1
                elif label in decision.rounded:
                    reasons[f"widths are multiples of {self.round_to}"] += 1
                else:
                    reasons[decision.reasons.get(label, "it is read")] += 1
            yield from (Kept(family.name, count, reason) for reason, count in reasons.items())


def _checks(
    args: Inputs, verify: object, *, resolution: bool = True, length: bool = True
) -> list[Inputs | list[Inputs]]:
    """The inputs of all comparisons."""
    if verify is False:
        return [args]
    random = fresh_inputs(args)
    checks: list[Inputs | list[Inputs]] = [args]
    checks.append([*other_sizes(args, resolution=resolution), random])
    if length and (lengths := other_lengths(args)):
        checks.append([*lengths, random])
    if verify is not True:
        given = [verify] if isinstance(verify, Tensor) else verify
        if not isinstance(given, Iterable):
            raise LissomError(
                "verify is True, False, or a list of inputs to be checked besides, as in "
                f"verify=[torch.randn(4, 3, 32, 32)]; got {verify!r}"
            )
        checks += [as_inputs(one) for one in given]
    return checks


def _check_options(model: nn.Module, round_to: int, in_place: bool, as_graph: bool | None) -> None:
    require_plain(model, "shrink")
    require_numbers(model)
    if isinstance(model, Selected):
        raise LissomError(
            "this network starts with a selection of its inputs already: shrink its .net, on "
            "inputs of the size that is left"
        )
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise LissomError(f"round_to is a whole number of units, 1 or more; got {round_to!r}")
    if as_graph not in (True, False, None):
        raise LissomError(f"as_graph is True, False or None, got {as_graph!r}")
    if in_place and as_graph:
        raise LissomError(
            "in_place=True cuts the model itself and as_graph=True makes another module of it: "
            "choose one"
        )
