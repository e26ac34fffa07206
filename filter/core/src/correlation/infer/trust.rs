//! What answers are worth: how often they proved right by the end of the request, and how many
//! calls nobody made.

use super::model::Callee;
use super::order::Contradictions;
use super::table::Candidate;

/// A single attached call may be this many times more doubtful than all together, besides once.
const MOST_DOUBT: f32 = 25.0;
/// How much sureness is saved up at most.
const MOST_SPARE: f32 = 1.0;
/// Ends that are of late.
const RECENT: f32 = 256.0;
/// So many ends must have been seen before anything is joined.
const ENDS: f32 = 30.0;
/// How sure they must be for calls to be joined: experience that is itself unclear proves nothing.
const TRUSTED: f32 = 0.85;
/// Up to which share of delays may be longer than all but one in a hundred before.
const MOST_LATE: f32 = 0.04;
/// How sure the ends of requests must be on average to be learned from.
const SURE: f32 = 0.8;
/// The part of the allowed doubt that is left for what cannot be known.
const MARGIN: f32 = 0.2;
/// Callees whose background is remembered.
pub(super) const MAX_CALLEES: usize = 64;
/// Answers that are remembered of each class.
const MEMORY: f32 = 1000.0;
/// Classes of confidence, by where each begins.
pub(super) const CLASSES: [f32; 10] = [0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997, 0.999];
/// How fast the rate of calls follows the load, in microseconds.
const LOAD: f32 = 2_000_000.0;
/// The share of calls that nobody makes, before anything is known, and its weight in calls.
const PRIOR: (f32, f32) = (0.01, 20.0);

/// What was learned about the answers themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trust {
    pub(super) order: Contradictions,
    pub(super) background: Background,
    pub(super) pool: Pool,
    pub(super) classes: [Class; CLASSES.len()],
    /// By how much the attached calls together are surer than was asked for.
    pub(super) spare: f32,
    /// Requests that have ended, up to [`RECENT`].
    pub(super) ends: f32,
    /// How sure it was of late what a request did, at its end.
    pub(super) sure: f32,
    /// The share of delays of late that were longer than all but one in a hundred before.
    pub(super) late: f32,
}

/// Answers of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Class {
    pub(super) answers: f32,
    pub(super) right: f32,
}

/// Whether calls wait for a connection. Then delays say nothing of who made them: the number of
/// calls under way stands at one value and never exceeds it, though more requests are open.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pool {
    /// Calls of this window, the most that were under way, and how often so many were.
    pub(super) calls: u32,
    pub(super) most: u32,
    pub(super) at_most: u32,
    /// The same of the window before.
    pub(super) before: u32,
    pub(super) full: bool,
}

/// Calls of one window of [`Pool`].
const WINDOW: u32 = 128;
/// The share of calls that find the most under way, from which on a pool is full.
const FULL: u32 = 12;

impl Pool {
    /// A call starts where so many are under way and so many requests are open.
    pub(super) const fn call(&mut self, under_way: u32, open: u32) {
        if under_way > self.most {
            self.most = under_way;
            self.at_most = 0;
        }
        let waiting = open > under_way.saturating_add(1);
        if waiting && under_way > 1 && under_way == self.most && under_way >= self.before {
            self.at_most = self.at_most.saturating_add(1);
        }
        if self.at_most >= FULL {
            self.full = true;
        }
        self.calls = self.calls.saturating_add(1);
        if self.calls >= WINDOW {
            self.full = self.at_most >= FULL;
            self.before = self.most;
            self.calls = 0;
            self.most = 0;
            self.at_most = 0;
        }
    }

    /// Whether calls wait for a connection.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }
}

/// Calls that nobody made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Background {
    pub(super) callees: Vec<Calls>,
}

/// Calls of one callee.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Calls {
    pub(super) callee: Callee,
    /// Recent calls, fading.
    pub(super) recent: f32,
    pub(super) at: u64,
    /// Calls, and those that nobody made.
    pub(super) settled: f32,
    pub(super) nobodys: f32,
}

impl Trust {
    /// The request that made a call, if that is sure enough for the share of attached calls that
    /// are right to be `confidence`. Single calls may be less sure than that, as long as others
    /// make up for it.
    pub(super) fn attach(
        &mut self,
        first: Option<&Candidate>,
        in_order: u32,
        confidence: f32,
    ) -> Option<Candidate> {
        if self.pool.is_full() || self.ends < ENDS || self.sure < TRUSTED || self.late > MOST_LATE {
            return None;
        }
        let by_order = self.order.worth();
        if by_order >= confidence && in_order != 0 {
            return Some(Candidate { request: in_order, confidence: by_order, covered: 1.0 });
        }
        let first = first.filter(|first| first.confidence.is_finite())?;
        let worth = self.worth(first.confidence) * first.covered;
        let doubt = 1.0 - confidence;
        let bar = confidence - doubt * MOST_DOUBT * (self.spare / MOST_SPARE).max(0.0);
        if worth < bar {
            return None;
        }
        let aim = confidence + doubt * MARGIN;
        self.spare = (self.spare + worth - aim).clamp(-MOST_SPARE, MOST_SPARE);
        Some(Candidate { confidence: worth, ..*first })
    }

    /// A delay lasted until only this share of those before had lasted as long. Where too many do,
    /// the application has become slower than it was learned to be, and delays tell nothing until
    /// that is learned.
    pub(super) fn lasted(&mut self, survival: f32) {
        let late = if survival < 0.01 { 1.0 } else { 0.0 };
        self.late += (late - self.late) / 512.0;
    }

    /// Whether there is something to learn from requests: what is unclear even at their ends
    /// leads astray. `sure` is how sure it is what this one did.
    pub(super) fn learns(&mut self, sure: f32) -> bool {
        self.ends = (self.ends + 1.0).min(RECENT);
        self.sure += (sure - self.sure) / self.ends;
        self.sure >= SURE
    }

    /// What an answer of this confidence is worth by experience: no more than that.
    pub(super) fn worth(&self, confidence: f32) -> f32 {
        let Some(class) = self.classes.get(class(confidence)) else { return 0.0 };
        // One in a hundred may be wrong until something is known.
        let known = (class.right + 20.0) / (class.answers + 20.0);
        confidence.min(known)
    }

    /// An answer of this confidence proved right with this chance.
    pub(super) fn observe(&mut self, confidence: f32, right: f32) {
        let Some(class) = self.classes.get_mut(class(confidence)) else { return };
        if class.answers >= MEMORY {
            class.answers /= 2.0;
            class.right /= 2.0;
        }
        class.answers += 1.0;
        class.right += right;
    }
}

fn class(confidence: f32) -> usize {
    CLASSES.partition_point(|edge| *edge <= confidence).saturating_sub(1)
}

impl Background {
    /// The rate of such calls that nobody makes, per microsecond. Counts one call.
    pub(super) fn rate(&mut self, callee: Callee, now: u64) -> f32 {
        let Some(calls) = self.of(callee, now) else { return 1e-6 };
        calls.recent = calls.recent * fade(now.saturating_sub(calls.at)) + 1.0;
        calls.at = now;
        let share = (calls.nobodys + PRIOR.0 * PRIOR.1) / (calls.settled + PRIOR.1);
        share * calls.recent / LOAD
    }

    /// A call proved to be nobody's with this chance.
    pub(super) fn learn(&mut self, callee: Callee, nobodys: f32, now: u64) {
        let Some(calls) = self.of(callee, now) else { return };
        if calls.settled >= MEMORY {
            calls.settled /= 2.0;
            calls.nobodys /= 2.0;
        }
        calls.settled += 1.0;
        calls.nobodys += nobodys;
    }

    fn of(&mut self, callee: Callee, now: u64) -> Option<&mut Calls> {
        let position = self.callees.iter().position(|calls| calls.callee == callee);
        let position = position.or_else(|| {
            (self.callees.len() < MAX_CALLEES).then(|| {
                let calls = Calls { callee, recent: 0.0, at: now, settled: 0.0, nobodys: 0.0 };
                self.callees.push(calls);
                self.callees.len().saturating_sub(1)
            })
        });
        self.callees.get_mut(position?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than seven digits")]
fn fade(elapsed: u64) -> f32 {
    (-(elapsed as f32) / LOAD).exp()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn experienced() -> Trust {
        Trust { ends: ENDS, sure: 1.0, ..Trust::default() }
    }

    fn first(confidence: f32) -> Candidate {
        Candidate { request: 5, confidence, covered: 1.0 }
    }

    #[test]
    fn nothing_is_joined_before_something_is_known() {
        let sure = first(0.9999);
        assert_eq!(Trust::default().attach(Some(&sure), 0, 0.99), None);
        assert_eq!(experienced().attach(Some(&sure), 0, 0.99), Some(sure));
        assert_eq!(Trust { sure: 0.8, ..experienced() }.attach(Some(&sure), 0, 0.99), None);
        assert_eq!(experienced().attach(Some(&first(0.98)), 0, 0.99), None);
        assert_eq!(experienced().attach(Some(&first(f32::NAN)), 0, 0.99), None);
    }

    #[test]
    fn doubtful_calls_are_joined_as_far_as_sure_ones_make_up_for_it() {
        let mut trust = experienced();
        let mut doubt = 0.0;
        let mut joined = 0.0;
        for round in 0..2000 {
            let confidence = if round % 4 == 0 { 0.9 } else { 0.999 };
            if trust.attach(Some(&first(confidence)), 0, 0.99).is_some() {
                doubt += 1.0 - confidence;
                joined += 1.0;
            }
        }
        assert!(joined > 1505.0, "{joined}");
        assert!(doubt / joined <= 0.01, "{}", doubt / joined);
    }

    #[test]
    fn what_proves_wrong_is_not_said_again() {
        let mut trust = experienced();
        for _ in 0..100 {
            trust.observe(0.9995, 0.5);
        }
        assert_eq!(trust.attach(Some(&first(0.9995)), 0, 0.99), None);
    }

    #[test]
    fn slower_delays_than_were_learned_tell_nothing() {
        let mut trust = experienced();
        for _ in 0..60 {
            trust.lasted(0.001);
        }
        assert_eq!(trust.attach(Some(&first(0.9999)), 0, 0.99), None);
        for _ in 0..600 {
            trust.lasted(0.5);
        }
        assert!(trust.attach(Some(&first(0.9999)), 0, 0.99).is_some());
    }

    #[test]
    fn a_full_pool_shows_by_its_constant_number_of_calls() {
        let mut full = Pool::default();
        (0..100).for_each(|_| full.call(8, 12));
        assert!(full.is_full());
        let mut quiet = Pool::default();
        (0..1000).for_each(|round| quiet.call(round % 13, 16));
        assert!(!quiet.is_full(), "{quiet:?}");
        let mut as_many_as_requests = Pool::default();
        (0..1000).for_each(|_| as_many_as_requests.call(7, 8));
        assert!(!as_many_as_requests.is_full());
    }

    #[test]
    fn background_is_a_share_of_the_load() {
        let mut background = Background::default();
        for round in 0..1000_u64 {
            let now = round * 10_000;
            background.rate(Callee(1), now);
            background.learn(Callee(1), if round % 10 == 0 { 1.0 } else { 0.0 }, now);
        }
        // A hundred a second, of which ten are nobody's.
        let rate = background.rate(Callee(1), 10_000_000) * 1e6;
        assert!((8.0..12.0).contains(&rate), "{rate}");
        for callee in 0..1000 {
            background.learn(Callee(callee), 1.0, 0);
        }
        assert_eq!(background.callees.len(), MAX_CALLEES);
    }
}
