// SPDX-License-Identifier: Apache-2.0
//! A connection's socket, and a watch over whether its peer has gone.
//!
//! hyper looks for the end of a connection of HTTP/1.1 by reading, and reads nothing
//! while a request is in work once more has come than that request: a single
//! byte behind it, and a caller who closes would not be missed before the call's
//! deadline. The watch reads nothing, and wakes for nothing but that end.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What hyper reads from and writes to.
pub(super) struct Socket {
    reading: OwnedReadHalf,
    writing: Arc<OwnedWriteHalf>,
}

/// What sees the peer close its side.
pub(super) struct Watch(Arc<OwnedWriteHalf>);

/// A socket with a watch over it.
pub(super) fn watched(stream: TcpStream) -> (Socket, Watch) {
    let (reading, writing) = stream.into_split();
    let writing = Arc::new(writing);
    (Socket { reading, writing: Arc::clone(&writing) }, Watch(writing))
}

impl Watch {
    /// Waits until the peer has closed its side, or the connection has broken.
    pub(super) async fn closed(&self) {
        // Bytes that may be read are of no interest. Urgent ones, of which nobody asks
        // the system, stand for the end that is told along with them.
        let _ = self.0.ready(Interest::PRIORITY).await;
    }
}

impl Socket {
    /// Writes once there is room.
    fn poll_written(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let stream: &TcpStream = (*self.writing).as_ref();
            ready!(stream.poll_write_ready(cx))?;
            match write(&self.writing) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reading).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |half| half.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |half| half.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream: &TcpStream = (*self.writing).as_ref();
        Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_end_is_seen_behind_bytes_that_nobody_reads() {
        let (mut peer, stream) = connected().await;
        let (mut socket, watch) = watched(stream);
        peer.write_all(b"request, and more").await.unwrap();
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
        let mut closed = Box::pin(watch.closed());
        assert!(closed.as_mut().now_or_never().is_none(), "what may be read is no end");
        drop(peer);
        closed.await;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"equest, and more");
    }

    #[tokio::test]
    async fn more_is_written_than_there_is_room_for() {
        let (mut peer, stream) = connected().await;
        let (mut socket, _watch) = watched(stream);
        let whole = vec![b'x'; 16 << 20];
        let sent = async {
            socket.write_all(&whole).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let mut taken = Vec::new();
        let (read, ()) = tokio::join!(peer.read_to_end(&mut taken), sent);
        assert_eq!((read.unwrap(), taken.len()), (whole.len(), whole.len()));
    }
}
