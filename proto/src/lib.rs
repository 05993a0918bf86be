//! The words that the rooms of the house share: messages, typed ids, key encoding, limits.
//!
//! The protobuf files live in `proto/`; packages, names and field numbers are an interface and never change,
//! additions take new numbers. One module a package below: [`kv`], [`coordinator`], [`meta`], [`admin`], [`raft`], [`error`], [`storage`]. Written by hand:
//! [`id`] typed ids and timestamps, [`key`] ranges and the order-keeping encoding, [`region`] helpers on descriptors,
//! [`limits`] what a request may weigh, [`codec`] the buffers of calls.

pub mod codec;
pub mod id;
pub mod key;
pub mod limits;
pub mod region;

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1.
            #[allow(
                missing_docs,
                unreachable_pub,
                clippy::all,
                clippy::pedantic,
                clippy::allow_attributes_without_reason,
                reason = "generated; the documentation is in the .proto files"
            )]
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

package!(
    /// `nokv.kv`: reads and transactions on one region.
    kv, "nokv.kv.v1"
);
package!(
    /// `nokv.coordinator`: routes, ids, timestamps, heartbeats.
    coordinator, "nokv.coordinator.v1"
);
package!(
    /// `nokv.meta`: regions, cluster truth and a store's recovery state.
    meta, "nokv.meta.v1"
);
package!(
    /// `nokv.admin`: operating one store.
    admin, "nokv.admin.v1"
);
package!(
    /// `nokv.raft`: what raft logs hold and how raft messages travel.
    raft, "nokv.raft.v1"
);
package!(
    /// `nokv.error`: why a store refused a routed request.
    error, "nokv.error.v1"
);
package!(
    /// `nokv.storage`: messages of the reference's table files.
    storage, "nokv.storage.v1"
);

/// `grpc`: protocols of the gRPC project that every server answers.
pub mod grpc {
    package!(
        /// `grpc.health`: the standard health check.
        health, "grpc.health.v1"
    );
}

/// All of the above as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
