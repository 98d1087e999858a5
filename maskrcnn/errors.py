"""The two exceptions that end a command on purpose."""


class UserError(Exception):
    """Something a user can mend: a wrong key, path, file or value.

    The message says what was found, where (file, key, image id), what was expected and how to mend it.
    Command-line tools print it without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """A signal asked the run to stop, and it has saved what is needed to go on from here (exit status 75)."""
