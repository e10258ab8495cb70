//! The OpenAPI document, made from the routes themselves and the types they answer with.

use super::routes::{Route, Routes};
use super::{
    audit, authority, baseline, device, events, installation, observer, operator, order, rails, record,
    token, warrant,
};
use crate::app::App;
use crate::domain::policy::Kind;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::{PartialSchema, ToSchema};

/// The document of the operators' listener.
pub fn document(app: Arc<App>) -> Value {
    of(super::admin(Routes::new(app, super::auth::Entrance::Admin)).list())
}

/// The document of `routes`.
pub fn of(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.path.replace("{*path}", "{path}")).or_insert_with(|| json!({}));
        if let Some(methods) = path.as_object_mut() {
            methods.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Enrolment of devices: tokens, devices, audit. Errors are RFC 9457 problem documents \
                            whose type is urn:muster:problem:<code>.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "credential": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": format!("{}_{}", route.method.as_str().to_ascii_lowercase(), identifier(&route.path)),
        "summary": route.doc.summary,
        "tags": [route.action.split('.').next().unwrap_or("")],
        "parameters": parameters(route),
        "responses": {
            route.doc.status.to_string(): good(route),
            "default": {
                "description": "A problem.",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            },
        },
    });
    let mut add = |name: &str, value: Value| {
        if let Some(fields) = operation.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    };
    if !route.row.allowed.contains(&Kind::Anonymous) {
        add("security", json!([{ "credential": [] }]));
    }
    if let Some(schema) = route.doc.request {
        let content = json!({ "application/json": { "schema": reference(schema) } });
        add("requestBody", json!({ "required": !route.doc.is_body_optional, "content": content }));
    }
    operation
}

fn good(route: &Route) -> Value {
    if let Some(media_type) = route.doc.stream {
        let schema = route.doc.response.map_or_else(|| json!({}), reference);
        let content = json!({ media_type: { "schema": { "type": "string" }, "x-event-data": schema } });
        return json!({ "description": events::FORM, "content": content });
    }
    match route.doc.response {
        Some(schema) => {
            json!({ "description": "Done.", "content": { "application/json": { "schema": reference(schema) } } })
        }
        None => json!({ "description": "Done." }),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split(['{', '}']).skip(1).step_by(2).map(|name| {
        let name = name.trim_start_matches('*');
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
    });
    let in_query = route.doc.query.iter().map(|name| {
        let kind = if *name == "limit" { "integer" } else { "string" };
        json!({ "name": name, "in": "query", "required": false, "schema": { "type": kind } })
    });
    let mut parameters: Vec<Value> = in_path.chain(in_query).collect();
    parameters.extend(route.doc.conditions.iter().map(|name| {
        json!({
            "name": name, "in": "header", "required": false,
            "description": "An ETag, or `*`: where it does not hold of what is there, nothing is done (412).",
            "schema": { "type": "string" },
        })
    }));
    if route.doc.stream.is_some() {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "required": false,
            "description": "The id of the last event that was heard; it wins over `after`.",
            "schema": { "type": "string" },
        }));
    }
    if route.method == http::Method::POST {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The same key with the same request has one effect and one answer for a day.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    parameters
}

fn identifier(path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    add::<token::CreateTokens>(&mut all, "CreateTokens");
    add::<token::MintedToken>(&mut all, "MintedToken");
    add::<token::Token>(&mut all, "Token");
    add::<token::Refused>(&mut all, "Refused");
    add::<token::TokenPage>(&mut all, "TokenPage");
    add::<device::Device>(&mut all, "Device");
    add::<device::Certificate>(&mut all, "Certificate");
    add::<device::Generation>(&mut all, "Generation");
    add::<device::Posture>(&mut all, "Posture");
    add::<device::DevicePage>(&mut all, "DevicePage");
    add::<device::Explained>(&mut all, "Explained");
    add::<device::RevokeDevice>(&mut all, "RevokeDevice");
    add::<device::Preview>(&mut all, "Preview");
    add::<order::Order>(&mut all, "Order");
    add::<order::Receipt>(&mut all, "Receipt");
    add::<order::OrderPage>(&mut all, "OrderPage");
    add::<order::MakeOrder>(&mut all, "MakeOrder");
    add::<record::Record>(&mut all, "Record");
    add::<record::RecordWarrant>(&mut all, "RecordWarrant");
    add::<record::RecordCertificate>(&mut all, "RecordCertificate");
    add::<record::RecordReceipt>(&mut all, "RecordReceipt");
    add::<record::RecordItem>(&mut all, "RecordItem");
    add::<warrant::Warrant>(&mut all, "Warrant");
    add::<warrant::Action>(&mut all, "Action");
    add::<warrant::Target>(&mut all, "Target");
    add::<warrant::WarrantPage>(&mut all, "WarrantPage");
    add::<warrant::RequestWarrant>(&mut all, "RequestWarrant");
    add::<warrant::DeprovisionDevice>(&mut all, "DeprovisionDevice");
    add::<warrant::RequestedWarrant>(&mut all, "RequestedWarrant");
    add::<warrant::RequestedTarget>(&mut all, "RequestedTarget");
    add::<warrant::RetireDevice>(&mut all, "RetireDevice");
    add::<warrant::Signatures>(&mut all, "Signatures");
    add::<baseline::Baseline>(&mut all, "Baseline");
    add::<baseline::BaselineList>(&mut all, "BaselineList");
    add::<baseline::BaselineEffect>(&mut all, "BaselineEffect");
    add::<baseline::BaselineApproval>(&mut all, "BaselineApproval");
    add::<baseline::SetBaseline>(&mut all, "SetBaseline");
    add::<baseline::BaselinePapers>(&mut all, "BaselinePapers");
    add::<baseline::BaselinePaper>(&mut all, "BaselinePaper");
    add::<baseline::SignBaseline>(&mut all, "SignBaseline");
    add::<baseline::BaselineDifference>(&mut all, "BaselineDifference");
    add::<baseline::Section>(&mut all, "Section");
    add::<baseline::Drift>(&mut all, "Drift");
    add::<device::Failing>(&mut all, "Failing");
    add::<device::Steps>(&mut all, "Steps");
    add::<device::QuarantineDevice>(&mut all, "QuarantineDevice");
    add::<device::ReleaseDevice>(&mut all, "ReleaseDevice");
    add::<device::Quarantine>(&mut all, "Quarantine");
    add::<operator::Operator>(&mut all, "Operator");
    add::<operator::OperatorList>(&mut all, "OperatorList");
    add::<observer::Observer>(&mut all, "Observer");
    add::<observer::ObserverList>(&mut all, "ObserverList");
    add::<observer::ObserverCertificate>(&mut all, "ObserverCertificate");
    add::<observer::AddObserver>(&mut all, "AddObserver");
    add::<observer::AddedObserver>(&mut all, "AddedObserver");
    add::<observer::RevokeObserver>(&mut all, "RevokeObserver");
    add::<operator::AddOperator>(&mut all, "AddOperator");
    add::<operator::Credential>(&mut all, "Credential");
    add::<installation::CaCertificate>(&mut all, "CaCertificate");
    add::<installation::FormerCa>(&mut all, "FormerCa");
    add::<installation::AcknowledgedCa>(&mut all, "AcknowledgedCa");
    add::<installation::Ca>(&mut all, "Ca");
    add::<installation::Crl>(&mut all, "Crl");
    add::<installation::CrlList>(&mut all, "CrlList");
    add::<installation::Approver>(&mut all, "Approver");
    add::<installation::Authority>(&mut all, "Authority");
    add::<installation::AuthorityHeard>(&mut all, "AuthorityHeard");
    add::<rails::Rails>(&mut all, "Rails");
    add::<rails::WaitingAct>(&mut all, "WaitingAct");
    add::<rails::Freeze>(&mut all, "Freeze");
    add::<rails::LiftFreeze>(&mut all, "LiftFreeze");
    add::<device::LabelDevice>(&mut all, "LabelDevice");
    add::<authority::NamedKey>(&mut all, "NamedKey");
    add::<authority::ProposeAuthority>(&mut all, "ProposeAuthority");
    add::<authority::SignAuthority>(&mut all, "SignAuthority");
    add::<authority::Quorum>(&mut all, "Quorum");
    add::<authority::Waiting>(&mut all, "Waiting");
    add::<authority::AuthorityProposal>(&mut all, "AuthorityProposal");
    add::<authority::ReplacedProposal>(&mut all, "ReplacedProposal");
    add::<installation::ProfileView>(&mut all, "Profile");
    add::<installation::ProfileList>(&mut all, "ProfileList");
    add::<events::Event>(&mut all, "Event");
    add::<events::EventCertificate>(&mut all, "EventCertificate");
    add::<events::EventOrder>(&mut all, "EventOrder");
    add::<events::EventCheckpoint>(&mut all, "EventCheckpoint");
    add::<audit::Page>(&mut all, "AuditPage");
    add::<audit::Files>(&mut all, "AuditFiles");
    add::<audit::File>(&mut all, "AuditFile");
    all.insert("MintedTokens".to_owned(), json!({ "type": "array", "items": reference("MintedToken") }));
    all.insert("Problem".to_owned(), problem());
    all
}

/// The schema of `T`; types are referred to by the names they are added under.
fn add<T: ToSchema + PartialSchema>(all: &mut Map<String, Value>, name: &str) {
    let text = serde_json::to_string(&T::schema()).unwrap_or_default();
    let renamed = text
        .replace("#/components/schemas/ProfileView\"", "#/components/schemas/Profile\"")
        .replace("#/components/schemas/File\"", "#/components/schemas/AuditFile\"");
    if let Ok(schema) = serde_json::from_str(&renamed) {
        all.insert(name.to_owned(), schema);
    }
}

fn problem() -> Value {
    let text = json!({ "type": "string" });
    let maybe = json!({ "type": ["string", "null"] });
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "remedy"],
        "properties": {
            "type": { "type": "string", "enum": codes(|code| code.urn()) },
            "title": text,
            "status": { "type": "integer" },
            "detail": maybe,
            "code": { "type": "string", "enum": codes(|code| code.as_str().to_owned()) },
            "remedy": text,
            "request_id": maybe,
            "field": maybe,
            "rule": maybe,
        },
    })
}

fn codes(spell: impl Fn(muster_wire::problem::Code) -> String) -> Vec<String> {
    muster_wire::problem::Code::ALL.iter().map(|code| spell(*code)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match (name.as_str(), field) {
                        ("$ref", Value::String(target)) => {
                            found.insert(target.trim_start_matches("#/components/schemas/").to_owned());
                        }
                        _ => references(field, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let schemas = schemas();
        let mut named = BTreeSet::new();
        references(&Value::Object(schemas.clone()), &mut named);
        for name in named {
            assert!(schemas.contains_key(&name), "{name}");
        }
    }

    #[test]
    fn operation_ids_are_words() {
        assert_eq!(identifier("/v1/devices/{id}:revoke"), "v1_devices_id_revoke");
    }
}
