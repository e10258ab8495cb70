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
    Revoke,
    Crl,
    Door,
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
        Self::Revoke,
        Self::Crl,
        Self::Door,
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
            Self::Revoke => ["revoke", "An operator revokes the device", "retired; there is no way back"],
            Self::Crl => ["crl", "openssl sees it in the revocation list", "revoked for the whole world"],
            Self::Door => ["door_closed", "The revoked device knocks once more", "no door opens"],
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
    fn steps_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Scene::ALL.iter().map(|scene| scene.name()).collect();
        assert_eq!(names.len(), Scene::ALL.len());
    }
}
