"""The one error that a person can mend: a sentence that says what is wrong, where, and what to do."""

from pipelines.visible import visible


class InputError(Exception):
    """Bad input (a config, a file, a name). Its text is one clear sentence; the command line exits with 2.

    Control characters in the text are made visible, since terminals, Prefect, MLflow and logs show errors.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(visible(sentence))
