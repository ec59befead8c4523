//! The table of who may call what against the compiled descriptors.

use kctl_rpc::{Access, Role, unknown_call};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::collections::BTreeSet;
use tonic::{Code, Status};

/// Every method that our servers have.
fn methods() -> BTreeSet<String> {
    let sets = [
        kctl_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let files = sets
        .iter()
        .flat_map(|set| FileDescriptorSet::decode(*set).expect("descriptors of our build").file);
    let mut methods = BTreeSet::new();
    for file in files {
        for service in &file.service {
            methods.extend(
                service.method.iter().map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }),
            );
        }
    }
    methods
}

#[test]
fn every_method_of_every_service_stands_in_the_table_once_and_nothing_else_does() {
    let listed: Vec<String> = Access::paths().collect();
    let table: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), table.len(), "a method stands there twice");
    let methods = methods();
    assert!(methods.len() > 60, "{methods:?}");
    let missing: Vec<_> = methods.difference(&table).collect();
    assert!(missing.is_empty(), "not in the table of rpc/src/access.rs: {missing:?}");
    let unknown: Vec<_> = table.difference(&methods).collect();
    assert!(unknown.is_empty(), "no such method: {unknown:?}");
    for path in &table {
        assert!(Access::of(path).is_ok(), "{path}");
    }
}

#[test]
fn what_is_not_in_the_table_is_for_nobody() {
    for path in [
        "",
        "/",
        "kctl.controller.v1.HostsService/ListHosts",
        "/kctl.controller.v1.HostsService/listHosts",
        "/kctl.controller.v1.HostsService/ListHosts/",
        "/kctl.controller.v2.HostsService/ListHosts",
        "/kctl.agent.v1.TokenService/CreateToken",
        "/HostsService/ListHosts",
    ] {
        let refused = Access::of(path).expect_err(path);
        assert_eq!(refused.code(), Code::Unimplemented, "{path:?}");
        assert_eq!(unknown_call(&refused), path.rsplit('/').next(), "{path:?}");
    }
    // A server of gRPC alone, and one that has the call and can't do it.
    assert_eq!(unknown_call(&Status::unimplemented("")), Some("this call"));
    assert_eq!(unknown_call(&Status::unimplemented("cpufreq: no such file")), None);
    assert_eq!(unknown_call(&Status::not_found("")), None);
}

#[test]
fn changes_are_never_for_viewers_but_for_ones_own_certificate() {
    for path in Access::paths() {
        if let Ok(Access::People { least: Role::Viewer, change: true, .. }) = Access::of(&path) {
            assert_eq!(path, "/kctl.controller.v1.UserService/RenewUser");
        }
    }
}
