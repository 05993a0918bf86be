//! The codec of all our gRPC services: prost with small first buffers.
//!
//! tonic's own codec begins each direction of each call with 8 KiB, four buffers a unary call, though most messages
//! have a hundred bytes: that memory passes through the processor's caches for nothing, and a value decoded as a part of
//! such a buffer keeps all of it alive. Buffers grow as messages need it.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// First size of a buffer.
const BUFFER_BYTES: usize = 512;
/// A stream hands what it has encoded to the transport when it is more than this; tonic's own value.
const YIELD_BYTES: usize = 32 << 10;

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
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
