//! The steps of the demo, in order, and the words they are told with.

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    Keys,
    Init,
    Serve,
    Token,
    Enroll,
    Judge,
    SecondUse,
    Renew,
    Observe,
    Connect,
    Baseline,
    Drift,
    Commission,
    Posture,
    Rotate,
    Hold,
    Release,
    Second,
    Revoke,
    Cut,
    Crl,
    Door,
    Heard,
    Deprovision,
    HalfSigned,
    Wiped,
    Proof,
    Audit,
    Tamper,
    Stop,
}

impl Scene {
    /// Every step, in order.
    pub(super) const ALL: &'static [Self] = &[
        Self::Keys,
        Self::Init,
        Self::Serve,
        Self::Token,
        Self::Enroll,
        Self::Judge,
        Self::SecondUse,
        Self::Renew,
        Self::Observe,
        Self::Connect,
        Self::Baseline,
        Self::Drift,
        Self::Commission,
        Self::Posture,
        Self::Rotate,
        Self::Hold,
        Self::Release,
        Self::Second,
        Self::Revoke,
        Self::Cut,
        Self::Crl,
        Self::Door,
        Self::Heard,
        Self::Deprovision,
        Self::HalfSigned,
        Self::Wiped,
        Self::Proof,
        Self::Audit,
        Self::Tamper,
        Self::Stop,
    ];

    /// The step's name for programs.
    pub(super) fn name(self) -> &'static str {
        let [name, ..] = self.words();
        name
    }

    /// What is about to happen.
    pub(super) fn title(self) -> &'static str {
        let [_, title, _] = self.words();
        title
    }

    /// What was shown when it held.
    pub(super) fn claim(self) -> &'static str {
        let [.., claim] = self.words();
        claim
    }

    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Keys => ["keygen", "Two people make approvers' keys", "two keys, each for its owner alone"],
            Self::Init => ["init", "A server is founded with these two approvers", "founded"],
            Self::Serve => ["serve", "The server starts", "every listener accepts and /readyz answers 200"],
            Self::Token => {
                ["token", "An operator makes a one-time token", "one token, bound to the serial number"]
            }
            Self::Enroll => [
                "enroll",
                "The device trades it for a certificate",
                "enrolled, with a key that was made on the device",
            ],
            Self::Judge => [
                "openssl_verify",
                "openssl judges the certificate",
                "good, and on no revocation list, by somebody else's code",
            ],
            Self::SecondUse => {
                ["token_spent", "Somebody else tries the same token", "refused, and written down"]
            }
            Self::Renew => {
                ["renew", "The device renews, with a new key", "a new certificate took the old one's place"]
            }
            Self::Observe => [
                "observe",
                "A dashboard listens, with a certificate that can do nothing else",
                "subscribed to what happens",
            ],
            Self::Connect => ["connect", "The agent stays connected", "a session is open"],
            Self::Baseline => [
                "baseline",
                "An operator says what laptops should be like",
                "the device is, and has reported it",
            ],
            Self::Drift => [
                "drift",
                "Somebody changes that by hand, and an operator has the agent look",
                "put right, and written down",
            ],
            Self::Commission => [
                "commission",
                "Its posture can be told, which was all that was missing",
                "it passes muster: baseline, posture and an order have come round",
            ],
            Self::Posture => [
                "posture",
                "The firewall is opened, and closed again",
                "named with its remedy, then forgotten",
            ],
            Self::Rotate => {
                ["rotate", "An operator orders a new identity", "renewed in the live session, without a gap"]
            }
            Self::Hold => [
                "quarantine",
                "It was left in a train: an operator holds it",
                "on hold for everyone; it may come back to mend itself, and nothing more",
            ],
            Self::Release => ["release", "It was found, and is released", "back where it was"],
            Self::Second => {
                ["second_device", "A second device is enrolled and connects", "another life, another line"]
            }
            Self::Revoke => {
                ["revoke", "An operator revokes the second device", "retired; there is no way back"]
            }
            Self::Cut => ["cut", "Its session", "the line is cut; the first device's is not"],
            Self::Crl => ["crl", "openssl sees it in the revocation list", "revoked for the whole world"],
            Self::Door => ["door_closed", "The revoked device knocks once more", "no door opens"],
            Self::Heard => ["heard", "What the dashboard was told meanwhile", "it saw all of that happen"],
            Self::Deprovision => [
                "deprovision",
                "The first device's owner leaves: an operator asks for it to be wiped",
                "asked for; nothing is ordered before two approvers have signed",
            ],
            Self::HalfSigned => ["half_signed", "One approver signs", "not enough, and nothing is gone"],
            Self::Wiped => [
                "wiped",
                "The second approver signs",
                "wiped by the device itself, in receipts that it has signed; it is retired(proven)",
            ],
            Self::Proof => [
                "proof",
                "A stranger checks the proof with python3 and openssl, and nothing of ours",
                "every signature holds, from the founding to the last receipt",
            ],
            Self::Audit => [
                "audit",
                "The log is taken away and checked without the server",
                "every entry and signature holds",
            ],
            Self::Tamper => ["tamper", "One byte of that copy is changed", "found"],
            Self::Stop => ["stop", "The server is asked to stop", "it ended in order"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_the_steps_by_these_names_in_this_order() {
        let names: Vec<&str> = Scene::ALL.iter().map(|scene| scene.name()).collect();
        let pinned = "keygen init serve token enroll openssl_verify token_spent renew observe connect baseline drift \
            commission posture rotate quarantine release second_device revoke cut crl door_closed heard \
            deprovision half_signed wiped proof audit tamper stop";
        assert_eq!(names, pinned.split_whitespace().collect::<Vec<_>>());
    }
}
