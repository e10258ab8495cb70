//! Medians, percentiles and slopes.

use std::time::Duration;

/// The middle one of `figures`.
///
/// # Panics
/// When there is none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The time in milliseconds within which `percent` of `times` lie, by nearest rank.
///
/// # Panics
/// When there is none.
pub fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1;
    thousandths(sorted[at].as_secs_f64() * 1e3)
}

/// How much `y` grows with each `x`, by least squares.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (mx, my) = (
        points.iter().map(|(x, _)| x).sum::<f64>() / count,
        points.iter().map(|(_, y)| y).sum::<f64>() / count,
    );
    let rise: f64 = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    rise / points.iter().map(|(x, _)| (x - mx).powi(2)).sum::<f64>()
}

/// With one decimal.
pub fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

/// With three decimals.
pub fn thousandths(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile_ms(&times, percent)), [100.0, 198.0, 200.0]);
        assert_eq!(percentile_ms(&times[..1], 1), 200.0);
    }

    #[test]
    fn a_line_has_its_slope() {
        assert_eq!(thousandths(slope(&[(1.0, 12.0), (3.0, 16.0), (9.0, 28.0)])), 2.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
