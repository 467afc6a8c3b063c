"""Whether an upstream may be used: what probes say, and what requests have met.

One state machine for both. Its passive half is a circuit breaker: *ejected* is open, *half-open* is
half-open, anything else is closed. ::

                 too many failures              its time is up
      healthy ----------------------> ejected ------------------> half-open
         ^                               ^                          |   |
         |                               +--- the trial fails ------+   |
         +------------------------------------ the trial is answered ---+

Beside it the active half: *unknown* until the first probe, then *healthy* or *unhealthy*. An
upstream that was unhealthy and is healthy again need not sit its ejection out: what had ejected it
is over as well, most likely, and its trial will tell.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from .checks import Ejection, HealthCheck
from .window import Window

__all__ = ["Health", "State"]

State = Literal["unknown", "healthy", "unhealthy", "ejected", "half-open"]

#: The share of its weight that an upstream begins its slow start with (Envoy's).
_FIRST_SHARE: Final = 0.1
#: A slow start goes by steps of its length divided by this.
_STEPS: Final = 20


class Health:
    """The health of one upstream.

    Args:
        ejection: When it is ejected. Default: never.
        check: How it is probed. Default: it is not.

    Attributes:
        half_open: It is half-open.
        on_trial: Its one trial is running.
        in_panic: No other is better: it is given more than its trial.
        ejections: How often it was ejected.
        epoch: Changes when what began before says nothing any more: requests that met it before
            it was ejected may take long to fail, and it is another upstream by then. ``Lease``
            compares.
    """

    __slots__ = (
        "_back_since",
        "_broken",
        "_check",
        "_contrary",
        "_ejected_until",
        "_ejection",
        "_growth",
        "_passes",
        "_silent",
        "_warm_since",
        "_window",
        "ejections",
        "epoch",
        "half_open",
        "in_panic",
        "on_trial",
    )

    def __init__(self, ejection: Ejection | None = None, check: HealthCheck | None = None) -> None:
        self._ejection = ejection
        self._check = check
        self._passes: bool | None = None
        #: Probes in a row that said otherwise.
        self._contrary = 0
        #: Failures in a row: those without an answer, whose row any answer ends, and those that
        #: broke off, whose row only a whole exchange ends. Streams may stay open for hours.
        self._silent = self._broken = 0
        self._window = Window(ejection.window if ejection else 1.0)
        self._ejected_until: float | None = None
        self.half_open = False
        #: Ejections in a row, which is how many times the time of the last was doubled, and one.
        self._growth = 0
        self._back_since: float | None = None
        self._warm_since: float | None = None
        self.on_trial = self.in_panic = False
        self.ejections = self.epoch = 0

    @property
    def state(self) -> State:
        """What is known; a probe that fails says more than an ejection."""
        if self._passes is False:
            return "unhealthy"
        if self.half_open:
            return "half-open"
        if self._ejected_until is not None:
            return "ejected"
        if self._check is not None and self._passes is None:
            return "unknown"
        return "healthy"

    @property
    def is_usable(self) -> bool:
        """Whether it may be given requests; while it is half-open, one at a time."""
        return self._passes is not False and (self._ejected_until is None or self.half_open)

    @property
    def is_ejected(self) -> bool:
        """Whether it is ejected, or half-open and not yet back."""
        return self._ejected_until is not None

    # --- What probes say ------------------------------------------------------------------------

    def probed(self, now: float, *, ok: bool) -> None:
        """Count the result of a probe. The first one decides alone."""
        check = self._check
        if check is None:
            return
        if ok is self._passes:
            self._contrary = 0
            return
        self._contrary += 1
        needed = check.rise if ok else check.fall
        if self._passes is None or self._contrary >= needed:
            if self._passes is False:
                self._recover(now)
            self._passes, self._contrary = ok, 0

    def _recover(self, now: float) -> None:
        self._warm_since = now
        self._forgive()
        self.half_open = self.is_ejected
        if not self.on_trial:
            self.epoch += 1

    # --- What requests meet ---------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Whether it may be given nothing until its trial is over."""
        return self.on_trial and not self.in_panic

    def begin(self) -> bool:
        """Count a request that begins; tell whether it is the trial of a half-open upstream."""
        trial = self.half_open and not self.on_trial
        self.on_trial |= trial
        return trial

    def answered(self, now: float, *, trial: bool) -> None:
        """Count the head of a response, which ends a trial well."""
        if self._ejection is None:
            return
        if trial and self.half_open:
            self._ejected_until, self.half_open, self.on_trial = None, False, False
            self._back_since = self._warm_since = now
            self._forgive()
        self._silent = 0
        self._window.add(now)

    def succeeded(self) -> None:
        """Count an exchange that was complete."""
        self._silent = self._broken = 0

    def failed(self, now: float, *, trial: bool, answered: bool) -> bool:
        """Count an exchange that the upstream has failed; tell whether to eject it for that.

        A trial that fails has ejected it when this returns.

        Args:
            now: The time.
            trial: It was the trial.
            answered: The head of its response was here.
        """
        ejection = self._ejection
        if ejection is None:
            return False
        if trial and self.half_open:
            self.eject(now)
        if self.is_ejected:
            return False
        if answered:
            self._broken += 1
            self._window.add(now, total=0, marked=1)
        else:
            self._silent += 1
            self._window.add(now, marked=1)
        return self._fails_too_often(now, ejection)

    def ended(self) -> None:
        """Count the end of the trial, whatever became of it: another request may be the next."""
        self.on_trial = False

    def _fails_too_often(self, now: float, ejection: Ejection) -> bool:
        failures = self._silent + self._broken
        if ejection.consecutive is not None and failures >= ejection.consecutive:
            return True
        total, failed = self._window.counts(now)
        rate = ejection.rate
        return rate is not None and total >= ejection.min_requests and failed >= rate * total

    def eject(self, now: float) -> None:
        """Leave it alone for a while."""
        ejection = self._ejection
        if ejection is None:
            return
        if self._back_since is not None and not self.half_open:
            # As Envoy does: one is forgotten for every window without one.
            calm = max(0.0, now - self._back_since) // ejection.window
            self._growth = max(0, self._growth - int(min(calm, self._growth)))
        # Not 2.0 ** a thousand.
        time = min(ejection.base_time * 2.0 ** min(self._growth, 32), ejection.max_time)
        self._ejected_until = now + time
        self._growth += 1
        self.ejections += 1
        self.epoch += 1
        self.half_open = self.on_trial = False

    def _forgive(self) -> None:
        self._silent = self._broken = 0
        self._window.clear()

    # --- Time -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let an ejection end whose time is up."""
        if self._ejected_until is not None and now >= self._ejected_until:
            self.half_open = True

    def ejected_for(self, now: float) -> float | None:
        """Return the seconds until its trial, ``None`` if it is not ejected or half-open."""
        if self._ejected_until is None or self.half_open:
            return None
        return max(0.0, self._ejected_until - now)

    def share(self, now: float) -> float:
        """Return the share of its weight that it may have, less than 1 in a slow start."""
        slow_start = self._slow_start
        if self._warm_since is None or not slow_start:
            return 1.0
        return max(_FIRST_SHARE, min(1.0, (now - self._warm_since) / slow_start))

    def next_change(self, now: float) -> float:
        """Return when time alone changes something here, infinity for never."""
        if self._ejected_until is not None and not self.half_open:
            return self._ejected_until
        return now + self._slow_start / _STEPS if self.share(now) < 1 else math.inf

    @property
    def _slow_start(self) -> float:
        return self._ejection.slow_start if self._ejection is not None else 0.0
