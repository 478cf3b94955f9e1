"""A Dataset of image files gives the pixels and labels that decoding them all would, in memory that is bounded."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

import ssdml_fast
from ssdml_fast.data import DataError, ImageFileDataset, image_folder
from ssdml_fast.data.examples import DatasetExamples, labels_of
from ssdml_fast.data.jpeg import decode_jpeg
from ssdml_fast.data.pictures import decode_image, decode_images, planes

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")


def smooth(width, height, seed=0):
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "test"):
        for c, name in enumerate(("bee", "öl", "x y")):
            (root / part / name).mkdir(parents=True)
            for i in range(2 + c):
                suffix = ("jpg", "png")[i % 2]
                smooth(40, 30, seed=10 * c + i).save(root / part / name / f"{i}.{suffix}")
    return root


@pytest.fixture(params=["folder", "tar"])
def files(request, folder, tmp_path):
    if request.param == "folder":
        return image_folder(folder)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder, ".")
    return image_folder(tmp_path / "images.tar")


@pytest.mark.parametrize("size", [None, (30, 40), 24])
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_images_are_those_of_decoding_them_all(files, size, test, grey):
    part = (files.test_files, files.test_names) if test else (files.files, files.names)
    expected = decode_images(*part, size, grey)
    dataset = pickle.loads(pickle.dumps(ImageFileDataset(files, size, test, grey)))
    assert dataset.classes == ("bee", "x y", "öl") and len(dataset) == 9
    images, labels = zip(*(dataset[i] for i in range(9)), strict=True)
    assert torch.equal(torch.stack(images), torch.from_numpy(expected))
    assert labels == (0, 0, 1, 1, 1, 1, 2, 2, 2) == tuple(labels_of(dataset))
    assert labels_of(Subset(dataset, [8, 0])).tolist() == [2, 0]


def test_a_crop_and_a_background_are_those_of_decoding_them_all(tmp_path):
    (tmp_path / "a").mkdir()
    image = smooth(80, 60).convert("RGBA")
    image.putalpha(smooth(80, 60, seed=1).convert("L"))
    image.save(tmp_path / "a" / "0.png")
    files = image_folder(tmp_path)
    dataset = pickle.loads(pickle.dumps(ImageFileDataset(files, 16, crop=0.8, background="#ff8000")))
    expected = decode_images(files.files, files.names, 16, crop=0.8, background="#ff8000")
    assert torch.equal(dataset[0][0], torch.from_numpy(expected[0]))
    assert not torch.equal(dataset[0][0], ImageFileDataset(files, 16)[0][0])
    for how in ({"crop": 2}, {"background": "nothing"}, {"crop": 0.5, "size": None}):
        with pytest.raises(ValueError, match=f"{next(iter(how))} must be"):
            ImageFileDataset(files, **{"size": 16, **how})


def test_workers_read_image_files(files):
    examples = DatasetExamples(ImageFileDataset(files, 16), "images", workers=2)
    found = examples.take(torch.arange(9).flip(0))
    examples.close()
    assert torch.equal(found, torch.from_numpy(decode_images(files.files, files.names, 16)).flip(0))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_planes_are_those_of_the_image(mode):
    image = smooth(7, 5).convert(mode)
    expected = np.asarray(image).reshape(5, 7, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(planes(image), expected)


@pytest.mark.parametrize(("size", "reduced"), [(61, False), (60, True), (15, True)])
def test_a_draft_is_of_twice_the_size_at_least_and_hardly_differs(size, reduced, monkeypatch):
    file = io.BytesIO()
    smooth(320, 240).save(file, "jpeg", quality=95)
    resized = []

    def resize(image, *args, _resize=Image.Image.resize):
        resized.append(min(image.size))
        return _resize(image, *args)

    monkeypatch.setattr(Image.Image, "resize", resize)
    exact, draft = (decode_image(file.getvalue(), "image", size, draft=draft) for draft in (False, True))
    assert resized[0] == 240 and 2 * size <= resized[1] and (resized[1] < 240) == reduced
    assert np.abs(exact.astype(int) - draft).max() <= 6 * reduced


def jpeg(image, **how):
    file = io.BytesIO()
    image.save(file, "jpeg", **how)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned

WHOLE = jpeg(smooth(53, 41), quality=90)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        WHOLE + b"more",
        jpeg(smooth(53, 41).convert("L")),
        jpeg(smooth(53, 41), progressive=True),
        jpeg(smooth(53, 41), subsampling=0, optimize=True, comment=b"\xff\xc0", icc_profile=bytes(70_000)),
        jpeg(smooth(53, 41), subsampling=2, exif=EXIF, restart_marker_blocks=2),
        jpeg(smooth(53, 41), keep_rgb=True),
        jpeg(Image.new("RGB", (1, 1))),
    ],
)
@pytest.mark.parametrize("draft", [None, 60, 20, 5])
def test_a_jpeg_file_is_decoded_to_the_pixels_that_pillow_opens(data, draft):
    expected = Image.open(io.BytesIO(data))
    if draft and min(expected.size) >= 2 * draft:
        expected.draft(None, (draft, draft))
    expected = ImageOps.exif_transpose(expected)
    found = decode_jpeg(data, draft)
    assert (found.size, found.mode) == (expected.size, expected.mode)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        WHOLE[:150],
        WHOLE[:-200],
        WHOLE.replace(b"\xff\xc0\x00\x11\x08\x00\x29", b"\xff\xc0\x00\x11\x08\x00\x00"),  # of no height
        WHOLE.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),  # of 12 bits
        jpeg(smooth(5, 4).convert("CMYK")),
        b"\xff\xd8\xff\xe0" + bytes(100),
    ],
)
def test_what_is_no_plain_jpeg_file_is_left_to_pillow(data):
    assert decode_jpeg(data) is None


def test_a_jpeg_file_of_too_many_pixels_is_refused(monkeypatch):
    for most in (None, 53 * 41 / 2):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert decode_jpeg(WHOLE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 53 * 41 / 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        decode_jpeg(WHOLE)


@pytest.mark.parametrize(
    ("size", "message"), [(0, "size must be at least 1"), ((3, 2.5), "size must"), ("3", "size must")]
)
def test_sizes_that_are_none_are_refused(folder, size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ImageFileDataset(image_folder(folder), size)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "cat").mkdir()
    smooth(8, 8).save(tmp_path / "cat" / "0.png")
    smooth(9, 8).save(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.png").write_bytes(b"none")
    files = image_folder(tmp_path)
    with pytest.raises(DataError, match="files must hold images of the test part"):
        ImageFileDataset(files, test=True)
    dataset = ImageFileDataset(files)
    assert dataset[0][0].shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"must be of 8x8 pixels as the first, .* found 9x8 in .*cat.1\.png"):
        dataset[1]
    with pytest.raises(DataError, match=r"cat.2\.png cannot be decoded"):
        dataset[2]
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cat.0\.png cannot be decoded: there is no such file"):
        dataset[0]


# --- larger than memory -----------------------------------------------------------------------------------------------

FILES, DISTINCT, SIDE, CACHE = 200_000, 3000, 32, 50e6

PROGRAM = """
import json, resource, sys
import torch
from ssdml_fast.data import ImageFileDataset, image_folder
from ssdml_fast.train import Batch, Leg, Method, Work, fit


class Once(Method):
    total = 0

    def legs(self):
        return [Leg("all", (0,))]

    def prepare(self, leg, aid):
        self.examples, n = aid._engine.feed.examples, len(self.data)
        return Work(lambda rng: map(Batch, torch.from_numpy(rng.permutation(n)).split(128)), -(-n // 128))

    def loss(self, batch, aid):
        images = aid.images(batch.rows)
        Once.total += int(images.sum(dtype=torch.float64))
        self.tell()
        return aid.forward(images).square().mean()

    def tell(self):
        Once.kept = self.examples.cache.used
        Once.peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
        for process in self.examples.workers.processes:
            status = dict(line.split(":", 1) for line in open(f"/proc/{process.pid}/status"))
            Once.peaks.append(int(status["VmHWM"].split()[0]))


class Floats(torch.nn.Module):
    def forward(self, images):
        return images.float()


if __name__ == "__main__":
    path, side, cache = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    dataset = ImageFileDataset(image_folder(path), side)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * side**2, 8))
    config = {"device": "cpu", "select": "last", "metric_dim": 4, "workers": 2, "cache_gb": cache / 1e9}
    fitted = fit(network, dataset, method=Once, config=config, prepare=Floats())
    told = {"n": fitted.best["examples"], "total": Once.total, "peaks": Once.peaks, "kept": Once.kept}
    print(json.dumps(told))
"""


def trained(path):
    command = [sys.executable, "-c", PROGRAM, str(path), str(SIDE), str(CACHE)]
    environment = os.environ | {"PYTHONPATH": str(Path(ssdml_fast.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peaks of processes from /proc")
def test_a_folder_larger_than_its_bound_trains_within_it():
    """All pixels would take 614 MB; the peaks are compared with those of the same processes for a few files."""
    with tempfile.TemporaryDirectory() as root:
        sources = [Path(root) / f"{i}.jpg" for i in range(DISTINCT)]
        for i, source in enumerate(sources):
            smooth(48, 40, seed=i).save(source, quality=85)
        for part, n in (("few", 200), ("many", FILES)):
            for c in range(100):
                (Path(root) / part / f"class {c}").mkdir(parents=True)
            for i in range(n):
                os.link(sources[i % DISTINCT], f"{root}/{part}/class {i % 100}/{i:06}.jpg")
        few, many = (trained(Path(root) / part) for part in ("few", "many"))
        sums = [int(decode_image(source, source.name, SIDE).sum(dtype=np.int64)) for source in sources]
    assert many["n"] == FILES and many["total"] == sum(sums[i % DISTINCT] for i in range(FILES))
    assert many["kept"] == (CACHE - 8 * FILES) // (3 * SIDE**2)
    more = [1024 * (peak - base) for peak, base in zip(many["peaks"], few["peaks"], strict=True)]
    files, ahead = 300 * FILES, 2 * 16 * 128 * 3 * SIDE**2  # bytes of paths and names; of what is decoded ahead
    assert more[0] <= CACHE + files + ahead
    assert max(more[1:]) <= files + ahead
