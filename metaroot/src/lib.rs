//! metaroot
