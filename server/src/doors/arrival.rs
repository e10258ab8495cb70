//! Saying that a request is on its way, from the moment its connection is accepted.
//!
//! Who prepares for requests (the store gathers commits for one sync) is told long before the handshake is through.
//! What it answers is held until the request is answered. A client that keeps its connection often asks again at
//! once, so the answer to one request announces the next; it is for who is told to forget those that never come.

use std::any::Any;
use std::sync::Arc;

/// What who is told wants held until the request is answered.
pub type Held = Box<dyn Any + Send>;

/// Tells somebody, or nobody, of requests on their way. Cheap to clone.
#[derive(Clone, Default)]
pub struct Arrivals(Option<Arc<dyn Fn() -> Held + Send + Sync>>);

/// A request on its way.
pub struct Arrival {
    arrivals: Arrivals,
    held: Option<Held>,
}

impl Arrivals {
    /// Tells `told`.
    pub fn new(told: impl Fn() -> Held + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// One more is on its way.
    pub fn announce(&self) -> Arrival {
        Arrival { arrivals: self.clone(), held: self.hold() }
    }

    fn hold(&self) -> Option<Held> {
        self.0.as_ref().map(|told| told())
    }
}

impl Arrival {
    /// The request is answered, and the next one of this connection is on its way.
    pub fn again(&mut self) {
        // The former goes first: it must not be counted beside its successor.
        self.held = None;
        self.held = self.arrivals.hold();
    }
}

impl std::fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arrivals({})", if self.0.is_some() { "told" } else { "nobody" })
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arrival({})", if self.held.is_some() { "held" } else { "nothing" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_announces_one_request_at_a_time() {
        let count = Arc::new(());
        let told = Arc::clone(&count);
        let arrivals = Arrivals::new(move || Box::new(Arc::clone(&told)));
        let held = || Arc::strong_count(&count) - 2;
        let mut first = arrivals.announce();
        let second = arrivals.announce();
        assert_eq!(held(), 2);
        first.again();
        assert_eq!(held(), 2);
        drop((first, second));
        assert_eq!(held(), 0);
    }
}
