"""Addresses with a secret: a user and password, a token among the parameters, a token behind `#`.

The address of a source or a bucket must hold none, because manifests, MLflow and Prefect store it. The address of a
server or database may. It is used, and `without_secrets` removes the secret from every text that shows it.
"""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

HIDDEN = "***"

ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'<>`]+")
NAME = (
    r"(?i)(^|[-_.])(api_?key|(access|account|secret)_?key(_?id)?|auth(orization|_?string)?|bearer|credentials?|hmac|jwt|"
    r"key|pass(word|wd|phrase)?|psk|pwd?|sas|secret|session(_?id)?|sid|sig(nature)?|token)$"
)
VARIABLE = re.compile(NAME)
"""Names of environment variables that hold a secret."""
SECRET = re.compile(f"{NAME}|(token|secret|password|signature)")
"""Names of an address's parameters that hold a secret."""
TOKEN = re.compile(
    r"eyJ[\w-]{8,}\.[\w.-]+|gh[opsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{16,}|"
    r"xox[a-z]-[\w-]{10,}|(?<==)(?=[^&;#]*\d)(?=[^&;#]*[A-Z])(?=[^&;#]*[a-z])[\w+/=%.~-]{40,}"
)
"""Tokens that are known by their look: of widespread services, and long random values of parameters."""
LOOKS_SECRET = re.compile(r"(?s)(?=.*[^a-z]).{6,}|.{12,}")
"""Values of variables that are removed from every text. Others, such as the password `mlflow`, are words."""
PORT = r"\d{1,5}(?:[/?#]|$)"
USER = re.compile(rf"(?<=://)(?!\[)(?:[^/?#@:]*:(?!{PORT})[^@]*|[^/?#@]*:[^/?#@]*)@(?:[^/?#@]*@)*")
"""A user and password. The password may hold signs that should be escaped, such as a slash."""
NAMELESS = re.compile(r"(?i)(?<=http://)[^/?#@]*@|(?<=https://)[^/?#@]*@")
PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?]+)=([^&;#]+)")


def without_secrets(text: str) -> str:
    """Return a text with its addresses, but without passwords, tokens and the secrets of this process's variables."""
    for secret in sorted(set(_of_variables()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return ADDRESS.sub(lambda match: _hide(match[0]), text) if "://" in text else text


def has_secret(address: str) -> bool:
    """Return whether an address carries a password or token, or a part behind `#`, which no web server receives."""
    if "://" not in address:
        return False
    return _hide(address) != address or bool(re.search(r"(?i)https?://[^#]*#.", address))


@contextmanager
def clean_errors() -> Iterator[None]:
    """Take the secrets out of an error's traceback, because Prefect logs and stores the tracebacks of errors.

    The error loses its causes if they show a secret. If it shows one itself, it becomes a RuntimeError.
    """
    try:
        yield
    except Exception as error:
        shown = "".join(traceback.format_exception(error))
        if without_secrets(shown) == shown:
            raise
        text = f"{type(error).__name__}: {error}"
        if (clean := without_secrets(text)) == text:
            raise error from None
        raise RuntimeError(clean) from None


def split_user(address: str) -> tuple[str, str]:
    """Return the address of a web server without its user and password, and these; empty if it has none."""
    found = USER.search(address) or NAMELESS.search(address) if address.lower().startswith("http") else None
    return (address.replace(found[0], "", 1), unquote(found[0].removesuffix("@"))) if found else (address, "")


def _hide(address: str) -> str:
    address = NAMELESS.sub("", USER.sub("", address))
    address = PARAMETER.sub(lambda match: f"{match[1]}={HIDDEN}" if _is_secret(match[1]) else match[0], address)
    return TOKEN.sub(HIDDEN, address)


def _is_secret(name: str) -> bool:
    return SECRET.search(unquote(name)) is not None


def _of_variables() -> Iterator[str]:
    """Yield the secrets in the environment: values by the names of their variables, and parts of addresses."""
    for name, value in os.environ.items():
        is_file = value.startswith("/") and os.path.exists(value)  # noqa: PTH110 - faster than a Path
        found = [value] if VARIABLE.search(name) and not is_file else []
        if "://" in value:
            found += [user.removesuffix("@").partition(":")[2] or user[:-1] for user in USER.findall(value)]
            found += [user[:-1] for user in NAMELESS.findall(value) if ":" not in user]
            found += [secret for key, secret in PARAMETER.findall(value) if _is_secret(key)]
            found += re.findall(r"#([^/#]+)$", value)
        if name.startswith("FSSPEC_"):  # options in JSON
            found += [secret for key, secret in re.findall(r'"([^"]+)"\s*:\s*"([^"]+)"', value) if _is_secret(key)]
        for secret in found:  # errors also quote what a parser took for a part of it
            parts = {secret, unquote(secret), *re.split(r"[\s/?#@:]", secret)}
            yield from filter(LOOKS_SECRET.fullmatch, parts)
