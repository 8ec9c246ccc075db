"""CSV files and folders of pictures, against values computed by numpy, csv and Pillow."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from flash_pl.data import CSVTable, ImageFolders
from flash_pl.errors import ConfigError, DataNotFoundError, SampleError

ROWS = [(i * 0.5, (i * 7) % 5, ("yes", "no")[i % 3 == 0], f"phone{i % 4}", i * i + 0.5) for i in range(40)]
NAMES = ["length", "width", "sold", "device", "price"]


def written(path, rows=ROWS, names=NAMES):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def test_rows_become_scaled_inputs_and_classes(tmp_path):
    data = CSVTable(written(tmp_path / "t.csv"), "sold", exclude=["device"], test_share=0.25, clients=3)
    data.setup()
    assert (data.classes, data.shape, len(data.train), len(data.test)) == (2, (3,), 30, 10)
    assert int(data.test.labels.sum()) == 6 or int(data.test.labels.sum()) == 7  # 26 of 40 are yes, the second class
    raw = np.array([[row[0], row[1], row[4]] for row in ROWS])
    inputs, labels = (
        torch.cat([getattr(part, name) for part in (data.train, data.test)]) for name in ("inputs", "labels")
    )
    place = inputs[:, 0].argsort()  # lengths increase from row to row
    assert [("no", "yes")[label] for label in labels[place].tolist()] == [row[2] for row in ROWS]
    trained = place < 30
    mean, std = raw[trained.numpy()].mean(0), raw[trained.numpy()].std(0)
    assert np.allclose(inputs[place].numpy(), (raw - mean) / std, atol=1e-6)
    batches = torch.cat([batch for client in range(3) for batch, _ in data.client_batches(client)])
    assert torch.equal(batches[batches[:, 0].argsort()], data.train.inputs[data.train.inputs[:, 0].argsort()])


def test_seconds_since_1970_keep_their_differences(tmp_path):
    rows = [(1_700_000_000 + i, i % 2) for i in range(40)]
    path = written(tmp_path / "t.csv", rows, ["time", "kind"])
    data = CSVTable(path, "kind", test_file=path, clients=2)
    data.setup()
    seconds = np.arange(40.0)
    assert np.allclose(data.train.inputs[:, 0].numpy(), (seconds - seconds.mean()) / seconds.std(), atol=1e-6)


def test_numbers_are_targets_of_a_regression_and_owners_are_clients(tmp_path):
    path = written(tmp_path / "t.csv")
    data = CSVTable(path, "price", owner="device", exclude=["sold"], test_file=path, clients=None)
    data.setup()
    assert data.train.labels.tolist() == [row[4] for row in ROWS] and not hasattr(data, "classes")
    assert data.client_sizes == [10] * 4
    for client in range(4):
        prices = torch.cat([labels for _, labels in data.client_batches(client)]).tolist()
        assert len({ROWS[int((price - 0.5) ** 0.5 + 0.5)][3] for price in prices}) == 1
        tested = torch.cat([labels for _, labels in data.client_val_batches(client)]).tolist()
        assert sorted(tested) == sorted(prices)


@pytest.mark.parametrize(
    "key, change, options",
    [
        ("target", {}, {"target": "cost"}),
        ("owner", {}, {"owner": "phone"}),
        ("file", {}, {}),  # the devices are no numbers
        ("file", {"rows": [(1, "nan", "yes", 2, 3)]}, {}),
        ("file", {"rows": [(1, 2)]}, {}),
        ("file", {"rows": []}, {}),
        ("file", {"names": ["a", "a", "sold", "b", "c"]}, {}),
        ("target", {"rows": [(1, 2, "yes", 1, 2), (1, 2, "", 1, 2)]}, {}),
        ("target", {"rows": [(1, 2, 0.5, 1, 2), (1, 2, "no", 1, 2)]}, {}),
        ("target", {"rows": [(1, 2, 0.5, 1, 2), (1, 2, "nan", 1, 2)]}, {}),
        ("target", {"rows": [(1, 2, "1e99", 1, 2)]}, {}),
        ("exclude", {}, {"exclude": ["devise"]}),
        ("exclude", {}, {"exclude": NAMES}),
        ("file", {"rows": [("1_0", 2, "yes", 1, 2)]}, {}),
    ],
)
def test_a_wrong_table_is_refused(key, change, options, tmp_path):
    data = CSVTable(written(tmp_path / "t.csv", **change), **({"target": "sold"} | options))
    with pytest.raises(ConfigError) as error:
        data.setup()
    assert error.value.key == key


def test_a_missing_table_is_one_line(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"none\.csv"):
        CSVTable(tmp_path / "none.csv", "sold").setup()


def picture(path, color, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_pictures_in_folders_of_classes(tmp_path):
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(tmp_path / split / name / f"{i}.png", (255 * label, 51 * i, 0))
    data = ImageFolders(tmp_path, image_size=4, workers=0, clients=3, mean=(0, 0, 0), std=(1, 1, 1), eval_batch_size=9)
    data.setup()
    assert (data.classes, data.shape, data.clients) == (2, (3, 4, 4), 3)
    ((images, labels),) = data.val_dataloader()
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[:, :, 0, 0].tolist() == [[float(y), pytest.approx(0.2 * i), 0.0] for y in (0, 1) for i in range(2)]


def test_a_folder_without_test_pictures_is_split_by_class(tmp_path):
    for name, count in (("cat", 10), ("dog", 20)):
        for i in range(count):
            picture(tmp_path / name / f"{i}.png", (i, 0, 0))
    data = ImageFolders(tmp_path, image_size=4, test_share=0.3, workers=0, clients=3)
    data.setup()
    assert data.test.targets.bincount().tolist() == [3, 6] and data.train.targets.bincount().tolist() == [7, 14]
    assert not set(data.train.dataset.indices) & set(data.test.dataset.indices)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere"):
        ImageFolders(tmp_path / "nowhere").setup()
    picture(tmp_path / "train" / "cat" / "0.png", (0, 0, 0))
    picture(tmp_path / "test" / "dog" / "0.png", (0, 0, 0))
    with pytest.raises(ConfigError, match="dog|cat") as error:
        ImageFolders(tmp_path).setup()
    assert error.value.key == "root"


CSV = "a,b,sold\n1,2,yes\n\n3,4,no\n5,6,yes\n"
BAD_TABLES = {
    "a word, after an empty line and a cell of two lines": (CSV.replace("1,2", '1,"2\n"').replace("5", "x"), "line 6"),
    "an empty cell": (CSV.replace("3,4", "3,"), "line 4"),
    "an empty target": (CSV.replace(",no", ","), "line 4"),
    "a word among numbers": ("a,b,sold\n1,2,0.5\n1,2,1.5\n1,2,many\n", "line 4"),
    "a number of 5000 digits among numbers": ("a,b,sold\n1,2,0.5\n1,2," + "9" * 5000 + "\n", "line 3"),
    "an integer that float32 cannot hold": ("a,b,sold\n1,2,0.5\n1,2," + "9" * 400 + "\n", "line 3"),
    "a cell too much": (CSV.replace("3,4", "3,4,5"), "line 4"),
    "a byte that is not UTF-8": (CSV.encode().replace(b"yes", b"\xff"), "byte 13"),
    "a zero byte": (CSV.replace("3,4", "3,\0"), "line 4"),
    "a cell that never ends": (CSV.replace("3,4", '"3,' + "4" * 200_000), "line 4"),
}


@pytest.mark.parametrize("text, place", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_cell_is_named_by_its_file_and_line(text, place, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=f"{place}\\b") as error:
        CSVTable(path, "sold").setup()
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_table_begins_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_text(CSV, encoding="utf-8-sig")
    data = CSVTable(tmp_path / "t.csv", "sold", test_file=tmp_path / "t.csv")
    assert data.load()[0].inputs.shape == (3, 2) and data.classes == 2


def test_a_picture_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        for i in range(4):
            picture(tmp_path / name / f"{i}.png", (i, 0, 0), size=(40, 30))
    bad = tmp_path / "dog" / "1.png"
    good = bad.read_bytes()
    for change in (good[: len(good) // 2], b"no picture", b""):
        bad.write_bytes(change)
        data = ImageFolders(tmp_path, image_size=4, test_share=0.3, workers=0, clients=1)
        data.setup()
        with pytest.raises(SampleError, match="dog/1.png"):
            [list(data.client_batches(0)), list(data.val_dataloader())]
    bad.write_bytes(good)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)  # 40 x 30
    data.setup()
    assert len(list(data.client_batches(0))) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(SampleError, match=r"\d.png .*40x30 pixels"):
        list(data.client_batches(0))
