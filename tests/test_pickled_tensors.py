"""Tensors are read out of pickles by name only: whatever else a pickle names is refused before anything of it runs."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from imanim import pickled_tensors
from imanim.errors import InputError

TREE = {"params": {"a/b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.ones(2, np.float64)}}


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must not run > /tmp/imanim-evil",)


def test_nested_arrays_come_back_flat_and_equal():
    found = pickled_tensors.numpy_pickle(pickle.dumps(TREE), "x")
    assert set(found) == {"params.a/b.kernel", "params.c"}
    np.testing.assert_array_equal(found["params.a/b.kernel"], TREE["params"]["a/b"]["kernel"])
    assert found["params.c"].dtype == np.float64


def test_a_transposed_array_keeps_its_order():
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(pickled_tensors.numpy_pickle(pickle.dumps({"a": array}), "x")["a"], array)


@pytest.mark.parametrize(
    "content, says",
    [
        ({"a": Evil()}, "posix.system|os.system"),
        ({"a": np.array([Evil()], object)}, "refused"),
        ({"a": "words"}, "a is a str"),
        ({"a": np.array(["words"])}, "arrays of U5"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused(content, says, tmp_path):
    with pytest.raises(InputError, match=says):
        pickled_tensors.numpy_pickle(pickle.dumps(content), "x")
    assert not os.path.exists("/tmp/imanim-evil")


@pytest.mark.parametrize("data", [b"", b"nothing", pickle.dumps(TREE)[:-20]])
def test_a_damaged_pickle_is_one_line(data):
    with pytest.raises(InputError, match=r"^x: refused"):
        pickled_tensors.numpy_pickle(data, "x")


def test_a_torchscript_archive_is_read_without_its_code():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, stride=2)
            self.register_buffer("scale", torch.arange(4.0).reshape(2, 2).T)

        def forward(self, x):
            return self.conv(x) * self.scale.sum()

    net, buffer = Net(), io.BytesIO()
    torch.jit.save(torch.jit.script(net), buffer)
    found = pickled_tensors.torchscript(buffer.getvalue(), "x")
    wanted = {name: value.numpy() for name, value in net.state_dict().items()}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_torchscript_archive_with_a_strange_name_or_a_tensor_outside_its_storage_is_refused():
    def archive(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as z:
            z.writestr("net/data.pkl", content)
            z.writestr("net/data/0", np.zeros(2, np.float32).tobytes())
        return buffer.getvalue()

    with pytest.raises(InputError, match="refused"):
        pickled_tensors.torchscript(archive(pickle.dumps({"a": Evil()})), "x")
    # protocol 2 text: a tensor of 5 numbers in a storage of 2
    outside = b"".join(
        [
            *(
                b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03",
            ),
            *(
                b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x02tq\x07QK\x00K\x05\x85q\x08K\x01\x85q\t",
            ),
            *(b"\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.",),
        ]
    )
    with pytest.raises(InputError, match="outside its storage"):
        pickled_tensors.torchscript(archive(outside), "x")
    with pytest.raises(InputError, match="not a TorchScript archive"):
        pickled_tensors.torchscript(b"PK", "x")


def test_a_state_dictionary_is_read_and_more_is_refused():
    import torch

    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2, 3)}, buffer)
    assert pickled_tensors.state_dict(buffer.getvalue(), "x")["w"].shape == (2, 3)
    buffer = io.BytesIO()
    torch.save({"w": Evil()}, buffer)
    with pytest.raises(InputError, match="not readable as a state dictionary"):
        pickled_tensors.state_dict(buffer.getvalue(), "x")
