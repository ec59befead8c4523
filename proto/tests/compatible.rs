//! The wire contract against that of the last release: whatever was there goes on, so that agents, controllers
//! and kctl of two versions understand each other.
//!
//! What goes for good is reserved in the .proto file. With a release, `KCTL_RELEASED=0.2 cargo test -p
//! kctl-proto` writes `released/0.2.bin`; the one of two releases before may go then.

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    prost::Message as _,
    prost_types::{DescriptorProto, FileDescriptorSet},
};
use std::{fs, path::PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("released")
}

#[test]
fn everything_of_the_last_release_goes_on() {
    if let Ok(version) = std::env::var("KCTL_RELEASED") {
        let file = folder().join(format!("{version}.bin"));
        fs::write(file, kctl_proto::DESCRIPTORS).expect("writes");
    }
    let now = pool(kctl_proto::DESCRIPTORS);
    let mut compared = 0;
    for file in fs::read_dir(folder()).expect("releases") {
        let file = file.expect("a release").path();
        let gone = broken(&pool(&fs::read(&file).expect("reads")), &now);
        assert!(gone.is_empty(), "since {}:\n{}", file.display(), gone.join("\n"));
        compared += 1;
    }
    assert!(compared > 0, "no release to compare with");
}

#[test]
fn what_breaks_others_is_found() {
    let now = pool(kctl_proto::DESCRIPTORS);
    assert_eq!(broken(&now, &now), [""; 0]);
    type Change = fn(&mut FileDescriptorSet);
    let changes: [(&str, Change); 7] = [
        ("kctl.controller.v1.Host.peer: is gone", |set| {
            host(set).field.retain(|it| it.name() != "peer");
        }),
        ("kctl.controller.v1.Host.peer: was (\"string\"", |set| {
            let peer = host(set).field.iter_mut().find(|it| it.name() == "peer").expect("there");
            peer.set_type(prost_reflect::prost_types::field_descriptor_proto::Type::Bytes);
        }),
        ("kctl.controller.v1.Host.peer: is called address", |set| {
            let peer = host(set).field.iter_mut().find(|it| it.name() == "peer").expect("there");
            peer.name = Some("address".to_owned());
            peer.json_name = None;
        }),
        ("kctl.controller.v1.Host.State: 2 is gone", |set| {
            host(set).enum_type[0].value.retain(|it| it.number() != 2);
        }),
        ("kctl.controller.v1.JoinService.Join: is gone", |set| {
            each(set, |file| {
                file.service.iter_mut().for_each(|it| it.method.retain(|it| it.name() != "Join"));
            });
        }),
        ("kctl.controller.v1.JoinService.Join: takes or answers something else", |set| {
            let methods = |file: &mut prost_reflect::prost_types::FileDescriptorProto| {
                let all = file.service.iter_mut().flat_map(|it| &mut it.method);
                all.filter(|it| it.name() == "Join")
                    .for_each(|it| it.server_streaming = Some(true));
            };
            each(set, methods);
        }),
        ("kctl.controller.v1.End: is gone", |set| {
            each(set, |file| {
                let uses = |message: &DescriptorProto| {
                    message.name() == "End"
                        || message.field.iter().any(|it| it.type_name().ends_with(".End"))
                };
                let gone: Vec<_> = file
                    .message_type
                    .iter()
                    .filter(|it| uses(it))
                    .map(|it| it.name().to_owned())
                    .collect();
                file.message_type.retain(|it| !gone.contains(&it.name().to_owned()));
                file.service.clear();
            });
        }),
    ];
    for (expected, change) in changes {
        let mut set = FileDescriptorSet::decode(kctl_proto::DESCRIPTORS).expect("our own");
        change(&mut set);
        let changed = DescriptorPool::from_file_descriptor_set(set).expect("still valid");
        let found = broken(&now, &changed);
        assert!(found.iter().any(|it| it.starts_with(expected)), "{expected}: {found:?}");
    }
}

fn each(
    set: &mut FileDescriptorSet,
    change: impl Fn(&mut prost_reflect::prost_types::FileDescriptorProto),
) {
    set.file.iter_mut().for_each(change);
}

fn host(set: &mut FileDescriptorSet) -> &mut DescriptorProto {
    let files = set.file.iter_mut().filter(|it| it.package() == "kctl.controller.v1");
    let mut messages = files.flat_map(|it| &mut it.message_type);
    messages.find(|it| it.name() == "Host").expect("there")
}

fn pool(bytes: &[u8]) -> DescriptorPool {
    DescriptorPool::decode(bytes).expect("descriptors")
}

/// What a program of before would miss or misread.
fn broken(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut broken = Vec::new();
    for message in old.all_messages() {
        match new.get_message_by_name(message.full_name()) {
            None => broken.push(format!("{}: is gone", message.full_name())),
            Some(now) => broken.extend(message.fields().filter_map(|it| field(&it, &now))),
        }
    }
    for old in old.all_enums() {
        match new.get_enum_by_name(old.full_name()) {
            None => broken.push(format!("{}: is gone", old.full_name())),
            Some(now) => broken.extend(values(&old, &now)),
        }
    }
    for service in old.services() {
        for method in service.methods() {
            let now = new.get_service_by_name(service.full_name());
            let now = now.and_then(|it| it.methods().find(|it| it.name() == method.name()));
            let shape = |it: &prost_reflect::MethodDescriptor| {
                let names = (it.input().full_name().to_owned(), it.output().full_name().to_owned());
                (names, it.is_client_streaming(), it.is_server_streaming())
            };
            let name = method.full_name();
            match now {
                None => broken.push(format!("{name}: is gone")),
                Some(now) if shape(&now) != shape(&method) => {
                    broken.push(format!("{name}: takes or answers something else"));
                }
                Some(_) => {}
            }
        }
    }
    broken
}

fn field(old: &FieldDescriptor, message: &MessageDescriptor) -> Option<String> {
    let name = old.full_name();
    let Some(now) = message.get_field(old.number()) else {
        let reserved = message.reserved_ranges().any(|it| it.contains(&old.number()));
        return (!reserved).then(|| format!("{name}: is gone, and {} not reserved", old.number()));
    };
    if now.name() != old.name() {
        return Some(format!("{name}: is called {}", now.name()));
    }
    let shape = |it: &FieldDescriptor| {
        let oneof = it.containing_oneof().map(|it| it.name().to_owned());
        (kind(it.kind()), it.cardinality(), it.supports_presence(), oneof)
    };
    (shape(&now) != shape(old))
        .then(|| format!("{name}: was {:?}, is {:?}", shape(old), shape(&now)))
}

fn values<'a>(old: &'a EnumDescriptor, now: &'a EnumDescriptor) -> impl Iterator<Item = String> {
    let gone = |number: i32| {
        now.get_value(number).is_none() && !now.reserved_ranges().any(|it| it.contains(&number))
    };
    let gone: Vec<_> = old.values().map(|it| it.number()).filter(|it| gone(*it)).collect();
    let name = old.full_name().to_owned();
    gone.into_iter().map(move |number| format!("{name}: {number} is gone"))
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(values) => values.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}
