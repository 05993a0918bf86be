//! A [`Channel`] whose errors are gRPC statuses.
//!
//! The generated clients convert their transport's error; for a boxed trait object inside a spawned task the
//! compiler cannot prove that conversion ("implementation of `From` is not general enough"). A named error
//! type is all it takes.

use nokv_env::{BoxFuture, Channel};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// The channel type that this crate's generated clients run over.
#[derive(Clone)]
pub(crate) struct Link(pub(crate) Channel);

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(context).map_err(|error| Status::from_error(error.0))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map_err(|error| Status::from_error(error.0)) })
    }
}
