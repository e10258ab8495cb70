//! Request bodies with an end: so many bytes, and so long.
//!
//! Every body that comes through a door has the door's deadline and its outermost size limit; a handler that
//! expects less says so with [`collect`]. A declared length above the limit is refused before a byte of the body
//! is read, and before a client that asked `Expect: 100-continue` is told to go on.

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// A certificate request, with everything base64 and PEM add to it: 64 KiB.
pub const CSR_BYTES: usize = 64 * 1024;

/// A JSON document of the REST API: 256 KiB.
pub const JSON_BYTES: usize = 256 * 1024;

/// More than any handler expects: 4 MiB.
pub const LARGEST_BYTES: usize = 4 * 1024 * 1024;

/// Why a body did not arrive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is, or says that it is, longer than `limit_bytes`.
    #[error("the body is longer than {limit_bytes} bytes")]
    TooLarge {
        /// What was allowed.
        limit_bytes: usize,
    },
    /// It was not complete in time.
    #[error("the body did not arrive in time")]
    Late,
    /// The connection or its framing broke.
    #[error("the body broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// `B` with a limit and a deadline.
#[derive(Debug)]
pub struct LimitedBody<B> {
    body: B,
    limit_bytes: usize,
    left_bytes: usize,
    late: Pin<Box<Sleep>>,
}

impl<B: Body> LimitedBody<B> {
    /// Lets `limit_bytes` through, within `deadline` from now.
    pub fn new(body: B, limit_bytes: usize, deadline: Duration) -> Self {
        Self { body, limit_bytes, left_bytes: limit_bytes, late: Box::pin(sleep(deadline)) }
    }

    fn declares_too_much(&self) -> bool {
        usize::try_from(self.body.size_hint().lower()).map_or(true, |lower| lower > self.left_bytes)
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let too_large = BodyError::TooLarge { limit_bytes: self.limit_bytes };
        if self.declares_too_much() {
            return Poll::Ready(Some(Err(too_large)));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(BodyError::Broken(error.into())))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                return self.late.as_mut().poll(cx).map(|()| Some(Err(BodyError::Late)));
            }
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match self.left_bytes.checked_sub(bytes) {
            Some(left) => {
                self.left_bytes = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(too_large))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The whole of a request's body, of at most `limit_bytes`.
///
/// # Errors
/// [`BodyError::TooLarge`], before reading when the length was declared; [`BodyError::Late`] and
/// [`BodyError::Broken`] as the door's own [`LimitedBody`] says.
pub async fn collect(mut body: axum::body::Body, limit_bytes: usize) -> Result<Bytes, BodyError> {
    let too_large = || BodyError::TooLarge { limit_bytes };
    let declared = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    if declared > limit_bytes {
        return Err(too_large());
    }
    let mut whole = BytesMut::with_capacity(declared);
    while let Some(frame) = next_frame(&mut body).await {
        let frame = frame.map_err(unwrap_axum)?;
        let Some(bytes) = frame.data_ref() else { continue };
        if whole.len() + bytes.len() > limit_bytes {
            return Err(too_large());
        }
        whole.extend_from_slice(bytes);
    }
    Ok(whole.freeze())
}

async fn next_frame(body: &mut axum::body::Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// axum wraps errors of bodies; what the door said is inside.
fn unwrap_axum(error: axum::Error) -> BodyError {
    match error.into_inner().downcast::<BodyError>() {
        Ok(said) => *said,
        Err(other) => BodyError::Broken(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    /// A body of undeclared length that delivers these chunks and then nothing, for ever.
    struct Trickle(Vec<&'static [u8]>);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            match self.0.pop() {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk))))),
                None => Poll::Pending,
            }
        }
    }

    fn door<B>(body: B, limit_bytes: usize) -> axum::body::Body
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        axum::body::Body::new(LimitedBody::new(body, limit_bytes, Duration::from_secs(30)))
    }

    #[tokio::test]
    async fn a_body_within_both_limits_arrives_whole() {
        let body = door(Full::from("12345"), 5);
        assert_eq!(collect(body, 5).await.unwrap(), "12345");
    }

    #[tokio::test]
    async fn a_declared_length_above_either_limit_is_refused() {
        let at_the_door = collect(door(Full::from("123456"), 5), 100).await;
        assert!(matches!(at_the_door, Err(BodyError::TooLarge { limit_bytes: 5 })));
        let by_the_handler = collect(door(Full::from("123456"), 100), 5).await;
        assert!(matches!(by_the_handler, Err(BodyError::TooLarge { limit_bytes: 5 })));
    }

    #[tokio::test]
    async fn an_undeclared_length_is_refused_once_it_is_too_long() {
        let at_the_door = collect(door(Trickle(vec![b"456", b"123"]), 5), 100).await;
        assert!(matches!(at_the_door, Err(BodyError::TooLarge { limit_bytes: 5 })));
        let by_the_handler = collect(door(Trickle(vec![b"456", b"123"]), 100), 5).await;
        assert!(matches!(by_the_handler, Err(BodyError::TooLarge { limit_bytes: 5 })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_arriving_ends_at_the_deadline() {
        let begun = tokio::time::Instant::now();
        let late = collect(door(Trickle(vec![b"123"]), 100), 100).await;
        assert!(matches!(late, Err(BodyError::Late)));
        assert_eq!(begun.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn the_limit_itself_is_not_too_long_when_read_by_frames() {
        let read = LimitedBody::new(Full::<Bytes>::from("12345"), 5, Duration::from_secs(30)).collect().await;
        assert_eq!(read.unwrap().to_bytes(), "12345");
    }
}
