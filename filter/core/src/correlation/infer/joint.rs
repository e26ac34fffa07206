//! What requests have done, taken together: each call was made by one of them or by nobody.
//!
//! The requests are gone through one after the other. What has to be remembered on the way is only
//! which of the calls that later ones may have made are taken already, with the weight of all that
//! leads there; going back gives how likely each history is (variable elimination, forward and
//! backward). It is exact, up to the number of combinations that are followed.

/// Calls that can be told apart at most; of those beyond, several requests may have made each.
pub(super) const MAX_CALLS: u32 = u128::BITS;
/// Combinations that are followed at most.
const MOST: usize = 64;
/// The weight of a combination in which two have made the same call, where there is no other.
const CONFLICT: f32 = 1e-6;

/// One way in which a request may have come to where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Way {
    /// The calls that it has made in that case, as a set of their positions.
    pub(super) made: u128,
    /// How likely that is by itself.
    pub(super) weight: f32,
}

/// A combination: which calls are taken, and what leads there.
#[derive(Clone, Copy, Debug)]
struct Combination {
    taken: u128,
    weight: f32,
}

/// From a combination, by one of the ways of the next request, to another.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    way: usize,
    to: usize,
    weight: f32,
}

/// How likely each way of each request is. `nobody` is the weight of that no request has made a
/// call, by its position.
pub(super) fn likely(requests: &[Vec<Way>], nobody: &[f32]) -> Vec<Vec<f32>> {
    let mut likely: Vec<Vec<f32>> =
        requests.iter().map(|ways| vec![0.0; ways.len()]).collect();
    for group in groups(requests) {
        let ways: Vec<&[Way]> =
            group.iter().filter_map(|place| requests.get(*place)).map(Vec::as_slice).collect();
        for (place, of_one) in group.iter().zip(of_group(&ways, nobody)) {
            if let Some(to) = likely.get_mut(*place) {
                *to = of_one;
            }
        }
    }
    likely
}

/// Requests that may have made the same calls, directly or through others; each in their order.
fn groups(requests: &[Vec<Way>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(u128, Vec<usize>)> = Vec::new();
    for (place, ways) in requests.iter().enumerate() {
        let mut ever = ways.iter().fold(0, |ever, way| ever | way.made);
        let mut members = Vec::new();
        groups.retain_mut(|(calls, others)| {
            let apart = *calls & ever == 0;
            if !apart {
                ever |= *calls;
                members.append(others);
            }
            apart
        });
        members.push(place);
        groups.push((ever, members));
    }
    let mut groups: Vec<Vec<usize>> = groups.into_iter().map(|(_, members)| members).collect();
    groups.iter_mut().for_each(|members| members.sort_unstable());
    groups
}

fn of_group(requests: &[&[Way]], nobody: &[f32]) -> Vec<Vec<f32>> {
    if let [ways] = requests {
        let weights = ways.iter().map(|way| way.weight * left(way.made_by_none(ways), nobody));
        return vec![normal(weights.collect())];
    }
    let ever: Vec<u128> =
        requests.iter().map(|ways| ways.iter().fold(0, |ever, way| ever | way.made)).collect();
    let mut layers = vec![vec![Combination { taken: 0, weight: 1.0 }]];
    let mut steps: Vec<Vec<Step>> = Vec::new();
    for (place, ways) in requests.iter().enumerate() {
        let after = place.saturating_add(1);
        let later = ever.iter().skip(after).fold(0, |later, calls| later | calls);
        let closes = ever.get(place).copied().unwrap_or_default() & !later;
        let layer = layers.last().map(Vec::as_slice).unwrap_or_default();
        let (next, taken) = advance(layer, ways, closes, nobody);
        layers.push(next);
        steps.push(taken);
    }
    let mut likely: Vec<Vec<f32>> = Vec::new();
    let mut ahead: Vec<f32> = vec![1.0; layers.last().map_or(0, Vec::len)];
    for ((layer, steps), ways) in layers.iter().zip(&steps).zip(requests).rev() {
        let mut of_one = vec![0.0; ways.len()];
        let mut before = vec![0.0; layer.len()];
        for step in steps {
            let on = step.weight * ahead.get(step.to).copied().unwrap_or_default();
            if let (Some(from), Some(before), Some(way)) =
                (layer.get(step.from), before.get_mut(step.from), of_one.get_mut(step.way))
            {
                *before += on;
                *way += from.weight * on;
            }
        }
        likely.push(normal(of_one));
        ahead = scaled(before);
    }
    likely.reverse();
    likely
}

/// All combinations with one request more. Calls in `closes` are not made by any after it.
fn advance(
    layer: &[Combination],
    ways: &[Way],
    closes: u128,
    nobody: &[f32],
) -> (Vec<Combination>, Vec<Step>) {
    let mut next: Vec<Combination> = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    for conflicts in [false, true] {
        for (from, combination) in layer.iter().enumerate() {
            for (index, way) in ways.iter().enumerate() {
                let twice = (combination.taken & way.made).count_ones();
                if way.weight <= 0.0 || !conflicts && twice > 0 {
                    continue;
                }
                let all = combination.taken | way.made;
                let mut weight = way.weight * left(closes & !all, nobody);
                weight *= (0..twice).map(|_| CONFLICT).product::<f32>();
                let taken = all & !closes;
                let to = next.iter().position(|other| other.taken == taken).unwrap_or_else(|| {
                    next.push(Combination { taken, weight: 0.0 });
                    next.len().saturating_sub(1)
                });
                if let Some(to) = next.get_mut(to) {
                    to.weight += combination.weight * weight;
                }
                steps.push(Step { from, way: index, to, weight });
            }
        }
        if next.iter().any(|combination| combination.weight > 0.0) {
            break;
        }
        next.clear();
        steps.clear();
    }
    keep_most(&mut next, &mut steps);
    let most = next.iter().fold(0.0, |most: f32, combination| most.max(combination.weight));
    if most > 0.0 {
        next.iter_mut().for_each(|combination| combination.weight /= most);
    }
    (next, steps)
}

/// Keeps the combinations of most weight.
fn keep_most(next: &mut Vec<Combination>, steps: &mut Vec<Step>) {
    if next.len() <= MOST {
        return;
    }
    let mut weights: Vec<f32> = next.iter().map(|combination| combination.weight).collect();
    let (_, least, _) = weights.select_nth_unstable_by(MOST, |a, b| b.total_cmp(a));
    let least = *least;
    let mut places = Vec::with_capacity(next.len());
    let mut kept = 0_usize;
    next.retain(|combination| {
        let keep = combination.weight > least;
        places.push(keep.then_some(kept));
        kept = kept.saturating_add(usize::from(keep));
        keep
    });
    steps.retain_mut(|step| match places.get(step.to).copied().flatten() {
        Some(place) => {
            step.to = place;
            true
        }
        None => false,
    });
}

impl Way {
    /// The calls that others of `ways` have made and this one has not.
    fn made_by_none(&self, ways: &[Self]) -> u128 {
        ways.iter().fold(0, |ever, way| ever | way.made) & !self.made
    }
}

/// The weight of that nobody has made these calls.
fn left(mut calls: u128, nobody: &[f32]) -> f32 {
    let mut weight = 1.0;
    while calls != 0 {
        let place = usize::try_from(calls.trailing_zeros()).unwrap_or_default();
        weight *= nobody.get(place).copied().unwrap_or_default();
        calls &= calls.wrapping_sub(1);
    }
    weight
}

/// The same in sum 1; all alike if they are nothing.
fn normal(mut weights: Vec<f32>) -> Vec<f32> {
    let sum: f32 = weights.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    } else {
        let count = weights.iter().fold(0.0, |count: f32, _| count + 1.0);
        weights.iter_mut().for_each(|weight| *weight = 1.0 / count);
    }
    weights
}

fn scaled(mut weights: Vec<f32>) -> Vec<f32> {
    let most = weights.iter().fold(0.0, |most: f32, weight| most.max(*weight));
    if most > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= most);
    }
    weights
}
