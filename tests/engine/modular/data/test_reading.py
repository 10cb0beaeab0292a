"""Data sets in files: every form is read as it was written, and damaged files are refused."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.data.opening import open_data

RANDOM = np.random.default_rng(0)
LABELS = np.arange(40, dtype=np.uint8) % 2
GREY = RANDOM.integers(0, 256, (40, 5, 4), np.uint8)
COLOUR = RANDOM.integers(0, 256, (40, 3, 32, 32), np.uint8)


def check(data: DataSet, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Compare the test set with what was written, and the others with the same by `hold_out`."""
    assert (pixels.shape, pixels.tobytes()) == (data.test.pixels.shape, data.test.pixels.tobytes())
    assert labels.tolist() == data.test.labels.tolist()
    assert len(labels) == len(data.train) + len(data.validation)


def write_idx(folder: Path, *, zipped: bool) -> Path:
    """Write four IDX files."""
    for kind in ("train", "t10k"):
        for name, array in (("images-idx3", GREY), ("labels-idx1", LABELS)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            data = head + array.tobytes()
            path = folder / f"{kind}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path: Path, zipped: bool) -> None:
    """IDX files are read, zipped or not; a folder called after Fashion-MNIST has its classes."""
    data = open_data(str(write_idx(tmp_path, zipped=zipped)))
    check(data, GREY[:, None], LABELS)
    assert ("0", "1") == data.classes


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes of data; expected 800, for the shape"),
        (lambda path: path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:]), "begins with 00000d03"),
        (lambda path: path.write_bytes(b""), "begins with nothing"),
        (lambda path: path.unlink(), "is missing, and so is"),
    ],
    ids=["short", "floats", "empty", "missing"],
)
def test_damaged_idx(tmp_path: Path, damage: Callable[[Path], object], text: str) -> None:
    """A file that is cut, of another kind or missing is an error that names it."""
    write_idx(tmp_path, zipped=False)
    damage(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(DataError, match=text):
        open_data(str(tmp_path))


def cifar_batches(folder: Path, write: Callable[[Path, np.ndarray, np.ndarray], None], ending: str = "") -> Path:
    """Write CIFAR-10 with 40 images: 10 labels are needed, so the training batches have other ones."""
    for number in range(1, 6):
        write(folder / f"data_batch_{number}{ending}", COLOUR, np.arange(40) % 10)
    write(folder / f"test_batch{ending}", COLOUR, LABELS)
    return folder


def write_binary(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    path.write_bytes(np.concatenate([labels.astype(np.uint8)[:, None], pixels.reshape(len(labels), -1)], 1).tobytes())


def write_pickle(path: Path, pixels: np.ndarray, labels: np.ndarray, protocol: int = 2) -> None:
    content = {b"data": pixels.reshape(len(labels), -1), b"labels": labels.tolist(), b"batch_label": b"x"}
    path.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar_in_pickles(tmp_path: Path, protocol: int) -> None:
    """CIFAR-10's pickles are read in protocols 2 to 4, also from the folder that its archive makes."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    cifar_batches(folder, lambda path, pixels, labels: write_pickle(path, pixels, labels, protocol))
    data = open_data(str(tmp_path))
    assert COLOUR.tobytes() == data.test.pixels.tobytes()
    assert (LABELS.tolist(), 200) == (data.test.labels.tolist(), len(data.train) + len(data.validation))
    assert "airplane" == data.classes[0]


def python2_pickle(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """Write a batch as Python 2 did: bytes as its texts, which protocol 2 of Python 3 no longer writes."""
    raw = pixels.tobytes()
    head = b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    head += b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    state = b"(K\x01K" + bytes([len(labels)]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    state += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw
    return head + state + b"tbU\x06labels](" + b"".join(b"K" + bytes([each]) for each in labels) + b"eu."


def test_cifar_of_python_2(tmp_path: Path) -> None:
    """The files as their authors give them were written by Python 2."""
    cifar_batches(tmp_path, lambda path, pixels, labels: path.write_bytes(python2_pickle(pixels, labels)) and None)
    assert pickle.loads(python2_pickle(COLOUR, LABELS), encoding="bytes")[b"labels"] == LABELS.tolist()
    assert COLOUR.tobytes() == open_data(str(tmp_path)).test.pixels.tobytes()


def test_cifar_in_binary_files(tmp_path: Path) -> None:
    """The binary form gives the same as the pickles; a file of another length is an error."""
    cifar_batches(tmp_path, write_binary, ".bin")
    assert COLOUR.tobytes() == open_data(str(tmp_path)).test.pixels.tobytes()
    (tmp_path / "test_batch.bin").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="has 100 bytes; expected a multiple of 3,073"):
        open_data(str(tmp_path))


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (print, ("a pickle has run",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (pickle.dumps({b"data": _Runs()}), "asks for builtins.print"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 0]}), "has an array that is not of bytes"),
        (pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [0, 0]}), r"data of shape \(2, 3\)"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": "ab"}), "no list of numbers"),
        (pickle.dumps([1, 2]), "data of shape None"),
        (b"\x80\x02]q\x01h\x05.", "is no pickle of plain data"),
        (b"not a pickle", "is no pickle of plain data"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)})[:-50], "is no pickle of plain data|ends too early"),
        (b"", "is no pickle of plain data|ends too early"),
    ],
    ids=["runs", "floats", "shape", "labels", "list", "memo", "text", "cut", "empty"],
)
def test_hostile_pickles(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, text: str) -> None:
    """A pickle that is damaged or wants to run something is refused, and nothing runs."""
    cifar_batches(tmp_path, write_pickle)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=text):
        open_data(str(tmp_path))
    assert "" == capsys.readouterr().out


@pytest.mark.parametrize("keys", [("train_images", "train_labels"), ("x_train", "y_train")], ids=["medmnist", "keras"])
def test_npz(tmp_path: Path, keys: tuple[str, str]) -> None:
    """A file of numpy is read under either names, with channels in either place, and names of classes."""
    names = [*keys, *(key.replace("train", "test") for key in keys)]
    last = COLOUR.transpose(0, 2, 3, 1)
    arrays = dict(zip(names, (last, LABELS[:, None], COLOUR, LABELS), strict=True))
    np.savez(tmp_path / "data.npz", classes=np.array(["cat", "dog"]), **arrays)
    data = open_data(str(tmp_path / "data.npz"))
    check(data, COLOUR, LABELS)
    assert ("cat", "dog") == data.classes
    assert COLOUR[0].tobytes() == data.train.pixels[0].tobytes()


def test_npz_with_pickles_or_without_arrays(tmp_path: Path) -> None:
    """Pickled objects are refused, and missing arrays named."""
    path = tmp_path / "data.npz"
    np.savez(path, train_images=np.array([{}], object))
    with pytest.raises(DataError, match="cannot be read"):
        open_data(str(path))
    np.savez(path, images=GREY)
    with pytest.raises(DataError, match="has the arrays images; expected train_images and train_labels or x_train"):
        open_data(str(path))
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(str(path))


def test_what_is_no_data() -> None:
    """A name that is neither known nor a path is an error that lists what can be read."""
    with pytest.raises(
        DataError, match="data 'nothing' is not there; expected shapes, fashion-mnist, or a path to IDX"
    ):
        open_data("nothing")


def write_images(folder: Path) -> Path:
    """Write 40 images of two classes as PNG files, for both sets."""
    image = pytest.importorskip("PIL.Image")
    for kind in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
            home = folder / kind / ("cat", "dog")[label]
            home.mkdir(parents=True, exist_ok=True)
            image.fromarray(pixels.transpose(1, 2, 0)).save(home / f"{number:03}.png")
    return folder


def test_folders_of_images(tmp_path: Path) -> None:
    """Images class by class are read in the order of their names."""
    data = open_data(str(write_images(tmp_path)))
    order = np.argsort(LABELS, kind="stable")
    check(data, COLOUR[order], LABELS[order])
    assert ("cat", "dog") == data.classes


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    """An image of another size, a damaged one and a missing class are errors that name the file."""
    write_images(tmp_path)
    image = pytest.importorskip("PIL.Image")
    place = tmp_path / "test" / "dog" / "001.png"
    image.new("RGB", (8, 9)).save(place)
    with pytest.raises(DataError, match=r"001.png is 8 x 9 pixels; expected 32 x 32 as"):
        open_data(str(tmp_path))
    place.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"001.png cannot be read"):
        open_data(str(tmp_path))
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "cow")
    with pytest.raises(DataError, match="has the folders cat, cow; expected the classes of the training set: cat, dog"):
        open_data(str(tmp_path))


def test_a_zipped_file_that_is_damaged(tmp_path: Path) -> None:
    """A damaged gzip file is an error, not a crash."""
    write_idx(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read"):
        open_data(str(tmp_path))
