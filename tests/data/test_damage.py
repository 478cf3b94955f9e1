"""Pictures that cannot be decoded are told by name, all at once, and what decodes them keeps within its bounds."""

import io
import pickle
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from encoded import AVIF, HEIF, Image, chunk, encoded, exif_of, smooth
from processes import run_together

from ssdml_fast.data import DataError
from ssdml_fast.data import pictures as module
from ssdml_fast.data.damage import DamagedPictures
from ssdml_fast.data.pictures import check_parts, decode_image, decode_images, decode_parts, look

ImageFile = pytest.importorskip("PIL.ImageFile")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_all_damaged_pictures_of_all_parts_are_told_in_one_message():
    sound = encoded(smooth(), "jpeg")
    bad = [sound[:300], b"", b"none"]
    train = [sound, bad[0], sound, bad[1]], ["train/c0/0.jpg", "train/c0/1.jpg", "train/c1/0.jpg", "train/c1/1.jpg"]
    test = [bad[2], sound], ["test/c0/0.jpg", "test/c0/1.jpg"]
    (images, empty, of_test), damaged = decode_parts([train, ([], []), test], 8)
    assert empty is None and images.shape == (2, 3, 8, 8) and of_test.shape == (1, 3, 8, 8)
    np.testing.assert_array_equal(images[1], decode_image(sound, "a", 8))
    assert [(d.part, d.row, d.name) for d in damaged] == [
        (0, 1, "train/c0/1.jpg"),
        (0, 3, "train/c1/1.jpg"),
        (2, 0, "test/c0/0.jpg"),
    ]
    assert check_parts([train, ([], []), test], 8) == damaged
    with pytest.raises(DamagedPictures) as caught:
        decode_images(train[0] + test[0], train[1] + test[1], 8)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.damaged == caught.value.damaged == tuple((d.name, d.why) for d in damaged)
    assert str(error).startswith("3 images cannot be decoded:\n  train/c0/1.jpg: ")
    with pytest.raises(DamagedPictures, match="25 images cannot be decoded") as caught:
        decode_images([b""] * 25, [str(i) for i in range(25)], 8)
    assert len(caught.value.damaged) == 25 and str(caught.value).count("\n") == 25


SHARED = """
import numpy as np
from encoded import encoded, smooth
from ssdml_fast._world import World
from ssdml_fast.data import pictures

read, decoded = pictures._planes_of, []
pictures._planes_of = lambda file, *how: decoded.append(file) or read(file, *how)
jpeg, png = encoded(smooth(), "jpeg"), encoded(smooth().rotate(180), "png")
train = [jpeg, b"none", png, jpeg, png[:90]], [f"train/{i}" for i in range(5)]
parts = [train, ([], []), ([png], ["test/0"])]
for size in (8, None):
    expected, damaged = pictures.decode_parts(parts, size)
    decoded.clear()
    found, told = pictures.decode_parts(parts, size, progress=lambda share: None, world=World.here())
    same = all(a is b is None or np.array_equal(a, b) for a, b in zip(found, expected))
    print(len(decoded), same, told == damaged == pictures.check_parts(parts, size, world=World.here()), len(told))
"""


def test_processes_share_the_pictures_and_tell_of_all_that_are_damaged(tmp_path):
    for rank, (status, out, errors) in enumerate(run_together(SHARED, 2, tmp_path)):
        assert status == 0 and not errors, errors
        assert out.splitlines() == [f"{[2, 4][rank]} True True 2"] * 2


def test_files_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(smooth()))
    paths = [tmp_path / "a.png", tmp_path / "none.png", tmp_path]
    damaged = check_parts([(paths, ["a", "b", "c"])], 8)
    assert [(d.name, d.why) for d in damaged] == [("b", "there is no such file"), ("c", "Is a directory")]

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "read", refuse)
    assert check_parts([(paths[:1], ["a"])], 8, grey=True)[0].why == "Permission denied"


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"), SyntaxError("x"), ValueError("x"), struct.error("x"), zlib.error("x"), EOFError(), TypeError("x"),
        OverflowError("x"), RuntimeError("x"), AttributeError("x"), ZeroDivisionError("x"), AssertionError(),
        IndexError("x"), KeyError("x"), RecursionError("x"), NotImplementedError(), UnicodeError("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_told_by_file(error, monkeypatch):
    def fail(self):
        raise error

    data = encoded(Image.new("L", (3, 3)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DamagedPictures, match=rf"image b/1\.png cannot be decoded: ({type(error).__name__}|x)"):
        decode_images([data], ["b/1.png"], 8)


def test_too_little_memory_stays_what_it_is(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(module, "_decoded", fail)
    for call in (lambda: decode_images([b""], ["a"], 8), lambda: decode_image(b"", "a", 8)):
        with pytest.raises(MemoryError):
            call()


def bomb(side):
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pieces = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def test_bombs_are_refused_and_nothing_is_warned_of(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (bomb(30_000), encoded(Image.new("L", (3000, 3000)), "jpeg")):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_499_999)
            with pytest.raises(DamagedPictures, match=r"a cannot be decoded: it claims more than 8,999,998 pixels"):
                decode_images([data], ["a"], 8)
            assert "8,999,998" in look([data], ["a"]).damaged[0][1]
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_500_000)  # what Pillow only warns of
        for kind in ("jpeg", "png", "gif"):
            assert decode_images([encoded(Image.new("L", (3000, 3000), 9), kind)], ["a"], 8).max() == 9
        filters = list(warnings.filters)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filters[0] == warnings.filters[0]
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(encoded(Image.new("L", (1, 2)))))


KINDS_THAT_ARE_WRITTEN = [
    ("RGB", "jpeg", {}),
    ("RGB", "jpeg", {"progressive": True, "exif": exif_of(6)}),
    ("CMYK", "jpeg", {}),
    ("RGBA", "png", {}),
    ("P", "png", {"transparency": 1}),
    ("P", "gif", {}),
    ("RGBA", "webp", {}),
    ("RGB", "webp", {"lossless": True}),
    ("RGB", "bmp", {}),
    ("RGBA", "tiff", {}),
    ("RGB", "tiff", {"compression": "tiff_lzw"}),
    ("RGB", "tiff", {"compression": "jpeg"}),
    ("1", "tiff", {"compression": "group4"}),
    ("L", "ppm", {}),
    ("RGB", "jpeg2000", {}),
    ("RGBA", "ico", {}),
    ("RGB", "pcx", {}),
    ("RGB", "sgi", {}),
    ("RGBA", "qoi", {}),
    ("RGB", "avif", {}),
    ("RGB", "heif", {}),
]


@pytest.mark.parametrize(("mode", "kind", "how"), KINDS_THAT_ARE_WRITTEN)
def test_damaged_files_raise_nothing_but_that_they_are(mode, kind, how):
    if (kind == "avif" and not AVIF) or (kind == "heif" and not HEIF):
        pytest.skip("cannot be written here")
    try:
        data = encoded(smooth(40, 30).convert(mode), kind, **how)
    except KeyError:
        pytest.skip("cannot be written by this Pillow")
    rng = np.random.default_rng(len(data))
    files = [data[: int(at)] for at in rng.integers(0, len(data), 25)]
    for i in range(75):
        copy = bytearray(data)
        for at in rng.integers(0, min(len(data), 400 if i % 2 else len(data)), 1 + i % 4):
            copy[at] = rng.integers(256)
        files.append(bytes(copy))
    names = [str(i) for i in range(len(files))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked = look(files, names)
        damaged = check_parts([(files, names)], 16, grey=False)
        assert 0 < len(damaged) <= len(files)
        assert all(damage.why and "\n" not in damage.why and " at 0x" not in damage.why for damage in damaged)
        assert {row for row, _ in looked.damaged} <= {damage.row for damage in damaged}
        rows = {damage.row for damage in damaged}
        for row, file in enumerate(files):
            if row in rows:
                with pytest.raises(DataError):
                    decode_image(file, "a", 16, draft=True)
            else:
                assert decode_image(file, "a", 16, draft=True).shape == (3, 16, 16)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_images_are_decoded_on_the_cores_that_the_process_may_use(monkeypatch):
    seen, pool = [], module.ThreadPoolExecutor
    monkeypatch.setattr(module, "ThreadPoolExecutor", lambda n: seen.append(n) or pool(n))
    files, names = [encoded(smooth())] * 9, list("abcdefghi")
    for cores, n in ((1, 1), (3, 3), (64, 9)):
        monkeypatch.setattr(module, "usable_cores", lambda cores=cores: cores)
        seen.clear()
        images = decode_images(files, names, 8, grey=False)
        assert seen == [n] and (images == decode_image(files[0], "a", 8)).all()


def test_progress_is_told_in_the_thread_that_waits(monkeypatch):
    told, threads, enough = [], set(), threading.Event()

    def slow(*_):
        assert enough.wait(60)
        return np.zeros((3, 8, 8), np.uint8)

    def progress(share):
        told.append(share)
        threads.add(threading.get_ident())
        if len(told) == 3:
            enough.set()

    monkeypatch.setattr(module, "TICK", 1e-3)
    monkeypatch.setattr(module, "_planes_of", slow)
    decode_parts([([b""] * 40, ["a"] * 40)], 8, grey=False, progress=progress)
    assert told[:3] == [0, 0, 0] and told == sorted(told) and told[-1] == 1.0
    assert threads == {threading.get_ident()}


def test_an_interruption_ends_the_threads(monkeypatch):
    decoded, before = [], threading.active_count()

    def slow(*_):
        decoded.append(0)
        threading.Event().wait(1e-3)
        return np.zeros((3, 8, 8), np.uint8)

    def interrupt(share):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "TICK", 1e-3)
    monkeypatch.setattr(module, "_planes_of", slow)
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        decode_parts([([b""] * 100_000, ["a"] * 100_000)], 8, grey=False, progress=interrupt)
    assert threading.active_count() == before and len(decoded) < 100_000
