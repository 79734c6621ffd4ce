"""What all processes must see alike after each step: the loss, and whether to stop, to save, or to go.

If one process stopped and another did not, the other would wait for it forever; so nobody acts alone.
"""

from __future__ import annotations

from regraft.fit.faults import Interruption
from regraft.fit.plan import Pace
from regraft.fit.processes import Processes


class Agreement:
    """The wishes of all processes, as of the last `mean`.

    Attributes:
        interrupted: someone heard Ctrl-C or SIGTERM.
        late: the time limit leaves no time for a step (the main process's clock decides).
        save: a checkpoint is due (the same).
        stop: why a callback wants to end the fit, or an empty string.
    """

    def __init__(self, processes: Processes, interruption: Interruption, pace: Pace, save_every: float) -> None:
        self.processes, self.interruption, self.pace, self.save_every = processes, interruption, pace, save_every
        self.interrupted = self.late = self.save = False
        self.stop = ""
        self.saved_at = pace.elapsed()
        self._wish = ""

    def wish_to_stop(self, reason: str) -> None:
        """Alone, heard at once; with several processes after the next `mean`."""
        self._wish = reason
        if self.processes.world == 1:
            self.stop = reason

    def mean(self, loss: float = 0.0) -> float:
        """The mean of the processes' losses; takes everybody's wishes along."""
        main = self.processes.is_main
        total, heard, wishes, late, save = self.processes.sum(
            [
                loss,
                self.interruption.signal is not None,
                bool(self._wish),
                main and self.pace.is_out_of_time(),
                main and self.pace.elapsed() - self.saved_at >= self.save_every,
            ]
        )
        self.interrupted, self.late, self.save = bool(heard), bool(late), bool(save)
        if wishes:
            self.stop = self._wish or "another process stopped it"
        return total / self.processes.world

    def heard_signal(self) -> bool:
        """Whether to go now; alone, a signal after the last `mean` counts, too."""
        return self.interrupted or (self.processes.world == 1 and self.interruption.signal is not None)
