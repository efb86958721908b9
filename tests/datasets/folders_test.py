import errno
import os

from mulsupcon_tf.datasets.folders import visible_files


def test_links_are_followed_to_files_and_folders_but_not_in_a_circle(tmp_path):
    album, disk = tmp_path / "album", tmp_path / "disk"
    (album / "trip").mkdir(parents=True)
    (album / ".hidden").mkdir()
    (disk / "deep").mkdir(parents=True)
    for path in (album / "trip/1.jpg", album / ".hidden/no.jpg", disk / "deep/2.JPG", disk / "notes.txt"):
        path.touch()
    (album / "disk").symlink_to(disk)
    (album / "file.jpg").symlink_to("trip/1.jpg")
    (album / "trip/up").symlink_to(album)
    (disk / "trip").symlink_to(album / "trip")  # whose `up` leads back
    (album / "gone.jpg").symlink_to("nowhere")
    (album / "self").symlink_to("self")
    os.mkfifo(album / "pipe.jpg")
    found = [str(path.relative_to(album)) for path in visible_files(album, (".jpg",))]
    assert found == ["disk/deep/2.JPG", "disk/trip/1.jpg", "file.jpg", "trip/1.jpg"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, caplog):
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.jpg").touch()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert visible_files(tmp_path, (".jpg",)) == [tmp_path / "a.jpg"]
    assert caplog.messages == [f"warning: {tmp_path}/secret is left out (Permission denied)"]
