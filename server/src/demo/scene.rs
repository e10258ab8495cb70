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
    Stolen,
    Unapproved,
    HalfApproved,
    SelfApproved,
    Back,
    Deprovision,
    HalfSigned,
    Wiped,
    Proof,
    Dead,
    Audit,
    Inclusion,
    Tamper,
    Stop,
}

/// What steps that follow each other come to, for the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chapter {
    Founding,
    Enrolment,
    Line,
    Loss,
    Theft,
    Farewell,
    Log,
}

impl Chapter {
    /// Every chapter, in order.
    pub(super) const ALL: &'static [Self] =
        &[Self::Founding, Self::Enrolment, Self::Line, Self::Loss, Self::Theft, Self::Farewell, Self::Log];

    /// What it shows when every step of it holds.
    pub(super) fn claim(self) -> &'static str {
        match self {
            Self::Founding => "founded by two approvers, and serving",
            Self::Enrolment => "enrolled once, by a token that works once; openssl agrees",
            Self::Line => "kept in line: baseline, repair, posture, a new identity",
            Self::Loss => "held and released; another one revoked, at every door",
            Self::Theft => "every key of the server stolen, and the agent wipes nothing",
            Self::Farewell => "let go by two approvers, wiped with proof, its certificate dead",
            Self::Log => "all of it in a log that strangers verify",
        }
    }
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
        Self::Stolen,
        Self::Unapproved,
        Self::HalfApproved,
        Self::SelfApproved,
        Self::Back,
        Self::Deprovision,
        Self::HalfSigned,
        Self::Wiped,
        Self::Proof,
        Self::Dead,
        Self::Audit,
        Self::Inclusion,
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

    /// The chapter it belongs to.
    pub(super) fn chapter(self) -> Chapter {
        match self {
            Self::Keys | Self::Init | Self::Serve => Chapter::Founding,
            Self::Token | Self::Enroll | Self::Judge | Self::SecondUse | Self::Renew => Chapter::Enrolment,
            Self::Observe
            | Self::Connect
            | Self::Baseline
            | Self::Drift
            | Self::Commission
            | Self::Posture
            | Self::Rotate => Chapter::Line,
            Self::Hold
            | Self::Release
            | Self::Second
            | Self::Revoke
            | Self::Cut
            | Self::Crl
            | Self::Door
            | Self::Heard => Chapter::Loss,
            Self::Stolen | Self::Unapproved | Self::HalfApproved | Self::SelfApproved | Self::Back => {
                Chapter::Theft
            }
            Self::Deprovision | Self::HalfSigned | Self::Wiped | Self::Proof | Self::Dead => {
                Chapter::Farewell
            }
            Self::Audit | Self::Inclusion | Self::Tamper | Self::Stop => Chapter::Log,
        }
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
            Self::Stolen => [
                "stolen",
                "A thief copies the server's data directory, every key in it, and takes the server's place",
                "the agent takes the thief for the server",
            ],
            Self::Unapproved => [
                "thief_unapproved",
                "The thief orders a wipe that nobody has approved",
                "the agent refuses, and nothing is gone",
            ],
            Self::HalfApproved => [
                "thief_half_approved",
                "One approver is taken in and signs; the thief adds the signatures of all the server's keys",
                "the agent refuses: the server's keys approve nothing, and one is not two",
            ],
            Self::SelfApproved => [
                "thief_self_approved",
                "The thief makes two approvers of his own, and an authority that names them",
                "the agent refuses both: only approvers make approvers",
            ],
            Self::Back => [
                "server_back",
                "The honest server is back",
                "the device is active, has lost nothing, and has told what it refused",
            ],
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
            Self::Dead => [
                "certificate_dead",
                "Somebody has a copy of its key, made before the wipe, and knocks",
                "its certificate is dead at every door, and revoked for the whole world",
            ],
            Self::Audit => [
                "audit",
                "The log is taken away and checked without the server",
                "every entry and signature holds",
            ],
            Self::Inclusion => [
                "inclusion",
                "The stranger has it proven that the end of the device stands in the log",
                "a path of hashes leads from that entry to the signed checkpoint",
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
    fn chapters_follow_each_other_and_none_is_empty() {
        let mut told: Vec<Chapter> = Scene::ALL.iter().map(|scene| scene.chapter()).collect();
        told.dedup();
        assert_eq!(told, Chapter::ALL);
    }

    #[test]
    fn programs_find_the_steps_by_these_names_in_this_order() {
        let names: Vec<&str> = Scene::ALL.iter().map(|scene| scene.name()).collect();
        let pinned = "keygen init serve token enroll openssl_verify token_spent renew observe connect baseline drift \
            commission posture rotate quarantine release second_device revoke cut crl door_closed heard \
            stolen thief_unapproved thief_half_approved thief_self_approved server_back \
            deprovision half_signed wiped proof certificate_dead audit inclusion tamper stop";
        assert_eq!(names, pinned.split_whitespace().collect::<Vec<_>>());
    }
}
