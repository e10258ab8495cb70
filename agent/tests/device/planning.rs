//! `muster-agent plan` on a device that has nothing to plan yet.

use serde_json::Value;

use crate::program::{Device, stub};

#[test]
fn a_device_without_a_desired_state_plans_nothing_and_says_so() {
    let device = Device::new();
    let unknown = device.run(&["plan"]);
    assert_eq!(unknown.error["code"], device.run(&["renew"]).error["code"]);
    let (_stub, string) = stub();
    assert_eq!(device.enroll(&string).exit, 0);
    let planned = device.run(&["plan"]);
    assert_eq!((planned.exit, &planned.json["generation"]), (0, &Value::Null), "{}", planned.stderr);
    assert_eq!(planned.json["steps"], Value::Array(vec![]));
    assert!(!device.state().join("applied").exists(), "looking leaves nothing behind");
}

#[test]
fn a_damaged_memory_of_what_was_applied_fails_with_a_remedy() {
    let device = Device::new();
    let (_stub, string) = stub();
    assert_eq!(device.enroll(&string).exit, 0);
    std::fs::write(device.state().join("applied"), "not a sheet").unwrap();
    let planned = device.run(&["plan"]);
    assert_eq!((planned.exit, planned.error["code"].as_str()), (1, Some("apply")), "{}", planned.stderr);
    assert!(planned.error["remedy"].as_str().unwrap().contains("remove that file"));
}
