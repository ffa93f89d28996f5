"""The two ways in which a command refuses its input; the command line maps them to exit codes."""


class BadInput(ValueError):
    """Input that the user must correct; its message is one clear line (exit code 2)."""


class InfeasibleBudget(ValueError):
    """A budget that no arch of the space meets; its message gives the feasible range (exit 3)."""


class VerificationFailed(RuntimeError):
    """The exported model is not the network; the message is one line: what differs, how much."""


class Diverged(RuntimeError):
    """Training met a loss that is not finite; the message names the step and the arch."""
