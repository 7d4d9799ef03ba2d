"""The one error that a person can mend: a sentence that says what is wrong, where, and what to do."""

from pipelines.addresses import without_secrets
from pipelines.visible import visible


class InputError(Exception):
    """Bad input (a config, a file, a name). Its text is one clear sentence; the command line exits with 2.

    The text loses the passwords and tokens of its addresses, and its control characters become visible, since
    terminals, Prefect, MLflow and logs show errors.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(visible(without_secrets(sentence)))


class InputWarning(UserWarning):
    """Bad input that is left out. Its text is one clear sentence; the command line prints it once."""
