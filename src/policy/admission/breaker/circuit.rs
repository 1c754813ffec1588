//! A circuit: of the whole workspace, or of one party.

use std::time::Duration;

use super::limits::LONGEST_PAUSE;
use super::pace::Pace;
use super::run::{Cause, Run, shorter};
use crate::clock::Moment;
use crate::policy::admission::response::{EndedCall, Origin, Response};

/// Judges a run of failures, and probes while calls are held back.
///
/// A grave run is first a *suspicion*: the broker itself calls for keys that have had a token and are
/// not among the failed ones. One success dismisses it. The circuit opens if they fail too, or if
/// nothing has succeeded for [`PATIENCE`].
#[derive(Debug, Default)]
pub struct Circuit {
    /// The failures since the last success.
    pub run: Run,
    suspicion: Option<Suspicion>,
    /// No suspicion begins before this moment.
    next_suspicion: Moment,
    open: Option<Open>,
}

#[derive(Debug)]
struct Suspicion {
    since: Moment,
    /// The probes to send.
    wanted: u32,
    sent: u32,
    failed: u32,
    denied: u32,
    throttled: u32,
    /// The shortest pause that Courier asked for with a probe.
    pause: Option<Duration>,
}

/// An open circuit: few calls leave as probes.
#[derive(Debug)]
pub struct Open {
    /// Responses to calls sent before this moment do not count.
    pub since: Moment,
    /// Why it is open.
    pub cause: Cause,
    /// For keys that never had a token, and for keys that had one.
    slots: [Pace; 2],
    /// The probes of the broker itself.
    own: Pace,
    /// Failed probes since it opened.
    failed: u32,
    /// A probe is under way.
    pub is_probing: bool,
}

/// The facts besides its own run by which a circuit judges.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// It is the workspace's circuit.
    pub is_workspace: bool,
    /// Calls of several parties are remembered.
    pub several: bool,
    /// A key has succeeded before, so a suspicion can be tested.
    pub has_succeeded: bool,
}

/// The probes that test a suspicion. With 1, a key that fails by itself would confirm it; with 4, each
/// costs twice the calls.
const PROBES: u32 = 2;
/// How long the probes of a suspicion may take. A call takes 0.3 s as a rule. With 2 s, a slow Courier
/// is one that is down as soon as some users fail; with 8 s, users wait that much longer in an outage that hangs.
const PATIENCE: Duration = Duration::from_secs(4);
/// The least time between two suspicions. An attack that goes on costs two probes in each. With half
/// of it, these calls double; with twice of it, a revoked API key is reported so much later.
const RESPITE: Duration = Duration::from_secs(2);
/// The time between probes after the opening; it doubles with each failed one.
const FIRST_GAP: Duration = Duration::from_millis(500);
/// The longest time between probes, with jitter of up to half of it. Users are refused for that long
/// after Courier has recovered. An outage of half an hour takes about 1,200 probes of each kind; with
/// 30 s it would take 80, and users would wait for a quarter of a minute.
const LAST_GAP: Duration = Duration::from_secs(2);
/// The time between probes while Courier asks for more than [`LONGEST_PAUSE`], which may be a mistake. Users are
/// refused for that long after it has recovered. With 2 s, a pause that is meant is broken as often as an outage
/// is probed.
const OVERLONG_GAP: Duration = Duration::from_secs(4);
/// How much later a key may probe that failed in the last minute: another one tells more.
const FAILED_KEY_DELAY: Duration = Duration::from_secs(1);
/// How many probes of one kind leave at once when it opens.
const BURST: u32 = 2;

impl Suspicion {
    const fn new(since: Moment) -> Self {
        Self { since, wanted: PROBES, sent: 0, failed: 0, denied: 0, throttled: 0, pause: None }
    }
}

impl Circuit {
    /// Judges an adverse response; returns why calls are to be held back, if they are.
    pub fn on_failure(&mut self, call: &EndedCall, context: Context) -> Option<Cause> {
        self.run.push(call);
        if let Some(suspicion) = self.suspicion.as_mut().filter(|_| call.origin.is_probe) {
            suspicion.failed += 1;
            suspicion.denied += u32::from(matches!(call.response, Response::Denied(_)));
            if let Response::Throttled(pause) = call.response {
                suspicion.throttled += 1;
                suspicion.pause = shorter(suspicion.pause, pause);
            }
        }
        self.judge(call.response, context, call.now)
    }

    fn judge(&mut self, response: Response, context: Context, now: Moment) -> Option<Cause> {
        let is_grave = self.run.is_grave(context.several, context.has_succeeded);
        let denied = context.is_workspace && matches!(response, Response::Denied(_));
        if !context.has_succeeded {
            // No key can tell more than these.
            return (is_grave || denied && self.run.is_denial()).then(|| self.run.cause());
        }
        let Some(suspicion) = &self.suspicion else {
            if (is_grave || denied) && now >= self.next_suspicion {
                self.suspicion = Some(Suspicion::new(now));
            }
            return None;
        };
        let is_tested = suspicion.sent >= suspicion.wanted && suspicion.failed >= suspicion.sent;
        if !is_tested && now < suspicion.since + PATIENCE {
            return None;
        }
        let all = |count: u32| suspicion.sent > 0 && is_tested && count >= suspicion.failed;
        let cause = match (all(suspicion.denied), all(suspicion.throttled), response) {
            (true, _, Response::Denied(status)) => Some(Cause::Denied { status, is_confirmed: true }),
            // The keys that brought the suspicion may have a longer pause of their own.
            (_, true, Response::Throttled(_)) => Some(Cause::Throttled { pause: suspicion.pause, is_confirmed: true }),
            _ => is_grave.then(|| match self.run.cause() {
                // Only a key that had a token tells whether the API key is refused.
                Cause::Denied { status, .. } => Cause::Denied { status, is_confirmed: false },
                cause => cause,
            }),
        };
        self.dismiss(now);
        cause
    }

    /// Records the success of a call sent then; returns the opening that it ends.
    pub fn on_success(&mut self, sent: Moment, now: Moment) -> Option<Open> {
        if self.run.end(sent) && self.suspicion.is_some() {
            self.dismiss(now);
        }
        self.open.take_if(|open| sent >= open.since)
    }

    fn dismiss(&mut self, now: Moment) {
        self.suspicion = None;
        self.next_suspicion = now + RESPITE;
    }

    /// Opens it.
    pub fn open(&mut self, cause: Cause, probe_gap: Duration, now: Moment) {
        let (gap, pause) = match cause {
            Cause::Throttled { pause: Some(pause), .. } if pause > LONGEST_PAUSE => (OVERLONG_GAP, OVERLONG_GAP),
            Cause::Throttled { pause, .. } => (FIRST_GAP, pause.unwrap_or_default()),
            _ => (FIRST_GAP, Duration::ZERO),
        };
        let slot = || match pause {
            Duration::ZERO => Pace::new(gap, BURST),
            pause => Pace::starting(gap, now + pause),
        };
        let slots = [slot(), slot()];
        let own = Pace::starting(gap.max(probe_gap), now + pause);
        self.open = Some(Open { since: now, cause, slots, own, failed: 0, is_probing: false });
        self.suspicion = None;
    }

    /// The opening, if it is open.
    pub const fn opening(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// The opening, if it is open, to record a probe.
    pub const fn opening_mut(&mut self) -> Option<&mut Open> {
        self.open.as_mut()
    }

    /// When the broker itself is to probe next.
    pub fn probe_at(&self) -> Moment {
        match (&self.open, &self.suspicion) {
            (Some(open), _) => open.own.free_at(),
            (None, Some(suspicion)) if suspicion.sent < suspicion.wanted => suspicion.since,
            _ => Moment::NEVER,
        }
    }

    /// Records that the broker probes, or that no key can.
    pub fn on_probe(&mut self, is_sent: bool, now: Moment) {
        if let Some(open) = &mut self.open {
            open.own.take(now);
            open.is_probing |= is_sent;
        } else if let Some(suspicion) = &mut self.suspicion {
            suspicion.sent += u32::from(is_sent);
            suspicion.wanted = if is_sent { suspicion.wanted } else { suspicion.sent };
        }
    }
}

impl Open {
    /// When a call of this origin may leave as a probe; `has_failed` of its key in the last minute.
    pub fn free_at(&self, origin: &Origin, has_failed: bool) -> Moment {
        let delay = if has_failed { FAILED_KEY_DELAY } else { Duration::ZERO };
        self.slots[usize::from(origin.is_known)].free_at() + delay
    }

    /// Records that a call leaves as a probe.
    pub fn on_admit(&mut self, origin: &Origin, now: Moment) {
        self.slots[usize::from(origin.is_known)].take(now);
        self.is_probing = true;
    }

    /// Records that a probe failed.
    pub fn on_failure(&mut self, call: &EndedCall, cause: Cause, probe_gap: Duration) {
        self.failed += 1;
        self.is_probing = false;
        let draw = call.draw.clamp(0.0, 1.0);
        let gap = (FIRST_GAP * (1 << self.failed.min(8))).min(LAST_GAP).mul_f64(1.0 - 0.5 * draw);
        // A `Retry-After` for one key may be meant for it alone.
        let is_paused = call.origin.is_probe || matches!(self.cause, Cause::Throttled { .. });
        let (gap, pause) = match call.response {
            Response::Throttled(Some(pause)) if is_paused && pause > LONGEST_PAUSE => (OVERLONG_GAP, Duration::ZERO),
            Response::Throttled(Some(pause)) if is_paused => (gap, pause),
            _ => (gap, Duration::ZERO),
        };
        self.slots.iter_mut().for_each(|slot| slot.slow_to(gap, call.now + pause));
        self.own.slow_to(gap.max(probe_gap), call.now + pause);
        let was_confirmed = self.is_denial();
        self.cause = match cause {
            Cause::Denied { status, is_confirmed } => {
                Cause::Denied { status, is_confirmed: is_confirmed || was_confirmed }
            }
            // A pause is kept for the keys that got it.
            Cause::Throttled { .. } => self.cause,
            Cause::Failing => Cause::Failing,
        };
    }

    /// Whether it is known that Courier refuses the API key.
    pub const fn is_denial(&self) -> bool {
        matches!(self.cause, Cause::Denied { is_confirmed: true, .. })
    }
}
