"""What all methods have in common: one handle, one loop, one clock, one ending.

    method = …(optimizer, {groups: penalty})
    loss = F.cross_entropy(net(x), y) + method.penalty()      # 0 where there is none
    optimizer.zero_grad(); loss.backward(); optimizer.step()  # the method's clock
    with method.deployed():                                   # as it would be delivered now
        evaluate(net)
    method.finalize()                                         # plain weights, exact zeros

A hook on the user's own optimizer calls the method after every step. What is particular to a method
is said in a subclass, mostly in three short functions: a term of the loss (`loss_term`), what
happens after a step (`after_step`), and what would be delivered (`write_`).
"""

from abc import ABCMeta
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lissom.arguments import shown
from lissom.errors import LissomError, MethodError, OptimizerError, warn
from lissom.groups import Groups, Partition
from lissom.methods.copies import copies_in
from lissom.methods.optimizers import (
    ANEW,
    parameters_of,
    require_minimizing,
    stepping_optimizer,
    tell_copies,
    took_a_step,
)
from lissom.methods.options import Options, make_options
from lissom.methods.overlaps import in_order
from lissom.methods.sharing import is_gathered, renew_gathered, require_known_parts
from lissom.methods.states import why_not_its_state
from lissom.methods.trainable import require_trainable
from lissom.methods.watching import Watch
from lissom.penalties import Abilities, Ability, Penalty, refusal
from lissom.running import ExampleInputs, holding
from lissom.shards import local
from lissom.strength import Strength

FORGOTTEN = 10  # steps without the penalty in the loss, after which the loop is stopped


class _MadeFirst(ABCMeta):
    """An object that could not be made follows no optimizer."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        method = super().__call__(*args, **kwargs)
        method.follow(method.optimizer)
        return method


class Method(metaclass=_MadeFirst):
    """Trains a network towards zeros in the user's own loop.

    Class attributes declare what differs between methods, so that nothing has to ask which one it
    is: a subclass in a user's own file works in `Trainer`, in `lissom.path` and in recipes.

    Attributes:
        name: in recipes, records and messages.
        takes: in words, the penalties that `accepts` says yes to; what it needs says itself.
        needs: what a penalty must be able to do.
        options_type: the class of its options, whose fields are the keys of a recipe's [method].
        averages: whether an average of weights from before `finalize` is a network of the same
            kind. Where weights come and go it is not: it has no zeros.
        exact: whether it ends in exact zeros.
        cuts: whether one training holds networks of all sizes, in the `order` of its groups, and
            any is a cut. What layers keep of their inputs, as BatchNorm does, is of all of them.
        shards: whether its groups may lie in the parts of tensors that several processes hold.
        fresh_moments: whether the optimizer forgets its moments at the end, since they belong to
            another problem and would go on moving what is dead.
        settles: the fraction of a training after which a budget that falls by a schedule should
            stand still, so that what follows it (multipliers, say) can settle.
        strengths: its own options that a curve may go along, by their dotted name.
        optimizer: the user's, which really steps; None for a copy, which trains no more.
        penalties: {groups: penalty}.
        options: of the class `options_type`.
        step: optimizer steps seen so far.
    """

    name: ClassVar[str]
    takes: ClassVar[str] = "penalties, such as L0, L1 or TopK"
    needs: ClassVar[tuple[Ability, ...]] = ()
    options_type: ClassVar[type[Options]] = Options
    averages: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    cuts: ClassVar[bool] = False
    shards: ClassVar[bool] = False
    fresh_moments: ClassVar[bool] = False
    settles: ClassVar[float] = 1.0
    strengths: ClassVar[Mapping[str, Strength]] = {}

    optimizer: Optimizer | None

    def __init__(
        self,
        optimizer: Optimizer,
        penalties: Mapping[Groups, Any],
        options: Options | None = None,
    ) -> None:
        self.options: Any = make_options(self.options_type, {}) if options is None else options
        if not isinstance(self.options, self.options_type):
            raise MethodError(
                f"options of {self.name!r} are a {self.options_type.__name__}, got {options!r}"
            )
        self.optimizer = stepping_optimizer(optimizer)
        self.penalties = in_order(penalties, nests=self.nests(self.options))
        self.check(penalties.values(), self.options)
        require_known_parts(self.blocks(), self.name, shards=self.shards)
        for groups, penalty in self.penalties.items():
            if isinstance(penalty, Abilities):
                penalty.require_groups(groups.blocks)
            require_trainable(groups, penalty, self.name, of_complex=self.of_complex(self.options))
        self.step = 0
        self.finalized_at: int | None = None
        self._alive: list[Tensor] | None = None
        self._in_loss, self._steps_without = False, 0
        self._deploying = self.resting = False  # it rests while somebody else keeps its zeros
        self.check_optimizer(self.optimizer)
        self.check_alone(self.optimizer)
        if self.has_loss_term:
            require_minimizing(self.optimizer, self.blocks(), self.name)
        self._hook = RemovableHandle(OrderedDict())  # on nothing, until all of it is made
        self._watch = Watch(self)

    # What a subclass says.

    @classmethod
    def accepts(cls, penalty: Any) -> bool:
        """Whether the method can train with a penalty; `takes` says the same in words."""
        return isinstance(penalty, Penalty) and all(need.has(penalty) for need in cls.needs)

    @classmethod
    def nests(cls, options: Any) -> bool:
        """Whether single weights may have a penalty beside that of the groups they lie in."""
        return False

    @classmethod
    def of_complex(cls, options: Any) -> bool:
        """Whether complex weights, whose size is |w|, may be of its groups."""
        return False

    @classmethod
    def attach(
        cls,
        optimizer: Optimizer,
        model: nn.Module,
        penalties: Mapping[Groups, Any],
        options: Any,
        example_inputs: ExampleInputs,
    ) -> "Method":
        """Make it where all that any method could need is at hand, as recipes do."""
        return cls(optimizer, penalties, options)

    @classmethod
    def check(cls, penalties: Iterable[Any], options: Any) -> None:
        """Refuse penalties that the method, or a choice among its options, cannot train with.

        Raises:
            MethodError: saying what it takes, and which methods take what was given.
        """
        for penalty in penalties:
            if not cls.accepts(penalty):
                house = [other for other in _methods() if other.__module__.startswith("lissom.")]
                others = sorted(repr(other.name) for other in house if other.accepts(penalty))
                instead = f" Methods that take it: {', '.join(others)}" if others else ""
                who = f"method {cls.name!r}"
                known = isinstance(penalty, Penalty)
                what = refusal(who, penalty, *cls.needs) if known else None
                what = (
                    what or f"{who} takes {cls.takes}; got {penalty if known else shown(penalty)}"
                )
                raise MethodError(f"{what}.{instead}", field="penalties")

    @classmethod
    def lasts(cls, penalties: Iterable[Any]) -> bool:
        """Whether what it ends with stays while training goes on, as zeros do."""
        return True

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that does not hold what the method is to change.

        Raises:
            OptimizerError: naming what it does not hold.
        """
        held = parameters_of(optimizer)
        missing = [b.name for b in self.blocks() if not held.issuperset(b.parameters)]
        if missing:
            raise OptimizerError(
                f"the optimizer does not hold {', '.join(missing)}, so that no step would train "
                "it: give it model.parameters(), or leave these out with .without(…)"
            )

    def check_model(self) -> None:
        """Refuse a model whose parameters are no longer those that the groups are of.

        Raises:
            MethodError: naming them, and what replaces parameters.
        """
        replaced = []
        for block in self.blocks():
            named = next((m.tensor for m in block.members if m.name == block.name), None)
            held = block.module._parameters.get(block.name.rpartition(".")[2], named)
            if held is not named and not is_gathered(held, named):
                replaced.append(block.name)
        if replaced:
            raise MethodError(
                f"{', '.join(replaced)} was replaced in the model since method {self.name!r} was "
                "made, as load_state_dict(assign=True) does, so that its optimizer steps what the "
                "model does not use: load into the same parameters, or make the optimizer and the "
                "method anew"
            )

    def check_alone(self, optimizer: Optimizer) -> None:
        """Refuse weights that another method on the same optimizer is at work on.

        Raises:
            MethodError: naming them, and the method.
        """
        own = {parameter for block in self.blocks() for parameter in block.parameters}
        for other in methods_on(optimizer):
            shared = [b.name for b in other.blocks() if not own.isdisjoint(b.parameters)]
            if shared and not other.finalized:
                raise MethodError(
                    f"method {other.name!r} is at work on {', '.join(shared)} already, as after a "
                    "notebook's cell was run twice: .finalize() or .remove() it first, or leave "
                    "these out with .without(…)"
                )

    def follow(self, optimizer: Optimizer) -> None:
        """Hang the method on the optimizer; called once, when all of it is made."""
        self._watch.follow(optimizer)
        hook = torch.compiler.disable(self._after_step)  # of a compiled step it is no part
        self._hook = optimizer.register_step_post_hook(hook)
        tell_copies(optimizer, lambda: [method.name for method in methods_on(optimizer)])

    def loss_term(self) -> Tensor | None:
        """What is added to the loss now; None for nothing."""
        return None

    def penalty_was_in_the_loss(self) -> None:
        """Called in the backward pass: the last `loss_term` was in the loss, not only printed."""

    def after_step(self) -> None:
        """Called after each step beyond `start`, until the method is finalized."""

    def write_(self) -> None:
        """Make the weights those that would be delivered now, and change nothing else.

        `deployed` undoes it afterwards, `finalize` leaves it.
        """

    def let_go(self) -> None:
        """Give up, at the end, whatever the method holds on the model or in the optimizer."""

    def aside(self) -> AbstractContextManager[None]:
        """While the weights are those of `write_`: whatever `let_go` would give up is aside."""
        return nullcontext()

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint needs that the method alone knows: tensors and plain values."""
        return {}

    def keep_zeros_(self, block: Partition, alive: Tensor) -> None:
        """Zero again what had vanished by the end; `alive` is 1 or 0, as the block's norms are."""
        block.scale_(alive)

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `own_state` was taken."""

    def warm_start(self, optimizer_state: dict[str, Any] | None) -> None:
        """Begin on a network that an earlier training made sparse.

        Args:
            optimizer_state: of the end of that training; None if there is none.
        """
        if optimizer_state is not None and self.optimizer is not None:
            self.optimizer.load_state_dict(optimizer_state)
            self._watch.together()

    def event(self) -> dict[str, Any]:
        """How it stands, for a record: plain values by name, of which "summary" is read out."""
        return {}

    def outcome(self, model: nn.Module) -> Any:
        """What was made besides the weights, or None: it has `keep(model, folder)` and prints."""
        return None

    def sample(self, n: int = 1, seed: int | None = None) -> Iterator[nn.Module]:
        """Plain networks drawn from a distribution, where the method learns one.

        Raises:
            MethodError: where it does not.
        """
        raise MethodError(f"method {self.name!r} learns one network, and has none to draw from")

    def order(self) -> dict[str, Tensor]:
        """The smallest fraction of the groups with which each weight stays, where `cuts` is True.

        By the names of the parameters, and shaped like them; 0 for what is of no group.

        Raises:
            MethodError: where it has no order.
        """
        raise MethodError(f"method {self.name!r} learns one network, and not those of other sizes")

    # The handle.

    @property
    def finalized(self) -> bool:
        """Whether it is over: by `finalize`, after which zeros stay, or by `remove`."""
        return self.finalized_at is not None

    @property
    def now(self) -> int:
        """The step at which schedules are read: how many there were since `start`."""
        return max(0, self.step - int(self.options.start))

    @property
    def _active(self) -> bool:
        """Whether it is at work in this step."""
        return not self.finalized and not self._deploying and self.step >= self.options.start

    @property
    def _in_force(self) -> bool:
        """Whether an end now would be one of what the penalties have made."""
        return self.step >= int(self.options.start)

    @property
    def has_loss_term(self) -> bool:
        """Whether `penalty` belongs in the loss; without one it would not change a gradient."""
        return type(self).loss_term is not Method.loss_term

    def penalty(self) -> Tensor:
        """What is to be added to the loss: 0 where there is nothing, and never a change.

        It may be asked for as often as one likes, for printing too.
        """
        if self._active and (term := self.loss_term()) is not None:
            return self._noticed(term)
        return torch.zeros((), device=self.blocks()[0].parameters[0].device)

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """Make the network for a while what `finalize` would leave now.

            with method.deployed():
                evaluate(net.eval())       # or lissom.shrink(net, x), or torch.save(…)

        Afterwards everything is as it was, bit for bit.
        """
        if self.finalized or self._deploying:
            yield
            return
        tensors = self.tensors()
        with holding(tensors, [tensor.detach().clone() for tensor in tensors]):
            self._deploying = True
            try:
                with torch.no_grad():
                    self.write_()
                renew_gathered(self.blocks())
                with self.aside():
                    yield
            finally:
                self._deploying = False
        renew_gathered(self.blocks())

    @torch.no_grad()
    def finalize(self) -> None:
        """End: plain weights with exact zeros. If they are trained on, the zeros stay.

        A second call changes nothing.
        """
        if self.finalized:
            return
        if self._deploying:
            raise MethodError("finalize within deployed() is undone at its end: call it later")
        self._watch.look_at_start()
        self.write_()
        renew_gathered(self.blocks())
        self.let_go()
        if self.fresh_moments:
            self.forget_moments()
        self.finalized_at = self.step
        self.note_zeros()
        self._watch.look_at_layers()
        self._watch.note_weights()

    def note_zeros(self) -> None:
        """Take the zeros that are there now for those that stay, as where weights were loaded."""
        self._alive = [(b.norms() > 0).to(b.parameters[0].dtype) for b in self.kept()]

    @torch.no_grad()
    def copy_zeros(self, to: nn.Module | Mapping[str, Tensor]) -> None:
        """Make zero in a copy of the network's weights, such as an average, what has vanished here.

            method.finalize()
            method.copy_zeros(ema)        # AveragedModel(net), or {name: tensor}

        An average that began while weights came and went has no zeros, and never gets any. Averaged
        on from here, it keeps them.

        Args:
            to: a model of the same parameters, also within a wrapper, or tensors by their names.

        Raises:
            MethodError: naming a parameter that it does not have, or not of this shape.
        """
        with self.deployed():
            alive = [b.norms() > 0 for b in self.kept()]
        copies = copies_in(to, self.kept())
        with holding(list(copies), list(copies.values())):
            for block, mask in zip(self.kept(), alive, strict=True):
                self.keep_zeros_(block, mask.to(block.parameters[0].dtype))

    def forget_moments(self) -> None:
        """Clear the optimizer's state, but for what another method is at work on: its metric."""
        if self.optimizer is None:
            return
        others = [m for m in methods_on(self.optimizer) if m is not self and not m.finalized]
        kept = {id(p) for method in others for block in method.blocks() for p in block.parameters}
        for parameter in list(self.optimizer.state):
            if id(parameter) not in kept:
                del self.optimizer.state[parameter]

    def remove(self) -> None:
        """Take the method off the optimizer and the model, and leave the weights as they are."""
        self._hook.remove()
        self._watch.remove()
        if not self.finalized:
            self.let_go()
            self.finalized_at = self.step

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model's and the optimizer's own state."""
        masks, kept = self._alive, self.kept()
        if masks is None and not self.finalized and any(block.shard for block in kept):
            masks = [torch.ones(b.shape_here) for b in kept]  # torch loads into what is there
        alive = masks and [b.joined(mask.bool()) for b, mask in zip(kept, masks, strict=True)]
        return {
            "method": self.name,
            "step": self.step,
            "finalized_at": self.finalized_at,
            "alive": alive,
            "steps_without": self._steps_without,
            "groups": [list(block.shape) for block in self.blocks()],
            "own": self.own_state(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that is not one of this method on these groups, and change nothing.

        Raises:
            MethodError: if it is of another method or of other groups.
        """
        if why := why_not_its_state(self, state):
            raise MethodError(why)
        before = self.own_state()
        try:
            self.load_own_state(state["own"])
        except LissomError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            what = f"the state is of a {self.name!r} with other options: {error!r}"
            raise MethodError(what) from error
        finally:
            self.load_own_state(before)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Load it before the states of model and optimizer: of a method that had finalized by then,
        both have given up what only the method needed.

        Raises:
            MethodError: if the state is of another method or of other groups, and nothing was
                changed.
        """
        self.check_state(state)
        self.load_own_state(state["own"])
        if state["finalized_at"] is not None and not self.finalized:
            self.let_go()
        self.step, self.finalized_at = int(state["step"]), state["finalized_at"]
        self._steps_without = int(state["steps_without"])
        masks = state["alive"] if self.finalized else None
        self._alive = masks and [
            local(mask).to(b.parameters[0].device, b.parameters[0].dtype)
            for mask, b in zip(masks, self.kept(), strict=True)
        ]
        self._watch.together()

    def blocks(self) -> list[Partition]:
        """All groups, by block, in their order."""
        return [block for groups in self.penalties for block in groups]

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a model takes the method's part in it along, and not the optimizer.
        mine = {**self.__dict__, "optimizer": None}
        hooks = [name for name, value in mine.items() if isinstance(value, RemovableHandle)]
        return mine | {name: RemovableHandle(OrderedDict()) for name in hooks}

    def __repr__(self) -> str:
        over = "removed" if self._alive is None else "finalized"
        state = over if self.finalized else f"step {self.step}"
        return f"<method {self.name!r}, {state}, of {', '.join(map(repr, self.penalties))}>"

    def kept(self) -> list[Partition]:
        """The blocks whose zeros stay after the end."""
        kept = [groups for groups, penalty in self.penalties.items() if self.lasts([penalty])]
        return [block for groups in kept for block in groups]

    def tensors(self) -> list[Tensor]:
        """All parameters in which something belongs to the groups, each once."""
        return list(dict.fromkeys(tensor for block in self.blocks() for tensor in block.tensors()))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.finalized:
            self.check_model()
            self.check_optimizer(optimizer)
        if not took_a_step(optimizer):
            return
        if self._deploying:
            raise MethodError(
                "a step within deployed() would train what is put back at its end: step outside"
            )
        self.step += 1
        if self.finalized:
            self._keep_zeros()
            self._watch.note_weights()
            return
        if self.step > self.options.start:
            if self.has_loss_term:
                self._require_penalty_in_loss()
            self.after_step()
            self._watch.look_at_layers_now_and_then()
        end = self.options.finalize_at
        if end is not None and self.step >= end:
            self.finalize()

    @torch.no_grad()
    def _keep_zeros(self) -> None:
        if self._alive is None or self.resting:  # its state is of a method that was removed
            return
        if self.step - 1 == self.finalized_at and not self.lasts(self.penalties.values()):
            warn(
                f"method {self.name!r} has ended, and training goes on: its zeros stay, but other "
                "forms of the weights, such as codebooks, are lost with this step"
            )
        for block, alive in zip(self.kept(), self._alive, strict=True):
            self.keep_zeros_(block, alive.to(block.normed[0].values))

    def _noticed(self, term: Tensor) -> Tensor:
        """The term, of which it will be known if it was in the loss."""
        if not torch.compiler.is_compiling() and term.requires_grad:
            term.register_hook(self._arrived)
        elif torch.is_grad_enabled():  # compiled, or of what is not trained for now
            self._arrived()
        return term

    def _arrived(self, gradient: Tensor | None = None) -> None:
        """The penalty was in the loss: its gradient is here."""
        if self.optimizer is None and not self.finalized:
            warn(
                f"this is a copy of a method {self.name!r}, and follows no optimizer, so that its "
                f"schedules stand still and nothing is finalized: {ANEW}"
            )
        self._in_loss = True
        self.penalty_was_in_the_loss()

    def _require_penalty_in_loss(self) -> None:
        """Refuse a loop in which the penalty is missing."""
        self._steps_without = 0 if self._in_loss else self._steps_without + 1
        self._in_loss = False
        if self._steps_without >= FORGOTTEN:
            raise MethodError(
                f"{FORGOTTEN} steps were taken without the penalty of method {self.name!r} in the "
                "loss, so that nothing would vanish: loss = … + method.penalty()"
            )


def methods_on(optimizer: Optimizer) -> list[Method]:
    """The methods that follow an optimizer."""
    hooks = stepping_optimizer(optimizer)._optimizer_step_post_hooks.values()
    owners = [getattr(getattr(hook, "__wrapped__", None), "__self__", None) for hook in hooks]
    return [owner for owner in owners if isinstance(owner, Method)]


def _methods(base: type[Method] = Method) -> list[type[Method]]:
    """All methods there are, a user's own among them."""
    below = base.__subclasses__()
    named = [cls for cls in below if "name" in vars(cls)]
    return named + [cls for other in below for cls in _methods(other)]
