//! The wire contract of kctl. It owns the messages and services and knows no implementation; the
//! comments in the .proto files are the manual of the API.
#![expect(missing_docs, reason = "generated code")]
#![expect(clippy::allow_attributes_without_reason, reason = "generated code")]
#![expect(clippy::large_enum_variant, reason = "generated code")]
#![expect(unused_qualifications, reason = "generated code")]

/// What an agent serves: one host.
pub mod agent {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("kctl.agent.v1");
    }
}

/// What the controller serves: the fleet.
pub mod controller {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("kctl.controller.v1");
    }
}

mod codec;
mod twin;

pub use twin::{Piece, Twin};

/// The encoded file descriptor set, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
