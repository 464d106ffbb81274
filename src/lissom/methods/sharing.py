"""Models that several processes train: what a method can follow, and what it has to refuse."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lissom.errors import GateError, MethodError
from lissom.groups import Partition
from lissom.shards import Crowd, is_sharded

WHAT_WORKS = (
    "nn.parallel.DistributedDataParallel keeps every tensor whole in every process, and works with "
    "all methods"
)


def require_known_parts(blocks: Iterable[Partition], method: str, *, shards: bool) -> None:
    """Refuse tensors of which a process holds a part, where a method would see that part alone.

    Args:
        blocks: the method's groups.
        method: its name.
        shards: whether it knows DTensors, by which fully_shard and tensor parallelism cut tensors.

    Raises:
        MethodError: naming them, and what does work.
    """
    for block in blocks:
        flat = [m.name for m in block.members if _is_flat(m.name, m.tensor)]
        cut = [m.name for m in block.members if is_sharded(m.tensor)]
        if flat:
            raise MethodError(
                f"FullyShardedDataParallel made flat tensors of the parameters, {flat[0]} among "
                "them, of which a process has an arbitrary piece: shard the model by "
                f"torch.distributed.fsdp.fully_shard instead. {WHAT_WORKS}"
            )
        if cut and not shards:
            raise MethodError(
                f"{cut[0]} is sharded over processes, as by fully_shard or tensor parallelism, and "
                f"method {method!r} would see one shard of it; 'proximal', 'lc', 'gates' and "
                f"'subgradient' know shards. {WHAT_WORKS}"
            )
        if block.run is not None and any(m.shard and m.shard.dims - {0} for m in block.members):
            raise MethodError(
                f"{block.name} is sharded along its inputs, and a budget of each run of neighbours "
                "needs whole rows: shard it along dim 0"
            )


def _is_flat(name: str, tensor: Tensor) -> bool:
    """Whether it is a piece of a flat tensor, as FullyShardedDataParallel has them."""
    return "_fsdp_wrapped_module." in name or getattr(tensor, "_fsdp_flattened", False) is True


def is_gathered(held: Tensor | None, named: Tensor | None) -> bool:
    """Whether a module has a whole tensor in the place of its shard, as between passes."""
    return held is not None and named is not None and is_sharded(named) and not is_sharded(held)


def reshard(model: nn.Module) -> None:
    """Have the shards in a model that fully_shard gathers for its calls, as between them."""
    for module in model.modules():
        if callable(back := getattr(module, "reshard", None)) and hasattr(module, "unshard"):
            back()


@torch.no_grad()
def renew_gathered(blocks: Iterable[Partition]) -> None:
    """Bring weights that processes have gathered up to date, where their shards were changed.

    fully_shard keeps those of the outermost module from a forward pass on, for a backward pass that
    may never come, as in an evaluation.
    """
    for block in blocks:
        for member in block.members:
            owner = member.owner or (block.module if len(block.members) == 1 else None)
            if owner is None or member.shard is None:
                continue
            held = owner._parameters.get(member.name.rpartition(".")[2])
            if held is not None and not is_sharded(held):
                held.data.copy_(member.shard.gathered(member.values))


def require_own_forward(model: nn.Module) -> None:
    """Refuse a model in a wrapper that would not see log α, which gates put on the model.

    Raises:
        GateError: with the order that works.
    """
    for module in model.modules():
        name = type(module).__name__
        if name in ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"):
            raise GateError(
                f"log α has to be on the model before {name} wraps it, or nothing would reduce its "
                f"gradient: gate the model first, then wrap it. {WHAT_WORKS}"
            )


def reduce_gradient(parameter: nn.Parameter, blocks: Iterable[Partition]) -> None:
    """Let the gradient of a parameter that every process has whole be the mean over processes.

    Args:
        parameter: added to a model that was sharded before, so that nobody else reduces it.
        blocks: of the sharded tensors.
    """
    crowd = Crowd([m.shard for b in blocks for m in b.members if m.shard is not None])
    with torch.no_grad():  # and all begin alike
        parameter.copy_(crowd.sum(parameter * crowd.first))

    def mean(given: Tensor) -> None:
        assert given.grad is not None
        given.grad.copy_(crowd.sum(given.grad) / crowd.mesh.size())

    parameter.register_post_accumulate_grad_hook(mean)


def require_reduced(log_alpha: Tensor) -> None:
    """Refuse a call by a `DistributedDataParallel` that was made without log α.

    Raises:
        GateError: with the order that works.
    """
    caller = nn.parallel.DistributedDataParallel._active_ddp_module
    if caller is not None and all(p is not log_alpha for p in caller._module_parameters):
        raise GateError(
            "DistributedDataParallel wrapped this model before it was gated, and does not reduce "
            "the gradient of log α: gate the model first, then wrap it"
        )
