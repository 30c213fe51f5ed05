"""Runs that differ in one thing, notebooks 04 and 11 on made-up rows, and the report as a book that drops nothing."""

import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from made_results import late, made, rows_of, stages_of, write_results
from toy_project import play

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, write_json
from unseg_lib.method import BilevelConfig
from unseg_lib.pipeline import run_notebook
from unseg_lib.reporting import book, load, matched, paper_numbers, records, table, write_report

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
VOC = {"dataset": "voc", "setting": "voc-object"}
ARMS = [
    ("reference", {"recipe": "unseg"}, "unseg"),
    ("worse", {"recipe": "unseg-bg-0"}, "unseg prompt=box"),
    ("noisy", {"recipe": "unseg-bg-4"}),
    ("one seed", {"recipe": "unseg-bg-8"}),
    ("small", {"recipe": "unseg", "label": "64px"}),
    ("saved again", {"recipe": "unseg", "defense": "jpeg quality=95"}),
    ("nobody ran it", {"recipe": "unseg-leaking"}),
    ("only theirs", {}, "unseg prompt=point"),
]
PAPER = ("7", "voc", "deeplabv1-wideresnet38", "miou")
ROWS = [
    *(rows_of("clean", 50, 52, 54, **VOC) + rows_of("unseg", 10, 12, 14, **VOC)),
    *(rows_of("unseg-bg-0", 20, 22.5, 24.5, **VOC) + rows_of("unseg-bg-4", 5, 20, 11, **VOC)),
    *rows_of("unseg-bg-8", 1, **VOC),
    *(rows_of("clean", 40, 40, 40, label="64px", **VOC) + rows_of("unseg", 20, 20, 20, label="64px", **VOC)),
    *rows_of("unseg", 11, 13.1, 14.9, defense="jpeg quality=95", label="jpeg-quality-95", **VOC),
]


@pytest.fixture
def results(tmp_path):
    return made(tmp_path / "made-up", ROWS)


def arms_of(sources, arms=ARMS, **how) -> dict[str, dict]:
    return matched(sources, "voc-object", arms, **how).to_dict("index")


def test_published_and_ours_and_the_difference_seed_by_seed(results):
    lines = arms_of([results], paper=PAPER)
    assert list(lines) == ["trained on clean images", *(arm[0] for arm in ARMS)]  # none is left out
    first = lines["reference"]
    assert (first["paper|score"], first["ours|score"]) == (6.2, "12.0 ± 2.0")
    assert pd.isna(first["against the first|difference"])
    assert first["ours|of clean"] == pytest.approx(100 * 12 / 52) and first["the files|PSNR"] == 37.25
    # differences 10, 10.5, 10.5: mean 10.33, deviation 0.2887, half an interval 4.3027 * 0.2887 / sqrt(3) = 0.717
    worse = lines["worse"]
    assert worse["against the first|difference"] == pytest.approx(31 / 3) and worse["paper|score"] == 6.4
    assert (worse["against the first|interval"], worse["against the first|protects"]) == ("+9.6 to +11.1", "worse")
    alone = lines["one seed"]  # against seed 0 alone, and without an interval
    assert alone["against the first|difference"] == -9 and alone["against the first|protects"] == "too few seeds"
    small = lines["small"]  # 50 % of its own clean victim, against 10/50, 12/52 and 14/54 of the larger one's
    assert small["ours|of clean"] == 50 and round(small["against the first|difference"], 1) == 27.0
    assert lines["noisy"]["against the first|protects"] == "no difference shown"
    assert pd.isna(lines["saved again"]["the files|PSNR"])  # nobody measured the files that were saved once more
    assert lines["only theirs"]["paper|score"] == 6.0 and lines["only theirs"]["ours|score"] == "not run"
    shown = matched([results], "voc-object", ARMS, paper=PAPER)
    assert "#victim/voc-object-unseg-unet-s0" in table(shown, html=["seeds"])._repr_html_()
    assert shown.attrs["source"] == "made-up"


def test_a_comparison_is_never_made_across_two_profiles(results, tmp_path):
    other = made(tmp_path / "other", rows_of("unseg", 40, 40, 40, **VOC) + rows_of("unseg-leaking", 30, 30, 30, **VOC))
    assert arms_of([results, other])["nobody ran it"]["ours|score"] == "not run"  # made-up knows more arms
    pair = arms_of([results, other], [ARMS[0], ARMS[6]])
    assert (pair["reference"]["ours|score"], pair["nobody ran it"]["ours|score"]) == ("40.0 ± 0.0", "30.0 ± 0.0")
    assert pair["nobody ran it"]["against the first|interval"] == "−10.0 to −10.0"


def test_of_two_profiles_that_know_the_same_arms_the_one_with_more_seeds_is_read(results, tmp_path):
    more = made(tmp_path / "more", rows_of("unseg", 40, 40, 40, **VOC) + rows_of("unseg-bg-8", 40, 40, 40, **VOC))
    for sources in ([results, more], [more, results]):
        assert arms_of(sources, [ARMS[0], ARMS[3]])["reference"]["ours|score"] == "40.0 ± 0.0"
    assert arms_of([results, more], ARMS[:1])["reference"]["ours|score"] == "12.0 ± 2.0"  # the first of equals


def test_planned_and_failed_runs_stay_in_the_table(tmp_path):
    more = [late("unseg-leaking", 0, "failed", **VOC), late("unseg-bg-8", 1, "not run", **VOC)]
    lines = arms_of([made(tmp_path, ROWS, stages_of(ROWS) + more)])
    assert lines["nobody ran it"]["ours|score"] == "failed" and lines["one seed"]["ours|score"] == "1.0"


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> tuple[Path, dict]:
    """Notebook 11 on the made-up rows."""
    root = tmp_path_factory.mktemp("asked")
    how = {"results": str(write_results(root / "made-up", ROWS)), "beside": str(root / "none")}
    out = run_notebook(FOLDER / "11_ablations.ipynb", root / "out", how)
    return out, read_json(out / "metrics.json")["answers"]


@pytest.mark.notebook
def test_notebook_11_says_what_is_missing(asked):
    out, answers = asked
    assert len(answers) >= 24 and answers["background"][1]["ours|of clean"] == pytest.approx(100 * 12 / 52)
    assert answers["prompt"][1]["ours|score"] == "not run" and "not run" in (out / "run.ipynb").read_text()


@pytest.mark.notebook
def test_every_number_of_the_paper_that_a_question_names_is_known_to_be_known_or_not(asked):
    text = (FOLDER / "11_ablations.ipynb").read_text().replace('\\"', '"')
    named = re.findall(r'"(unseg[ +][^"]*|clean-only 20%|mixed 20%)"', text)
    assert len(named) > 8 and set(named) <= set(paper_numbers().method)
    paper = {line[""]: line.get("paper|score") for line in asked[1]["prompt"]}
    assert paper["box; mask's budget"] == 6.4 and paper["points; mask's budget"] == 6.0


@pytest.mark.notebook
def test_every_arm_that_the_kit_can_have_was_run(tmp_path, monkeypatch):
    """No arm of a question waits for a run that nobody plans; what only the paper has names no recipe."""
    monkeypatch.chdir(FOLDER.parent)
    for key, lines in play(FOLDER / "11_ablations.ipynb", out=str(tmp_path))["asked"].items():
        ran = {line[""]: line["ours|score"] != "not run" for line in records(lines) if line["recipe"]}
        assert all(ran.values()) or key.endswith("subtracted"), (key, ran)


# the book


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    """The report on made-up rows, with a second run beside them, failed and planned runs."""
    folder = tmp_path_factory.mktemp("told") / "made-up"
    more = [late("a", 0, "failed", **VOC), late("b", 7, "not run", **VOC)]
    more += [{"stage": "generator/small", "kind": "generator", "name": "small", "state": "failed"}]
    for name, steps in {"one": 0, "two": 9}.items():
        how = asdict(BilevelConfig(train_eps=8.0, steps=steps)) | {"data": "scenes", "precision": "32-true"}
        more += [{"stage": f"generator/{name}", "kind": "generator", "name": name, "state": "done", "parameters": how}]
    write_results(folder, ROWS, stages_of(ROWS) + more)
    write_results(folder.with_name("made-up-again"), ROWS[:6])
    return write_report(folder)


@pytest.mark.notebook
def test_the_report_is_one_file_that_needs_no_other(told):
    html = told.read_text()
    assert not re.search(r"<(script|link|iframe)\b", html) and "@import" not in html and "url(http" not in html
    loaded = re.findall(r'(?:src|xlink:href)="([^"#][^"]*)"', html)
    assert loaded and all(source.startswith("data:") for source in loaded)
    links = re.findall(r'<a href="#([^"]+)"', html)
    assert links and all(f'id="{link}"' in html for link in links)
    heads = re.findall(r'<h[12] id="([^"]+)">', html)
    assert links[: len(heads)] == heads  # the table of contents
    assert "does not hold" in html and "Some CPU" in html and "01234567" in html and str(told.parents[1]) not in html
    assert html.count("<details") == html.count("<summary>code</summary>") > 10  # code folds away
    assert "of the second run" in html  # a second run beside the first one
    assert "Some CPU, 2 cores (" in html and "none (" in html
    # and of the two generators that were trained, one with more steps
    assert re.search(r">steps</td>\s*<td[^>]*>0</td>\s*<td[^>]*>9</td>\s*<td[^>]*>two</td>", html)
    assert re.search(r">train_eps</td>\s*<td[^>]*>1.0</td>\s*<td[^>]*>8.0</td>\s*<td[^>]*>all</td>", html)


@pytest.mark.notebook
def test_the_report_never_drops_a_run(told):
    html = told.read_text()
    every = html[html.index("Where the numbers come from</h2>") :]
    states = {"victim/voc-object-a-unet-s0": "failed", "victim/voc-object-b-unet-s7": "not run"}
    states["generator/small"] = "failed"
    for stage in {row["stage"] for row in ROWS} | set(states):
        assert re.search(rf'<span id="{stage}">{stage}</span></td>\s*<td[^>]*>{states.get(stage, "done")}</td>', every)


@pytest.mark.notebook
def test_a_page_is_executed_again_only_for_other_rows(told, monkeypatch):
    ran = []
    monkeypatch.setattr("unseg_lib.pipeline.run_notebook", lambda *what, inputs: ran.append((what[-1], inputs)))
    before = told.read_text()
    assert write_report(told.parent).read_text() == before and ran == []
    metrics = told.parent / "tables/metrics.json"
    kept = read_json(metrics)
    write_json(metrics, kept | {"rows": "of other rows"})
    write_report(told.parent)
    write_json(metrics, kept)
    assert ran == [({"results": told.parent.as_posix()}, (kept["rows"],))]


def test_paper_without_report_or_browser_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UnsegError, match=r"report.html, found no such file; run `unseg report"):
        book.write_pdf(tmp_path)
    (tmp_path / "report.html").write_text("<p>")
    monkeypatch.setattr(book.shutil, "which", lambda name: None)
    with pytest.raises(UnsegError, match="Expected a browser to print with, found none"):
        book.write_pdf(tmp_path)
    assert not (tmp_path / "report.pdf").exists()


@pytest.mark.skipif(not any(map(book.shutil.which, book.BROWSERS)), reason="no browser to print with")
def test_on_paper_no_link_tells_where_the_files_lie(tmp_path):
    page = '<a href="victim/a/run.ipynb">1.0</a> <a href="#part-1">one</a><h1 id="part-1">x</h1>'
    (tmp_path / "report.html").write_text(page)
    content = book.write_pdf(tmp_path).read_bytes()
    assert content.startswith(b"%PDF") and b"file://" not in content and b"run.ipynb" not in content
    assert not list(tmp_path.glob(".partial*"))


def test_load_notes_which_rows_it_read(results, tmp_path):
    assert load(results.folder).digest == results.digest != made(tmp_path / "other", ROWS[:3]).digest
    assert made(tmp_path / "failed", ROWS, [late("a", 0, "failed")]).digest != results.digest  # states count, too
