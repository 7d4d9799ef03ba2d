"""Passwords and tokens of addresses and variables are in no text that is shown."""

import copy
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.addresses import clean_errors, has_secret, split_user, without_secrets
from pipelines.errors import InputError

SECRET = "SENTINEL-4711"
WITH_SECRET = [
    "https://u:SENTINEL-4711@host/x",
    "https://SENTINEL-4711@host/x",
    "HTTPS://u:SENTINEL-4711@host/x",
    "http://u:SENTINEL-4711@[::1]:80/host",
    "memory://u:SENTINEL-4711@bucket/p",
    "ftp://u:SENTINEL-4711/with@slash@host/x",
    "ftp://:SENTINEL-4711@host/x",
    "simplecache::https://u:SENTINEL-4711@host/x",
    "zip://x.txt::sftp://u:SENTINEL-4711@host/x.zip",
    "git+ssh://u:SENTINEL-4711@host/x",
    "https://host/x?token=SENTINEL-4711",
    "https://host/x?page=1;API-KEY=SENTINEL-4711",
    "https://host/x?%74oken=SENTINEL-4711",
    "https://host/x?X-Amz-Signature=SENTINEL-4711&X-Amz-Date=2026",
    "https://host/x?sv=2026&sig=SENTINEL-4711",
    "s3://bucket/x?session_id=SENTINEL-4711",
    "https://host/x#access_token=SENTINEL-4711",
    "https://host/x#/callback?jwt=SENTINEL-4711",
]
WITHOUT_SECRET = [
    "https://host.example:8080/@user/x.txt?page=2&monkey=tokens",
    "http://[::1]:80/a@b",
    "s3://bucket/2024/*.jsonl.gz?versionId=3",
    "s3://bucket/number#1.txt",
    "abfs://container@account.dfs.core.windows.net/x",
    "hf://datasets/owner/name@main/x.parquet",
    "sftp://user@host/x",
    "https://host/x?sha256=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "texts/what?token=x#y:z@w.txt",
]


@pytest.mark.parametrize("address", WITH_SECRET)
def test_secret_of_an_address_is_not_shown(address):
    assert has_secret(address)
    text = without_secrets(f"It failed: <{address}>, {address!r} and {address}.")
    assert "SENTINEL" not in text and text.startswith("It failed: <") and text.count("host") + text.count("bucket") >= 3


@pytest.mark.parametrize("address", WITHOUT_SECRET)
def test_address_without_a_secret_is_shown_unchanged(address):
    assert not has_secret(address)
    assert without_secrets(f"It failed: {address}.") == f"It failed: {address}."


@pytest.mark.parametrize(
    "address",
    ["https://host/hf_abcdefghijklmnopqrstuvwx/y", "https://host/x?a=Abcdefghij1234567890Abcdefghij1234567890Abc"],
)
def test_token_is_known_by_its_look(address):
    assert has_secret(address) and without_secrets(address).count("***") == 1


def test_fragment_is_a_secret_in_a_source_but_not_in_a_link():
    assert has_secret("https://host/x.txt#SENTINEL-4711")
    link = "http://127.0.0.1:5000/#/experiments/1/runs/2"
    assert without_secrets(link) == link


@pytest.mark.parametrize(
    ("name", "value", "quoted"),
    [
        ("MLFLOW_TRACKING_URI", f"postgresql://u:{SECRET}@host/db", SECRET),
        ("MLFLOW_TRACKING_URI", "postgresql://u:SENTINEL%2F4711@host/db", "SENTINEL/4711"),
        ("MLFLOW_TRACKING_URI", "http://u:SENTI/NEL4711@host", "NEL4711"),
        ("MLFLOW_TRACKING_URI", "postgresql://u:SENTINEL@4711-host/db", "SENTINEL"),
        ("DATABASE_URL", f"postgresql://host/db?user=u&password={SECRET}", SECRET),
        ("PREFECT_API_URL", f"https://host/api#{SECRET}", SECRET),
        ("HTTPS_PROXY", f"http://{SECRET}@proxy:3128", SECRET),
        ("MLFLOW_TRACKING_PASSWORD", SECRET, SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET, SECRET),
        ("PREFECT_API_AUTH_STRING", f"u:{SECRET}", SECRET),
        ("FSSPEC_HTTPS", f'{{"client_kwargs": {{"headers": {{"Authorization": "Bearer {SECRET}"}}}}}}', SECRET),
    ],
)
def test_secret_of_a_variable_is_not_shown(monkeypatch, name, value, quoted):
    monkeypatch.setenv(name, value)
    assert without_secrets(f"The library says {quoted!r}.") == "The library says '***'."
    assert "SENTINEL" not in str(InputError(f"{name}={value} cannot be used."))


def test_ordinary_values_of_variables_are_shown(monkeypatch, tmp_path):
    for name, value in {"TOKENMILL_HOME": str(tmp_path), "CREDENTIALS": str(tmp_path), "DB_PASSWORD": "mlflow"}.items():
        monkeypatch.setenv(name, value)
    assert without_secrets(f"mlflow in {tmp_path}") == f"mlflow in {tmp_path}"


@given(user=st.text("abc1", max_size=4), password=st.text(st.characters(exclude_characters="@"), min_size=6))
def test_password_of_any_database_is_not_shown(user, password):
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv("MLFLOW_TRACKING_URI", f"postgresql://{user}:SENTINEL{password}@host/db")
        except (ValueError, UnicodeError):  # no variable holds a NUL
            return
        assert "SENTINEL" not in without_secrets(
            f"cannot parse 'SENTINEL{password}' of x://{user}:SENTINEL{password}@h"
        )


def test_error_with_a_secret_is_replaced():
    with pytest.raises(RuntimeError, match=r"OSError: cannot reach http://host/") as caught, clean_errors():
        try:
            raise KeyError(f"https://u:{SECRET}@host/")
        except KeyError:
            raise OSError(f"cannot reach http://u:{SECRET}@host/") from None
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_error_loses_causes_that_show_a_secret():
    with pytest.raises(InputError, match="away") as caught, clean_errors():
        try:
            raise KeyError(f"https://u:{SECRET}@host/")
        except KeyError as error:
            raise InputError("away") from error
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_error_without_a_secret_is_unchanged():
    error = OSError("away")
    with pytest.raises(OSError, match="away") as caught, clean_errors():
        raise error
    assert caught.value is error
    assert str(copy.copy(InputError("One sentence."))) == "One sentence.", "workers send errors to the run's process"


def test_user_of_a_web_server_is_split_off():
    assert split_user("http://u:p%40w@host:1/api") == ("http://host:1/api", "u:p@w")
    assert split_user("https://u:p/w@host") == ("https://host", "u:p/w")
    for address in ("https://host/a@b", "postgresql://u:p@host/db", "sqlite:///x"):
        assert split_user(address) == (address, "")
