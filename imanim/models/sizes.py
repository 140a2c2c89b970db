"""Model sizes by name: configs/model/*.yaml, one laid over another (``model=wan2.1-1.3b,tokenizer-small``).

    python -m imanim.models.sizes                                  # the parameters of every name
    python -m imanim.models.sizes wan2.1-1.3b,tokenizer-small

Nothing is allocated: the models are built on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imanim import cli, config
from imanim.errors import ConfigError
from imanim.models.config import AnimatorConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "model"


def load(text: str, settings: Mapping[str, Any] | None = None) -> AnimatorConfig:
    """The configuration that ``text`` names: names in configs/model or YAML files, with commas, later ones laid over earlier.

    Args:
        settings: laid over them all, e.g. ``{"base": "weights/Wan2.1-T2V-1.3B-Diffusers"}``.

    Raises:
        ConfigError: no such name or file, or a value that is not allowed.
    """
    if problems(text):
        raise ConfigError(problems(text))
    return config.load(AnimatorConfig, [_find(part) for part in _split(text)], settings=settings)


def names() -> list[str]:
    """The names that :func:`load` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def problems(text: str) -> list[str]:
    """What is wrong with ``text`` before anything is read."""
    return [
        f"model: {part}: neither a file nor one of {', '.join(names())}"
        for part in _split(text)
        if not _find(part).is_file()
    ]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _find(part: str) -> Path:
    named = FOLDER / f"{part}.yaml"
    return named if named.is_file() and not Path(part).is_file() else Path(part)


def parameters(sizes: AnimatorConfig) -> dict[str, int]:
    """Part to its number of parameters (the codebook's codes included, which are a buffer)."""
    import torch

    from imanim.models.animator import Animator

    with torch.device("meta"):
        animator = Animator(sizes)
    counts = {name: sum(p.numel() for p in animator.part(name).parameters()) for name in animator.parts}
    return counts | {"codebook": animator.part("codebook").embedding.numel()}


def main(argv: list[str]) -> int:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("models", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names())}")
    chosen = cli.parse(p, argv).models or names()
    rows = [(name, parameters(load(name))) for name in chosen]
    print(f"{'parameters':<22}" + "".join(f"{part:>20}" for part in rows[0][1]) + f"{'all':>20}")
    for name, counts in rows:
        print(f"{name:<22}" + "".join(f"{n:>20,}" for n in (*counts.values(), sum(counts.values()))))
    return 0


if __name__ == "__main__":
    cli.run(main)
