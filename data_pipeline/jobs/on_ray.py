"""The same unit of work on a Ray cluster: for fleets beyond one Slurm cluster.

Input and output must be reachable under the same paths from every node. Each video still runs in a process of its own under
the job's limits: a Ray task is the watcher of one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipeline.config import VideosConfig
from data_pipeline.jobs import isolation
from data_pipeline.jobs.isolation import Ended
from imanim.errors import InputError

AHEAD = 2
"""Tasks handed over for each CPU of the cluster: enough to keep it busy, few enough to hold in mind."""


def run(work: Callable[..., Any], tasks: Sequence[Any], config: VideosConfig, address: str) -> Iterator[Ended[Any]]:
    """Like `isolation.run`, on the cluster at ``address`` (``auto``: the one this machine is in; ``local``: one made here).

    Raises:
        InputError: Ray is not installed or not to be reached; or a task raised it.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray: Ray is not installed; run `pip install imanim[ray]`, or leave --ray out") from None
    try:
        # Nodes have the same files under the same paths: plug-ins are found there as they are here.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        where = None if address == "local" else address
        ray.init(address=where, log_to_driver=False, include_dashboard=False, runtime_env=paths)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster there ({error}); start one with `ray start --head`"
        ) from None
    watch = ray.remote(max_retries=3)(_one)
    queue, flying = list(tasks)[::-1], dict[Any, Any]()
    try:
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while queue or flying:
            while queue and len(flying) < most:
                task = queue.pop()
                flying[watch.remote(work, task, config)] = task
            done, _ = ray.wait(list(flying), num_returns=1)
            task = flying.pop(done[0])
            try:
                ended, problem = ray.get(done[0])
            except (
                ray.exceptions.RayError
            ) as error:  # a node that died, again and again: this video's trouble, not the batch's
                ended, problem = Ended(task, None, "crashed", f"its Ray worker failed ({type(error).__name__})"), None
            if problem is not None:
                raise InputError(problem)
            yield ended
    finally:
        ray.shutdown()


def _one(work: Callable[..., Any], task: Any, config: VideosConfig) -> tuple[Ended[Any] | None, str | None]:
    """On a node of the cluster: one video, watched."""
    try:
        return next(isolation.run(work, [task], 1, config.limits)), None
    except InputError as error:
        return None, str(error)
