"""A smaller network that computes what the sparse one did."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated
from lissom.coupling import Coupler, Family, Trace, couple, families, pins, trace, without_norm
from lissom.coupling.constants import Constants
from lissom.coupling.labels import Axis
from lissom.errors import GroupError, LissomError
from lissom.methods import require_plain
from lissom.parametrized import has_norms, plain
from lissom.running import ExampleInputs, Inputs, as_inputs, copied, require_numbers
from lissom.shrinking.attributes import fewest, warn_of_methods
from lissom.shrinking.decision import Decider, Decision, Mask
from lissom.shrinking.graph import cut_graph
from lissom.shrinking.reading import reading_less
from lissom.shrinking.report import Kept, Shrinkage
from lissom.shrinking.selection import Selected
from lissom.shrinking.sizes import Attribute, get_size, is_torchs, likely_sizes
from lissom.shrinking.surgery import Surgery, operate, plan
from lissom.shrinking.verify import (
    Check,
    Outcome,
    Reference,
    around,
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
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
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
    if in_place and has_norms(model):
        raise LissomError(
            "in_place=True leaves parameters the objects they are, and this model computes weights "
            "from others: torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if select and as_graph:
        raise LissomError(
            "select=True lets layers select what they read, and as_graph=True gives a graph "
            "without layers: choose one"
        )
    args = as_inputs(example_inputs)
    case = _Case(model, example_inputs, verify, fold, inputs, round_to)
    found = case.found(as_graph, in_place)
    if select and not found.as_graph:
        found = case.reading_less(found)
    result, report = found.small, case.report(found)
    if not found.as_graph:
        warn_of_methods(case.model, found.small, case.likely, case.chosen)
    if in_place:
        operate(model, found.surgery, in_place=True)
        result = model
        if found.surgery.inputs:
            result = Selected(model, found.surgery.inputs, args.kwargs)
    result.training = model.training  # each submodule of a copy has its own mode already
    object.__setattr__(result, "shrinkage", report)
    return result


def shrunk(
    model: nn.Module, example_inputs: Inputs, traced: Trace, *, inputs: bool = False
) -> nn.Module:
    """`shrink` with its defaults of a model that is traced already, for a look at the result.

    It is checked on the example inputs alone, and has no report.
    """
    _check_options(model, 1, False, None)
    return _Case(model, example_inputs, False, True, inputs, 1, traced).found().small


@dataclass(frozen=True)
class _Found:
    """A small module that has been checked, and how it came about."""

    small: nn.Module
    as_graph: bool
    decision: Decision
    surgery: Surgery
    outcome: Outcome


class _Traced:
    """A model's coupling, and what is known of its constants."""

    def __init__(self, model: nn.Module, traced: Trace, *, fold: bool, inputs: bool) -> None:
        self.coupler: Coupler = couple(traced, inputs=inputs)
        self.constants = Constants(self.coupler.trace)
        self.decider = Decider(self.coupler, self.constants, fold=fold)
        self.families = families(self.coupler, model)


class _Case:
    """One model to be shrunk."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        verify: object,
        fold: bool,
        inputs: bool,
        round_to: int,
        traced: Trace | None = None,
    ) -> None:
        self.model, self.given = plain(model), example_inputs
        self.args = as_inputs(example_inputs)
        self.reference, self.checks = Reference(model), _Checks(self.args, verify)
        self.round_to = round_to
        traced = traced or trace(self.model, self.args)
        self.traced = _Traced(self.model, traced, fold=fold, inputs=inputs)
        self.weights = sum(p.numel() for p in self.model.parameters())
        self.apart = float("inf")  # the best of the last tries
        self.outcome = Outcome(self.apart, 0.0)  # of the last one
        self.refused: dict[int, str] = {}  # label: reason
        self.likely: Sequence[Attribute] = ()  # of the last module that was found
        self.chosen: Sequence[Attribute] = ()

    def found(self, as_graph: bool | None = None, in_place: bool = False) -> _Found:
        """The small network: the model's own class if it can be, a graph or less otherwise."""
        tries = [self.by_module, self.by_graph] if as_graph is None and not in_place else []
        if isinstance(self.model, torch.fx.GraphModule):  # torch.export made it: a graph already
            tries.reverse()
        tries = tries or [self.by_graph if as_graph else self.by_module]
        found = next(filter(None, (attempt() for attempt in tries)), None)
        found = found or self.by_module(self.what_modules_cannot())
        if found is None:
            raise LissomError(
                f"{type(self.model).__name__} gives other outputs than a copy of itself: is it "
                "random in evaluation mode? shrink cannot be checked on it"
            )
        return found

    def decision(self, stay: Mask | None = None) -> Decision:
        """What can go, if these labels stay."""
        return self.traced.decider.decide(stay, self.round_to)

    def by_module(self, stay: Mask | None = None) -> _Found | None:
        """The model's own class with smaller tensors, if its code can express that."""
        traced, decision = self.traced, self.decision(stay)
        likely = likely_sizes(self.model, traced.coupler, decision.times)
        self.apart = float("inf")

        def attempt(attributes: Sequence[Attribute]) -> Outcome:
            surgery = plan(self.model, traced.coupler, decision, traced.constants, attributes)
            small = copied(self.model)
            operate(small, surgery)
            found = self._checked(small, decision, surgery, bool(likely))
            if found is not None:
                works[tuple(attributes)] = found
            return self.outcome

        works: dict[tuple[Attribute, ...], _Found] = {}
        chosen = fewest(likely, attempt)
        if chosen is None:
            return None
        self.likely, self.chosen = likely, chosen
        return works[tuple(chosen)]

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
        trace = traced.coupler.trace
        sizes = trace.surely_open_sizes if self.checks.verify is False else trace.open_sizes
        try:
            small = cut_graph(traced.coupler, decision, traced.constants, surgery, sizes)
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

    def _checked(
        self, small: nn.Module, decision: Decision, surgery: Surgery, code: bool = False
    ) -> _Found | None:
        """The small network, if it computes what the large one does; `outcome` says how far.

        Args:
            small: before what selects its inputs.
            decision: what went.
            surgery: that made it.
            code: whether its own code may hold sizes, so that other inputs may reach others of it.
        """
        whole = Selected(small, surgery.inputs, self.args.kwargs) if surgery.inputs else small
        graph = isinstance(small, torch.fx.GraphModule)
        if graph:
            shapes = self.traced.coupler.trace.open_sizes  # all that a graph takes
            length = any(isinstance(s, tuple) and len(s) > 1 and s[1] is None for s in shapes)
            checks = self.checks.of_graph(length)
        else:
            own = [get_size(self.model.get_submodule(at), name) for at, name in self._own(surgery)]
            checks = self.checks.of_module(code, own)
        self.outcome = self.reference.compare(whole, checks)
        self.apart = min(self.apart, self.outcome.difference)
        if not self.outcome.same:
            return None
        return _Found(whole, graph, decision, surgery, self.outcome)

    def _own(self, surgery: Surgery) -> Iterator[tuple[str, str]]:
        """(path, name) of the attributes of the user's own code that change."""
        for path, sizes in surgery.sizes.items():
            if not is_torchs(self.model.get_submodule(path)):
                yield from ((path, name) for name in sizes)

    def report(self, found: _Found) -> Shrinkage:
        """What happened."""
        gone = found.decision.gone
        before: Shrinkage | None = getattr(self.model, "shrinkage", None)
        folded = {
            int(label)
            for site, constants in found.decision.folds.items()
            for label in self.traced.coupler.labels.find(site.labels)[(constants != 0).numpy()]
        }
        return Shrinkage(
            families=tuple(
                (name, kind, len(labels), int((~gone[labels]).sum()))
                for name, kind, labels in self._families(gone)
            ),
            weights=(self.weights, sum(p.numel() for p in found.small.parameters())),
            folded=len(folded),
            shared=len(found.decision.shared),
            kept=tuple(self._kept(found)),
            pinned_by=dict(Counter(op.name for op, _ in self.traced.coupler.declined)),
            reasons={op.name: reason for op, reason in self.traced.coupler.declined},
            pins=tuple(pins(self.traced.coupler)),
            difference=found.outcome.difference,
            tolerance=found.outcome.tolerance,
            as_graph=found.as_graph,
            attributes={} if found.as_graph else self._attributes(found.surgery),
            surgery=found.surgery.after(before.surgery if before else None),
            example_inputs=self.given,
        )

    def _families(self, gone: Mask) -> Iterator[tuple[str, str, Axis]]:
        """(name, kind, labels) of all units, and of whatever else went."""
        coupler, left = self.traced.coupler, gone.copy()
        for family in self.traced.families:
            yield family.name, family.kind, family.labels
            left[family.labels] = False
        axes = [axis.ravel() for node in coupler.trace.names for axis in coupler.axes(node)]
        others = [axis[left[axis]] for axis in axes]
        if any(map(len, others)):
            yield from without_norm(coupler, np.concatenate(others))

    def _attributes(self, surgery: Surgery) -> dict[str, tuple[int, int]]:
        return {
            f"{path}.{name}".lstrip("."): (
                get_size(self.model.get_submodule(path), name),
                surgery.sizes[path][name],
            )
            for path, name in self._own(surgery)
        }

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


class _Checks:
    """The inputs of all comparisons."""

    def __init__(self, args: Inputs, verify: object) -> None:
        self.args, self.verify = args, verify
        random = fresh_inputs(args)
        self._example = Check([args])
        self._images = Check([*other_sizes(args, resolution=True), random])
        self._batches = Check([*other_sizes(args, resolution=False), random])
        self._lengths = [Check([*longer, random])] if (longer := other_lengths(args)) else []
        self._training = Check([args], must=False, training=True)
        self._around: dict[int, list[Check]] = {}
        self._given: list[Check] = []
        if not isinstance(verify, bool):
            given = [verify] if isinstance(verify, Tensor) else verify
            if not isinstance(given, Iterable):
                raise LissomError(
                    "verify is True, False, or a list of inputs to be checked besides, as in "
                    f"verify=[torch.randn(4, 3, 32, 32)]; got {verify!r}"
                )
            self._given = [Check([as_inputs(one)]) for one in given]

    def of_graph(self, length: bool) -> list[Check]:
        """For a traced graph, which has one resolution."""
        if self.verify is False:
            return [self._example]
        return [self._example, self._batches, *(self._lengths if length else []), *self._given]

    def of_module(self, code: bool, sizes: Iterable[int]) -> list[Check]:
        """For a module, whose code may hold sizes; some of them have changed."""
        if self.verify is False:
            return [self._example]
        checks = [self._example, self._images, *self._lengths, *self._given]
        for size in sorted(set(sizes)):
            if size not in self._around:
                inputs = around(self.args, [size])
                self._around[size] = [Check([one], must=False) for one in inputs]
            checks += self._around[size]
        return [*checks, *([self._training] if code else [])]


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
