//! Order and time limits of ending pods before the host shuts down. Pure.

use std::time::Duration;

/// Pods with priorities up to the next band's, and their time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// The lowest priority in it; the first band also includes lower ones.
    pub priority: i32,
    /// Time limit.
    pub grace: Duration,
}

/// Priority bands in ascending order: when the pods of one band have ended, or its time is up, the
/// next band's are ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bands(Vec<Band>);

impl Bands {
    /// Sorts bands by priority. Without bands no pod is ended.
    pub fn new(mut bands: Vec<Band>) -> Self {
        bands.sort_by_key(|band| band.priority);
        Self(bands)
    }

    /// Whether there are no bands, so that no pod is ended.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bands in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Band> {
        self.0.iter()
    }

    /// Sum of the time limits.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|band| band.grace).sum()
    }

    /// Scales the bands to a time limit, in proportion.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let total = self.total();
        if total <= limit {
            return self.clone();
        }
        let part = limit.as_secs_f64() / total.as_secs_f64();
        let shorter = |band: &Band| Band { grace: band.grace.mul_f64(part), ..*band };
        Self(self.0.iter().map(shorter).collect())
    }

    /// The band of a pod: the highest one whose lowest priority is at most its own, else the first.
    pub fn of(&self, priority: i32) -> Option<&Band> {
        let below = |band: &&Band| band.priority <= priority;
        self.0.iter().rev().find(below).or(self.0.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bands() -> Bands {
        let band = |(priority, seconds)| Band { priority, grace: Duration::from_secs(seconds) };
        Bands::new([(2_000_000_000, 10), (0, 20), (100, 30)].map(band).into())
    }

    #[test]
    fn each_pod_has_the_highest_band_that_it_reaches() {
        for (priority, wanted) in [
            (-5, 0),
            (0, 0),
            (99, 0),
            (100, 100),
            (1_999_999_999, 100),
            (2_000_000_000, 2_000_000_000),
            (i32::MAX, 2_000_000_000),
        ] {
            assert_eq!(bands().of(priority).map(|band| band.priority), Some(wanted), "{priority}");
        }
        assert_eq!(Bands::default().of(0), None);
    }

    #[test]
    fn less_time_is_shared_in_proportion() {
        assert_eq!(bands().total(), Duration::from_secs(60));
        assert_eq!(bands().within(Duration::from_secs(60)), bands());
        let short = bands().within(Duration::from_secs(6));
        let graces: Vec<_> = short.iter().map(|band| band.grace.as_secs()).collect();
        assert_eq!(graces, [2, 3, 1]);
    }
}
