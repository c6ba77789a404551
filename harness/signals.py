"""How a signal ends the runner: at once, with its results kept and its processes ended."""

import signal
from types import FrameType

ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)


class Stopped(BaseException):
    """A signal came. It is no Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status  # as a shell shows it: 128 and the signal's number


class Stop:
    """Whether a signal came: an exception that is raised in a destructor is lost, so whoever waits asks here too."""

    def __init__(self) -> None:
        self.status: int | None = None

    def install(self) -> None:
        """Take over the signals that end a program, but those that are ignored already: nohup is to hold."""
        for number in ENDING:
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)  # the cleaning up is not to be interrupted
        self.status = 128 + number
        raise Stopped(self.status)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.status is not None:
            raise Stopped(self.status)
