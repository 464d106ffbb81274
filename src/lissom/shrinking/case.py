"""One model to be shrunk: tries, each of them checked, and the report of the one that worked."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lissom.coupling import Coupler, Family, Trace, couple, families, pins, trace, without_norm
from lissom.coupling.constants import Constants
from lissom.coupling.labels import Axis
from lissom.errors import GroupError, LissomError
from lissom.parametrized import full_name, plain
from lissom.running import ExampleInputs, Inputs, as_inputs, copied
from lissom.shrinking.attributes import fewest
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


@dataclass(frozen=True)
class Found:
    """A small module that has been checked, and how it came about."""

    small: nn.Module
    as_graph: bool
    decision: Decision
    surgery: Surgery
    outcome: Outcome


class Traced:
    """A model's coupling, and what is known of its constants."""

    def __init__(
        self,
        model: nn.Module,
        traced: Trace,
        *,
        fold: bool,
        inputs: bool,
        into: Collection[str] | None,
    ) -> None:
        self.coupler: Coupler = couple(traced, inputs=inputs)
        self.constants = Constants(self.coupler.trace)
        self.decider = Decider(self.coupler, self.constants, fold=fold, into=into)
        self.families = families(self.coupler, model)


class Case:
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
        into: Collection[str] | None = None,
    ) -> None:
        self.model, self.given = plain(model), example_inputs
        self.args = as_inputs(example_inputs)
        self.reference, self.checks = Reference(model), Checks(self.args, verify)
        self.round_to = round_to
        traced = traced or trace(self.model, self.args)
        self.traced = Traced(self.model, traced, fold=fold, inputs=inputs, into=into)
        self.weights = sum(p.numel() for p in self.model.parameters())
        self.apart = float("inf")  # the best of the last tries
        self.outcome = Outcome(self.apart, 0.0)  # of the last one
        self.refused: dict[int, str] = {}  # label: reason
        self.likely: Sequence[Attribute] = ()  # of the last module that was found
        self.chosen: Sequence[Attribute] = ()

    def found(self, as_graph: bool | None = None, in_place: bool = False) -> Found:
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

    def by_module(self, stay: Mask | None = None) -> Found | None:
        """The model's own class with smaller tensors, if its code can express that."""
        traced, decision = self.traced, self.decision(stay)
        likely = likely_sizes(self.model, traced.coupler, decision.times)
        self.apart = float("inf")

        def attempt(attributes: Sequence[Attribute]) -> Outcome:
            surgery = plan(self.model, traced.coupler, decision, traced.constants, attributes)
            small = copied(self.model)
            operate(small, surgery)
            found = self._checked(small, decision, surgery, code=bool(likely))
            if found is not None:
                works[tuple(attributes)] = found
            return self.outcome

        works: dict[tuple[Attribute, ...], Found] = {}
        chosen = fewest(likely, attempt)
        if chosen is None:
            return None
        self.likely, self.chosen = likely, chosen
        return works[tuple(chosen)]

    def reading_less(self, found: Found) -> Found:
        """The same with layers that select what they read, if the model calls them as layers."""
        inner = found.small.net if found.surgery.inputs else found.small
        assert isinstance(inner, nn.Module)
        surgery = reading_less(inner, found.surgery)
        small = copied(self.model)
        operate(small, surgery)
        return self._checked(small, found.decision, surgery) or found

    def by_graph(self) -> Found | None:
        """The traced graph on smaller tensors: for any length, or else for that of the trace."""
        trace = self.traced.coupler.trace
        surely = trace.surely_open_sizes
        if self.checks.verify is False or trace.open_sizes == surely:
            return self._graph(surely)
        return self._graph(trace.open_sizes) or self._graph(surely)

    def _graph(self, sizes: Sequence[Any]) -> Found | None:
        """The traced graph for inputs of these sizes, None for each that may be any."""
        traced, decision = self.traced, self.decision()
        surgery = plan(self.model, traced.coupler, decision, traced.constants)
        try:
            small = cut_graph(traced.coupler, decision, traced.constants, surgery, sizes)
        except GroupError:
            return None
        return self._checked(small, decision, surgery, sizes=sizes)

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
        self,
        small: nn.Module,
        decision: Decision,
        surgery: Surgery,
        *,
        code: bool = False,
        sizes: Sequence[Any] = (),
    ) -> Found | None:
        """The small network, if it computes what the large one does; `outcome` says how far.

        Args:
            small: before what selects its inputs.
            decision: what went.
            surgery: that made it.
            code: whether its own code may hold sizes, so that other inputs may reach others of it.
            sizes: that it takes, of a graph.
        """
        whole = Selected(small, surgery.inputs, self.args.kwargs) if surgery.inputs else small
        graph = isinstance(small, torch.fx.GraphModule)
        if graph:
            length = any(isinstance(s, tuple) and len(s) > 1 and s[1] is None for s in sizes)
            checks = self.checks.of_graph(length)
        else:
            own = [get_size(self.model.get_submodule(at), name) for at, name in self._own(surgery)]
            checks = self.checks.of_module(code, own)
        self.outcome = self.reference.compare(whole, checks)
        self.apart = min(self.apart, self.outcome.difference)
        if not self.outcome.same:
            return None
        return Found(whole, graph, decision, surgery, self.outcome)

    def _own(self, surgery: Surgery) -> Iterator[tuple[str, str]]:
        """(path, name) of the attributes of the user's own code that change."""
        for path, sizes in surgery.sizes.items():
            if not is_torchs(self.model.get_submodule(path)):
                yield from ((path, name) for name in sizes)

    def report(self, found: Found) -> Shrinkage:
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
            full_name(path, name): (
                get_size(self.model.get_submodule(path), name),
                surgery.sizes[path][name],
            )
            for path, name in self._own(surgery)
        }

    def _kept(self, found: Found) -> Iterator[Kept]:
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


class Checks:
    """The inputs of all comparisons."""

    def __init__(self, args: Inputs, verify: object) -> None:
        self.args, self.verify = args, verify
        random = fresh_inputs(args)
        self.example = Check([args])
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
            return [self.example]
        return [self.example, self._batches, *(self._lengths if length else []), *self._given]

    def of_module(self, code: bool, sizes: Iterable[int]) -> list[Check]:
        """For a module, whose code may hold sizes; some of them have changed."""
        if self.verify is False:
            return [self.example]
        checks = [self.example, self._images, *self._lengths, *self._given]
        for size in sorted(set(sizes)):
            if size not in self._around:
                inputs = around(self.args, [size])
                self._around[size] = [Check([one], must=False) for one in inputs]
            checks += self._around[size]
        return [*checks, *([self._training] if code else [])]
