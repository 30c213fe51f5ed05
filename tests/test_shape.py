"""The project keeps its shape, and what measures it sees what it should."""

import shape


def write(root, **files: str) -> None:
    for name, text in files.items():
        path = root / "unseg_lib" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_project_keeps_its_shape(project, capsys):
    assert shape.main(project) == 0, capsys.readouterr().out


def test_a_cycle_is_seen_through_faces_functions_and_relative_imports(tmp_path):
    write(tmp_path, method__sam="def f():\n    from unseg_lib.victims import train", errors="")
    write(tmp_path, method__prompts="from .sam import f\nfrom unseg_lib.errors import x", victims__smp="")
    (tmp_path / "unseg_lib/victims/__init__.py").write_text("attach(__name__, submod_attrs={'smp': ['train']})")
    edges = shape.graph(tmp_path)
    assert edges["unseg_lib.method.prompts"] == {"unseg_lib.method.sam", "unseg_lib.errors"}
    assert edges["unseg_lib.method.sam"] == {"unseg_lib.victims", "unseg_lib.victims.smp"}
    assert shape.cycles(edges) == [] and shape.upwards(shape.between_packages(edges)) == ["method -> victims"]
    write(tmp_path, victims__smp="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unseg_lib.method.sam")
    assert shape.cycles(shape.graph(tmp_path)) == []  # for type checkers only
    write(tmp_path, victims__smp="import unseg_lib.method.sam")
    edges = shape.graph(tmp_path)
    assert shape.cycles(edges) == [["unseg_lib.method.sam", "unseg_lib.victims.smp"]]
    assert shape.cycles(shape.between_packages(edges)) == [["method", "victims"]]
