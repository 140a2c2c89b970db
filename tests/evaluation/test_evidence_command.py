"""`launchers/evidence.py`: what it would do, what it refuses beforehand, and what its exit code says."""

import json
import shlex
import sys
from pathlib import Path

import evidence_fixture as fixture
import pytest
from test_evidence import ABLATION, RUN

from evaluation.evidence import build
from evaluation.evidence.config import EvidenceConfig
from imanim import config
from imanim.errors import InputError
from launchers import evidence

ROOT = Path(__file__).resolve().parents[2]


def keep(folder, **made):
    cfg = fixture.settings(folder)
    build.keep(cfg, RUN, {"scores": fixture.make(**made)}, None)
    return cfg.keep.results


@pytest.mark.parametrize("name", ["evidence.yaml", "evidence_quick.yaml"])
def test_shipped_configurations_list_their_steps(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert evidence.main(["--config", str(ROOT / "configs" / name), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "data: python launchers/preprocess.py --config configs/data/doubles_v1" in said
    assert (
        "scores: torchrun --standalone --nproc_per_node 2 launchers/evaluate.py" in said
        and "to do on two cores" in said
    )
    assert str(ROOT) not in said and not list(tmp_path.iterdir())
    assert ("leakage: " in said) == (name == "evidence.yaml")


def test_commands_on_the_page_can_be_given_to_a_shell():
    words = ["curves={stage 2: runs/a, stage 3: runs/b}", "tokens.batch_size=4"]
    told = evidence._given(str(ROOT / "configs/evidence.yaml"), words)
    assert shlex.split(told) == ["--config", "configs/evidence.yaml", *words]
    step = evidence.Step("scores", ["launchers/evaluate.py", words[0]], 0.0)
    assert shlex.split(step.told)[1:] == ["launchers/evaluate.py", words[0]]


def test_a_quick_run_writes_nothing_that_is_committed():
    quick = config.load(EvidenceConfig, ROOT / "configs/evidence_quick.yaml")
    written = [quick.output, quick.keep.results, quick.keep.pictures, quick.keep.page]
    assert all(path.startswith("runs/") for path in written)


def test_compare_ends_with_one_on_a_sure_contradiction_only(tmp_path, capsys):
    full = keep(tmp_path / "full")
    assert evidence.main(["compare", full, keep(tmp_path / "same", motions=4)]) == 0
    assert " 0 disagree" in capsys.readouterr().out
    turned = keep(tmp_path / "turned", videos=fixture.VIDEOS | {"hold": 25.0})
    assert evidence.main(["compare", full, turned]) == 1
    assert "L3, PSNR, ours against holding still: full +3" in capsys.readouterr().out
    few = keep(tmp_path / "few", videos=fixture.VIDEOS | {"hold": 25.0}, motions=1)  # but 6 over all levels
    assert evidence.main(["compare", full, few]) == 1
    said = capsys.readouterr().out
    assert "L3, PSNR, ours against holding still: full +3.00 [+2.93, +3.08], quick -2.96" in said
    assert "too few motions (2) to call, opposite directions" in said and said.count(": disagree") == 1


def test_what_would_fail_at_the_end_fails_at_the_start(tmp_path, monkeypatch):
    cfg = fixture.settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    for change, says in (
        ({"reference": "nowhere"}, "nowhere"),
        ({"ablation": "gone.json"}, r"gone.json: no such file or folder; check ablation"),
        ({"curves": {"stage 1": "gone"}}, "gone: no such file or folder"),
    ):
        with pytest.raises(InputError, match=says):
            evidence._check(config.from_dict(EvidenceConfig, {**config.to_dict(cfg), **change}))
    (tmp_path / "words.md").write_text("## Nowhere\n\nLost.\n")
    cfg.keep.words = "words.md"
    with pytest.raises(InputError, match="no section `Nowhere`"):
        evidence._check(cfg)


def test_the_page_verb_measures_nothing(tmp_path, capsys):
    folder = keep(tmp_path)
    settings = fixture.settings(tmp_path)
    file = tmp_path / "evidence.yaml"
    file.write_text(config.to_yaml(settings))
    assert evidence.main(["page", "--config", str(file)]) == 0
    assert (tmp_path / "page.md").is_file() and folder and "written" in capsys.readouterr().out


def test_the_page_verb_takes_what_needs_no_measuring(tmp_path, capsys):
    folder = Path(keep(tmp_path))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    file, made = tmp_path / "evidence.yaml", tmp_path / "ablation.json"
    file.write_text(config.to_yaml(fixture.settings(tmp_path)))
    made.write_text(json.dumps(ABLATION))
    assert evidence.main(["page", "--config", str(file), f"ablation={made}"]) == 0
    assert f"{folder / 'ablation.json'} written" in capsys.readouterr().out
    assert "| **full** | the method | 2 |" in (tmp_path / "page.md").read_text()
    assert {name: (folder / name).read_bytes() for name in before} == before
    with pytest.raises(InputError, match=r"gone.json: no such file or folder; check ablation"):
        evidence.main(["page", "--config", str(file), "replications={seed 1: gone.json}"])
    for name in ("again", "once more"):
        assert evidence.main(["page", "--config", str(file), f"replications={{{name}: {made}}}"]) == 0
    kept = json.loads((folder / "replications.json").read_text())
    assert list(kept) == ["again", "once more"]  # the first file may be gone by the time the second is there


def test_an_evaluation_that_left_samples_out_is_finished_and_a_failed_one_is_not(tmp_path):
    step = evidence.Step("scores", [], 0.0, [sys.executable])
    finished = evidence._finished(step, tmp_path)
    assert finished(0, 0.0) and not finished(1, 0.0)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "table.tex").touch()
    now = (tmp_path / "scores" / "table.tex").stat().st_mtime
    assert finished(1, now - 5) and not finished(1, now + 5) and not finished(2, now - 5)
