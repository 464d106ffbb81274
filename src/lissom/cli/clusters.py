"""--ray and --dask: whose machines make the points of a curve."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager

from lissom.errors import PathError, RunError


@contextmanager
def executor_of(ray: str | None, dask: str | None, jobs: int) -> Iterator[Executor | None]:
    """The executor of a cluster; None where there is none.

    Raises:
        PathError: for more than one way to make points.
        MissingError: if Ray or dask is not installed.
        RunError: if no cluster is at the address.
    """
    if ray is not None and dask is not None:
        raise PathError("--ray and --dask are two clusters: give one of them")
    if ray is not None:
        option, address, connected = "--ray", ray, _ray
    elif dask is not None:
        option, address, connected = "--dask", dask, _dask
    else:
        yield None
        return
    if jobs > 1:
        raise PathError(
            f"--jobs {jobs} are processes of this machine, and {option} makes points elsewhere: "
            "give one of the two"
        )
    with ExitStack() as stack:
        try:
            executor = stack.enter_context(connected(address))
        except (OSError, ValueError) as error:
            raise RunError(f"{option} {address}: no cluster answers there: {error}") from error
        yield executor


@contextmanager
def _ray(address: str) -> Iterator[Executor]:
    from lissom.integrations.ray import RayExecutor

    with RayExecutor(address or "auto") as executor:
        yield executor


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    from lissom.integrations.handles import missing

    try:
        from distributed import Client
    except ImportError as error:
        raise missing("dask") from error
    with Client(address) as client, client.get_executor(retries=3) as executor:
        yield executor
