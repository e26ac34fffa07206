//! Medians, quartiles and their uncertainty.

/// How often [`interval`] draws anew.
const DRAWS: usize = 2_000;

/// The value below which the share `part` of `values` lies, between neighbours by proportion.
///
/// # Panics
/// If there is no value.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a position among some hundred values"
)]
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("a value");
    let at = part * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The middle of `values`.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The bounds in which `figure` lies in 95 of 100 draws of `rounds` rounds out of as many, each
/// draw with repetition (a percentile bootstrap). `figure` is given the numbers of the rounds.
#[must_use]
pub fn interval(rounds: usize, figure: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut drawn = vec![0; rounds];
    let figures: Vec<f64> = (0..DRAWS)
        .map(|_| {
            drawn.iter_mut().for_each(|round| *round = draw(&mut seed, rounds));
            figure(&drawn)
        })
        .collect();
    (quantile(&figures, 0.025), quantile(&figures, 0.975))
}

/// A number below `bound` (SplitMix64): the same run of numbers each time.
fn draw(seed: &mut u64, bound: usize) -> usize {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    usize::try_from(mixed % bound).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        let found = [0.0, 0.25, 0.5, 1.0].map(|part| quantile(&values, part));
        assert_eq!(found, [1.0, 1.75, 2.5, 4.0]);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn an_interval_holds_the_figure_and_narrows_with_rounds() {
        let width = |rounds: usize| {
            let values: Vec<f64> = (0..rounds).map(|round| f64::from(round as u32 % 10)).collect();
            let of = |drawn: &[usize]| {
                median(&drawn.iter().map(|round| values[*round]).collect::<Vec<_>>())
            };
            let (low, high) = interval(rounds, of);
            assert!(low <= 4.5 && 4.5 <= high, "{low} {high}");
            high - low
        };
        assert!(width(1_000) < width(20));
        assert_eq!(interval(5, |_| 3.0), (3.0, 3.0));
    }
}
