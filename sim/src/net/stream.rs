//! The two ends of one simulated stream, as `http_body` sees them.
//!
//! [`Receiver`] is a body: it yields the frames that have arrived by now. [`Pump`] moves a body into a stream
//! while the window has room. Dropping the client's receiver before the end cancels the call, as HTTP/2 does.

use super::{Direction, Network, StreamId};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;

/// What travels in a stream after its head.
pub(super) enum Item {
    Head(Box<http::response::Parts>),
    Data(Bytes),
    Trailers(http::HeaderMap),
    End,
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Item::Data(data) => data.len() + 9,
            Item::Head(_) | Item::Trailers(_) => 64,
            Item::End => 0,
        }
    }
}

/// Reading end of one direction.
pub(super) struct Receiver {
    pub(super) net: Arc<Network>,
    pub(super) stream: StreamId,
    pub(super) direction: Direction,
    pub(super) ended: bool,
}

impl Receiver {
    /// The response head, once it has arrived.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<http::response::Parts, Status>> {
        match self.net.poll_item(self.stream, self.direction, context) {
            Poll::Ready(Ok(Item::Head(parts))) => Poll::Ready(Ok(*parts)),
            Poll::Ready(Ok(_)) => Poll::Ready(Err(Status::internal("stream without head"))),
            Poll::Ready(Err(status)) => {
                self.ended = true;
                Poll::Ready(Err(status))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl HttpBody for Receiver {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.net.poll_item(self.stream, self.direction, context) {
            Poll::Ready(Ok(Item::Data(data))) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(Ok(Item::Trailers(map))) => Poll::Ready(Some(Ok(Frame::trailers(map)))),
            Poll::Ready(Ok(Item::End | Item::Head(_))) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Err(status)) => {
                self.ended = true;
                Poll::Ready(Some(Err(status)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.net.receiver_dropped(self.stream, self.direction, self.ended);
    }
}

/// Moves a body into a stream; completes when the body has ended or nobody wants it any more.
pub(super) struct Pump {
    pub(super) net: Arc<Network>,
    pub(super) stream: StreamId,
    pub(super) direction: Direction,
    pub(super) body: Body,
    /// The newest of what was sent, when it may arrive once more.
    pub(super) sent: Option<VecDeque<Bytes>>,
    /// How many of them [`Pump::take_fresh`] has not seen.
    pub(super) fresh: usize,
}

/// How many of the newest messages are kept.
const SENT_MAX: usize = 8;

impl Pump {
    /// The newest messages, one after the other.
    pub(super) fn take_sent(&mut self) -> Bytes {
        let parts: Vec<Bytes> = self.sent.take().into_iter().flatten().collect();
        parts.concat().into()
    }

    /// What was sent since the last call, as far as it was kept.
    pub(super) fn take_fresh(&mut self) -> Vec<Bytes> {
        let fresh = std::mem::take(&mut self.fresh);
        let Some(sent) = self.sent.as_ref().filter(|_| fresh > 0) else { return Vec::new() };
        sent.range(sent.len().saturating_sub(fresh)..).cloned().collect()
    }
}

impl Future for Pump {
    /// Whether all of it was sent.
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            match self.net.poll_writable(self.stream, self.direction, context) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
            if self.body.is_end_stream() {
                self.net.send(self.stream, self.direction, Item::End);
                return Poll::Ready(true);
            }
            let item = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Item::Data(data),
                    Err(frame) => frame.into_trailers().map_or(Item::End, Item::Trailers),
                },
                // A body that fails is cut off; the reader sees a stream without trailers.
                Poll::Ready(Some(Err(_)) | None) => {
                    self.net.send(self.stream, self.direction, Item::End);
                    return Poll::Ready(true);
                }
            };
            let this = &mut *self;
            if let (Some(sent), Item::Data(data)) = (&mut this.sent, &item) {
                // A frame holds whole messages.
                if sent.len() == SENT_MAX {
                    sent.pop_front();
                }
                sent.push_back(data.clone());
                this.fresh += 1;
            }
            self.net.send(self.stream, self.direction, item);
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.net.release(self.stream);
    }
}
