"""A Ray cluster as an executor: `lissom.path(…, executor=RayExecutor())`."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from lissom.integrations.handles import missing

try:
    import ray
except ImportError as error:
    raise missing("ray") from error

LARGE = 2**16  # bytes that are sent once, and not with each call


class RayExecutor(Executor):
    """Submits each call as a task of a Ray cluster, which tries it again where a worker is lost.

        with RayExecutor("auto", num_gpus=1) as executor:
            curve = lissom.path(fit, strengths, …, out="/shared/curve", executor=executor)

    Args:
        address: of the cluster: "auto" for the one of this machine, "ray://head:10001" for another,
            "local" for one that is started here and ends with the executor. A connection that is
            there already is taken as it is.
        **options: of each task, as `ray.remote` has them: num_gpus, resources, max_retries (3), ….

    Raises:
        ConnectionError: of Ray, if no cluster is at the address.
    """

    def __init__(self, address: str = "auto", **options: Any) -> None:
        self._connected = not ray.is_initialized()
        if self._connected:
            ray.init(address, log_to_driver=False)
        self._task = ray.remote(_called).options(**options)
        self._references: dict[Future[Any], Any] = {}
        self._stored: dict[bytes, Any] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        reference = self._task.remote(fn, *map(self._sent, args), **kwargs)
        future: Future[Any] = reference.future()
        self._references[future] = reference
        future.add_done_callback(lambda done: self._references.pop(done, None))
        return future

    def _sent(self, given: Any) -> Any:
        """It, or Ray's reference to it, where it is large and the same for many calls."""
        if not isinstance(given, bytes) or len(given) < LARGE:
            return given
        if given not in self._stored:
            self._stored[given] = ray.put(given)
        return self._stored[given]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        running = list(self._references.values())
        if cancel_futures:
            for reference in running:
                ray.cancel(reference, force=True)
        elif wait and running:
            ray.wait(running, num_returns=len(running))
        if self._connected and ray.is_initialized():
            ray.shutdown()


def _called(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)
