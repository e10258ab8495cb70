//! Who may do what: the authorisation table.
//!
//! Every act has exactly one row. A verb of `app` demands a [`Permit`] for its own act, a permit is made by
//! [`decide`] alone, and routes are registered by naming the act: so there is no route without a row and no verb
//! without a decision.

use super::ledger::{Draft, Outcome};
use super::refusal::Refusal;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// Version of the table; each audit entry names the version that judged. Raise it with every change of a row.
pub const VERSION: u32 = 6;

/// The kinds of principal there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody in particular. A token in the request is looked at by the verb, not here.
    Anonymous,
    /// A device, by a certificate that the door let in.
    Device,
    /// A read-only subscriber of the event bus, by certificate.
    Observer,
    /// A person or script with a credential for the REST API.
    Operator,
    /// The server itself: start, timers.
    Server,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A device.
    Device(DeviceId),
    /// An observer, by name.
    Observer(String),
    /// An operator, by name.
    Operator(String),
    /// The server itself.
    Server,
}

impl Principal {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Anonymous => Kind::Anonymous,
            Self::Device(_) => Kind::Device,
            Self::Observer(_) => Kind::Observer,
            Self::Operator(_) => Kind::Operator,
            Self::Server => Kind::Server,
        }
    }

    /// The name that audit entries carry.
    pub fn actor(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Device(id) => format!("device/{id}"),
            Self::Observer(name) => format!("observer/{name}"),
            Self::Operator(name) => format!("operator/{name}"),
            Self::Server => "server".to_owned(),
        }
    }

    /// How it proved who it is.
    pub fn sign_in(&self) -> &'static str {
        match self {
            Self::Anonymous => "none",
            Self::Device(_) | Self::Observer(_) => "certificate",
            Self::Operator(_) => "credential",
            Self::Server => "local",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The act's name in the audit log: `<noun>.<verb>`.
    pub action: &'static str,
    /// Who may.
    pub allowed: &'static [Kind],
}

/// An act, known at compile time.
pub trait Act: Send + Sync + 'static {
    /// Its row.
    const ROW: Row;
}

macro_rules! table {
    ($($(#[$doc:meta])* $act:ident = $action:literal: $($kind:ident)|+;)+) => {
        /// The acts themselves, one type each.
        pub mod act {
            use super::{Act, Kind, Row};
            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $act;

                impl Act for $act {
                    const ROW: Row = Row { action: $action, allowed: &[$(Kind::$kind),+] };
                }
            )+
        }

        /// The whole table, for tests and documents.
        pub const TABLE: &[Row] = &[$(<act::$act as Act>::ROW),+];
    };
}

table! {
    /// Read the CA certificates (EST `/cacerts`, RFC 7030 §4.1).
    ReadCaCertificates = "est.cacerts": Anonymous | Device;
    /// Read which attributes a request should have (EST `/csrattrs`, RFC 7030 §4.5).
    ReadCsrAttributes = "est.csrattrs": Anonymous | Device;
    /// Trade a token for a first certificate (EST `/simpleenroll`, RFC 7030 §4.2.1).
    SimpleEnroll = "est.simpleenroll": Anonymous | Device;
    /// Trade a certificate for the next (EST `/simplereenroll`, RFC 7030 §4.2.2).
    SimpleReenroll = "est.simplereenroll": Device;
    /// Read endpoints, trust bundle and authority chain.
    Discover = "discovery.read": Anonymous | Device;
    /// Fetch a CRL or a CA certificate.
    ReadStatus = "status.read": Anonymous;
    /// Ask whether the process is well.
    ReadHealth = "health.read": Anonymous | Operator;
    /// Read metrics.
    ReadMetrics = "metrics.read": Operator;
    /// Read the OpenAPI document.
    ReadOpenApi = "openapi.read": Anonymous | Operator;
    /// Make enrolment tokens.
    CreateToken = "token.create": Operator;
    /// List tokens, or show one; never their text.
    ReadToken = "token.read": Operator;
    /// Take a token back.
    RevokeToken = "token.revoke": Operator;
    /// List devices, or show one, its history, or why it is where it is.
    ReadDevice = "device.read": Operator;
    /// Say yes to a device that waits.
    ApproveDevice = "device.approve": Operator;
    /// End a device's certificates now, without a wipe.
    RevokeDevice = "device.revoke": Operator;
    /// Hold a device: by hand, or by a posture rule.
    QuarantineDevice = "device.quarantine": Operator | Server;
    /// Let a held device go back to where it was.
    ReleaseDevice = "device.release": Operator | Server;
    /// Order something of a device that needs no approver.
    MakeOrder = "order.make": Operator | Server;
    /// List orders, or show one.
    ReadOrder = "order.read": Operator;
    /// Note that a device has taken what it was sent.
    Deliver = "order.deliver": Device;
    /// Close an order whose time has passed.
    ExpireOrder = "order.expire": Server;
    /// Ask for a warrant; asking approves nothing.
    RequestWarrant = "warrant.request": Operator;
    /// List warrants, or show one.
    ReadWarrant = "warrant.read": Operator;
    /// Hand in an approver's signature; who hands it in does not count, the signature does.
    SignWarrant = "warrant.sign": Operator;
    /// Hand in an approver's word that a warrant is stopped.
    StopWarrant = "warrant.stop": Operator;
    /// End a warrant whose time has passed.
    ExpireWarrant = "warrant.expire": Server;
    /// Go on with letting a device go: order, doom, proof, the way back.
    Deprovision = "device.deprovision": Server;
    /// Give up waiting for a doomed device.
    RetireDevice = "device.retire": Operator;
    /// Change what devices of a profile should be like.
    SetBaseline = "baseline.set": Operator;
    /// Hand in approvers' signatures on a baseline; who hands them in does not count, the signatures do.
    SignBaseline = "baseline.sign": Operator;
    /// Read what devices should be like.
    ReadBaseline = "baseline.read": Operator;
    /// Fetch the baseline that a device was told to have.
    FetchBaseline = "baseline.fetch": Device;
    /// Report what state a device is in.
    ReportState = "report.state": Device;
    /// Report posture facts.
    ReportPosture = "report.posture": Device;
    /// Appraise a posture again because a grace has ended.
    AppraisePosture = "posture.appraise": Server;
    /// Report something that happened.
    ReportEvent = "report.event": Device;
    /// Let a device go from commissioning to active.
    ActivateDevice = "device.activate": Server;
    /// Say how far an order has come.
    SendReceipt = "order.receipt": Device;
    /// Read firmware profiles.
    ReadProfile = "profile.read": Operator;
    /// Read CA certificates and CRL state.
    ReadCa = "ca.read": Operator;
    /// Read the authority chain.
    ReadAuthority = "authority.read": Operator;
    /// Ask for a successor of the authority document, to be signed by approvers.
    ProposeAuthority = "authority.propose": Operator;
    /// Bring approvers' signatures under a successor; who brings them approves nothing.
    SignAuthority = "authority.sign": Operator;
    /// Let a successor take over that enough approvers have signed.
    AdoptAuthority = "authority.adopt": Server;
    /// Read the budget of destructive acts, what waits, and whether everything is frozen.
    ReadRails = "rails.read": Operator;
    /// Write down that the settings of the rails have changed.
    ConfigureRails = "rails.configure": Server;
    /// Stop everything that leaves.
    Freeze = "rails.freeze": Operator;
    /// Bring approvers' signatures that end a freeze; who brings them approves nothing.
    LiftFreeze = "rails.lift": Operator;
    /// Bring approvers' signatures that end a cooling-off; who brings them approves nothing.
    WaiveCoolingOff = "rails.waive": Operator;
    /// Change the labels of a device, the one that protects it aside.
    LabelDevice = "device.label": Operator;
    /// Take the label from a device that protects it.
    UnprotectDevice = "device.unprotect": Operator;
    /// Read the audit log, or export it.
    ReadAudit = "audit.read": Operator;
    /// Hear what happens, as server-sent events.
    ReadEvents = "events.read": Operator;
    /// Hear what happens, on the event topics at the gate.
    HearEvents = "events.hear": Observer;
    /// Tell the observers' bus what happens.
    FeedBus = "events.feed": Server;
    /// Give an observer its certificate.
    AddObserver = "observer.add": Operator;
    /// End an observer's certificate.
    RevokeObserver = "observer.revoke": Operator;
    /// List observers.
    ReadObserver = "observer.read": Operator;
    /// Add or remove REST credentials.
    ManageOperator = "operator.manage": Operator;
    /// List REST credentials, never their secrets.
    ReadOperator = "operator.read": Operator;
    /// Add a REST credential to an installation that is not being served, by whoever may write in its directory.
    AddOperatorLocally = "operator.add_locally": Server;
    /// Make a new issuing CA, by whoever has the root's key and may write in the directory.
    RotateIssuing = "ca.rotate_issuing": Server;
    /// Let the new issuing CA sign.
    ActivateIssuing = "ca.activate_issuing": Server;
    /// Remove the key of a former issuing CA.
    DropFormerIssuing = "ca.drop_former": Server;
    /// Found the installation.
    Found = "installation.found": Server;
    /// Issue the server's own TLS certificate.
    IssueServerCertificate = "certificate.issue_server": Server;
    /// Make an issued certificate the current one, since its device has used it.
    PromoteCertificate = "certificate.promote": Server;
    /// Sign a CRL.
    SignCrl = "crl.sign": Server;
}

/// Who asks, by which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// The request's id, as the log and the answer carry it; empty for the server's own acts.
    pub request_id: String,
}

impl Caller {
    /// The server itself, without a request.
    pub fn server() -> Self {
        Self { principal: Principal::Server, request_id: String::new() }
    }

    /// An audit entry of `action`, done by this caller to `object` at `now_ms` (unix milliseconds).
    pub fn entry(&self, action: &str, now_ms: i64, object: String) -> Draft {
        Draft {
            ts: now_ms,
            actor: self.principal.actor(),
            sign_in: self.principal.sign_in().to_owned(),
            policy_version: VERSION,
            action: action.to_owned(),
            object,
            outcome: Outcome::Done,
            reason: String::new(),
            request_id: self.request_id.clone(),
            prev_state: String::new(),
            new_state: String::new(),
            payload_sha256: String::new(),
            facts: BTreeMap::new(),
        }
    }

    /// An audit entry of `action` on `object`, refused by `refusal`; its reason is the rule, which callers never see.
    pub fn refused(&self, action: &str, now_ms: i64, object: String, refusal: &Refusal) -> Draft {
        let draft = self.entry(action, now_ms, object);
        let facts = [Some(("code", refusal.code.as_str())), refusal.field.map(|field| ("field", field))];
        Draft { outcome: Outcome::Refused, reason: refusal.rule.to_owned(), ..draft }
            .facts(facts.into_iter().flatten().map(|(name, value)| (name, value.to_owned())))
    }
}

/// Proof that the table allows the act `A` to a caller. Only [`decide`] makes one; a verb takes it by value.
#[derive(Debug)]
pub struct Permit<A: Act> {
    caller: Caller,
    act: PhantomData<A>,
}

impl<A: Act> Permit<A> {
    /// Who was allowed.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The audit entry of this act, done to `object` at `now_ms` (unix milliseconds).
    pub fn entry(&self, now_ms: i64, object: String) -> Draft {
        self.caller.entry(A::ROW.action, now_ms, object)
    }

    /// The audit entry of this act, refused by `refusal`.
    pub fn refused(&self, now_ms: i64, object: String, refusal: &Refusal) -> Draft {
        self.caller.refused(A::ROW.action, now_ms, object, refusal)
    }
}

/// Judges whether `caller` may do `A`.
///
/// # Errors
/// [`Code::Unauthenticated`] where nobody in particular asks for what needs somebody; [`Code::Forbidden`]
/// where somebody asks for what is another kind's.
pub fn decide<A: Act>(caller: Caller) -> Result<Permit<A>, Refusal> {
    let kind = caller.principal.kind();
    if A::ROW.allowed.contains(&kind) {
        return Ok(Permit { caller, act: PhantomData });
    }
    match kind {
        Kind::Anonymous => Err(Refusal::by("policy.sign_in_first", Code::Unauthenticated)),
        Kind::Device | Kind::Observer | Kind::Operator | Kind::Server => {
            Err(Refusal::by("policy.not_yours", Code::Forbidden))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(principal: Principal) -> Caller {
        Caller { principal, request_id: "r".into() }
    }

    #[test]
    fn anonymous_callers_are_asked_to_sign_in() {
        let refusal = decide::<act::RevokeDevice>(caller(Principal::Anonymous)).unwrap_err();
        assert_eq!(refusal.code, Code::Unauthenticated);
    }

    #[test]
    fn a_device_does_no_operators_act() {
        let device = Principal::Device(DeviceId::from_parts(1, [0; 10]));
        assert_eq!(decide::<act::CreateToken>(caller(device)).unwrap_err().code, Code::Forbidden);
    }

    #[test]
    fn an_observer_may_hear_and_nothing_else() {
        let may = TABLE.iter().filter(|row| row.allowed.contains(&Kind::Observer)).map(|row| row.action);
        assert_eq!(may.collect::<Vec<_>>(), ["events.hear"]);
    }

    #[test]
    fn only_the_server_does_the_servers_acts() {
        assert!(decide::<act::SignCrl>(Caller::server()).is_ok());
        assert!(decide::<act::SignCrl>(caller(Principal::Operator("admin".into()))).is_err());
    }

    #[test]
    fn actions_are_named_once() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.action).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
