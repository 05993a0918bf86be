//! raft-rs messages inside our envelopes: what is taken from the network, and what is refused.
//!
//! raft-rs trusts its messages: one with term 0 counts as local, and a forwarded proposal would enter the log without
//! its waiter. So only what one raft peer properly says to another passes.

use crate::config::GroupId;
use bytes::Bytes;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::{RaftBatch, RaftEnvelope};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

/// A message as it came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) group: GroupId,
    pub(crate) message: Message,
    pub(crate) region: Option<RegionDescriptor>,
    /// A leader's last heartbeat before it hibernates, or the question of a follower that did (see [`crate::hibernate`]).
    pub(crate) says_hibernate: bool,
}

impl Incoming {
    pub(crate) fn is_snapshot(&self) -> bool {
        self.message.get_msg_type() == MessageType::MsgSnapshot
    }
}

/// Packs a message.
pub(crate) fn encode(
    group: GroupId,
    message: &Message,
    region: Option<RegionDescriptor>,
    says_hibernate: bool,
) -> RaftEnvelope {
    RaftEnvelope {
        group_id: group.0,
        message: Bytes::from(message.write_to_bytes().unwrap_or_default()),
        from_peer: message.from,
        to_peer: message.to,
        region,
        says_hibernate,
    }
}

/// Unpacks what is sound, and counts the rest: (messages, bytes, refused).
pub(crate) fn decode(batch: RaftBatch) -> (Vec<Incoming>, u64, u64) {
    let mut bytes = 0;
    let mut refused = 0;
    let mut messages = Vec::with_capacity(batch.envelopes.len());
    for envelope in batch.envelopes {
        let group = GroupId(envelope.group_id);
        // Read in place: a message is large, and every hand it goes through copies it.
        let says_hibernate = envelope.says_hibernate;
        messages.push(Incoming {
            group,
            message: Message::default(),
            region: envelope.region,
            says_hibernate,
        });
        let sound = messages.last_mut().is_some_and(|incoming| {
            let message = &mut incoming.message;
            read(message, &envelope.message).is_ok()
                && (message.from, message.to) == (envelope.from_peer, envelope.to_peer)
                && message.from != 0
                && message.to != 0
                && message.term != 0
                && between_peers(message)
        });
        if sound {
            bytes += envelope.message.len() as u64;
        } else {
            messages.pop();
            refused += 1;
        }
    }
    (messages, bytes, refused)
}

fn read(message: &mut Message, bytes: &Bytes) -> protobuf::ProtobufResult<()> {
    let mut stream = protobuf::CodedInputStream::from_carllerche_bytes(bytes);
    message.merge_from(&mut stream)?;
    stream.check_eof()
}

fn between_peers(message: &Message) -> bool {
    matches!(
        message.msg_type,
        MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgSnapshot
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgTimeoutNow
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = 1;
        message.to = 2;
        message.term = term;
        message
    }

    fn batch(messages: &[Message]) -> RaftBatch {
        let envelopes = messages.iter().map(|message| encode(GroupId(9), message, None, false)).collect();
        RaftBatch { domain: "region".to_owned(), from_node: 1, to_node: 2, envelopes }
    }

    #[test]
    fn what_peers_say_comes_through_unchanged() {
        let heartbeat = message(MessageType::MsgHeartbeat, 3);
        let (messages, bytes, refused) = decode(batch(std::slice::from_ref(&heartbeat)));
        assert_eq!(
            messages,
            [Incoming { group: GroupId(9), message: heartbeat, region: None, says_hibernate: false }]
        );
        assert!(bytes > 0);
        assert_eq!(refused, 0);
    }

    #[test]
    fn local_forwarded_and_misaddressed_messages_are_refused() {
        let mut spoofed = batch(&[message(MessageType::MsgHeartbeat, 3)]);
        spoofed.envelopes[0].from_peer = 7;
        let mut garbage = batch(&[message(MessageType::MsgHeartbeat, 3)]);
        garbage.envelopes[0].message = Bytes::from_static(&[0xff, 0xff]);
        let cases = [
            batch(&[message(MessageType::MsgHup, 3)]),
            batch(&[message(MessageType::MsgPropose, 3)]),
            batch(&[message(MessageType::MsgReadIndex, 3)]),
            batch(&[message(MessageType::MsgHeartbeat, 0)]),
            spoofed,
            garbage,
        ];
        for case in cases {
            let (messages, _, refused) = decode(case);
            assert_eq!((messages.len(), refused), (0, 1));
        }
    }
}
