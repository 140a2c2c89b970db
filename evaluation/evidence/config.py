"""Settings of ``launchers/evidence.py``."""

from __future__ import annotations

from dataclasses import dataclass

from imanim.config import opt, req


@dataclass(kw_only=True)
class CommandConfig:
    """A launcher's configuration and what is changed in it."""

    config: str = req("configuration file of the launcher")
    overrides: list[str] = opt([], "key=value settings laid over it")
    minutes: float = opt(0.0, "what it took on two cores; told by --dry-run, changes nothing")


@dataclass(kw_only=True)
class DataConfig(CommandConfig):
    """The benchmark's samples."""

    output: str = req("folder of the samples")
    verify: list[str] = opt(
        [],
        "words after `python` of the command that compares the samples with their checksums, {data} being the folder;"
        " empty = they are not compared, and the page says so",
    )


@dataclass
class TokensConfig:
    """What is read from the motion tokens."""

    batch_size: int = opt(8, "clips at a time")
    minutes: float = opt(0.0, "what it took on two cores; told by --dry-run, changes nothing")

    def problems(self) -> list[str]:
        return [] if self.batch_size >= 1 else [f"batch_size: {self.batch_size} must be at least 1"]


@dataclass
class ScopesConfig:
    """Which samples are put together."""

    cells: list[str] = req("splits that are pooled: seen and unseen bodies by seen and unseen kinds of motion")
    deciding: list[str] = req("splits that targets are judged on: unseen bodies, unseen motions")
    portrait: str | None = opt(None, "split of talking heads; null = there is none")
    headline_levels: list[str] = opt(["L3", "L4"], "levels that comparisons are made on, alone and together")

    def problems(self) -> list[str]:
        found = [f"{name}: names no split" for name in ("cells", "deciding") if not getattr(self, name)]
        return found if self.headline_levels else [*found, "headline_levels: names no level"]


@dataclass
class TargetsConfig:
    """The issue's targets, as numbers."""

    token_error: float = opt(1.5, "joints read from the tokens: mean error at most, % of the image height")
    codes_used: float = opt(80.0, "codes in use at least, %")
    joint_ratio: float = opt(0.5, "retargeted joints: error at most so many times the best training-free guess's")
    guesses: list[str] = opt(["hold", "copy", "scale_shift", "bone_length"], "training-free guesses of the joints")
    beaten_values: list[str] = opt(
        ["psnr", "ssim", "lpips_alex", "read_joint_error"], "values in which the made video must be better"
    )
    beaten_methods: list[str] = opt(["hold", "driver"], "than these videos, at every level")
    clothes: list[str] = opt(["shirt", "pants", "shoes"], "colours that probes must not read")
    clothes_r2: float = opt(0.05, "from tokens: R2 below")


@dataclass
class StripsConfig:
    """Filmstrips: one motion, all its bodies."""

    splits: list[str] = opt([], "splits that strips are made of; empty = the deciding ones and the portraits")
    levels: list[str] = opt([], "a strip for the first motion of each of these levels; empty = the headline's and L5")
    moments: int = opt(3, "frames a body")
    bodies: int = opt(5, "bodies at most")
    height: int = opt(112, "of a frame in the picture, pixels")

    def problems(self) -> list[str]:
        lowest = {"moments": 1, "bodies": 1, "height": 16}
        return [f"{n}: {getattr(self, n)} must be at least {m}" for n, m in lowest.items() if getattr(self, n) < m]


@dataclass
class OutputsConfig:
    """What is kept, and where: the page links to the pictures."""

    results: str = opt("docs/evidence", "folder of the small result files that the page is written from")
    pictures: str = opt("docs/pictures", "folder of the page's pictures, evidence_*.png")
    page: str = opt("docs/evidence.md", "the page")
    words: str | None = opt("docs/evidence/words.md", "sections `## HEADING` written by people, put under that heading")


@dataclass
class EvidenceConfig:
    """From seeds to a page."""

    data: DataConfig = req("the benchmark's samples")
    scores: CommandConfig = req("evaluation of the model under the benchmark's protocol")
    scopes: ScopesConfig = req("which samples are put together")
    leakage: CommandConfig | None = opt(None, "evaluation under a protocol with leakage probes; null = none")
    tokens: TokensConfig = opt(TokensConfig(), "what is read from the motion tokens")
    targets: TargetsConfig = opt(TargetsConfig(), "the targets")
    strips: StripsConfig = opt(StripsConfig(), "filmstrips across bodies")
    keep: OutputsConfig = opt(OutputsConfig(), "what is kept")
    model: str | None = opt(None, "training run or model folder; null = the packaged tiny model")
    ablation: str | None = opt(None, "ablation.json of `imanim ablate`; null = the page says that there is none")
    replications: dict[str, str] = opt(
        {}, "the same ablation again, {name: ablation.json}: other seeds, precisions or machines; name = what differs"
    )
    replicated: list[str] = opt(
        ["joint_error", "moving_error", "read_joint_error", "leakage of person"],
        "columns of the ablation shown beside those of its replications",
    )
    gap_arms: dict[str, str] = opt(
        {}, "arms of the ablation shown over the gap between bodies, {name: folder of their results.json}"
    )
    curves: dict[str, str] = opt({}, "training runs whose curves are shown, {name: folder}")
    curve_values: list[str] = opt(
        ["joint_error", "codes_used", "retargeted_joint_error", "flow", "loss"],
        "values of metrics.jsonl shown as curves",
    )
    reference: str | None = opt(
        None, "folder of kept results whose orderings this run's are compared with; null = none"
    )
    output: str = opt("runs/evidence", "folder for everything that is not kept")
    ranks: int = opt(2, "processes that make and measure videos")
    command: str = opt("make evidence", "what the page says that it is made by")

    def problems(self) -> list[str]:
        return [] if self.ranks >= 1 else [f"ranks: {self.ranks} must be at least 1"]
