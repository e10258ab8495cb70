//! Why something was refused: one stable code, the rule behind it, the field it concerns.

use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};

/// A refusal as a rule pronounces it.
///
/// The code is what the caller may learn; `rule` and `field` go to the audit log and to `muster device explain`.
/// Unknown, expired, revoked and spent tokens share the code [`Code::TokenRefused`] and differ only in their rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller may learn.
    pub code: Code,
    /// Which rule refused, as `<room>.<rule>`.
    pub rule: &'static str,
    /// Which field of the request was looked at, if one was.
    pub field: Option<&'static str>,
}

impl Refusal {
    /// A refusal by `rule`.
    pub const fn by(rule: &'static str, code: Code) -> Self {
        Self { code, rule, field: None }
    }

    /// The same, naming the field that was looked at.
    pub const fn at(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }
}

/// The last refusal that a record met, kept for `muster device explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRefusal {
    /// The stable code.
    pub code: String,
    /// The rule that refused.
    pub rule: String,
    /// The field, if one was looked at.
    pub field: Option<String>,
    /// When, unix seconds.
    pub at: i64,
}

impl LastRefusal {
    /// What is kept of `refusal`, met at `at` (unix seconds).
    pub fn of(refusal: &Refusal, at: i64) -> Self {
        Self {
            code: refusal.code.as_str().to_owned(),
            rule: refusal.rule.to_owned(),
            field: refusal.field.map(str::to_owned),
            at,
        }
    }
}
