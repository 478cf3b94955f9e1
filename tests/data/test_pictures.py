"""Pictures are decoded as a viewer shows them."""

import io
import itertools
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from encoded import AVIF, HEIF, LOSSLESS, Image, chunk, encoded, exif_of, random, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssdml_fast.data import DataError
from ssdml_fast.data import pictures as module
from ssdml_fast.data.colours import as_background
from ssdml_fast.data.damage import DamagedPictures
from ssdml_fast.data.formats import is_picture
from ssdml_fast.data.pictures import decode_image, decode_images, decode_parts, look, pixels

ImageOps = pytest.importorskip("PIL.ImageOps")


def shown(data, grey=None, **how):
    """Decode one picture; rows last, as NumPy and Pillow have them: (height, width) if it is grey, else (…, 3)."""
    image = decode_images([data], ["a"], grey=grey, **how)[0]
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def over(colours, opacity, background=(255, 255, 255)):
    """Lay colours over a background, by the formula."""
    a = opacity[..., None].astype(np.float64) / 255
    return np.floor(a * colours + (1 - a) * np.array(background) + 0.5).astype(np.uint8)


# --- modes and formats ------------------------------------------------------------------------------------------------

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")
KINDS = ("bmp", "gif", "jpeg", "jpeg2000", "png", "ppm", "tiff", "webp", "avif", "heif", "ico", "pcx", "sgi", "qoi")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_a_format_has_is_shown_as_pillow_shows_it(mode, kind):
    """The authority is Pillow's own conversion, over white where the file that was written has opacity."""
    if (kind == "avif" and not AVIF) or (kind == "heif" and not HEIF):
        pytest.skip("cannot be written here")
    image = smooth(32, 32)
    image = Image.fromarray(random(32, 32, dtype=np.uint16)) if mode == "I;16" else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(random(32, 32, seed=1)))
    try:
        data = encoded(image, kind, **LOSSLESS.get(kind, {}))
    except (OSError, ValueError, KeyError):
        pytest.skip("cannot be written")
    assert is_picture(data)
    written = Image.open(io.BytesIO(data))
    try:
        written.load()
    except OSError:
        pytest.skip("cannot be read by this Pillow")
    if written.mode.startswith("I"):
        expected = np.asarray(written) >> 8
    elif written.mode in ("LA", "RGBA") or "transparency" in written.info:
        rgba = np.asarray(written.convert("RGBA"))
        expected = over(rgba[..., :3], rgba[..., 3])
    else:
        expected = np.asarray(written.convert("L" if written.mode in ("1", "L") else "RGB"))
    found = shown(data)
    if found.ndim == 2 and expected.ndim == 3:
        assert written.mode in ("LA", "P") and (expected == expected[..., :1]).all()
        expected = expected[..., 0]
    np.testing.assert_array_equal(found, expected)
    (height, width), grey = (look([data], ["a"])[k][0] for k in (0, 1))
    assert (height, width) == found.shape[:2] and grey == (found.ndim == 2)


def test_colours_of_every_kind_of_ink_and_space_become_red_green_and_blue():
    cmyk = random(6, 6, 4)
    inverse = 255 - cmyk.astype(float)
    expected = np.round(inverse[..., :3] * inverse[..., 3:] / 255)
    found = shown(encoded(Image.fromarray(cmyk, "CMYK"), "tiff"))
    assert np.abs(found - expected).max() <= 1
    photograph = smooth()
    for image, kind in (
        (photograph.convert("CMYK"), "jpeg"),  # Adobe's, stored inverted
        (photograph.convert("CMYK"), "tiff"),
    ):
        assert np.abs(shown(encoded(image, kind)).astype(int) - np.asarray(photograph)).max() < 30
    for mode in ("HSV", "LAB"):
        apart = np.abs(pixels(photograph.convert(mode)).transpose(1, 2, 0).astype(int) - photograph)
        assert apart.max() < 24 and apart.mean() < 3
    lab = photograph.convert("LAB")
    np.testing.assert_array_equal(shown(encoded(lab, "tiff")), pixels(lab).transpose(1, 2, 0))


def test_ink_stored_as_brightness_and_differences_becomes_red_green_and_blue():
    """YCCK: Adobe's mark says 2 where CMYK has 0; the planes then are those of YCbCr."""
    ycc, black = smooth().convert("YCbCr"), Image.new("L", (40, 30), 255)  # no black, inverted
    data = encoded(Image.merge("CMYK", [ImageOps.invert(band) for band in (*ycc.split(), black)]), "jpeg", quality=100)
    assert data.count(b"Adobe") == 1
    at = data.index(b"Adobe")
    data = data[: at + 11] + b"\2" + data[at + 12 :]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_array_equal(shown(data), expected)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_tiff_files_whose_zero_is_white_are_inverted(bits):
    shades = random(8, 16, dtype=np.uint16) if bits == 16 else random(8, 16)
    image = Image.fromarray(shades)
    image = image.convert("1") if bits == 1 else image
    plain = encoded(image, "tiff", tiffinfo={262: 1})
    at = plain.index(struct.pack("<HHI", 262, 3, 1))
    data = plain[: at + 8] + b"\0\0" + plain[at + 10 :]
    inverse = 255 - shown(plain).astype(int)
    np.testing.assert_array_equal(shown(data), inverse)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("png", "I;16"), ("tiff", "I;16"), ("tiff", "I;16B"), ("jpeg2000", "I;16")],
)
def test_shades_of_16_bits_keep_their_upper_8(kind, mode):
    shades = random(6, 7, dtype=np.uint16)
    image = Image.frombytes(mode, (7, 6), shades.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    np.testing.assert_array_equal(shown(encoded(image, kind, **LOSSLESS.get(kind, {}))), shades >> 8)
    np.testing.assert_array_equal(pixels(image)[0], shades >> 8)


@pytest.mark.parametrize("most", [3, 100, 255, 999, 65535])
def test_shades_of_grey_maps_are_shares_of_the_most_that_there_is(most):
    shades = random(6, 7, dtype=np.uint16).astype(int) % (most + 1)
    raw = shades.astype(">u2" if most > 255 else np.uint8).tobytes()
    for data in (b"P5 7 6 %d\n" % most + raw, f"P2 7 6 {most} {' '.join(map(str, shades.ravel()))}".encode()):
        np.testing.assert_allclose(shown(data), shades / most * 255, atol=1)


def png(rows, bits, colour, *chunks, width=None):
    """Write what Pillow cannot: any depth and type of colour; rows are bytes."""
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    width = width or rows.shape[1] // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] // (bits // 8 or 1)
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pieces = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_files_of_16_bits_keep_the_upper_8(channels):
    values = random(5, 6, channels, dtype=np.uint16)
    data = png(values.astype(">u2").reshape(5, -1).view(np.uint8), 16, (0, 4, 2, 6)[channels - 1])
    upper = values >> 8
    colours = upper[..., :3] if channels > 2 else upper[..., :1].repeat(3, 2)
    expected = over(colours, upper[..., -1]) if channels in (2, 4) else colours
    np.testing.assert_array_equal(shown(data, grey=False), expected)
    assert look([data], ["a"]).grey[0] == (channels < 3)


def tiff(body, width, height, order, *tags):
    """Write what Pillow cannot: pixels, and tags for them; several values of a tag are a tuple of 16 bits each."""
    entries = sorted([(256, width), (257, height), (259, 1), (273, 16), (278, height), (279, len(body)), *tags])
    start = 16 + len(body)
    after, values = start + 2 + 12 * len(entries) + 4, b""
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I8x", start) + body
    data += struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        if isinstance(value, tuple):
            data += struct.pack(f"{order}HHII", tag, 3, len(value), after + len(values))
            values += struct.pack(f"{order}{len(value)}H", *value)
        else:
            data += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return data + bytes(4) + values


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [3, 4])
def test_coloured_tiff_and_ppm_files_of_16_bits_keep_the_upper_8(order, planes):
    values = random(4, 5, planes, dtype=np.uint16)
    tags = [(258, (16,) * planes), (262, 2), (277, planes)] + [(338, 2)] * (planes == 4)
    upper = values >> 8
    found = shown(tiff(values.astype(f"{order}u2").tobytes(), 5, 4, order, *tags))
    np.testing.assert_array_equal(found, over(upper[..., :3], upper[..., 3]) if planes == 4 else upper)
    if planes == 3:
        found = shown(b"P6 5 4 65535\n" + values.astype(">u2").tobytes())
        np.testing.assert_allclose(found, values / 65535 * 255, atol=0.51)  # which Pillow rounds


def test_tiff_files_of_12_bits_keep_the_upper_8():
    values = random(4, 6, dtype=np.uint16) >> 4
    bits = (values[..., None] >> np.arange(12)[::-1]) & 1
    body = np.packbits(bits.reshape(4, -1).astype(np.uint8), axis=1).tobytes()
    found = shown(tiff(body, 6, 4, "<", (258, 12), (262, 1), (277, 1)))
    np.testing.assert_array_equal(found, values >> 4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_shades_with_a_sign_are_refused(order):
    data = tiff(bytes(48), 6, 4, order, (258, 16), (262, 1), (277, 1), (339, 2))
    with pytest.raises(DamagedPictures, match=r"must be shades of 1 to 16 bits, .* stored as I;16B?S\)"):
        decode_images([data], ["a"])


def test_numbers_that_are_no_shades_are_refused():
    floats = Image.fromarray(np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6))
    pfm = b"Pf\n6 6\n-1.0\n" + np.asarray(floats).tobytes()
    wide = Image.fromarray(np.full((6, 6), 200, np.int32))
    for data in (encoded(floats, "tiff"), encoded(wide, "tiff")):
        with pytest.raises(DamagedPictures, match="a cannot be decoded: its pixels must be shades of 1 to 16 bits"):
            decode_images([data], ["a"])
    with pytest.raises(DamagedPictures, match=r"must be shades of 1 to 16 bits|that Pillow does not read"):
        decode_images([pfm], ["a"])


def test_grey_and_coloured_pictures_of_a_set_keep_their_looks():
    shades, colours = random(6, 6), random(6, 6, 3)
    grey = [
        encoded(Image.fromarray(shades.astype(np.uint16) * 257)),
        encoded(Image.fromarray(shades)),
        encoded(Image.fromarray(shades).convert("LA")),
        encoded(Image.fromarray(shades // 16 * 16).quantize(16)),
        encoded(Image.fromarray(shades), "gif"),
    ]
    images = decode_images(grey, list("abcde"))
    assert images.shape == (5, 1, 6, 6) and (images[:3] == shades).all()
    assert (images[3, 0] == shades // 16 * 16).all() and (images[4] == shades).all()
    for background, is_grey in (("white", True), ("#101010", True), ("red", False)):
        assert look([grey[2]], ["c"], background).grey[0] == is_grey
    mixed = decode_images([*grey, encoded(Image.fromarray(colours))], list("abcdef"))
    np.testing.assert_array_equal(mixed[:5], np.broadcast_to(images, (5, 3, 6, 6)))
    np.testing.assert_array_equal(mixed[5].transpose(1, 2, 0), colours)
    (train, test), _ = decode_parts([(grey, list("abcde")), ([encoded(Image.fromarray(colours))], ["f"])])
    assert train.shape[1] == test.shape[1] == 3


def test_a_palette_of_colours_is_not_grey():
    image = Image.fromarray(random(6, 6) % 4).copy()
    image.putpalette([0, 0, 0, 9, 9, 9, 200, 200, 200, 1, 2, 3])
    for kind in ("png", "gif", "bmp", "tiff"):
        data = encoded(image, kind)
        assert not look([data], ["a"]).grey[0], kind
        np.testing.assert_array_equal(shown(data), np.asarray(image.convert("RGB")))


# --- transparency -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, (4, 5, 4)),
    st.sampled_from(["RGBA", "LA", "RGBa", "La", "PA"]),
    st.sampled_from(["white", "black", "rebeccapurple", "#08f", "#0080ff"]),
)
def test_transparent_pixels_lie_over_the_background(rgba, mode, background):
    image = Image.fromarray(rgba)
    image = image.convert("RGBA" if mode == "PA" else {"RGBa": "RGBA", "La": "LA"}.get(mode, mode))
    if mode == "PA":
        image = Image.merge("PA", [image.convert("RGB").quantize(8), image.getchannel("A")])
    data = encoded(image.convert("RGBA") if mode == "PA" else image)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    expected = over(stored[..., :3], stored[..., 3], as_background(background))
    found = shown(data, background=background, grey=False)
    np.testing.assert_array_equal(found, expected)
    if background == "white":  # as an example of a Dataset
        given = image.convert(mode) if mode in ("RGBa", "La") else image
        restored = np.asarray(given.convert({"La": "LA"}.get(mode, "RGBA")).convert("RGBA"))
        of_image = pixels(given)
        assert len(of_image) == (1 if mode in ("LA", "La") else 3) or mode == "PA"
        expected = over(restored[..., :3], restored[..., 3]).transpose(2, 0, 1)
        np.testing.assert_array_equal(np.broadcast_to(of_image, expected.shape), expected)


def test_strokes_on_a_transparent_ground_are_seen():
    opacity = np.zeros((28, 28), np.uint8)
    opacity[5:9] = 255
    for mode in ("RGBA", "LA"):
        strokes = Image.new(mode, (28, 28))
        strokes.putalpha(Image.fromarray(opacity))
        for kind, how in (("png", {}), ("tiff", {}), ("webp", {"lossless": True})):
            assert (shown(encoded(strokes, kind, **how), grey=True) == 255 - opacity).all(), (mode, kind)


@pytest.mark.parametrize("transparency", [2, b"\x00\x80\xff\x40"])
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_colours_of_a_palette_may_be_transparent(kind, transparency):
    if kind == "gif" and isinstance(transparency, bytes):
        pytest.skip("one colour at most")
    indices, palette = random(6, 7) % 4, random(4, 3)
    image = Image.fromarray(indices).copy()
    image.putpalette(palette.ravel().tolist())
    data = encoded(image, kind, transparency=transparency)
    opacity = np.full(4, 255, np.uint8)
    if isinstance(transparency, int):
        opacity[transparency] = 0
    else:
        opacity[:] = list(transparency)
    np.testing.assert_array_equal(shown(data), over(palette[indices], opacity[indices]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_shade_may_be_transparent(bits):
    values = random(8, 8, dtype=np.uint16).astype(int) % (1 << bits)
    values[2:5] = values[0, 0]
    if bits == 16:
        rows = values.astype(">u2").view(np.uint8)
    else:
        spread = (values[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(spread.reshape(8, -1).astype(np.uint8), axis=1)
    data = png(rows, bits, 0, chunk(b"tRNS", struct.pack(">H", values[0, 0])), width=8)
    shades = values >> 8 if bits == 16 else values * 255 // ((1 << bits) - 1)
    np.testing.assert_array_equal(shown(data), np.where(values == values[0, 0], 255, shades))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_may_be_transparent(bits):
    values = random(6, 6, 3, dtype=np.uint16) if bits == 16 else random(6, 6, 3).astype(np.uint16)
    values[3] = values[0, 0]
    rows = values.astype(">u2" if bits == 16 else np.uint8).reshape(6, -1).view(np.uint8)
    data = png(rows, bits, 2, chunk(b"tRNS", struct.pack(">3H", *values[0, 0].tolist())))
    hidden = (values == values[0, 0]).all(2)
    expected = np.where(hidden[..., None], 255, values >> (bits - 8))
    np.testing.assert_array_equal(shown(data), expected)


@pytest.mark.parametrize("background", ["no colour", "#12345", "", "#ff000080", "rgb(1,2", 7, None])
def test_backgrounds_that_are_none_are_refused(background):
    with pytest.raises((TypeError, ValueError), match="background must be the name of a colour or #rrggbb, found"):
        decode_images([b""], ["a"], background=background)


# --- which way up -----------------------------------------------------------------------------------------------------

TURNS = [
    lambda a: a,
    lambda a: a[:, ::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a[::-1],
    lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1),
    lambda a: a[::-1, ::-1].swapaxes(0, 1),
    lambda a: np.rot90(a),
]
"""By EXIF's orientation: from what is stored to what is shown."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "progressive", "cmyk", "png", "webp", "tiff", "lzw", "avif", "heif", "mpo"])
def test_pictures_are_turned_as_the_camera_was_held(kind, orientation):
    if (kind == "avif" and not AVIF) or (kind == "heif" and not HEIF):
        pytest.skip("cannot be written here")
    stored = smooth(48, 32)
    how = {
        "progressive": {"progressive": True, "kind": "jpeg"},
        "cmyk": {"kind": "jpeg"},
        "lzw": {"compression": "tiff_lzw", "kind": "tiff"},
        "mpo": {"save_all": True, "append_images": [smooth(48, 32, 1)]},
        **{name: {**options} for name, options in LOSSLESS.items()},
    }.get(kind, {})
    image = stored.convert("CMYK") if kind == "cmyk" else stored
    if kind in ("tiff", "lzw"):
        data = encoded(image, **{"kind": kind, **how}, tiffinfo={0x0112: orientation})
    else:
        data = encoded(image, **{"kind": kind, **how}, exif=exif_of(orientation).tobytes())
    if kind == "mpo" and b"Exif\0\0" not in data:
        pytest.skip("cannot be written by this Pillow")
    found = shown(data)
    if kind not in ("tiff", "lzw"):  # which older versions of Pillow turn twice
        by_pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(found, np.asarray(by_pillow.convert("RGB")))
    expected = TURNS[orientation - 1](np.asarray(stored))
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 6
    assert look([data], ["a"]).sizes.tolist() == [list(expected.shape[:2])]
    assert decode_image(data, "a", expected.shape[:2]).shape[1:] == expected.shape[:2]


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (3, 5)), st.integers(1, 8), st.sampled_from("<>"), st.sampled_from(["before", "after", "text"]))
def test_png_files_say_anywhere_and_in_any_byte_order_which_way_up(shades, orientation, order, where):
    value = struct.pack(f"{order}HH", orientation, 0)
    exif = (
        (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, 3, 1) + value + bytes(4)
    )
    data = encoded(Image.fromarray(shades))
    if where == "text":  # as ImageMagick wrote it
        extra = chunk(
            b"tEXt", b"Raw profile type exif\0\nexif\n      32\n" + (b"Exif\0\0" + exif).hex().encode() + b"\n"
        )
    else:
        extra = chunk(b"eXIf", exif)
    at = data.index(b"IEND" if where == "after" else b"IDAT") - 4
    data = data[:at] + extra + data[at:]
    expected = TURNS[orientation - 1](shades)
    np.testing.assert_array_equal(shown(data), expected)
    assert look([data], ["a"]).sizes.tolist() == [list(expected.shape)]


def test_xmp_says_which_way_up_where_exif_does_not():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    for how, shape in (({}, (40, 30, 3)), ({"exif": exif_of(1)}, (30, 40, 3))):
        plain = encoded(smooth(), "jpeg", **how)
        assert shown(plain[:2] + segment + plain[2:]).shape == shape
        assert shown(encoded(smooth(), "webp", xmp=xmp, **how)).shape == shape


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"nothing", bytes(99)]
)
def test_damaged_exif_data_turn_nothing(exif):
    for kind in ("jpeg", "png", "webp"):
        assert shown(encoded(smooth(), kind, exif=b"Exif\0\0" + exif)).shape == (30, 40, 3)
    for orientation in (0, 9, 65535):
        assert shown(encoded(smooth(), "jpeg", exif=exif_of(orientation))).shape == (30, 40, 3)


def test_squares_are_taken_of_what_is_shown():
    stored = smooth(400, 300)
    plain = encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(stored, "png", exif=exif_of(6))))), "png")
    turned = encoded(stored, "png", exif=exif_of(6))
    for how in ({}, {"crop": 0.8}):
        expected = decode_image(plain, "a", 50, **how)
        np.testing.assert_array_equal(decode_image(turned, "a", 50, **how), expected)


# --- several frames and pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff", "avif"])
def test_of_several_frames_the_first_is_taken(kind):
    if kind == "avif" and not AVIF:
        pytest.skip("cannot be written here")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(shown(data).astype(int) - (255, 0, 0)).max() < 4


def test_beside_a_first_frame_that_does_not_fill_a_gif_file_is_the_background():
    data = bytearray(encoded(Image.new("P", (4, 3), 1), "gif"))
    assert struct.unpack_from("<HH", data, 6) == (4, 3)
    struct.pack_into("<HH", data, 6, 8, 6)
    found = shown(bytes(data), background="#0000ff", grey=False)
    assert (found[3:] == (0, 0, 255)).all() and (found[:, 4:] == (0, 0, 255)).all()
    assert len(np.unique(found[:3, :4].reshape(-1, 3), axis=0)) == 1 and (found[0, 0] != (0, 0, 255)).any()


# --- formats ----------------------------------------------------------------------------------------------------------


def test_formats_are_told_by_content(tmp_path):
    for i, (kind, suffix) in enumerate(itertools.product(("jpeg", "png", "webp", "gif"), (".jfif", ".txt", ""))):
        path = tmp_path / f"{i}{suffix}"
        path.write_bytes(encoded(smooth(), kind))
        assert is_picture(path) and decode_images([path], ["a"]).shape == (1, 3, 30, 40)
    for data in (b"", b"a,b\n1,2\n", b"BMW is a car", b"P12 is no format", b"%!PS", b"PK\3\4", b"\x7fELF" + bytes(99)):
        (tmp_path / "a.jpg").write_bytes(data)
        assert not is_picture(data) and not is_picture(tmp_path / "a.jpg")
        with pytest.raises(DataError, match=r"a\.jpg cannot be decoded: it is (empty|of no format that is read here)"):
            decode_images([tmp_path / "a.jpg"], ["a.jpg"])


def test_no_picture_starts_a_program(tmp_path, monkeypatch):
    """PostScript below any name; Pillow would give it to `gs`."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\nshowpage\n%%EOF\n"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for data in (eps, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + bytes(20) + eps):
        (tmp_path / "0.png").write_bytes(data)
        with pytest.raises(DataError, match="of no format that is read here"):
            decode_image(tmp_path / "0.png", "0.png", 8)
        assert look([data], ["a"]).damaged
    assert not (tmp_path / "ran").exists()


def test_a_format_that_needs_a_plugin_says_so(monkeypatch):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    assert is_picture(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(DamagedPictures, match=r"format HEIF, which Pillow .* without the package pillow-heif"):
        decode_images([data], ["a"])


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (375, 500), (7, 9), (1, 300), (300, 1), (1, 1)])
@pytest.mark.parametrize("crop", [0.875, 0.5, 0.9])
def test_a_crop_is_that_of_resizing_the_shorter_side(shape, crop):
    """As torchvision's Resize and CenterCrop do it."""
    size, image = 28, Image.fromarray(random(*shape, 3))
    short = round(size / crop)
    resized = [max(short, int(short * side / min(image.size))) for side in image.size]
    left, top = (round((side - size) / 2) for side in resized)
    whole = image.resize(resized, Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
    found = decode_image(encoded(image), "a", size, crop=crop)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 3), (1, 1), (900, 901)])
def test_squares_are_taken_of_any_shape(shape):
    for mode, crop in itertools.product(("L", "RGB"), (1.0, 0.1)):
        image = Image.new(mode, shape, 77 if mode == "L" else (77, 77, 77))
        found = decode_image(encoded(image), "a", 30, grey=mode == "L", crop=crop)
        assert found.shape == (1 if mode == "L" else 3, 30, 30) and (found == 77).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"crop": 0}, "crop must be above 0"),
        ({"crop": 1.1}, "crop must be above 0"),
        ({"crop": float("nan")}, "crop must be finite"),
        ({"crop": "1"}, "crop must be a number"),
        ({"crop": True}, "crop must be a number"),
        ({"crop": 0.5, "size": (4, 4)}, "crop must be 1 where size"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": (1, 2, 3)}, "size must be a number or"),
        ({"size": "3"}, "size must"),
    ],
)
def test_sizes_and_crops_that_are_none_are_refused_before_any_work(how, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        decode_parts([([b""], ["a"])], **{"size": 8, **how})
    assert not isinstance(caught.value, DataError)


def test_images_of_several_sizes_are_told_before_any_is_decoded(monkeypatch):
    files = [encoded(smooth(*size)) for size in ((6, 4), (6, 4), (4, 6))]
    monkeypatch.setattr(module, "_planes_of", None)
    with pytest.raises(DataError, match=r"must be of 6x4 pixels as the first, .* found 4x6 in c \(1 of 3 differ\)"):
        decode_images(files, list("abc"))
    with pytest.raises(DataError, match=r"must be of 6x4 pixels, .* found 4x6 in c"):
        decode_parts([([], []), (files[2:], ["c"])], size=(4, 6))
