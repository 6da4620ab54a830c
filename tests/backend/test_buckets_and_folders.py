"""Files in buckets, read through Label Studio, and in directories of this machine, read without it."""

from __future__ import annotations

import base64
import os
from urllib.parse import parse_qs, urlsplit

import pytest

from backend.cloud_storage import through_label_studio
from backend.errors import MediaError, MediaRefusedError, MediaTooLargeError, SettingsError


class TestBuckets:
    """A stand-in for Label Studio redirects to a stand-in for a bucket."""

    URI = "s3://bucket/фото 1.png"

    @pytest.fixture
    def path(self, pictures, other):
        path = through_label_studio(self.URI, "17")
        pictures.token = "Token " + "a" * 40
        pictures.redirects[path] = f"{other.url}/bucket/photo.png?X-Amz-Signature=s"
        other.files["/bucket/photo.png?X-Amz-Signature=s"] = b"in the bucket"
        return path

    def test_through_label_studio_to_the_bucket(self, fetcher_for, pictures, other, path):
        fetcher = fetcher_for(media_hosts=(f"127.0.0.1:{other.port}",), label_studio_api_key="a" * 40)
        assert fetcher.read(path) == b"in the bucket"
        (asked,) = pictures.seen
        uri = base64.urlsafe_b64decode(parse_qs(urlsplit(asked[0]).query)["fileuri"][0]).decode()
        assert (urlsplit(asked[0]).path, uri) == ("/tasks/17/presign/", self.URI)
        assert asked[1]["Authorization"] == pictures.token
        assert "Authorization" not in other.seen[0][1]

    def test_another_signature_is_the_same_file(self, fetcher_for, pictures, other, path):
        fetcher = fetcher_for(media_hosts=(f"127.0.0.1:{other.port}",), label_studio_api_key="a" * 40)
        first = fetcher.fetch(path)
        pictures.redirects[path] = f"{other.url}/bucket/photo.png?X-Amz-Signature=t"
        assert fetcher.fetch(path) == first
        assert len(other.seen) == 1

    def test_the_bucket_must_be_named(self, fetcher_for, other, path):
        with pytest.raises(MediaRefusedError, match=f"127.0.0.1:{other.port}.*X2SAM_MEDIA_HOSTS"):
            fetcher_for(label_studio_api_key="a" * 40).read(path)
        assert other.seen == []

    def test_files_that_label_studio_sends_itself(self, fetcher_for, pictures, path):
        del pictures.redirects[path]
        pictures.files[path] = b"sent by Label Studio"
        assert fetcher_for(label_studio_api_key="a" * 40).read(path) == b"sent by Label Studio"

    def test_no_storage_of_the_project_has_it(self, fetcher_for, pictures, path):
        del pictures.redirects[path]
        with pytest.raises(MediaError, match="storage covers its folder"):
            fetcher_for(label_studio_api_key="a" * 40).read(path)

    @pytest.mark.parametrize("address", ["S3://b/k", "gs://b/k", "azure-blob://c/k", " s3://b/k "])
    def test_every_kind_of_bucket(self, address):
        assert through_label_studio(address, "5").startswith("/tasks/5/presign/?fileuri=")

    @pytest.mark.parametrize("address", ["/data/upload/1", "https://b/s3://x", "data:,s3://", "s3:", "redis://x/y"])
    def test_other_addresses_stay(self, address):
        assert through_label_studio(address, "5") == address

    @pytest.mark.parametrize("task", ["", "x", "../1", "1/../2", "\u0661"])
    def test_a_task_without_number(self, task):
        with pytest.raises(MediaRefusedError, match="its task"):
            through_label_studio(self.URI, task)

    def test_the_fetcher_does_not_know_tasks(self, fetcher_for):
        with pytest.raises(MediaRefusedError, match="its task"):
            fetcher_for().read(self.URI)

    @pytest.mark.parametrize(
        "path", ["/tasks/1/", "/tasks/x/presign/?fileuri=a", "/tasks/1/presign/../../api?fileuri=a"]
    )
    def test_nothing_else_of_a_task_can_be_named(self, fetcher_for, pictures, path):
        with pytest.raises(MediaRefusedError, match="outside /data/"):
            fetcher_for().read(path)
        assert pictures.seen == []


class TestDirectories:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "root" / "photos"
        folder.mkdir(parents=True)
        (folder / "фото #1 100%.png").write_bytes(b"here")
        (tmp_path / "secret").write_bytes(b"secret")
        return folder.parent

    @pytest.fixture
    def fetcher(self, fetcher_for, folder):
        return fetcher_for(media_dirs=(str(folder),))

    def test_files_are_read_without_label_studio(self, fetcher, pictures):
        quoted = "photos/%D1%84%D0%BE%D1%82%D0%BE%20%231%20100%25.png"
        for address in (
            "photos/фото #1 100%.png",
            f"/data/local-files/?d={quoted}",
            f"data/local-files/?d=/{quoted}",
            f"{pictures.url}/data/local-files/?d={quoted}",
        ):
            assert fetcher.read(address) == b"here"
        assert pictures.seen == []

    def test_what_is_not_there_is_label_studios(self, fetcher, pictures):
        pictures.files["photos/other.png"] = b"from Label Studio"
        assert fetcher.read("/data/local-files/?d=photos/other.png") == b"from Label Studio"
        with pytest.raises(MediaRefusedError, match="in no directory of X2SAM_MEDIA_DIRS"):
            fetcher.read("photos/other.png")

    @pytest.mark.parametrize(
        "path", ["../secret", "photos/../../secret", "photos/..", "/etc/passwd", "//etc/passwd", "file:///etc/passwd"]
    )
    def test_ways_out(self, fetcher, path):
        with pytest.raises(MediaError):
            fetcher.read(path)
        with pytest.raises(MediaError):
            fetcher.read(f"/data/local-files/?d={path}")

    def test_links_out_are_refused_and_links_inside_followed(self, fetcher, folder, tmp_path):
        (folder / "inside").symlink_to(folder / "photos")
        (folder / "out").symlink_to(tmp_path)
        (folder / "photos" / "secret").symlink_to(tmp_path / "secret")
        (folder / "loop").symlink_to(folder / "loop")
        assert fetcher.read("inside/фото #1 100%.png") == b"here"
        for path in ("out/secret", "photos/secret"):
            with pytest.raises(MediaRefusedError, match="link"):
                fetcher.read(path)
        with pytest.raises(MediaError):
            fetcher.read("loop")

    def test_what_is_no_file(self, fetcher, folder):
        os.mkfifo(folder / "pipe")
        for path in ("pipe", "photos", "photos/фото #1 100%.png/x"):
            with pytest.raises(MediaError):
                fetcher.read(path)

    def test_a_changed_file_is_read_again_and_size_is_limited(self, fetcher_for, folder):
        fetcher = fetcher_for(media_dirs=(str(folder),), media_max_bytes=2000)
        path = folder / "photos" / "a.png"
        for content in (b"one", b"second"):
            path.write_bytes(content)
            assert fetcher.read("photos/a.png") == content
        path.write_bytes(bytes(2001))
        with pytest.raises(MediaTooLargeError):
            fetcher.read("photos/a.png")

    @pytest.mark.parametrize("directory", ["/", "relative", "/no/such/directory"])
    def test_directories_that_can_not_be_used(self, fetcher_for, directory):
        with pytest.raises(SettingsError, match="X2SAM_MEDIA_DIRS"):
            fetcher_for(media_dirs=(directory,))
