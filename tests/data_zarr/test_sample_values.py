"""Numbers of the shipped samples against spots of their source files, read there by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.samples import sample_path, sample_questions
from data_zarr.samples.make_rsvqa_lr import tables
from data_zarr.sites import Sites

LANDSAT_8 = 7


def opened(name: str) -> Cube:
    return open_cube(sample_path(name))


def places(cube: Cube) -> Sites:
    assert isinstance(cube.grid, Sites)
    return cube.grid


def at(cube: Cube, bandset: str, row: int, column: int = 0) -> np.ndarray:
    """Stored numbers [T, C] of a place."""
    return cube.reader(bandset).read(row, column, 1, 1)[0][:, :, 0, 0]


def test_fuel_moisture() -> None:
    cube = opened("fuel_moisture")
    sites = places(cube)
    np.testing.assert_allclose(at(cube, "s1_db", 0)[1], [-12.553109, -19.642696], rtol=1e-6)
    assert at(cube, "s2_l1c", 0)[1].tolist() == [
        1048, 939, 944, 1159, 1621, 1782, 1848, 1998, 1054, 2654, 1786]  # fmt: skip
    assert at(cube, "s2_l1c", 2312)[1].tolist() == [
        1082, 1003, 869, 1148, 1966, 2284, 2316, 2523, 731, 1698, 1074]  # fmt: skip
    np.testing.assert_allclose(at(cube, "era5", 2312)[1], [294.19543457, 1.0313055e-4], rtol=1e-6)
    np.testing.assert_allclose(at(cube, "srtm", 2312)[0], [1222, 3.78951526], rtol=1e-6)
    assert (sites.lon[0], sites.lat[0]) == pytest.approx((-110.62335007, 43.74862807))
    assert cube.labels["site_name"][[0, 2312]].tolist() == ["Lost Creek, WY", "Tumalo Ridge"]
    assert cube.labels["is_test"][[0, 2312]].tolist() == [0, 1]
    moisture = cube.target("fuel_moisture").ravel()
    np.testing.assert_allclose(moisture[[0, 1, 2312]], [161.5, 110.375, 105.1111111], rtol=1e-6)
    assert (moisture.min(), moisture.max()) == pytest.approx((31.66666667, 319.2))
    assert len(set(cube.labels["site_name"])) == 150


def test_months_of_fuel_moisture() -> None:
    """Months (3, 4, 4), (10, 11, 0) and (0, 0, 2) in the source, counted from 0."""
    info = opened("fuel_moisture").bandsets["s2_l1c"]
    assert not info.year_known
    dates = info.dates.astype("datetime64[D]").astype(str)
    assert dates[:, 0].tolist() == ["2001-04-15", "2001-05-08", "2001-05-23"]
    assert dates[:, 1].tolist() == ["2001-11-15", "2001-12-15", "2002-01-15"]
    assert dates[:, 84].tolist() == ["2001-01-08", "2001-01-23", "2001-03-15"]
    assert (np.diff(info.dates, axis=0) > np.timedelta64(0)).all()


def test_official_split_of_fuel_moisture_shares_no_site() -> None:
    labels = opened("fuel_moisture").labels
    test = labels["is_test"] == 1
    assert set(labels["site_name"][test]).isdisjoint(labels["site_name"][~test])
    assert test.mean() == pytest.approx(0.3178, abs=1e-4)


def test_hls_gpp() -> None:
    cube = opened("hls_gpp")
    info = cube.bandsets["hls_sr6"]
    np.testing.assert_allclose(at(cube, "hls_sr6", 0)[0][[0, 3, 5]], [0.040634, 0.295269, 0.139528],
                               atol=6e-7)  # fmt: skip
    np.testing.assert_allclose(at(cube, "hls_sr6", 974)[0][[0, 5]], [0.02961276, 0.10669804])
    np.testing.assert_allclose(at(cube, "merra2", 974)[0][[0, 9]], [277.99, 3e-6], rtol=1e-6)
    np.testing.assert_allclose(cube.target("gpp").ravel()[[0, 974]], [2.8971, 1.87778])
    assert str(places(cube).ids[0]).startswith("HLS.L30.T17SQD.2020090T155156.v2.0.US-xBL_")
    assert info.dates[0, [0, 974]].astype("datetime64[D]").astype(str).tolist() == [
        "2020-03-30", "2020-08-21"]  # fmt: skip
    assert np.isnan(places(cube).lon).all()
    labels = cube.labels
    assert [labels[k][974] for k in ("site_name", "pft", "koppen", "tile", "year")] == [
        "US-xBA", "WET", "Polar", "T04WEE", 2020]  # fmt: skip
    assert len(set(labels["site_name"])) == 36


def test_platforms_of_hls_gpp() -> None:
    """Landsat 8 where it can only be that; never for S30, nor after Landsat 9 began."""
    cube = opened("hls_gpp")
    info, product = cube.bandsets["hls_sr6"], cube.labels["product"]
    known = info.platform[0] == LANDSAT_8
    early = info.dates[0] < np.datetime64("2021-10-27")
    np.testing.assert_array_equal(known, (product == "L30") & early)
    assert (int(known.sum()), int((product == "L30").sum())) == (172, 191)
    assert set(info.platform[0][~known].tolist()) == {0}


def test_landsat_ard_pixels() -> None:
    """A clear date, a cloudy one (QA 112), and a saturated one (QA 80, blue 20000)."""
    cube = opened("landsat_ard_pixels")
    assert [i[:6] for i in places(cube).ids] == ["h03v09", "h04v03", "h04v03"]
    np.testing.assert_allclose(places(cube).lonlat([0, 1], 0),
                               [[-119.502072, -121.465592], [38.462954, 46.230729]],
                               atol=1e-6)  # fmt: skip
    info = cube.bandsets["landsat_c1_sr6"]
    pixels, valid = cube.reader("landsat_c1_sr6").read(0, 0, 3, 1)
    warm, warm_valid = cube.reader("landsat_c1_bt").read(0, 0, 3, 1)
    assert (~np.isnat(info.dates)).sum(axis=0).tolist() == [2969, 2755, 2755]
    dates = info.dates[:, 0].astype("datetime64[D]").astype(str)
    assert dates[[0, 12, 538]].tolist() == ["1982-11-15", "1984-04-25", "1995-03-23"]
    assert pixels[12, :, 0, 0].tolist() == [1549, 1650, 1792, 2838, 2247, 1614]
    assert (warm[12, 0, 0, 0], info.bands[0].scale) == (2756, 1e-4)
    assert valid[12, :, 0, 0].all()
    assert pixels[0, 0, 0, 0] == 1777
    assert not valid[0, :, 0, 0].any()
    assert pixels[538, :, 0, 0].tolist() == [-9999, 5052, 5088, 5707, 872, 656]
    assert valid[538, :, 0, 0].tolist() == [False] + [True] * 5
    assert warm_valid[538, 0, 0, 0]
    assert not valid[2755:, :, 1:].any()
    assert set(np.unique(info.platform).tolist()) == {0}


def test_landsat_wa_pixel() -> None:
    """The third date is cloud (4); the table has 480 clear dates, 22 of shadow and 8 of snow."""
    cube = opened("landsat_wa_pixel")
    pixels, _ = cube.reader("landsat_cfmask_sr6").read(0, 0, 1, 1)
    _, valid = cube.reader("landsat_cfmask_bt").read(0, 0, 1, 1)
    dates = cube.bandsets["landsat_cfmask_sr6"].dates[:, 0].astype("datetime64[D]")
    assert (str(dates[0]), str(dates[-1])) == ("1985-04-15", "2016-11-29")
    assert pixels[0, :, 0, 0].tolist() == [418, 633, 484, 4325, 1884, 893]
    assert valid[:3, 0, 0, 0].tolist() == [True, True, False]
    assert valid.sum() == 480 + 8
    assert np.isnan(places(cube).lon).all()


@pytest.mark.parametrize(
    ("name", "bandset", "corner", "inside"),
    [
        ("landsat7_olinda", "landsat7_dn", [69, 56, 46, 79, 86, 46], [94, 87, 103, 66, 152, 133]),
        ("s2_l2a_609u", "s2_l2a",
         [2212, 1588, 1166, 1084, 1133, 1252, 1309, 1560, 1350, 1655, 406, 373],
         [7291, 8016, 7536, 7816, 8379, 8057, 7902, 8320, 7733, 6883, 1324, 1398]),
        ("s2_l2a_637u", "s2_l2a",
         [128, 158, 575, 405, 1159, 3167, 3792, 4074, 4141, 4011, 2375, 1256],
         [450, 579, 1005, 1368, 1666, 2205, 2408, 2924, 2756, 3017, 3111, 2069]),
        # The file has nir, green, blue, red; the sensor's order is red, green, blue, nir.
        ("treesat_aerial", "aerial_rgbn", [107, 116, 100, 174], [98, 106, 98, 170]),
    ],
)  # fmt: skip
def test_images(name: str, bandset: str, corner: list[int], inside: list[int]) -> None:
    """Row 0, column 0 and row 100, column 200 of the GeoTIFFs."""
    cube = opened(name)
    info = cube.bandsets[bandset]
    assert info.static
    assert at(cube, bandset, 0, 0)[0].tolist() == corner
    assert at(cube, bandset, 100, 200)[0].tolist() == inside
    assert {b.unit for b in info.bands} == ({"1"} if bandset == "s2_l2a" else {"DN"})


def test_offset_of_the_chips_is_none_as_far_as_numbers_tell() -> None:
    """With the offset of -0.1 of baseline 04.00 both chips would hold reflectances below -0.08."""
    for name, band, least in (("s2_l2a_609u", "swir16", 108), ("s2_l2a_637u", "blue", 1)):
        cube = opened(name)
        assert {(b.scale, b.offset) for b in cube.bandsets["s2_l2a"].bands} == {(1e-4, 0.0)}
        pixels, _ = cube.reader("s2_l2a", [band]).read(0, 0, 224, 224)
        assert pixels.min() == least


def test_treesat_series() -> None:
    """Row 2, column 3 of S1A_..._20200103T170841 and S2A_..._20200102T102421; and others."""
    cube = opened("treesat_series")
    optics, ascending = cube.bandsets["s2_l2a"], cube.bandsets["s1_asc"]
    assert at(cube, "s2_l2a", 2, 3)[0].tolist() == [
        408, 278, 230, 223, 364, 451, 490, 430, 186, 84]  # fmt: skip
    assert at(cube, "s2_l2a", 5, 0)[145].tolist() == [
        339, 310, 531, 704, 1005, 1088, 918, 1334, 793, 597]  # fmt: skip
    np.testing.assert_allclose(
        at(cube, "s1_asc", 2, 3)[0], 10 * np.log10([0.18034278, 0.01967878]), rtol=1e-6
    )
    assert str(ascending.dates[0]) == "2020-01-03T17:08:41"
    assert (ascending.platform[:2].tolist(), int(optics.platform[0])) == ([9, 10], 1)
    assert str(optics.dates[0]) == "2020-01-02T10:24:21"
    _, valid = cube.reader("s2_l2a").read(0, 0, 6, 6)
    assert not valid[16, :, 0, 0].any(), "a cloud probability of 100 in the source"
    assert valid[0].all()
    assert cube.attrs["label"] == "Abies alba"


def test_copies_in_treesat_series() -> None:
    cube = opened("treesat_series")
    radar, _ = cube.reader("s1_des").read(0, 0, 6, 6)
    dates = cube.bandsets["s1_des"].dates
    same = (radar[1:] == radar[:-1]).all(axis=(1, 2, 3))
    near = np.diff(dates) <= np.timedelta64(9, "s")
    np.testing.assert_array_equal(same, near)
    assert same.sum() == 25


def test_questions() -> None:
    rows = sample_questions("rsvqa_lr")
    assert len(rows) == 2403
    assert rows[0][1:] == ("Is it a rural or an urban area", "rural", "rural_urban")
    assert rows[2][1:] == ("What is the number of forests in the image?", "4", "count")
    assert {r.type for r in rows} == {"comp", "count", "presence", "rural_urban"}
    images = sorted({r.image for r in rows})
    assert len(images) == 24
    for path in images:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((256, 256), "RGB")


def test_tables_of_questions() -> None:
    content = {
        "images": [{"id": 0, "res_x": "10m"}, {"id": 1, "res_x": "10m"}],
        "qa": [
            {
                "question_id": 7,
                "img_id": 0,
                "type": "count",
                "question": "How many?",
                "answer": "2",
            },
            {
                "question_id": 8,
                "img_id": 1,
                "type": "count",
                "question": "How many?",
                "answer": "3",
            },
        ],
    }
    made = tables(content, images=1)
    assert [q["id"] for q in made["questions"]] == [7]
    assert made["answers"][0]["answer"] == "2"
    assert made["images"] == [{"id": 0, "res_x": "10m", "questions_ids": [7], "active": True}]


def test_unknown_questions() -> None:
    with pytest.raises(CubeError, match="no such set of questions; expected rsvqa_lr; found 'x'"):
        sample_questions("x")
    with pytest.raises(CubeError, match=r"no such sample.*sample_questions\('rsvqa_lr'\)"):
        sample_path("rsvqa_lr")
