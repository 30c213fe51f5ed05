"""The desk of notebook 10: what is clicked is what `protect` would protect, without a browser and in a real one."""

import asyncio
import base64
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, PATIENCE, Page, chromium, jupyter_lab
from PIL import Image, ImageCms

from unseg_lib.errors import UnsegError
from unseg_lib.images import INNER, decode_image, encode_image, read_image
from unseg_lib.method import Region
from unseg_lib.protection import VIEW, Desk, Photo, Protector, changes, free_name, panels, protect, read_photo, uploaded

# ipympl hands its toolbar's arguments to traitlets, which will mind some day
pytestmark = pytest.mark.filterwarnings("ignore:Passing unrecognized arguments:DeprecationWarning")

NOTEBOOK = Path(__file__).parent.parent / "notebooks/10_protect_your_images.ipynb"


def two_discs(height=60, width=80) -> np.ndarray:
    """An image with a red disc on the left and a blue one on the right of a green ground, with some grain."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (60, 150, 80), np.int16)
    for centre, colour in ((0.25, (200, 60, 40)), (0.75, (40, 60, 200))):
        image[(x - centre * width) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2] = colour
    return (image + np.random.default_rng(0).integers(-4, 5, image.shape)).clip(0, 255).astype(np.uint8)


IMAGE = two_discs()


@pytest.fixture
def desk(weights):
    return Desk(Photo(IMAGE), "discs", generator=weights, device="cpu")


def test_clicks_and_boxes_mean_what_they_mean_to_protect(desk, weights, tmp_path):
    prompts = {
        "nothing": (lambda: desk.point_at(), {}),
        "a click": (lambda: desk.on_click(20, 30), {"points": [(20, 30)]}),
        "another": (lambda: desk.on_click(60, 30), {"points": [(20, 30), (60, 30)]}),
        "a box": (lambda: desk.on_box(30, 40, 5, 9), {"box": [(5, 9, 30, 40)]}),
        "another box": (lambda: desk.on_box(50, 10, 70, 50), {"box": [(5, 9, 30, 40), (50, 10, 70, 50)]}),
        "one taken back": (lambda: desk.undo(), {"box": [(5, 9, 30, 40)]}),
        "a click beside it": (lambda: desk.on_click(20, 30), {"points": [(20, 30)]}),
        "and one": (lambda: desk.on_click(60, 30, 0), {"points": [(20, 30), (60, 30)], "labels": [1, 0]}),
        "boxes again": (lambda: desk.on_box(5, 9, 30, 40), {"box": [(5, 9, 30, 40)]}),
        "a click after boxes": (lambda: desk.on_click(60, 30), {"points": [(60, 30)]}),
        "all taken back": (lambda: desk.undo(), {}),
    }
    for name, (step, prompt) in prompts.items():
        step()
        expected = protect(IMAGE, generator=weights, device="cpu", **prompt)
        saved = desk.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), expected.image), name
        assert np.array_equal(desk.region.mask, expected.region) and saved["found_by"] == expected.found_by
        assert {key: saved[key] for key in expected.measured} == expected.measured
        assert np.array_equal(desk.view_protected, expected.image)


def test_a_slider_reuses_the_noise_and_a_generator_the_region(desk, weights, monkeypatch):
    runs, plain = [], Protector.raw_noise
    monkeypatch.setattr(Protector, "raw_noise", lambda *given: runs.append(given) or plain(*given))
    desk.on_click(20, 30)
    raw, region = desk.raw, desk.region
    for eps, eps_bg in ((16, 4), (1, 0), (0, 0), (2.5, 8)):
        desk.set_budget(eps, eps_bg)
        expected = protect(IMAGE, points=[(20, 30)], eps=eps, eps_bg=eps_bg, generator=weights, device="cpu")
        assert np.array_equal(desk.view_protected, expected.image)
    runs.clear()
    desk.set_budget(8, 2)
    assert not runs and desk.raw is raw
    desk.set_generator("small")
    assert len(runs) == 1 and desk.region is region and not np.array_equal(desk.raw, raw)
    desk.on_click(60, 30)
    assert len(runs) == 2
    desk.set_generator("grating")  # drawn, in the region alone
    assert (desk.measured()["linf_inside"], desk.measured()["linf_outside"]) == (8, 0)


def test_what_makes_no_sense_leaves_the_desk_as_it_was(desk, tmp_path):
    desk.on_click(20, 30)
    before, region = desk.prompt, desk.region
    for step, sentence in (
        (lambda: desk.on_click(80, 30), "points inside the image of 80x60"),
        (lambda: desk.on_box(90, 5, 95, 9), "meets the image"),
        (lambda: desk.point_at(points=[1, 2, 3]), "Expected points as x,y"),
        (lambda: desk.point_at(points=[1, 2], box=[1, 2, 3, 4]), "one of mask, box and points"),
        (lambda: desk.point_at(points=[1, 2], labels=[0]), "one of them 1"),
        (lambda: desk.set_budget(-1, 2), "eps from 0 to 255"),
        (lambda: desk.set_generator("smal"), "a generator's name"),
        (lambda: desk.take(Photo(IMAGE[:9]), "flat"), "at least 16 pixels"),
        (lambda: desk.save(tmp_path / "copy.jpg"), r"ends in \.png"),
    ):
        with pytest.raises(UnsegError, match=sentence) as caught:
            step()
        assert "\n" not in str(caught.value)
    assert (desk.prompt, desk.eps, desk.name) == (before, 8, "discs") and desk.region is region
    assert not list(tmp_path.iterdir())


def test_no_file_is_replaced(desk, tmp_path):
    assert len(free_name(tmp_path, 255 * "n").name) < 99
    with pytest.raises(UnsegError, match="say 8 and not 8/255"):
        Desk(desk.photo, eps=8 / 255)
    first = desk.save(free_name(tmp_path, "discs"))
    assert first["written"] == (tmp_path / "discs-protected.png").as_posix()
    with pytest.raises(UnsegError, match="found a file there"):
        desk.save(first["written"])
    for number in (2, 3):
        assert desk.save(free_name(tmp_path, "discs"))["written"].endswith(f"/discs-protected-{number}.png")
    desk.set_budget(1, 1)
    assert desk.save(first["written"], overwrite=True)["linf_inside"] == 1
    (tmp_path / "file").touch()
    with pytest.raises(UnsegError, match="Could not write"):
        desk.save(tmp_path / "file" / "copy.png")


def test_a_copy_keeps_profile_and_transparency_but_no_exif_and_leaves_none_of_it_to_the_next(weights, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.random.default_rng(1).integers(0, 256, IMAGE.shape[:2], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.fromarray(np.dstack([IMAGE, alpha])).save(tmp_path / "rich.png", icc_profile=profile, exif=exif)
    Image.fromarray(IMAGE).save(tmp_path / "plain.png")
    rich, plain = (read_photo(tmp_path / f"{name}.png") for name in ("rich", "plain"))
    with Image.open(Desk(rich, generator=weights, device="cpu").save(tmp_path / "b.png")["written"]) as copy:
        assert np.array_equal(np.asarray(copy)[..., 3], alpha) and copy.info["icc_profile"] == profile
        assert not len(copy.getexif())
    for format in ("png", "webp", "tiff", "jpeg"):
        rich.encode(IMAGE, format, metadata=True)
        with Image.open(io.BytesIO(plain.encode(IMAGE, format))) as copy:
            assert "icc_profile" not in copy.info and 0x010E not in copy.getexif(), format


@pytest.mark.parametrize("rgb, mode", [(False, "L"), (True, "RGB")])
def test_gray_stays_gray_and_takes_colours_on_request(weights, tmp_path, rgb, mode):
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "gray.png")
    desk = Desk(read_photo(tmp_path / "gray.png"), generator=weights, rgb=rgb, device="cpu")
    desk.on_click(20, 30)
    desk.save(tmp_path / "copy.png")
    with Image.open(tmp_path / "copy.png") as copy:
        assert copy.mode == mode and np.array_equal(np.asarray(copy.convert("RGB")), desk.view_protected)
    assert ("Beware: one channel" in desk.summary()) == (not rgb)
    desk.take(Photo(IMAGE), "colours")
    assert "Beware" not in desk.summary()


def test_a_large_image_is_shown_small_and_saved_whole(weights, tmp_path):
    image = two_discs(720, 960)
    desk = Desk(Photo(image), generator=weights, device="cpu")
    desk.on_click(240, 360)
    assert desk.view.shape == (VIEW * 3 // 4, VIEW, 3)
    shown = desk.measured()
    assert 0 < shown["linf_inside"] <= 8 and shown["linf_outside"] <= 2
    saved = desk.save(tmp_path / "large.png")
    expected = protect(image, points=[(240, 360)], generator=weights, device="cpu")
    assert np.array_equal(read_image(tmp_path / "large.png"), expected.image)
    assert saved["protected"] == pytest.approx(desk.view_mask.mean(), abs=0.005)
    assert saved["rms"] == pytest.approx(shown["rms"], rel=0.1)


def test_another_image_takes_the_place_of_the_first(desk, weights):
    desk.on_click(70, 50)
    desk.set_budget(4, 1)
    desk.take(uploaded("../other.png", encode_image(two_discs(40, 50), ".png")), "other")
    assert desk.prompt == {} and desk.view_protected.shape == (40, 50, 3)
    assert desk.measured()["linf_inside"] == 4
    with pytest.raises(UnsegError, match=r"in broken\.jpg, found a corrupt one \(cannot identify image file 'broken"):
        uploaded("broken.jpg", b"nothing")


def test_the_histogram_counts_every_value(desk):
    desk.on_box(10, 10, 29, 29)
    counted, change = changes(desk), desk.view_protected.astype(int) - IMAGE
    for name, mask in (("inside", desk.view_mask), ("outside", ~desk.view_mask)):
        assert counted[name][-1 + 8] == pytest.approx(100 * (change[mask] == -1).mean())
        assert counted[name].sum() == pytest.approx(100)
    assert all(counted["outside"][step + 8] == 0 for step in (-8, -3, 3, 8)) and counted["inside"][[0, 16]].all()
    desk._found({}, Region(np.ones((60, 80), bool), "mask"))
    assert set(changes(desk)) == {"inside"}


def test_images_follow_the_prompt(desk):
    drawn = [panels(desk).content]
    for step in (lambda: desk.on_click(20, 30), lambda: desk.on_box(1, 1, 9, 9), lambda: desk.set_budget(3, 1)):
        step()
        drawn.append(panels(desk).content)
    assert len(set(drawn)) == 4 and all(one.startswith(b"\x89PNG") for one in drawn)


# the widgets, with events made by hand


@pytest.fixture
def panel(desk, tmp_path):
    from unseg_lib.protection import Panel

    return Panel(desk, tmp_path)


def drag(panel, *places) -> None:
    """Press, move and release at places of the image, as a browser would report them."""
    from matplotlib.backend_bases import MouseEvent

    panel.canvas.draw()
    points = [panel.axes[0].transData.transform(place) for place in places]
    kinds = ["button_press_event", *["motion_notify_event"] * (len(points) - 2), "button_release_event"]
    for kind, point in zip(kinds, points, strict=True):
        panel.canvas.callbacks.process(kind, MouseEvent(kind, panel.canvas, *point, button=1))


def test_a_hand_that_stays_still_clicks_and_one_that_moves_draws_a_box(panel):
    first = {"box": [[10, 5, 40, 50]]}
    for step, prompt in (
        (lambda: drag(panel, (20, 30), (20.2, 30.1)), {"points": [[20, 30]], "labels": [1]}),
        (lambda: drag(panel, (40, 50), (20, 20), (10, 5)), first),
        (lambda: drag(panel, (60, 30), (75, 20), (200, 500)), {"box": [*first["box"], [60, 30, 79, 59]]}),  # the border
        (lambda: drag(panel, (20, 30), (20, 30)), {"points": [[20, 30]], "labels": [1]}),
        (lambda: setattr(panel.label, "value", 0), {"points": [[20, 30]], "labels": [1]}),
        (lambda: drag(panel, (60, 30), (60, 30)), {"points": [[20, 30], [60, 30]], "labels": [1, 0]}),
        (panel.undo.click, {"points": [[20, 30]], "labels": [1]}),
        (panel.undo.click, {}),
        (lambda: drag(panel, (40, 50), (20, 20), (10, 5)), first),
        (panel.clear.click, {}),
        (lambda: drag(panel, (300, 30), (20, 30)), {}),  # pressed outside the image
    ):
        step()
        assert panel.desk.prompt == prompt
        assert ("found by points" in panel.status.value) == ("points" in prompt)


def test_a_page_is_told_the_size_of_the_canvas_with_the_canvas(panel):
    """It used to be a message of its own, which a page could handle too early: a canvas of 0 x 0 then, for good."""
    assert panel.canvas.get_state(["_size"])["_size"] == pytest.approx(panel.figure.get_size_inches() * 100)


def test_every_control_does_its_step(panel, tmp_path, monkeypatch):
    histogram, sent = panel.histogram.value, []
    monkeypatch.setattr(type(panel.canvas), "send_binary", lambda _, data: sent.append(decode_image(data)))
    panel.eps.value = 3
    panel.eps_bg.value = 1
    assert (panel.desk.eps, panel.desk.eps_bg) == (3, 1) and panel.histogram.value != histogram
    panel.generator.value = "colour"
    assert panel.desk.generator == "colour" and len(sent) == 3
    assert np.array_equal(sent[-1], np.asarray(panel.canvas.buffer_rgba())[..., :3])  # whole, if one was lost before
    panel.save.click()
    panel.save.click()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["discs-protected-2.png", "discs-protected.png"]
    assert "3 inside (allowed 3) and 1 outside (allowed 1)" in panel.status.value
    change = np.abs(read_image(tmp_path / "discs-protected.png").astype(int) - IMAGE)
    assert change[panel.desk.region.mask].max() == 3 and change[~panel.desk.region.mask].max() == 1


def test_an_opened_image_changes_the_canvas_and_a_broken_one_says_so(panel):
    before = panel.figure.get_size_inches()[1]
    panel.upload.value = [file_of("tall.png", encode_image(two_discs(60, 40), ".png"))]
    assert panel.desk.name == "tall" and panel.figure.get_size_inches()[1] > before
    drag(panel, (10, 30), (10, 30))
    assert panel.desk.prompt == {"points": [[10, 30]], "labels": [1]} and "% of tall" in panel.status.value
    panel.upload.value = [file_of("<b>.png", b"nothing")]
    assert "found a corrupt one" in panel.status.value and "<b>" not in panel.status.value
    assert panel.desk.name == "tall"


def file_of(name: str, content: bytes) -> dict:
    """A file as the upload button reports it."""
    about = {"name": name, "type": "", "size": len(content), "last_modified": datetime.now(UTC)}
    return about | {"content": memoryview(content)}


# the notebook in JupyterLab, in a browser

CANVAS = "document.querySelector('.jupyter-matplotlib-canvas-div canvas')"
STATUS = "document.querySelector('.widget-html-content')?.innerText"
KERNEL = "window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel"


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder `lab` with the notebook and an image, and room for what the two programs keep."""
    for name in ("lab", "jupyter", "chromium"):
        (tmp_path / name).mkdir()
    Image.fromarray(two_discs(300, 400)).save(tmp_path / "lab/discs.png")
    notebook = json.loads(NOTEBOOK.read_text())
    given = {"image": str(tmp_path / "lab/discs.png"), "out": str(tmp_path / "lab/out")}
    lines = next(cell for cell in notebook["cells"] if cell["metadata"].get("tags") == ["parameters"])["source"]
    lines.append("".join(f"\n{name} = {value!r}" for name, value in given.items()))
    (tmp_path / "lab/desk.ipynb").write_text(json.dumps(notebook))
    return tmp_path


@pytest.mark.notebook
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")
def test_in_a_browser_clicks_show_and_correct_the_outline_a_slider_changes_it_and_save_keeps_the_budget(place):
    with jupyter_lab(place / "lab", place / "jupyter") as lab, chromium(place / "chromium") as devtools:
        asyncio.run(at_the_desk(lab, devtools))
    saved = place / "lab/out/discs-protected.png"
    change = np.abs(read_image(saved).astype(int) - read_image(place / "lab/discs.png")).max(axis=2)
    # a click is some pixels off, and the region's border with it; the status has compared file and region exactly
    assert change.max() <= 7 and change[100:200, 250:350].max() <= 2  # the right disc was left out
    assert (change[130:170, 80:120] > 2).mean() > 0.6 and (change > 2).mean() < 0.4  # the left is in, not all else


async def at_the_desk(lab: str, devtools: str) -> None:
    page = await Page.open(devtools)
    await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    await page.call("Page.navigate", url=f"{lab}lab/tree/desk.ipynb")
    # only to a kernel that has said it is idle: what is sent earlier may wait for ever, and so would its promise
    await page.until(f"{KERNEL}?.connectionStatus === 'connected' && {KERNEL}.status === 'idle'")
    await page.js(run_all := "void jupyterapp.commands.execute('notebook:run-all-cells')")
    try:
        await page.until("/\\[\\d+\\]:/.test(document.querySelector('.jp-Notebook').innerText)", 60)
    except TimeoutError:  # what is asked of a kernel that has only just come may be lost all the same
        await page.js(run_all)
    await page.until(f"{CANVAS}?.getBoundingClientRect().width > 800 && {STATUS}?.includes('salient')")
    assert not await page.js("document.querySelectorAll('[data-mime-type*=stderr]').length")
    first = await settled(page)
    await page.mouse(*[await place_of(page, 100, 150)] * 2)
    await page.until(f"{STATUS}?.includes('found by points')")
    seen = await settled(page, first)
    # the first image shows the region's outline; a second click, of the other kind, corrects it
    assert await outline(page) > 100
    await page.js("[...document.querySelectorAll('button')].find(b => b.innerText.includes('leave out')).click()")
    await page.mouse(*[await place_of(page, 300, 150)] * 2)
    clicked = await settled(page, seen)
    assert await outline(page) > 100
    await page.js("document.querySelector('.noUi-handle').focus()")
    await page.key("ArrowLeft")
    await page.until(f"{STATUS}?.includes('change 7 inside')")
    await settled(page, clicked)
    await page.js("[...document.querySelectorAll('button')].find(b => b.innerText.includes('save')).click()")
    await page.until(f"{STATUS}?.includes('7 inside (allowed 7) and 2 outside (allowed 2)')")


async def place_of(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the 400x300 image is on the page: it fills the first third of the canvas but for margins."""
    left, top, width, height = await page.js(
        f"(() => {{ const r = {CANVAS}.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }})()"
    )
    side = width / 3
    return left + side * x / 400, top + height - side * 0.75 * (1 - y / 300)


async def canvas_of(page: Page) -> np.ndarray:
    return decode_image(base64.b64decode((await page.js(f"{CANVAS}.toDataURL()")).partition(",")[2]))


async def outline(page: Page) -> int:
    """How many pixels of the canvas's left third have the outline's inner colour."""
    pixels = (await canvas_of(page)).astype(int)
    return int((np.abs(pixels[:, : pixels.shape[1] // 3] - INNER).max(axis=2) < 12).sum())


async def settled(page: Page, before: np.ndarray | None = None) -> np.ndarray:
    """The right third of the canvas, the protected image, once it is another than before and has stopped changing.

    The status may say what was done long before the canvas is drawn.
    """
    seen, end = None, time.monotonic() + PATIENCE
    while True:
        pixels = await canvas_of(page)
        image = pixels[30:, 2 * pixels.shape[1] // 3 :]
        if np.array_equal(pixels, seen) and pixels.any() and (before is None or not np.array_equal(before, image)):
            assert before is None or before.shape == image.shape
            return image
        assert time.monotonic() < end, "the protected image stayed as it was, or never comes to rest"
        seen = pixels
        await asyncio.sleep(0.5)
