//! What a request may weigh. Checked by clients before sending and by stores at the door.

/// Longest key, in bytes. Keys are never empty.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Most rows that one scan request may ask for.
pub const SCAN_LIMIT_MAX: u32 = 10_000;
/// A scan page stops growing at this many bytes of keys and values.
pub const SCAN_PAGE_BYTES: usize = 4 << 20;
/// Heaviest single command in a raft log, in bytes.
pub const COMMAND_BYTES_MAX: usize = 64 << 20;

/// Longest trace id, in bytes; they are letters, digits and a few signs between, see [`is_trace_id`].
pub const TRACE_ID_BYTES_MAX: usize = 64;
/// The metadata of a call in which a client says on whose behalf it is. Stores repeat it where they log the call.
pub const TRACE_ID_METADATA: &str = "nokv-trace-id";

/// Whether `text` may go into a log as it is.
pub fn is_trace_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    (1..=TRACE_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// Region ids below this are for the regions that a cluster is born with; coordinators hand out higher ones.
pub const FIRST_ALLOCATED_ID: u64 = 100_000;

const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < COMMAND_BYTES_MAX);
