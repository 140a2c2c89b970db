"""What torch-fidelity and torchmetrics make of made-up features: FID and KID, in a process of its own.

Both import torchvision at their top, but their arithmetic does not use it: empty stand-ins take its place here.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from feature_sets import rows

KID = {"subsets": 7, "subset_size": 40, "seed": 3}
SETS = {"more rows than dimensions": (300, 48), "fewer rows than dimensions": (60, 128)}
"""Rows and dimensions."""

Found = dict[str, list[float]]


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Made and true features."""
    count, dim = SETS[name]
    return rows(count, dim, 1, shift=0.02), rows(count, dim, 2)


@functools.cache
def references() -> dict[str, Found]:
    """For each of ``SETS``, {package: [FID, KID mean, KID standard deviation]}; skips without the packages."""
    for package in ("torch_fidelity", "torchmetrics"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps torch-fidelity==0.4.0 torchmetrics==1.9.0")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _fidelity(made: np.ndarray, truth: np.ndarray) -> list[float]:
    import torch
    from torch_fidelity import metric_fid, metric_kid

    sets = [torch.from_numpy(rows.astype(np.float64)) for rows in (made, truth)]
    fid = metric_fid.fid_statistics_to_metric(*map(metric_fid.fid_features_to_statistics, sets), verbose=False)
    kid = metric_kid.kid_features_to_metric(
        *sets, kid_subsets=1, kid_subset_size=min(map(len, sets)), rng_seed=0, verbose=False
    )
    return [fid[metric_fid.KEY_METRIC_FID], kid[metric_kid.KEY_METRIC_KID_MEAN], kid[metric_kid.KEY_METRIC_KID_STD]]


def _torchmetrics(made: np.ndarray, truth: np.ndarray) -> list[float]:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    network = torch.nn.Identity()
    network.num_features = made.shape[1]
    found = []
    sizes = {"subsets": KID["subsets"], "subset_size": KID["subset_size"]}
    for metric in (FrechetInceptionDistance(feature=network), KernelInceptionDistance(feature=network, **sizes)):
        for features, real in ((made, False), (truth, True)):
            metric.update(torch.from_numpy(features.astype(np.float64)), real=real)
        torch.manual_seed(KID["seed"])
        found.append(metric.compute())
    return [float(found[0]), *map(float, found[1])]


if __name__ == "__main__":
    from launchers.benchmarks import references as stand_ins

    stand_ins.without_torchvision()
    print(json.dumps({name: {f.__name__[1:]: f(*pair(name)) for f in (_fidelity, _torchmetrics)} for name in SETS}))
