"""What can never matter again while a network trains on, since methods keep its zeros."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.coupling.constants import Constants
from lissom.errors import MethodError
from lissom.methods import methods_on
from lissom.methods.staying import staying
from lissom.running import ExampleInputs, copied
from lissom.shrinking.case import Case, Found
from lissom.shrinking.decision import Decider, Decision, Mask
from lissom.shrinking.reading import reading_less
from lissom.shrinking.report import Shrinkage
from lissom.shrinking.small import Cut, fold_
from lissom.shrinking.surgery import Surgery, operate, sliced

FEW = 0.75  # of its inputs, of which a layer takes a copy


def living(
    model: nn.Module, optimizer: Optimizer, example_inputs: ExampleInputs
) -> tuple[dict[nn.Parameter, Tensor], Surgery, Shrinkage]:
    """What training can go on without; nothing is changed.

    Returns:
        For each parameter of the methods, 0 where a zero stays; what to cut; the report.

    Raises:
        MethodError: for a method that is at work, of which no zero is final.
        GroupError: if the model cannot be traced.
        LissomError: if it is random.
    """
    methods = methods_on(optimizer)
    if at_work := [repr(method.name) for method in methods if not method.finalized]:
        raise MethodError(
            f"method {', '.join(at_work)} is at work, and its zeros may come back: .finalize() it "
            "first"
        )
    zeros = staying(methods)
    named = dict(model.named_parameters())
    masks = {name: zeros[p] for name, p in named.items() if p in zeros}
    into = set(named)
    while True:
        case = _Living(model, example_inputs, masks, into)
        found = case.found(in_place=True)
        lost = {name for name in found.surgery.biases if _lost(name, found.surgery, masks)}
        if not lost:
            return zeros, found.surgery, case.report(found)
        into -= lost


def _lost(name: str, surgery: Surgery, masks: Mapping[str, Tensor]) -> bool:
    """Whether a bias that is to take constants is kept at zero where it does."""
    if name not in masks:
        return False
    kept = sliced(masks[name], surgery.keep.get(name, {})).cpu() != 0
    return bool((surgery.biases[name].cpu() != 0)[~kept].any())


class _Living(Case):
    """A model that is trained on.

    Args:
        model: with zeros.
        example_inputs: of it.
        masks: for parameters by name, 0 where a zero stays.
        into: the biases that may take constants.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        masks: Mapping[str, Tensor],
        into: Collection[str],
    ) -> None:
        super().__init__(model, example_inputs, True, True, False, 1, into=into)
        self.masks = masks
        self._dead = self._for_ever(into)

    def decision(self, stay: Mask | None = None) -> Decision:
        """What can go, if these labels stay, and all that training could bring back."""
        if self._dead is not None:
            stay = ~self._dead if stay is None else stay | ~self._dead
        return super().decision(stay)

    def found(self, as_graph: bool | None = None, in_place: bool = False) -> Found:
        """The small network, in which layers read less where it is much less."""
        found = super().found(as_graph, in_place)
        surgery = reading_less(found.small, found.surgery, self.masks, FEW)
        if not surgery.reads:
            return found
        small = copied(self.model)
        operate(small, surgery)
        return self._checked(small, found.decision, surgery) or found

    def _for_ever(self, into: Collection[str]) -> Mask | None:
        """What could go if each zero that is trained were something else; None for no such zero.

        A γ or a matrix that begins at zero is as much alive as any.
        """
        trace = self.traced.coupler.trace
        trained = dict(self.model.named_parameters())
        changed = {}
        for node, name in trace.names.items():
            if name in trained:
                zero = trained[name].detach() == 0
                if name in self.masks:
                    zero &= self.masks[name] != 0
                if bool(zero.any()):
                    changed[node] = torch.where(zero, 1, trained[name].detach())
        if not changed:
            return None
        constants = Constants(replace(trace, tensors={**trace.tensors, **changed}))
        return Decider(self.traced.coupler, constants, fold=True, into=into).decide().gone

    def _checked(
        self, small: nn.Module, decision: Decision, surgery: Surgery, **how: Any
    ) -> Found | None:
        """The small network, if it computes what the large one does, now and when it is back."""
        found = super()._checked(small, decision, surgery, **how)
        again = copied(self.model)
        fold_(again, surgery)
        cut = Cut(again, replace(surgery, biases={}))
        cut.do()
        cut.undo()
        same = found is not None and self.reference.compare(again, [self.checks.example]).same
        return found if same else None
