//! Who gets in: shared by every listener.
//!
//! ```text
//! TCP accept (accept.rs: never awaits a handshake)
//!  └▶ TLS (tls.rs, verifier.rs: WebPki and the live status index)
//!      └▶ Peer (peer.rs: what the certificate says; the chain is not asked again)
//!          └▶ registry (registry.rs: who is connected, and the kick)
//!              └▶ status judged again (closes the race with a revocation)
//!                  └▶ HTTPS (http.rs: judged per request) or the MQTT gate (mqtt/gate.rs)
//! ```
//!
//! This room decides nothing by itself: every answer is [`admit`](crate::domain::admission::admit), the table
//! of contract.md. It never reads the store; the store's commits feed the [`status_index`].

pub mod accept;
pub mod arrival;
pub mod body;
pub mod counters;
pub mod descriptors;
#[cfg(test)]
pub(crate) mod fixture;
pub mod http;
pub mod peer;
pub mod registry;
pub(crate) mod stall;
pub mod status_index;
pub mod stop;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod verifier;

use crate::clock::Clock;
use crate::domain::admission::{Admission, Door, Refusal};
use arrival::Arrivals;
use counters::{Bus, Gate};
use muster_wire::id::TrustDomain;
use peer::{ObserverCertificate, PeerCertificate};
use registry::Registry;
use status_index::StatusIndex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all doors share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Serial number to status, fed by the store's commits.
    pub index: Arc<StatusIndex>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What the doors have seen since the start.
    pub counters: Arc<Counters>,
    /// Whose devices are let in.
    pub trust_domain: TrustDomain,
    /// The present.
    pub clock: Clock,
    arrivals: Arrivals,
    refusals: Refusals,
    strangers: Strangers,
    misconduct: Misconduct,
    observers: Observers,
}

impl Doors {
    /// An empty index, an empty registry, and nobody who is told of refusals.
    pub fn new(trust_domain: TrustDomain, clock: Clock) -> Self {
        Self {
            index: Arc::new(StatusIndex::new()),
            registry: Arc::new(Registry::new()),
            counters: Arc::new(Counters::default()),
            trust_domain,
            clock,
            arrivals: Arrivals::default(),
            refusals: Refusals(Arc::new(|_, _, _| {})),
            strangers: Strangers::default(),
            misconduct: Misconduct(Arc::new(|_, _| {})),
            observers: Observers(Arc::new(|_, _| {})),
        }
    }

    /// Tells `told` of every certificate of ours that was refused, at which door and why.
    ///
    /// It runs inside handshakes and must not block: it notes the refusal and leaves the writing to others. A
    /// stranger who copied a certificate can repeat one at will, so it is for `told` to count repetitions
    /// instead of writing each down.
    #[must_use]
    pub fn on_refusal(self, told: impl Fn(&PeerCertificate, Door, Refusal) + Send + Sync + 'static) -> Self {
        Self { refusals: Refusals(Arc::new(told)), ..self }
    }

    /// The same doors, telling of each request on its way.
    #[must_use]
    pub fn on_arrival(self, arrivals: Arrivals) -> Self {
        Self { arrivals, ..self }
    }

    /// Tells `told` why a handshake failed by the fault of a client of whom nothing is known. As for refusals, it
    /// must not block, and repetitions are for it to count.
    #[must_use]
    pub fn on_stranger(self, told: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self { strangers: Strangers(Arc::new(told)), ..self }
    }

    /// Tells `told` of certificates that were let in and then broke the rules of their door, and of which. As for
    /// refusals, it must not block, and repetitions are for it to count.
    #[must_use]
    pub fn on_misconduct(
        self,
        told: impl Fn(&PeerCertificate, &'static str) + Send + Sync + 'static,
    ) -> Self {
        Self { misconduct: Misconduct(Arc::new(told)), ..self }
    }

    /// Tells `told` of observers that were refused, or broke a rule, and of which. As for refusals, it must not
    /// block, and repetitions are for it to count.
    #[must_use]
    pub fn on_observer(
        self,
        told: impl Fn(&ObserverCertificate, &'static str) + Send + Sync + 'static,
    ) -> Self {
        Self { observers: Observers(Arc::new(told)), ..self }
    }

    /// Whoever showed `certificate` broke the rule `rule`.
    pub fn misconduct(&self, certificate: &PeerCertificate, rule: &'static str) {
        (self.misconduct.0)(certificate, rule);
    }

    /// A handshake failed for `reason`.
    fn stranger(&self, reason: &'static str) {
        (self.strangers.0)(reason);
    }

    /// What `certificate` may do at `door` now.
    ///
    /// # Errors
    /// The row of the table that refuses it; whoever asked to be told of refusals has been told.
    pub fn judge(&self, certificate: &PeerCertificate, door: Door) -> Result<Admission, Refusal> {
        let verdict = self.index.admit_shown(certificate, door, self.clock.now_s());
        if let Err(refusal) = verdict {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                serial = %certificate.serial,
                device = %certificate.device,
                door = ?door,
                reason = refusal.as_str(),
                "certificate refused"
            );
            (self.refusals.0)(certificate, door, refusal);
        }
        verdict
    }
}

impl Doors {
    /// Whether the observer's certificate shown is let in at the gate now.
    ///
    /// # Errors
    /// The rule that refuses it; it is told as [`Doors::observer_misconduct`] is.
    pub fn judge_observer(&self, certificate: &ObserverCertificate) -> Result<(), Refusal> {
        let verdict = self.index.admit_observer(certificate, self.clock.now_s());
        if let Err(refusal) = verdict {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                serial = %certificate.serial,
                observer = %certificate.name,
                reason = refusal.as_str(),
                "certificate refused"
            );
            (self.observers.0)(certificate, "observer.certificate_refused");
        }
        verdict
    }

    /// An observer that was let in broke the rule `rule`.
    pub fn observer_misconduct(&self, certificate: &ObserverCertificate, rule: &'static str) {
        tracing::info!(serial = %certificate.serial, observer = %certificate.name, rule, "an observer broke a rule");
        (self.observers.0)(certificate, rule);
    }
}

/// What the doors have seen since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because there were too many.
    pub turned_away: AtomicU64,
    /// Handshakes that succeeded.
    pub handshakes: AtomicU64,
    /// Handshakes that failed or came too late.
    pub handshakes_failed: AtomicU64,
    /// Certificates of ours that the table refused, at any door.
    pub refused: AtomicU64,
    /// Connections that were ended from our side.
    pub kicked: AtomicU64,
    /// What the MQTT gate has seen.
    pub gate: Gate,
    /// What the observers' bus has seen.
    pub bus: Bus,
}

type OfObserver = dyn Fn(&ObserverCertificate, &'static str) + Send + Sync;
type Rule = dyn Fn(&PeerCertificate, &'static str) + Send + Sync;
type Told = dyn Fn(&PeerCertificate, Door, Refusal) + Send + Sync;

#[derive(Clone)]
struct Refusals(Arc<Told>);

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refusals")
    }
}

#[derive(Clone)]
struct Misconduct(Arc<Rule>);

impl std::fmt::Debug for Misconduct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Misconduct")
    }
}

#[derive(Clone)]
struct Observers(Arc<OfObserver>);

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observers")
    }
}

#[derive(Clone)]
struct Strangers(Arc<dyn Fn(&'static str) + Send + Sync>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Arc::new(|_| {}))
    }
}

impl std::fmt::Debug for Strangers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Strangers")
    }
}
