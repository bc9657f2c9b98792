"""Image folders as people have them: what is read, what is left out, and that both are said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitskip.data import ImageSet, load_images
from bitskip.data.folders import find_pictures
from bitskip.data.held_out import BY_CONTENT
from bitskip.errors import DataError


def picture(path: Path, colour: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 30), (colour, 0, 0)).save(path)


def fill(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for index in range(count):
            picture(root / name / f"{index:03}.png", colour=index)
    return root


def read(root: Path) -> tuple[ImageSet, str]:
    said: list[str] = []
    return load_images(root, size=8, notice=said.append), "\n".join(said)


def test_what_was_read_is_said(tmp_path: Path) -> None:
    images, said = read(fill(tmp_path / "photos", cat=11, dog=10, fox=6))
    assert "photos: 3 classes: cat 11, dog 10, fox 6; about a fifth of each, chosen by their content" in said
    both = np.concatenate([images.train_labels, images.test_labels])
    assert np.bincount(both).tolist() == [11, 10, 6]
    assert len(images.test_names) == len(images.test_images)
    assert images.test_rule == BY_CONTENT
    assert images.source == str(tmp_path / "photos")


def test_what_lies_beside_pictures_is_passed_over_or_counted(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini", ".hidden.jpg"):
        (root / "cat" / name).write_bytes(b"\0\5\x16\7")
    for name in ("a.HEIC", "b.heic", "c.cr2", "labels.txt", "README"):
        (root / "dog" / name).write_bytes(b"?")
    picture(root / "__MACOSX" / "._x.png")
    picture(root / ".thumbnails" / "x.png")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    picture(root / "loose.png")
    images, said = read(root)
    assert images.class_names == ("cat", "dog")
    assert len(images.train_images) + len(images.test_images) == 10
    counted = said.split("skipped ")[1].split(" (pip")[0].split(", ")
    assert sorted(counted) == ["1 .cr2", "1 .txt", "1 broken link", "1 file without an ending", "2 .heic"]
    assert "pip install pillow-heif" in said
    assert "1 pictures lie beside the class folders" in said


def test_folders_below_a_class_belong_to_it_whatever_they_are_called(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    picture(root / "cat" / "monday" / "deep" / "é ü.JPG")
    picture(root / "dog" / "x.jpg" / "y.jpg")
    images, said = read(root)
    assert len(images.train_images) + len(images.test_images) == 12
    assert "2 of the pictures lie in folders below their class's own (monday, x.jpg)" in said


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    fill(tmp_path / "elsewhere", fox=5)
    (root / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    (root / "dog" / "one.png").symlink_to(root / "dog" / "000.png")
    images, said = read(root)
    assert images.class_names == ("cat", "dog", "fox")
    assert np.bincount(images.train_labels).tolist()[2] == 4
    assert "skipped 2 links that lead in a circle" in said  # and a link to all classes is none of one class
    assert "cat 5, dog 6, fox 5" in said


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_pictures(tmp_path).skipped == {"broken link": 2}


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation", "Test"])
def test_split_folders(tmp_path: Path, test_name: str) -> None:
    fill(tmp_path / "train", cat=3, dog=4)
    fill(tmp_path / test_name, cat=2, dog=1)
    images, said = read(tmp_path)
    assert np.bincount(images.train_labels).tolist() == [3, 4]
    assert np.bincount(images.test_labels).tolist() == [2, 1]
    assert f"cat 3, dog 4 in train; cat 2, dog 1 in {test_name}" in said


def test_classes_of_one_split_are_said(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=3, dog=4, fox=2)
    fill(tmp_path / "test", cat=2, dog=1, owl=5)
    images, said = read(tmp_path)
    assert images.class_names == ("cat", "dog", "fox")
    assert np.bincount(images.test_labels).tolist() == [2, 1]
    assert "class 'fox' is in train but not in test: it is not tested" in said
    assert "class 'owl' is in test but not in train: its 5 pictures are not read" in said


def test_classes_too_small_to_be_split_are_said(tmp_path: Path) -> None:
    images, said = read(fill(tmp_path / "photos", cat=10, dog=4))
    assert np.bincount(images.test_labels, minlength=2).tolist() == [2, 0]
    assert "class 'dog' has fewer than 5 pictures, so none of them is tested" in said


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images, _ = read(fill(tmp_path / "vehicles", car=5, test=5, train=5))
    assert images.class_names == ("car", "test", "train")


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=5, dog=5)
    images, said = read(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert len(images.test_images) >= 2
    assert "chosen by their content" in said


def test_a_class_without_readable_pictures_says_what_lies_there(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5)
    (root / "dog").mkdir()
    for index in range(3):
        (root / "dog" / f"{index}.cr2").write_bytes(b"?")
    with pytest.raises(DataError, match=r"dog holds no pictures \(skipped 3 \.cr2\)"):
        read(root)


def test_broken_pictures_are_all_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=10, dog=10)
    for index in range(7):
        (root / "cat" / f"{index:03}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 20 pictures cannot .*000\.png .*it is empty.* and 2 more"):
        read(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may list everything")
def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    (root / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot list"):
            read(root)
    finally:
        (root / "cat").chmod(0o755)


def test_pictures_without_classes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="holds no class folder and 1 pictures of no class, expected"):
        read(tmp_path)


# -- classes of a model -------------------------------------------------------------------------------


@pytest.fixture
def images() -> ImageSet:
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    labels = np.arange(3)
    return ImageSet("photos", pixels, labels, pixels, labels, ("cat", "dog", "fox"))


def test_labels_follow_the_names_of_the_model(images: ImageSet) -> None:
    found = images.for_classes(("fox", "cat", "dog"), 3, "m")
    assert found.class_names == ("fox", "cat", "dog")
    assert found.test_labels.tolist() == found.train_labels.tolist() == [1, 2, 0]


def test_a_part_of_the_classes_is_tested_and_said(images: ImageSet) -> None:
    said: list[str] = []
    found = images.for_classes(("ant", "fox", "cat", "dog", "owl"), 5, "m", said.append)
    assert found.test_labels.tolist() == [2, 3, 1]
    assert said == ["note: photos has no test pictures of ant, owl: only 3 of 5 classes are tested"]


def test_an_unknown_class_is_refused(images: ImageSet) -> None:
    with pytest.raises(DataError, match=r"the class 'fox', which m does not know.*did you mean 'foxes'"):
        images.for_classes(("cat", "dog", "foxes"), 3, "m")


def test_without_names_the_order_is_taken_and_said(images: ImageSet) -> None:
    said: list[str] = []
    assert images.for_classes((), 3, "m", said.append) is images
    assert said == ["note: m does not name its classes, so they are taken in the order they have"]
    with pytest.raises(DataError, match="photos has 3 classes, but m has 4"):
        images.for_classes(("0", "1", "2", "3"), 4, "m")


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text")
@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31m"])
def test_a_class_whose_name_cannot_be_written_is_refused_at_once(tmp_path: Path, name: bytes) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    os.mkdir(os.fsencode(root) + b"/" + name)  # noqa: PTH102
    with pytest.raises(DataError, match="is not text; rename it"):
        read(root)


def test_accents_of_a_mac_and_of_linux_are_the_same_name(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", **{"cafe\u0301": 5, "the": 5})  # as a Mac writes it
    images, _ = read(root)
    assert images.class_names == ("caf\u00e9", "the")
    for known in (("the", "caf\u00e9"), ("the", "cafe\u0301")):
        assert images.for_classes(known, 2, "a model").train_labels.tolist() == [1] * 4 + [0] * 4


def test_the_folder_that_was_meant_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "test", cat=5, dog=5)
    with pytest.raises(DataError, match=r"one class folder \('test'\).*did you mean .*photos.test\?"):
        read(tmp_path / "photos")


def test_pictures_that_look_black_are_said(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", cat=5, dog=5)
    Image.fromarray(np.full((20, 20), 4095, np.uint16)).save(root / "cat" / "microscope.png")  # 12 bits of 16
    _, said = read(root)
    assert "note: 1 picture is all but black" not in read(fill(tmp_path / "bright", cat=5, dog=5))[1]
    assert "all but black (no value above 15 of 255), such as" in said


def test_a_class_without_test_pictures_is_not_counted_as_tested(tmp_path: Path) -> None:
    images, _ = read(fill(tmp_path / "photos", cat=5, dog=1))
    said: list[str] = []
    images.for_classes(("cat", "dog"), 2, "a model", said.append)
    assert said == ["note: image folder photos has no test pictures of dog: only 1 of 2 classes are tested"]
