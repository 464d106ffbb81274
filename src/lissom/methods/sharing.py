"""Models that several processes train: what a method can follow, and what it has to refuse."""

from collections.abc import Iterable

from torch import Tensor, nn

from lissom.errors import GateError, MethodError
from lissom.groups import Partition

WHAT_WORKS = (
    "nn.parallel.DistributedDataParallel keeps every tensor whole in every process, and works with "
    "all methods"
)


def require_whole(blocks: Iterable[Partition]) -> None:
    """Refuse tensors of which a process holds a part: norms and budgets would be of that part.

    Raises:
        MethodError: naming them, and what does work.
    """
    sharded = [b.name for b in blocks if any(_is_sharded(m.name, m.tensor) for m in b.members)]
    if sharded:
        raise MethodError(
            f"tensors are sharded over processes, as by fully_shard, FullyShardedDataParallel or "
            f"tensor parallelism, and norms and budgets would be those of a shard: "
            f"{', '.join(sharded)}. {WHAT_WORKS}"
        )


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


def _is_sharded(name: str, tensor: Tensor) -> bool:
    # Their classes come with modules that take long to import.
    return hasattr(tensor, "placements") or "_fsdp_wrapped_module." in name
