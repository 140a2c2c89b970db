"""`launchers/preprocess.py` as a user meets it."""

import subprocess
import sys
import time

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
    begun = time.monotonic()
    done = launch("--help")
    assert done.returncode == 0 and "--config" in done.stdout and "input=" in done.stdout
    assert time.monotonic() - begun < 10  # two seconds on a quiet machine
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
