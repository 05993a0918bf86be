//! The codec of all our gRPC services: prost with small first buffers, and messages read in one piece.
//!
//! tonic's own codec begins each direction of each call with 8 KiB, four buffers a unary call, though most messages
//! have a hundred bytes: that memory passes through the processor's caches for nothing, and a value decoded as a part of
//! such a buffer keeps all of it alive. Buffers grow as messages need it.
//!
//! A message has arrived as a whole before it is decoded. tonic's decoder still takes it out of the buffer number by
//! number, with the bookkeeping of a shared buffer each time; ours reads a slice and then skips it.

use bytes::Buf;
use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

/// First size of a buffer.
const BUFFER_BYTES: usize = 512;
/// A stream hands what it has encoded to the transport when it is more than this; tonic's own value.
const YIELD_BYTES: usize = 32 << 10;
/// Fields of bytes in messages up to this size are copied out; those of larger ones share the message's buffer.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Encodes `T` and decodes `U`; see the module.
#[derive(Debug, Clone)]
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Decodes `U`; see the module.
#[derive(Debug, Clone)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buffer.remaining();
        let decoded = match buffer.chunk().get(..bytes) {
            Some(message) if bytes <= COPY_BYTES_MAX => {
                let decoded = U::decode(message);
                buffer.advance(bytes);
                decoded
            }
            _ => U::decode(buffer.copy_to_bytes(bytes)),
        };
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::v1::RaftEnvelope;
    use bytes::{BufMut, Bytes, BytesMut};
    use futures_util::FutureExt;
    use http_body_util::Full;
    use tonic::Code;
    use tonic::codec::Streaming;

    /// Messages as they come in, one behind the other.
    fn arrive(messages: &[Bytes]) -> Streaming<RaftEnvelope> {
        let mut body = BytesMut::new();
        for message in messages {
            body.put_u8(0);
            body.put_u32(message.len() as u32);
            body.extend_from_slice(message);
        }
        Streaming::new_request(MessageDecoder(PhantomData), Full::new(body.freeze()), None, None)
    }

    fn envelope(bytes: usize) -> RaftEnvelope {
        RaftEnvelope { group_id: 7, message: Bytes::from(vec![5; bytes]), ..RaftEnvelope::default() }
    }

    fn next(stream: &mut Streaming<RaftEnvelope>) -> Result<Option<RaftEnvelope>, Status> {
        stream.message().now_or_never().expect("everything has arrived")
    }

    #[test]
    fn messages_of_any_size_are_read_whole_and_nothing_behind_them() {
        let sent =
            [envelope(10), RaftEnvelope::default(), envelope(COPY_BYTES_MAX), envelope(100_000), envelope(1)];
        let mut stream = arrive(&sent.each_ref().map(|message| message.encode_to_vec().into()));
        for message in sent {
            assert_eq!(next(&mut stream).expect("sound"), Some(message));
        }
        assert_eq!(next(&mut stream).expect("sound"), None);
    }

    #[test]
    fn damaged_messages_are_refused() {
        for bytes in [10, 100_000] {
            let mut damaged = envelope(bytes).encode_to_vec();
            damaged.truncate(bytes);
            let refused = next(&mut arrive(&[damaged.into()])).expect_err("it ends too soon");
            assert_eq!(refused.code(), Code::Internal);
        }
    }
}
