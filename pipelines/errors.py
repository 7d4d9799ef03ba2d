"""The one error that a person can mend: a sentence that says what is wrong, where, and what to do."""


class InputError(Exception):
    """Bad input (a config, a file, a name). Its text is one clear sentence; the command line exits with 2."""
