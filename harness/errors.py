"""What can go wrong, by who can mend it. An exception of any other class is the program's own fault."""


class UserError(Exception):
    """What the user can mend: its text is the whole sentence, which the command prints once."""


class RunFailed(Exception):
    """A script did not end as it should: it is not tried again, the others go on."""


class RunRefused(Exception):
    """A run ended with figures that are none, such as a loss of nan: it is counted, later rounds still run."""
