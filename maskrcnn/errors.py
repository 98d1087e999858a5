"""The one exception that is meant for a person rather than for a program."""


class UserError(Exception):
    """Something a user can mend: a wrong key, path, file or value.

    The message says what was found, where (file, key, image id), what was expected and how to mend it.
    Command-line tools print it without a traceback and exit with status 2.
    """
