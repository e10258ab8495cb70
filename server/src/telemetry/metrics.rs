//! Figures for Prometheus, in its text format, version 0.0.4.
//!
//! A [`Counter`] is a shared number that whoever does the work adds to; a gauge is a function that is asked when
//! somebody reads. Names, help and labels come from the code, never from outside.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the answer to `GET /metrics` is labelled with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Label names with their values.
pub type Labels = &'static [(&'static str, &'static str)];

type Reading = Box<dyn Fn() -> f64 + Send + Sync>;

struct Series {
    labels: Labels,
    read: Reading,
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    series: Vec<Series>,
}

/// All figures of the process, in the order in which they were registered.
#[derive(Default)]
pub struct Registry {
    families: Mutex<Vec<Family>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// Registers a counter; its name ends in `_total`. The same name with other labels is another series of it.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels) -> Counter {
        let counter = Counter::default();
        let shared = counter.clone();
        self.counter_of(name, help, labels, move || shared.get());
        counter
    }

    /// Registers a number that only grows and is counted elsewhere.
    pub fn counter_of(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus keeps doubles")]
        self.register(name, help, "counter", Series { labels, read: Box::new(move || read() as f64) });
    }

    /// Registers a number that goes up and down; `read` is asked at each rendering and must be quick.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.register(name, help, "gauge", Series { labels, read: Box::new(read) });
    }

    fn register(&self, name: &'static str, help: &'static str, kind: &'static str, series: Series) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        match families.iter_mut().find(|family| family.name == name) {
            Some(family) => family.series.push(series),
            None => families.push(Family { name, help, kind, series: vec![series] }),
        }
    }

    /// Every figure in the text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for family in self.families.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let Family { name, help, kind, series } = family;
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for Series { labels, read } in series {
                let _ = writeln!(text, "{name}{} {}", in_braces(labels), read());
            }
        }
        text
    }
}

fn in_braces(labels: Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rendered_by_family_in_the_order_of_their_registration() {
        let registry = Registry::default();
        let refused = registry.counter("muster_enrollments_total", "Enrolments.", &[("outcome", "refused")]);
        registry.gauge("muster_connections", "Open connections.", &[], || 2.5);
        let done = registry.counter("muster_enrollments_total", "Enrolments.", &[("outcome", "do\"ne\\\n")]);
        refused.increment();
        done.add(41);
        done.increment();
        insta::assert_snapshot!(registry.render(), @r#"
        # HELP muster_enrollments_total Enrolments.
        # TYPE muster_enrollments_total counter
        muster_enrollments_total{outcome="refused"} 1
        muster_enrollments_total{outcome="do\"ne\\\n"} 42
        # HELP muster_connections Open connections.
        # TYPE muster_connections gauge
        muster_connections 2.5
        "#);
    }

    #[test]
    fn a_counter_that_is_counted_elsewhere_is_read_at_each_rendering() {
        let (registry, counter) = (Registry::default(), Counter::default());
        let shared = counter.clone();
        registry.counter_of("muster_fsyncs_total", "Syncs.", &[], move || shared.get());
        counter.add(7);
        assert!(registry.render().ends_with("muster_fsyncs_total 7\n"));
    }
}
