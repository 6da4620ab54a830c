from __future__ import annotations

import pytest

from backend.errors import SettingsError
from backend.settings import MEGABYTE, Settings


def test_defaults():
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.media_hosts == ()


def test_from_the_environment():
    settings = Settings.from_environment(
        {
            "LABEL_STUDIO_URL": " https://ls.example.com/labels/ ",
            "LABEL_STUDIO_API_KEY": "key",
            "X2SAM_MODEL": "nano",
            "X2SAM_MEDIA_HOSTS": "Pics.example.com, *.example.org",
            "X2SAM_MEDIA_MAX_MB": "0.5",
            "X2SAM_MAX_MEGAPIXELS": "12.5",
            "X2SAM_MAX_SESSIONS": "3",
            "X2SAM_DEVICE": "",
        }
    )
    assert settings.label_studio_url == "https://ls.example.com/labels"
    assert (settings.label_studio_api_key, settings.model, settings.device) == ("key", "nano", "auto")
    assert settings.media_hosts == ("pics.example.com", "*.example.org")
    assert (settings.media_max_bytes, settings.max_pixels, settings.max_sessions) == (MEGABYTE // 2, 12_500_000, 3)


def test_second_names():
    settings = Settings.from_environment({"LABEL_STUDIO_HOST": "http://a:1", "LABEL_STUDIO_ACCESS_TOKEN": "t"})
    assert (settings.label_studio_url, settings.label_studio_api_key) == ("http://a:1", "t")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X2SAM_MAX_SESSIONS", "many"),
        ("X2SAM_MAX_SESSIONS", "0"),
        ("X2SAM_MEDIA_TIMEOUT", "-1"),
        ("X2SAM_MEDIA_TIMEOUT", "nan"),
        ("X2SAM_LOAD_WAIT", "inf"),
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "ftp://host"),
    ],
)
def test_an_unusable_value_names_its_variable(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


def test_half_of_the_credentials():
    with pytest.raises(SettingsError, match="BASIC_AUTH_PASS"):
        Settings.from_environment({"BASIC_AUTH_USER": "me"})


def test_a_name_that_basic_authentication_can_not_carry():
    with pytest.raises(SettingsError, match="BASIC_AUTH_USER"):
        Settings.from_environment({"BASIC_AUTH_USER": "a:b", "BASIC_AUTH_PASS": "c:d"})
    assert Settings.from_environment({"BASIC_AUTH_USER": "a", "BASIC_AUTH_PASS": "c:d"}).asks_for_credentials


def test_half_of_the_store_of_features(tmp_path):
    for variables in ({"X2SAM_FEATURES_DIR": str(tmp_path)}, {"X2SAM_FEATURES_DISK_MB": "100"}):
        with pytest.raises(SettingsError, match="X2SAM_FEATURES_DIR and X2SAM_FEATURES_DISK_MB"):
            Settings.from_environment(variables)
    both = Settings.from_environment({"X2SAM_FEATURES_DIR": str(tmp_path), "X2SAM_FEATURES_DISK_MB": "1.5"})
    assert both.features_disk_bytes == 3 * 2**19
    assert Settings.from_environment({"X2SAM_FEATURES_DISK_MB": "0"}).features_disk_bytes == 0


def test_encoding_ahead_can_be_switched_off():
    assert Settings.from_environment({"X2SAM_WARM_TASKS": "0"}).warm_tasks == 0
    with pytest.raises(SettingsError, match="X2SAM_WARM_TASKS"):
        Settings.from_environment({"X2SAM_WARM_TASKS": "-1"})


def test_a_track_ends_before_label_studio_gives_up():
    assert Settings.from_environment({"X2SAM_TRACK_SECONDS": "20"}).track_seconds == 20
    with pytest.raises(SettingsError, match=r"X2SAM_TRACK_SECONDS.*100 s"):
        Settings.from_environment({"X2SAM_TRACK_SECONDS": "100"})
