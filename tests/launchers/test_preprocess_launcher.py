"""`launchers/preprocess.py` as a user meets it."""

import subprocess
import sys

import pytest


@pytest.fixture
def launch(request):
    def run(*arguments):
        command = [sys.executable, "launchers/preprocess.py", *map(str, arguments)]
        return subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=False)

    return run


def one_line_error(done, *parts):
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for part in parts:
        assert part in lines[0]


def test_help_answers_without_loading_the_heavy_libraries(launch, request):
    done = launch("--help")
    assert done.returncode == 0 and "--config" in done.stdout and "input=" in done.stdout
    code = "import sys; sys.argv=['x','--help']; import runpy\ntry: runpy.run_path('launchers/preprocess.py', run_name='__main__')"
    code += (
        "\nexcept SystemExit: pass\nprint([m for m in ('torch', 'av', 'numpy', 'ai_edge_litert') if m in sys.modules])"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=request.config.rootpath, capture_output=True, text=True, check=True
    )
    assert listed.stdout.strip().endswith("[]")


def test_settings_are_listed_with_their_meaning(launch):
    done = launch("--config", "configs/data/videos.yaml", "--settings")
    assert done.returncode == 0 and "clip.stride_frames" in done.stdout and "pose.backend" in done.stdout


def test_a_dry_run_says_what_would_be_done(launch, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    output = tmp_path / "out"
    done = launch("--config", "configs/data/videos.yaml", "--dry-run", f"input={tmp_path}", f"output={output}")
    assert done.returncode == 0 and "1 videos" in done.stdout and not output.exists()


def test_a_typo_names_the_nearest_key(launch, tmp_path):
    done = launch("--config", "configs/data/videos.yaml", f"input={tmp_path}", "output=o", "clip.heigth=128")
    one_line_error(done, "clip.heigth", "did you mean `height`")


def test_a_missing_folder_and_a_missing_configuration_are_one_line(launch, tmp_path):
    one_line_error(launch(), "--config: not given")
    one_line_error(launch("--config", tmp_path / "no.yaml"), "no such configuration file")
    done = launch("--config", "configs/data/videos.yaml", f"input={tmp_path / 'none'}", f"output={tmp_path / 'out'}")
    one_line_error(done, "is not a folder")


def test_a_verb_that_does_not_exist_names_the_nearest(launch):
    one_line_error(launch("verfy", "--config", "configs/data/videos.yaml"), "did you mean `verify`")


def test_verbs_are_for_videos_and_tasks_count_from_one(launch, tmp_path):
    words = ("--config", "configs/data/videos.yaml", f"input={tmp_path}", f"output={tmp_path / 'out'}")
    one_line_error(launch("run", "--task", "0/4", *words), "I from 1 to N")
    one_line_error(launch("run", *words), "imanim preprocess plan")
    doubles = launch("plan", "--config", "configs/data/doubles.yaml", f"output={tmp_path / 'out'}")
    one_line_error(doubles, "is for videos")


def test_networks_that_are_not_here_are_all_named_at_once(launch, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    monkeypatch.setenv("IMANIM_WEIGHTS", str(tmp_path / "none"))
    words = ("--config", "configs/data/videos.yaml", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}")
    names = ("blazepose-detector", "blazeface-short-range", "dlib-face-embedding", "text-detector-dbnet")
    one_line_error(launch(*words), "imanim weights import", *names)
    one_line_error(launch("plan", *words), "imanim weights import", *names)


def test_publishing_says_what_it_would_do_and_refuses_what_is_no_set(launch, tmp_path):
    one_line_error(launch("publish", f"input={tmp_path}", f"to={tmp_path / 'there'}"), "manifest.json")
