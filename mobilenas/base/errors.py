"""What a command tells its user in one line; the command line maps each to an exit code."""

_SHOWN = 200  # characters


class BadInput(ValueError):
    """Input that the user must correct; its message is one clear line (exit code 2)."""


class InfeasibleBudget(ValueError):
    """A budget that no arch of the space meets; its message gives the feasible range (exit 3)."""


class VerificationFailed(RuntimeError):
    """The exported model is not the network; the message is one line: what differs, how much."""


class Diverged(RuntimeError):
    """Training met a loss or gradient that is not finite; the message names step and arch."""


class ProcessesDiffer(RuntimeError):
    """Processes of one training were about to do different things; the message names the step."""


class ProcessLost(RuntimeError):
    """Another process of the same training has ended, which then cannot go on."""


class WorkFailed(RuntimeError):
    """Work on some of several archs came to no result; the message names them."""


class DevicesFailed(RuntimeError):
    """Some of several devices came to no result, the others did; the message names them."""


class NotTracked(RuntimeError):
    """A run is done, and could not be written to mlflow; the message is one line."""


def one_line(error: BaseException) -> str:
    """The message of an error of another library, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(text: str) -> str:
    """What a user wrote, as a message names it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
