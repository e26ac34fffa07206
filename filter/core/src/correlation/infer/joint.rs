//! What requests have done, taken together: each call was made by one of them or by nobody.
//!
//! The requests are gone through one after the other. What has to be remembered on the way is only
//! which of the calls that later ones may have made are taken already, with the weight of all that
//! leads there; going back gives how likely each way of each request is (variable elimination,
//! forward and backward). It is exact, but for combinations that weigh hardly anything and for
//! those beyond the number that is followed; how much that leaves out is told.

/// Combinations of a group of requests that are followed, summed over its members.
const MOST: usize = 2048;
/// Combinations that are followed after each request, whatever the size of its group.
const FOLLOWED: core::ops::RangeInclusive<usize> = 16..=128;
/// A combination of so much less weight than the heaviest is not followed.
const LEAST: f32 = 1e-4;
/// The weight of a call that two have made, where nothing else is possible.
const CONFLICT: f32 = 1e-6;

/// One way in which a request may have come to where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Way {
    /// The calls that it has made in that case, as a set of their positions.
    pub(super) made: u128,
    /// How likely that is by itself.
    pub(super) weight: f32,
}

/// What can be said of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Likely {
    /// How likely each of its ways is.
    pub(super) ways: Vec<f32>,
    /// Which part of what is possible was followed.
    pub(super) covered: f32,
}

/// Which calls are taken, and the weight of all that leads there.
#[derive(Clone, Copy, Debug)]
struct Combination {
    taken: u128,
    weight: f32,
}

/// From a combination, by one of the ways of the next request, to another.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: u16,
    way: u16,
    to: u16,
    weight: f32,
}

/// Combinations, the heaviest first, and the steps that lead to them.
#[derive(Debug, Default)]
struct Layer {
    combinations: Vec<Combination>,
    steps: Vec<Step>,
    /// The weight of what is not followed.
    lost: f32,
}

/// How likely each way of each request is. `nobody` is the weight of that none of them has made a
/// call, by its position.
pub(super) fn likely(requests: &[Vec<Way>], nobody: &[f32]) -> Vec<Likely> {
    let mut likely = vec![Likely::default(); requests.len()];
    for group in groups(requests) {
        let ways: Vec<&[Way]> =
            group.iter().filter_map(|place| requests.get(*place)).map(Vec::as_slice).collect();
        let (of_each, covered) = of_group(&ways, nobody);
        for (place, ways) in group.into_iter().zip(of_each) {
            if let Some(to) = likely.get_mut(place) {
                *to = Likely { ways, covered };
            }
        }
    }
    likely
}

/// Requests that may have made the same calls, directly or through others; each in their order.
fn groups(requests: &[Vec<Way>]) -> Vec<Vec<usize>> {
    let mut rest: Vec<(usize, u128)> = requests.iter().map(|ways| ever(ways)).enumerate().collect();
    let mut groups = Vec::new();
    while let Some((first, mut calls)) = rest.first().copied() {
        loop {
            let related = rest.iter().filter(|(_, others)| others & calls != 0);
            let more = related.fold(calls, |all, (_, others)| all | others);
            if more == calls {
                break;
            }
            calls = more;
        }
        let mut group = Vec::new();
        rest.retain(|(place, others)| {
            let is_of_it = *place == first || others & calls != 0;
            if is_of_it {
                group.push(*place);
            }
            !is_of_it
        });
        groups.push(group);
    }
    groups
}

/// How likely each way of each of these is, and which part of what is possible was followed.
fn of_group(requests: &[&[Way]], nobody: &[f32]) -> (Vec<Vec<f32>>, f32) {
    let most = MOST.checked_div(requests.len()).unwrap_or_default();
    let all = requests.iter().fold(1_usize, |all, ways| all.saturating_mul(ways.len().max(1)));
    let most = most.clamp(*FOLLOWED.start(), *FOLLOWED.end()).min(all);
    let mut index = Index::new(most);
    let mut covered = 1.0;
    // Which calls no request after this one may have made.
    let mut closes = Vec::with_capacity(requests.len());
    let mut later = 0;
    for ways in requests.iter().rev() {
        closes.push(ever(ways) & !later);
        later |= ever(ways);
    }
    let nothing = Combination { taken: 0, weight: 1.0 };
    let mut layers = vec![Layer { combinations: vec![nothing], ..Layer::default() }];
    for (ways, closes) in requests.iter().zip(closes.into_iter().rev()) {
        let before = layers.last().map(|layer| layer.combinations.as_slice()).unwrap_or_default();
        let mut layer = grown(before, ways, closes, nobody, false, &mut index);
        if layer.weight() <= 0.0 {
            layer = grown(before, ways, closes, nobody, true, &mut index);
            covered = 0.0;
        }
        covered *= layer.keep(most);
        layers.push(layer);
    }
    let mut likely: Vec<Vec<f32>> = Vec::new();
    let mut ahead: Vec<f32> = Vec::new();
    while let Some(Layer { combinations, steps, .. }) = layers.pop() {
        if ahead.is_empty() {
            ahead = vec![1.0; combinations.len()];
        }
        let Some(before) = layers.last() else { break };
        let count = requests.get(layers.len().saturating_sub(1)).map_or(0, |ways| ways.len());
        let mut of_ways = vec![0.0; count];
        let mut behind = vec![0.0; before.combinations.len()];
        for step in steps {
            let on = step.weight * ahead.get(usize::from(step.to)).copied().unwrap_or_default();
            let from = usize::from(step.from);
            let way = of_ways.get_mut(usize::from(step.way));
            if let (Some(behind), Some(way)) = (behind.get_mut(from), way) {
                let from = before.combinations.get(from).map_or(0.0, |from| from.weight);
                *behind += on;
                *way += from * on;
            }
        }
        likely.push(shares(of_ways));
        ahead = shares(behind);
    }
    likely.reverse();
    (likely, covered)
}

/// All combinations with one request more, of which no call in `closes` is made by any after it.
fn grown(
    before: &[Combination],
    ways: &[Way],
    closes: u128,
    nobody: &[f32],
    conflicts: bool,
    index: &mut Index,
) -> Layer {
    let mut layer = Layer::default();
    let mut heaviest = 0.0;
    index.clear();
    for (combination, from) in before.iter().zip(0_u16..) {
        for (way, at) in ways.iter().zip(0_u16..) {
            let twice = (combination.taken & way.made).count_ones();
            if twice > 0 && !conflicts {
                continue;
            }
            let all = combination.taken | way.made;
            let twice: f32 = (0..twice).map(|_| CONFLICT).product();
            let weight = way.weight * twice * made_by_nobody(closes & !all, nobody);
            let more = combination.weight * weight;
            heaviest = f32::max(heaviest, more);
            let mut to = None;
            if more >= heaviest * LEAST {
                to = index.find(all & !closes, &mut layer.combinations);
            }
            let Some((to, one)) = to else {
                layer.lost += more;
                continue;
            };
            one.weight += more;
            layer.steps.push(Step { from, way: at, to, weight });
        }
    }
    layer
}

impl Layer {
    fn weight(&self) -> f32 {
        self.combinations.iter().map(|combination| combination.weight).sum()
    }

    /// Keeps the heaviest combinations, with weights up to 1. Gives their part of all weight.
    fn keep(&mut self, most: usize) -> f32 {
        let all = self.weight() + self.lost;
        let heaviest = self.combinations.iter().map(|one| one.weight).fold(0.0, f32::max);
        let mut kept: Vec<(Combination, usize)> = Vec::with_capacity(most);
        for (at, one) in self.combinations.iter().enumerate() {
            let place = kept.partition_point(|(other, _)| other.weight >= one.weight);
            if place < most && one.weight >= heaviest * LEAST {
                kept.truncate(most.saturating_sub(1));
                kept.insert(place, (*one, at));
            }
        }
        let mut places = vec![None; self.combinations.len()];
        for ((_, at), place) in kept.iter().zip(0_u16..) {
            if let Some(to) = places.get_mut(*at) {
                *to = Some(place);
            }
        }
        self.steps.retain_mut(|step| {
            let place = places.get(usize::from(step.to)).copied().flatten();
            step.to = place.unwrap_or_default();
            place.is_some()
        });
        self.combinations = kept.into_iter().map(|(one, _)| one).collect();
        let covered = self.weight() / all;
        if heaviest > 0.0 {
            self.combinations.iter_mut().for_each(|one| one.weight /= heaviest);
        }
        if covered.is_finite() { covered } else { 0.0 }
    }
}

/// Where combinations stand, by what is taken: a table with open addresses.
#[derive(Debug)]
struct Index {
    slots: Vec<Option<u16>>,
    most: usize,
}

impl Index {
    /// Has room for some more than will be kept.
    fn new(kept: usize) -> Self {
        let most = kept.saturating_mul(4);
        Self { slots: vec![None; most.saturating_mul(2).next_power_of_two()], most }
    }

    fn clear(&mut self) {
        self.slots.fill(None);
    }

    /// The combination in which these calls are taken, and its place; it is added if there is none
    /// and there is room.
    fn find<'c>(
        &mut self,
        taken: u128,
        all: &'c mut Vec<Combination>,
    ) -> Option<(u16, &'c mut Combination)> {
        let [low, high] = [taken & u128::from(u64::MAX), taken >> 64].map(u64::try_from);
        let mixed = (low.ok()? ^ high.ok()?.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let first = usize::try_from(mixed >> 54).ok()?;
        let mask = self.slots.len().saturating_sub(1);
        for slot in first..=first.saturating_add(mask) {
            let slot = self.slots.get_mut(slot & mask)?;
            let next = all.len();
            let place = match *slot {
                Some(place) => place,
                None if next < self.most => *slot.insert(u16::try_from(next).ok()?),
                None => return None,
            };
            if usize::from(place) == next {
                all.push(Combination { taken, weight: 0.0 });
            }
            if all.get(usize::from(place)).is_some_and(|other| other.taken == taken) {
                return all.get_mut(usize::from(place)).map(|one| (place, one));
            }
        }
        None
    }
}

/// All calls that a request may have made.
fn ever(ways: &[Way]) -> u128 {
    ways.iter().fold(0, |ever, way| ever | way.made)
}

/// The weight of that nobody has made these calls.
fn made_by_nobody(mut calls: u128, nobody: &[f32]) -> f32 {
    let mut weight = 1.0;
    while calls != 0 {
        let place = usize::try_from(calls.trailing_zeros()).unwrap_or_default();
        weight *= nobody.get(place).copied().unwrap_or_default();
        calls &= calls.wrapping_sub(1);
    }
    weight
}

/// The same as parts of their sum; all alike if that is nothing.
fn shares(mut weights: Vec<f32>) -> Vec<f32> {
    let sum: f32 = weights.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    } else {
        let count = weights.iter().map(|_| 1.0).sum::<f32>();
        weights.fill(1.0 / count);
    }
    weights
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// By all combinations.
    fn by_force(requests: &[Vec<Way>], nobody: &[f32]) -> Vec<Vec<f32>> {
        let mut sums: Vec<Vec<f32>> = requests.iter().map(|ways| vec![0.0; ways.len()]).collect();
        let all = requests.iter().fold(0, |all, ways| all | ever(ways));
        let count: usize = requests.iter().map(Vec::len).product();
        for mut number in 0..count {
            let mut chosen = Vec::new();
            for ways in requests {
                chosen.push(number % ways.len());
                number /= ways.len();
            }
            let mut taken = 0;
            let mut weight = 1.0;
            for (ways, chosen) in requests.iter().zip(&chosen) {
                let way = ways[*chosen];
                weight *= if taken & way.made == 0 { way.weight } else { 0.0 };
                taken |= way.made;
            }
            weight *= made_by_nobody(all & !taken, nobody);
            for (sums, chosen) in sums.iter_mut().zip(chosen) {
                sums[chosen] += weight;
            }
        }
        sums.into_iter().map(shares).collect()
    }

    /// Numbers from 0 to 1 (splitmix64).
    fn random(state: &mut u64) -> f32 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f32::from(u16::try_from(mixed >> 48).unwrap()) / 65536.0
    }

    #[test]
    fn it_is_what_all_combinations_say() {
        let state = &mut 1;
        for _ in 0..300 {
            let nobody: Vec<f32> = (0..6).map(|_| 0.3 * random(state)).collect();
            let requests: Vec<Vec<Way>> = (0..4)
                .map(|_| {
                    let set = |state: &mut u64| {
                        (0..6).fold(0, |set: u128, place| {
                            set | u128::from(random(state) < 0.3) << place
                        })
                    };
                    let mut ways = vec![Way { made: 0, weight: random(state) }];
                    ways.extend((0..3).map(|_| Way { made: set(state), weight: random(state) }));
                    ways
                })
                .collect();
            let expected = by_force(&requests, &nobody);
            for (got, expected) in likely(&requests, &nobody).iter().zip(&expected) {
                // What has hardly any weight is not followed.
                assert!(got.covered > 0.98, "{got:?}");
                for (got, expected) in got.ways.iter().zip(expected) {
                    assert!((got - expected).abs() < 0.03, "{got:?} {expected:?} {requests:?}");
                }
            }
        }
    }

    #[test]
    fn who_has_made_a_call_says_who_has_not() {
        let may = |weight| vec![Way { made: 1, weight }, Way { made: 0, weight: 1.0 }];
        let likely = likely(&[may(3.0), may(1.0)], &[0.0]);
        let ways: Vec<&[f32]> = likely.iter().map(|likely| likely.ways.as_slice()).collect();
        assert_eq!(ways, [[0.75, 0.25], [0.25, 0.75]]);
    }

    /// All of them have certainly made the same call, which cannot be.
    #[test]
    fn what_cannot_be_is_alike() {
        let sure = || vec![Way { made: 1, weight: 1.0 }];
        let expected = Likely { ways: vec![1.0], covered: 0.0 };
        assert_eq!(likely(&[sure(), sure(), sure()], &[0.5]), [(); 3].map(|()| expected.clone()));
        let nothing = || vec![Way { made: 1, weight: 0.0 }, Way { made: 0, weight: f32::INFINITY }];
        let ways = likely(&[nothing(), nothing()], &[0.5]).into_iter().map(|likely| likely.ways);
        assert_eq!(ways.collect::<Vec<_>>(), [[0.5, 0.5], [0.5, 0.5]]);
    }

    /// Weights as another plugin may have left them.
    #[test]
    fn weights_of_any_size_come_to_an_end() {
        let set = |from: u32, weight| (0..16).map(move |i| Way { made: i << from, weight });
        for weight in [5e-42, 1e-30, 1e30, f32::MAX, f32::INFINITY] {
            let requests = [
                set(0, 1.0).collect(),
                set(4, weight).collect(),
                vec![Way { made: 0xffff, weight: 1.0 }, Way { made: 0, weight: 1.0 }],
            ];
            for of_one in likely(&requests, &[0.5; 16]) {
                let sum: f32 = of_one.ways.iter().sum();
                assert!((sum - 1.0).abs() < 1e-3, "{weight}: {of_one:?}");
            }
        }
    }

    /// In whichever positions the calls stand.
    #[test]
    fn all_positions_are_told_apart() {
        for first in [0, 40, 63, 90, 124] {
            let requests: Vec<Vec<Way>> = (0..4)
                .map(|_| {
                    (0..4).map(|call| Way { made: 1 << (first + call), weight: 1.0 }).collect()
                })
                .collect();
            for of_one in likely(&requests, &[0.0; 128]) {
                assert_eq!(of_one, Likely { ways: vec![0.25; 4], covered: 1.0 }, "{first}");
            }
        }
    }

    #[test]
    fn only_so_many_combinations_are_followed() {
        let requests: Vec<Vec<Way>> = (0..20)
            .map(|_| (0..20).map(|call| Way { made: 1 << call, weight: 1.0 }).collect())
            .collect();
        let likely = likely(&requests, &[0.0; 20]);
        assert!(likely.iter().all(|likely| likely.covered < 0.01), "{likely:?}");
        let sums = likely.iter().map(|likely| likely.ways.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-3));
    }
}
